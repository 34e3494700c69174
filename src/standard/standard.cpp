// Standard attention. For each query head it writes down all scores, then does to them what the
// formula says, one step after the other:
//
//   S = scale * Q K^T                                 [seqlen_q, seqlen_k]
//   S = softcap * tanh(S / softcap)
//   S = S - slope * |query position - key position|
//   S = S + bias
//   S = -inf where a mask forbids the key
//   P = softmax(S),  LSE = ln(sum exp(S))
//   O = P V                                           [seqlen_q, head_dim_v]
//
// A worker holds one head at a time: its scores, and Q, K, V and O as f32.
#include "standard.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../error.h"
#include "../merge/merge.h"
#include "../rows.h"
#include "../sequence.h"
#include "kernels.h"

namespace attn {
namespace {

using standard::Exponentials;
using standard::Kernels;
using standard::Product;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- Memory

// Floats from one row of a matrix to the next: whole cache lines, and an odd number of them, so
// that the rows of a tile spread over all sets of the caches.
uint64_t leading_dimension(uint64_t columns) { return ((columns + 15) / 16 | 1) * 16; }

// Takes pieces from a block of memory, or just counts them if there is none.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(uint64_t count) {
    const size_t offset = size_;
    size_t bytes;
    overflow_ |= __builtin_mul_overflow(count, sizeof(T), &bytes) ||
                 __builtin_add_overflow(bytes, ATTN_WORKSPACE_ALIGNMENT - 1, &bytes);
    bytes -= bytes % ATTN_WORKSPACE_ALIGNMENT;
    overflow_ |= __builtin_add_overflow(size_, bytes, &size_);
    return memory_ ? reinterpret_cast<T*>(memory_ + offset) : nullptr;
  }
  float* take_matrix(int64_t rows, int64_t columns) {
    uint64_t count;
    overflow_ |= __builtin_mul_overflow(static_cast<uint64_t>(rows),
                                        leading_dimension(static_cast<uint64_t>(columns)), &count);
    return take<float>(count);
  }
  size_t size() const { return overflow_ ? SIZE_MAX : size_; }

 private:
  char* memory_;
  size_t size_ = 0;
  bool overflow_ = false;
};

// What a worker needs for one head.
struct Buffers {
  float* q;                 // [seqlen_q, head_dim]
  float* k_transposed;      // [head_dim, seqlen_k]
  float* v;                 // [seqlen_k, head_dim_v]
  float* scores;            // [seqlen_q, seqlen_k], then the weights
  float* o;                 // [seqlen_q, head_dim_v]
  int64_t* nonfinite_keys;  // [seqlen_k], the keys whose V holds NaN or infinities
};

Buffers carve(const attn_plan_config& problem, Carver* carver) {
  Buffers b;
  b.q = carver->take_matrix(problem.max_seqlen_q, problem.head_dim);
  b.k_transposed = carver->take_matrix(problem.head_dim, problem.max_seqlen_k);
  b.v = carver->take_matrix(problem.max_seqlen_k, problem.head_dim_v);
  b.scores = carver->take_matrix(problem.max_seqlen_q, problem.max_seqlen_k);
  b.o = carver->take_matrix(problem.max_seqlen_q, problem.head_dim_v);
  b.nonfinite_keys = carver->take<int64_t>(static_cast<uint64_t>(problem.max_seqlen_k));
  return b;
}

size_t worker_size(const attn_plan_config& problem) {
  Carver counter(nullptr);
  carve(problem, &counter);
  return counter.size();
}

// ---- One head

// Some query rows of one head of one sequence.
struct Head {
  const attn_plan_config& problem;
  const attn_run_args& args;
  const Kernels& kernels;
  Sequence sequence;
  int64_t head;
  int64_t head_kv;
  int64_t row_begin;
  int64_t row_end;
  Buffers buffers;
  int64_t ld_d;   // leading dimensions of matrices with head_dim,
  int64_t ld_dv;  // head_dim_v
  int64_t ld_k;   // and seqlen_k columns
  int64_t nonfinite_count;

  int64_t rows() const { return row_end - row_begin; }
  float* score_row(int64_t i) const { return buffers.scores + (i - row_begin) * ld_k; }
};

void load_query(const Head& h) {
  const attn_tensor& q = *h.args.q;
  for (int64_t i = h.row_begin; i < h.row_end; ++i) {
    load_row(query_row(h.problem, q, h.sequence, h.head, i), q.dtype, q.strides[3],
             h.problem.head_dim, h.buffers.q + (i - h.row_begin) * h.ld_d);
  }
}

// Columns [begin, begin + count) of key j's row of K or V [.., columns] as f32: the elements, or
// scale * element if `scale` is given.
void load_key_row(const Head& h, const attn_tensor& t, const attn_tensor* scale, int64_t j,
                  int64_t begin, int64_t count, float* to) {
  const char* row = key_row(h.problem, h.args, t, h.sequence, h.head_kv, j);
  load_row(row + begin * t.strides[3] * static_cast<int64_t>(dtype_size(t.dtype)), t.dtype,
           t.strides[3], count, to);
  if (!scale) return;
  const Scales scales =
      scales_of_key(h.problem, h.args, *scale, h.sequence, h.head_kv, j, t.shape[3]);
  for (int64_t c = 0; c < count;) {
    const int64_t block = (begin + c) / scales.block;
    const int64_t end = std::min(count, (block + 1) * scales.block - begin);
    const float factor = reinterpret_cast<const float*>(scales.data)[block * scales.stride];
    for (; c < end; ++c) to[c] *= factor;
  }
}

void load_key_transposed(const Head& h) {
  const int64_t n = h.sequence.seqlen_k;
  constexpr int64_t kColumns = 64;  // of K, a chunk on the stack
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t begin = 0; begin < h.problem.head_dim; begin += kColumns) {
      const int64_t count = std::min(kColumns, h.problem.head_dim - begin);
      float chunk[kColumns];
      load_key_row(h, *h.args.k, h.args.k_scale, j, begin, count, chunk);
      float* to = h.buffers.k_transposed + begin * h.ld_k + j;
      for (int64_t c = 0; c < count; ++c) to[c * h.ld_k] = chunk[c];
    }
  }
  for (int64_t c = 0; c < h.problem.head_dim; ++c) {
    float* row = h.buffers.k_transposed + c * h.ld_k;
    std::fill(row + n, row + h.ld_k, 0.0f);
  }
}

// V's row of key j as f32, zeros up to the leading dimension.
void load_value(const Head& h, int64_t j) {
  float* to = h.buffers.v + j * h.ld_dv;
  load_key_row(h, *h.args.v, h.args.v_scale, j, 0, h.problem.head_dim_v, to);
  std::fill(to + h.problem.head_dim_v, to + h.ld_dv, 0.0f);
}

bool all_finite(const float* row, int64_t n) {
  int nonfinite = 0;
  for (int64_t c = 0; c < n; ++c) nonfinite |= !(row[c] - row[c] == 0.0f);
  return !nonfinite;
}

void load_values(Head* h) {
  h->nonfinite_count = 0;
  for (int64_t j = 0; j < h->sequence.seqlen_k; ++j) {
    load_value(*h, j);
    if (!all_finite(h->buffers.v + j * h->ld_dv, h->problem.head_dim_v)) {
      h->buffers.nonfinite_keys[h->nonfinite_count++] = j;
    }
  }
}

// ---- The steps on one row of scores [seqlen_k], of query i

void apply_scale(float* row, int64_t n, float scale) {
  for (int64_t j = 0; j < n; ++j) row[j] *= scale;
}

// ALiBi. A softmax sees differences only, and a query far from all keys would lose the digits of
// its scores to slope * distance: that of the nearest key is left out, and returned.
double add_alibi(const Head& h, int64_t i, float* row) {
  const float slope = alibi_slope(*h.args.alibi_slopes, h.sequence, h.head);
  const int64_t n = h.sequence.seqlen_k;
  const int64_t diagonal = h.sequence.q_start + i - h.sequence.k_start;
  int64_t least = std::max({int64_t{0}, -diagonal, diagonal - (n - 1)});
  if (!std::isfinite(slope)) least = 0;  // infinity * 0 is NaN
  for (int64_t j = 0; j < n; ++j) {
    const int64_t distance = j < diagonal ? diagonal - j : j - diagonal;
    row[j] -= slope * static_cast<float>(distance - least);
  }
  return least == 0 ? 0.0 : -double{slope} * static_cast<double>(least);
}

void add_bias(const Head& h, int64_t i, float* row) {
  const attn_tensor& bias = *h.args.bias;
  const ColumnsView view = columns_of(h.problem, h.sequence, h.head, i, bias,
                                      h.problem.features & ATTN_BIAS_RANGE, h.args.bias_k0);
  constexpr int64_t kColumns = 256;  // of the bias, a chunk on the stack
  const int64_t element_size = static_cast<int64_t>(dtype_size(bias.dtype));
  for (int64_t begin = view.keys.begin; begin < view.keys.end; begin += kColumns) {
    const int64_t count = std::min(kColumns, view.keys.end - begin);
    float chunk[kColumns];
    load_row(view.data + (begin - view.keys.begin) * view.stride * element_size, bias.dtype,
             view.stride, count, chunk);
    // A bias of -inf is a mask: it selects, since NaN - inf would be NaN.
    for (int64_t c = 0; c < count; ++c) {
      row[begin + c] = chunk[c] == -kInfinity ? -kInfinity : row[begin + c] + chunk[c];
    }
  }
}

void apply_mask(const Head& h, int64_t i, float* row) {
  const ColumnsView view = columns_of(h.problem, h.sequence, h.head, i, *h.args.mask,
                                      h.problem.features & ATTN_MASK_RANGE, h.args.mask_k0);
  for (int64_t j = view.keys.begin; j < view.keys.end; ++j) {
    const char attends = view.data[(j - view.keys.begin) * view.stride];
    row[j] = attends ? row[j] : -kInfinity;
  }
}

void apply_block_mask(const Head& h, int64_t i, float* row) {
  const attn_tensor& mask = *h.args.block_mask;
  const char* blocks =
      block_mask_of(mask, h.sequence, h.head) + i / h.problem.block_q * broadcast_stride(mask, 2);
  const int64_t n = h.sequence.seqlen_k;
  const int64_t block_k = h.problem.block_k;
  for (int64_t block = 0; block * block_k < n; ++block) {
    if (blocks[block * broadcast_stride(mask, 3)]) continue;
    std::fill(row + block * block_k, row + std::min(n, (block + 1) * block_k), -kInfinity);
  }
}

// Length, causality and window. The rest of the row in memory counts as past the length.
void apply_range(const Head& h, int64_t i, float* row) {
  const KeyRange keys = attended_keys(h.problem, h.sequence, i);
  std::fill(row, row + keys.begin, -kInfinity);
  std::fill(row + keys.end, row + h.ld_k, -kInfinity);
}

// Scores become weights that sum up to 1, or to 0 where no key is attended. `left_out` is what all
// of the row's scores lack. Returns the LSE.
float softmax(const Head& h, float* row, double left_out) {
  const double sink = h.args.sink ? vector_at<float>(*h.args.sink, h.head) : -kInfinity;
  Exponentials exponentials{row, h.sequence.seqlen_k, static_cast<float>(sink - left_out), 0, 0};
  h.kernels.exponentiate(&exponentials);
  const double max = left_out + exponentials.max;
  const double sum = exponentials.sum + std::exp(sink - max);
  const float factor = sum == 0 ? 0.0f : static_cast<float>(1 / sum);
  for (int64_t j = 0; j < h.sequence.seqlen_k; ++j) row[j] *= factor;
  return static_cast<float>(max + std::log(sum));
}

// ---- Scores, output

void compute_scores(const Head& h) {
  const Product product{h.buffers.q,
                        h.buffers.k_transposed,
                        h.buffers.scores,
                        h.rows(),
                        h.sequence.seqlen_k,
                        h.problem.head_dim,
                        h.ld_d,
                        h.ld_k,
                        h.ld_k};
  h.kernels.multiply(&product);
}

// O = P V for the rows [begin, end).
void compute_output(const Head& h, int64_t begin, int64_t end) {
  const Product product{h.score_row(begin),
                        h.buffers.v,
                        h.buffers.o + (begin - h.row_begin) * h.ld_dv,
                        end - begin,
                        h.problem.head_dim_v,
                        h.sequence.seqlen_k,
                        h.ld_k,
                        h.ld_dv,
                        h.ld_dv};
  h.kernels.multiply(&product);
}

// 0 * NaN is NaN. So that what row i masks out does not reach its output, V's copy holds zeros for
// those keys, and the true values for the others, while that row is computed.
void hide_masked_values(const Head& h, const float* scores) {
  for (int64_t m = 0; m < h.nonfinite_count; ++m) {
    const int64_t j = h.buffers.nonfinite_keys[m];
    if (scores[j] == -kInfinity) {
      std::fill_n(h.buffers.v + j * h.ld_dv, h.problem.head_dim_v, 0.0f);
    } else {
      load_value(h, j);
    }
  }
}

void store_lse(const Head& h, int64_t i, float lse) {
  if (!h.args.lse) return;
  *reinterpret_cast<float*>(query_row(h.problem, *h.args.lse, h.sequence, h.head, i)) = lse;
}

void store_output(const Head& h, int64_t i) {
  const attn_tensor& o = *h.args.o;
  store_row(h.buffers.o + (i - h.row_begin) * h.ld_dv, h.problem.head_dim_v,
            query_row(h.problem, o, h.sequence, h.head, i), o.dtype, o.strides[3]);
}

void attend(Head* head) {
  load_query(*head);
  load_key_transposed(*head);
  load_values(head);
  const Head& h = *head;
  const attn_features features = h.problem.features;
  const int64_t n = h.sequence.seqlen_k;
  const bool exact = h.nonfinite_count > 0;  // row by row, see hide_masked_values

  compute_scores(h);
  for (int64_t i = h.row_begin; i < h.row_end; ++i) {
    float* row = h.score_row(i);
    double left_out = 0;
    apply_scale(row, n, h.problem.scale);
    if (h.problem.softcap > 0) h.kernels.apply_softcap(row, n, h.problem.softcap);
    if (features & ATTN_ALIBI) left_out = add_alibi(h, i, row);
    if (features & ATTN_BIAS) add_bias(h, i, row);
    if (features & ATTN_MASK) apply_mask(h, i, row);
    if (features & ATTN_BLOCK_MASK) apply_block_mask(h, i, row);
    apply_range(h, i, row);
    if (exact) hide_masked_values(h, row);
    store_lse(h, i, softmax(h, row, left_out));
    if (exact) compute_output(h, i, i + 1);
  }
  if (!exact) compute_output(h, h.row_begin, h.row_end);
  for (int64_t i = h.row_begin; i < h.row_end; ++i) store_output(h, i);
}

// Rows of a padded query past its length: O is 0, LSE is -inf.
void clear_padding(const Head& h, int64_t extent) {
  const int64_t dv = h.problem.head_dim_v;
  const attn_tensor& o = *h.args.o;
  const float kZero[64] = {};
  for (int64_t i = h.sequence.seqlen_q; i < extent; ++i) {
    char* row = query_row(h.problem, o, h.sequence, h.head, i);
    for (int64_t c = 0; c < dv; c += 64) {
      store_row(kZero, std::min<int64_t>(64, dv - c),
                row + c * o.strides[3] * static_cast<int64_t>(dtype_size(o.dtype)), o.dtype,
                o.strides[3]);
    }
    store_lse(h, i, -kInfinity);
  }
}

// ---- One run

struct Run {
  const attn_plan_config& problem;
  const attn_run_args& args;
  const attn_run_shape& shape;
  const Kernels& kernels;
  int64_t parts;  // that the rows of a head are split into
};

// A task is one part of the rows of one head of one sequence.
void run_task(void* arg, int64_t task, int32_t worker) {
  const Run& run = *static_cast<const Run*>(arg);
  const attn_plan_config& problem = run.problem;
  const int64_t part = task % run.parts;
  const int64_t head = task / run.parts % problem.heads_q;
  const int64_t batch = task / run.parts / problem.heads_q;
  const Sequence s = sequence_at(problem, run.args, run.shape, batch);
  Carver carver(static_cast<char*>(run.args.workspace) + worker * worker_size(problem));
  const auto ld = [](int64_t columns) {
    return static_cast<int64_t>(leading_dimension(static_cast<uint64_t>(columns)));
  };
  Head h{problem,
         run.args,
         run.kernels,
         s,
         head,
         head / (problem.heads_q / problem.heads_kv),
         s.seqlen_q * part / run.parts,
         s.seqlen_q * (part + 1) / run.parts,
         carve(problem, &carver),
         ld(problem.head_dim),
         ld(problem.head_dim_v),
         ld(s.seqlen_k),
         0};
  if (h.rows() > 0) attend(&h);
  if (problem.q_layout == ATTN_LAYOUT_PADDED && part == run.parts - 1) {
    clear_padding(h, run.shape.seqlen_q);
  }
}

// ---- The table

const Kernels* kernels_for(attn_isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case ATTN_ISA_AVX2:
      return &standard::kAvx2;
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
    case ATTN_ISA_AMX_BF16:
      return &standard::kAvx512;
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
      return &standard::kNeon;
#endif
    default:
      return &standard::kScalar;
  }
}

attn_status probe(const attn_host*, attn_error*) { return ATTN_OK; }

attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                        attn_backend_plan* plan, attn_error* error) {
  plan->workspace_size = standard_workspace_size(*problem, host->concurrency);
  if (plan->workspace_size == SIZE_MAX) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "max_seqlen_q %lld and max_seqlen_k %lld make scores that no address space holds",
                static_cast<long long>(problem->max_seqlen_q),
                static_cast<long long>(problem->max_seqlen_k));
  }
  plan->isa = host->isa;
  return ATTN_OK;
}

void plan_destroy(const attn_host*, const attn_plan_config*, attn_backend_plan*) {}

attn_status run(const attn_host* host, const attn_plan_config* problem, const attn_backend_plan*,
                const attn_run_args* args, const attn_run_shape* shape, attn_error* error) {
  const int64_t heads = shape->batch * problem->heads_q;
  if (heads == 0) return ATTN_OK;
  // A head is one task, unless there are fewer of them than workers.
  const int64_t parts = (host->concurrency + heads - 1) / heads;
  Run run{*problem, *args, *shape, *kernels_for(host->isa), parts};
  return host->parallel_for(host, heads * parts, run_task, &run, error);
}

}  // namespace

size_t standard_workspace_size(const attn_plan_config& problem, int concurrency) {
  const size_t each = worker_size(problem);
  size_t all;
  if (__builtin_mul_overflow(each, static_cast<size_t>(concurrency), &all)) return SIZE_MAX;
  return each == SIZE_MAX ? SIZE_MAX : all;
}

const attn_backend kStandardBackend = {
    sizeof(attn_backend),
    ATTN_BACKEND_ABI,
    "standard",
    "materialises the scores of one head for each worker; every feature, layout and type",
    ATTN_DEVICE_CPU,
    0,
    probe,
    plan_create,
    plan_destroy,
    run,
    merge_cpu,
};

}  // namespace attn

// Merges partial results over disjoint sets of keys, row by row:
//   LSE = ln(sum_p exp(LSE_p)),   O = sum_p exp(LSE_p - LSE) O_p
//
// The rows of a block are weighed side by side, then summed one by one.
#include "merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../rows.h"
#include "../tensor.h"
#include "kernels.h"

namespace attn {
namespace {

using merging::Kernels;
using merging::kRows;

constexpr int64_t kRowsPerTask = 4 * kRows;
constexpr int64_t kColumns = 256;  // of O that are summed at a time
constexpr int32_t kParts = 16;     // likewise
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Neighbouring rows along the queries, or along the heads if there are more of these.
struct Block {
  const attn_merge_args& args;
  const Kernels& kernels;
  int dim;           // that the rows follow one another in
  int64_t first[3];  // row of [b, h, s]
  int64_t count;

  // Bytes of row 0, and from one row to the next.
  char* address(const attn_tensor& tensor) const {
    return tensor_at(tensor, first[0], first[1], first[2]);
  }
  int64_t step(const attn_tensor& tensor) const {
    return tensor.strides[dim] * static_cast<int64_t>(dtype_size(tensor.dtype));
  }
};

// The LSE of a few parts, as vectors read them: where they lie, or copied. -inf where no row is.
struct PartLse {
  const float* lse[kParts];
  int32_t count;

  PartLse(const Block& block, int32_t first) : count(std::min(kParts, block.args.count - first)) {
    for (int32_t p = 0; p < count; ++p) {
      const attn_tensor& tensor = *block.args.lse_parts[first + p];
      const char* from = block.address(tensor);
      lse[p] = reinterpret_cast<const float*>(from);
      if (block.count == kRows && tensor.strides[block.dim] == 1) continue;
      load_row(from, tensor.dtype, tensor.strides[block.dim], block.count, copies_[p]);
      std::fill(copies_[p] + block.count, copies_[p] + kRows, -kInfinity);
      lse[p] = copies_[p];
    }
  }

 private:
  float copies_[kParts][kRows];
};

// max + ln(denominator) is the LSE of all parts and the sink; denominator is 0 if none has any
// weight.
struct Softmax {
  float max[kRows];
  double denominator[kRows] = {};

  explicit Softmax(const Block& block) {
    float sinks[kRows], weights[kParts][kRows];
    const float* const sink[] = {sinks};
    std::fill(sinks, sinks + kRows, -kInfinity);
    for (int64_t r = 0; block.args.sink && r < block.count; ++r) {
      sinks[r] = vector_at<float>(*block.args.sink, block.first[1] + (block.dim == 1 ? r : 0));
    }
    std::copy(sinks, sinks + kRows, max);
    for (int32_t p = 0; p < block.args.count; p += kParts) {
      const PartLse parts(block, p);
      block.kernels.find_max(parts.lse, parts.count, max);
    }
    for (float& x : max) x = x == -kInfinity ? 0 : x;  // -inf - -inf is NaN
    const auto add = [&](const float* const* lse, int32_t count) {
      block.kernels.weigh(lse, count, max, weights[0]);
      for (int32_t p = 0; p < count; ++p) {
        for (int64_t r = 0; r < kRows; ++r) denominator[r] += double{weights[p][r]};
      }
    };
    for (int32_t p = 0; p < block.args.count; p += kParts) {
      const PartLse parts(block, p);
      add(parts.lse, parts.count);
    }
    add(sink, 1);
  }

  float lse(int64_t r) const { return static_cast<float>(max[r] + std::log(denominator[r])); }
};

// O of a few parts, each with a weight for each row of a block: parts whose elements lie side by
// side, or else one.
class Parts {
 public:
  Parts(const Block& block, const Softmax& softmax, int32_t first) : block_(block), first_(first) {
    const PartLse lse(block, first);
    while (count_ < lse.count && part(count_).strides[3] == 1) ++count_;
    count_ = std::max(count_, 1);
    block.kernels.weigh(lse.lse, count_, softmax.max, weights_[0]);
    for (int32_t p = 0; p < count_; ++p) {
      for (int64_t r = 0; r < kRows; ++r) {
        // A part without keys has no weight, whatever its O holds.
        const bool none = lse.lse[p][r] == -kInfinity;
        weights_[p][r] = none ? -1 : weights_[p][r] / static_cast<float>(softmax.denominator[r]);
      }
    }
  }

  int32_t end() const { return first_ + count_; }

  // s->sum = s->start + the columns [begin, begin + s->n) of the parts.
  void add(int64_t begin, merging::Sum* s) const {
    const float* rows[kParts];
    int64_t steps[kParts];
    float copy[kRows][kColumns];
    for (int32_t p = 0; p < count_; ++p) {
      const attn_tensor& o = part(p);
      rows[p] = reinterpret_cast<const float*>(block_.address(o)) + begin * o.strides[3];
      steps[p] = o.strides[block_.dim];
    }
    if (part(0).strides[3] != 1) {
      for (int64_t r = 0; r < block_.count; ++r) {
        load_row(rows[0] + r * steps[0], ATTN_DTYPE_F32, part(0).strides[3], s->n, copy[r]);
      }
      rows[0] = copy[0];
      steps[0] = kColumns;
    }
    s->parts = rows;
    s->part_steps = steps;
    s->weights = weights_[0];
    s->count = count_;
    block_.kernels.add_parts(s);
  }

 private:
  const attn_tensor& part(int32_t p) const { return *block_.args.o_parts[first_ + p]; }

  const Block& block_;
  const int32_t first_;
  int32_t count_ = 0;
  float weights_[kParts][kRows];
};

// O and LSE may be the very view of a part: the columns of all parts are read before those of O are
// written, and LSE is written last.
void merge_block(const Block& block) {
  const Softmax softmax(block);
  const attn_tensor& o = *block.args.o;
  const int64_t stride = o.strides[3];
  const bool in_place = o.dtype == ATTN_DTYPE_F32 && stride == 1;
  for (int64_t begin = 0; begin < o.shape[3]; begin += kColumns) {
    char* to = block.address(o) + begin * stride * static_cast<int64_t>(dtype_size(o.dtype));
    float sums[kRows][kColumns];
    merging::Sum s{};
    s.start_step = s.sum_step = kColumns;
    s.rows = block.count;
    s.n = std::min(kColumns, o.shape[3] - begin);
    for (int32_t p = 0; p < block.args.count;) {
      const Parts parts(block, softmax, p);
      p = parts.end();
      s.sum = sums[0];
      if (p == block.args.count && in_place) {
        s.sum = reinterpret_cast<float*>(to);
        s.sum_step = o.strides[block.dim];
      }
      parts.add(begin, &s);
      s.start = sums[0];
    }
    for (int64_t r = 0; !in_place && r < block.count; ++r) {
      store_row(sums[r], s.n, to + r * block.step(o), o.dtype, stride);
    }
  }
  if (const attn_tensor* lse = block.args.lse) {
    for (int64_t r = 0; r < block.count; ++r) {
      *reinterpret_cast<float*>(block.address(*lse) + r * block.step(*lse)) = softmax.lse(r);
    }
  }
}

struct Merge {
  const attn_merge_args& args;
  const Kernels& kernels;
  int dim;  // of the rows of a task
  int64_t tasks_per_line;
};

void merge_task(void* arg, int64_t task, int32_t) {
  const auto& merge = *static_cast<const Merge*>(arg);
  const int64_t* shape = merge.args.o->shape;
  const int64_t line = task / merge.tasks_per_line;
  const int64_t begin = task % merge.tasks_per_line * kRowsPerTask;
  const int64_t end = std::min(shape[merge.dim], begin + kRowsPerTask);
  const int64_t lines = shape[3 - merge.dim];  // of a sequence
  for (int64_t row = begin; row < end; row += kRows) {
    Block block{
        merge.args, merge.kernels, merge.dim, {line / lines, 0, 0}, std::min(kRows, end - row)};
    block.first[merge.dim] = row;
    block.first[3 - merge.dim] = line % lines;
    merge_block(block);
  }
}

const Kernels& kernels_for(attn_isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case ATTN_ISA_AVX2:
      return merging::kAvx2;
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
    case ATTN_ISA_AMX_BF16:
      return merging::kAvx512;
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
      return merging::kNeon;
#endif
    default:
      return merging::kScalar;
  }
}

}  // namespace

attn_status merge_cpu(const attn_host* host, const attn_merge_args* args, attn_error* error) {
  const int64_t* shape = args->o->shape;
  if (shape[0] == 0 || shape[1] == 0 || shape[2] == 0) return ATTN_OK;
  const int dim = shape[1] > shape[2] ? 1 : 2;
  Merge merge{*args, kernels_for(host->isa), dim, (shape[dim] + kRowsPerTask - 1) / kRowsPerTask};
  return host->parallel_for(host, shape[0] * shape[3 - dim] * merge.tasks_per_line, merge_task,
                            &merge, error);
}

}  // namespace attn

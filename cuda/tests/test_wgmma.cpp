// The wgmma kernels on the emulator, against attention in float64.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../emulator/warp.h"
#include "check.h"
#include "wgmma_launch.h"

namespace {

using namespace attn_test;
using attn::cuda::AttendParams;

struct Case {
  std::string name;
  attn_dtype dtype = ATTN_DTYPE_BF16;
  int head_dim = 128, head_dim_v = 0;
  int heads_q = 2, heads_kv = 2;
  int batch = 1, seqlen_q = 200, seqlen_k = 300;
  bool features = false;  // the features kernel even where the plain one serves
  bool full = false;      // the kernel with long tiles
  bool causal = false, top_left = false;
  int left = -1, right = -1;
  std::vector<int> seqlens_q = {}, seqlens_k = {};  // of the sequences; else the extents
  bool packed_q = false, packed_k = false;
  int page_size = 0;
  int pack = 1;
  float softcap = 0, scale = 0;
  bool alibi = false, sink = false;
  int kv_chunk = 0;
  bool o_f32 = false, use_o_map = true;
  int o_step = 1;           // between columns of O
  bool nan_values = false;  // NaN and infinity in V where the last query only, or nobody, attends
  int64_t q_start = std::numeric_limits<int64_t>::min();
  int bad_page = -1;     // a sequence
  uint32_t bad_bit = 0;  // ATTN_REQUEST_BAD_*: an entry of that list holds what it must not
  int bad_entry = 0;
  int bad_value = 0;
  std::vector<int> spoiled = {};  // sequences that have the status bit; their rows become NaN...
  std::vector<int> orphans = {};  // ... but for those that belong to nobody any more
  bool far_apart = false;         // sequences, or pages, are more than 2^32 elements apart
  int ctas = 3;
  bool dynamic = true;
};

struct Tensor {  // [outer][rows][heads][dim], 16-bit, with NaN between rows of the heads
  std::vector<uint16_t> data;
  uint16_t* base;  // aligned to 64 bytes
  int64_t heads, rows, stride, outer_stride, step;
  void init(int64_t outer, int64_t n, int64_t h, int64_t dim, bool far_apart, int columns_apart) {
    heads = h, rows = n, step = columns_apart;
    stride = (dim * step + 7) / 8 * 8 + 8;
    outer_stride = rows * heads * stride;
    if (far_apart) {  // address space, of which few pages are touched
      outer_stride = (int64_t{1} << 32) + 64;
      const auto size = static_cast<size_t>(2 * outer * outer_stride);
      base = static_cast<uint16_t*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    } else {
      data.assign(static_cast<size_t>(outer * outer_stride + 64), 0);
      base = data.data() + (64 - reinterpret_cast<uintptr_t>(data.data()) % 64) / 2 % 32;
    }
    for (int64_t o = 0; o < outer; ++o) {
      std::fill_n(base + o * outer_stride, rows * heads * stride, uint16_t{0xffff});
    }
  }
  uint16_t& at(int64_t o, int64_t r, int64_t h, int64_t d) {
    return base[o * outer_stride + (r * heads + h) * stride + d * step];
  }
  attn::cuda::TensorView view() { return {base, {outer_stride, stride, heads * stride, step}}; }
};

class Run {
 public:
  explicit Run(const Case& c) : c_(c) {
    dv_ = c.head_dim_v ? c.head_dim_v : c.head_dim;
    lengths_q_ = c.seqlens_q.empty() ? std::vector<int>(size_t(c.batch), c.seqlen_q) : c.seqlens_q;
    lengths_k_ = c.seqlens_k.empty() ? std::vector<int>(size_t(c.batch), c.seqlen_k) : c.seqlens_k;
    cu_q_.assign(1, 0);
    cu_k_.assign(1, 0);
    for (int b = 0; b < c.batch; ++b) {
      cu_q_.push_back(cu_q_.back() + lengths_q_[size_t(b)]);
      cu_k_.push_back(cu_k_.back() + lengths_k_[size_t(b)]);
    }
    const int pages = c.page_size ? (c.seqlen_k + c.page_size - 1) / c.page_size : 0;
    q_.init(c.packed_q ? 1 : c.batch, c.packed_q ? cu_q_.back() + 5 : c.seqlen_q, c.heads_q,
            c.head_dim, c.far_apart, 1);
    o_.init(c.packed_q ? 1 : c.batch, c.packed_q ? cu_q_.back() + 5 : c.seqlen_q, c.heads_q, dv_,
            c.far_apart, c.o_step);
    const int64_t outer = c.page_size ? pages * c.batch + 2 : c.packed_k ? 1 : c.batch;
    const int64_t rows = c.page_size ? c.page_size : c.packed_k ? cu_k_.back() + 5 : c.seqlen_k;
    k_.init(outer, rows, c.heads_kv, c.head_dim, c.far_apart, 1);
    v_.init(outer, rows, c.heads_kv, dv_, c.far_apart, 1);
    table_.assign(size_t(pages * c.batch), 1 << 20);
    for (int b = 0; b < c.batch; ++b) {
      for (int p = 0; p * c.page_size < lengths_k_[size_t(b)] && c.page_size; ++p) {
        table_[size_t(b * pages + p)] = int(outer) - 1 - (p * c.batch + b);
      }
    }
    columns_ = pages;
    for (int b = 0; b < c.batch; ++b) {
      for (int h = 0; h < c.heads_q; ++h) {
        for (int i = 0; i < lengths_q_[size_t(b)]; ++i) {
          for (int d = 0; d < c.head_dim; ++d) set(element(q_, b, i, h, d, c.packed_q, cu_q_));
        }
      }
      for (int h = 0; h < c.heads_kv; ++h) {
        for (int j = 0; j < lengths_k_[size_t(b)]; ++j) {
          for (int d = 0; d < c.head_dim; ++d) set(key(k_, b, j, h, d));
          for (int d = 0; d < dv_; ++d) set(key(v_, b, j, h, d));
          if (c.nan_values && (j == lengths_k_[size_t(b)] - 1 || j % 97 == 31)) {
            key(v_, b, j, h, j % dv_) = c.dtype == ATTN_DTYPE_F16 ? 0x7c00 : 0x7f80;
            key(v_, b, j, h, (j + 1) % dv_) = 0xffff;
          }
        }
      }
    }
    if (c.bad_page >= 0) table_[size_t(c.bad_page * pages)] = int(outer) + 3;
    for (int h = 0; h < c.heads_q; ++h) {
      slopes_.push_back(0.05f * static_cast<float>(h + 1));
      sinks_.push_back(static_cast<float>(h) - 0.5f);
    }
    const int64_t lse_rows = c.packed_q ? cu_q_.back() + 5 : c.seqlen_q;
    lse_.assign(size_t((c.packed_q ? 1 : c.batch) * c.heads_q * lse_rows), kUntouched);
    o32_.assign(lse_.size() * size_t(dv_), kUntouched);
    chunks_ = c.kv_chunk ? (c.seqlen_k + c.kv_chunk - 1) / c.kv_chunk : 1;
    partial_o_.assign(o32_.size() * size_t(chunks_), std::nanf(""));
    partial_lse_.assign(lse_.size() * size_t(chunks_), std::nanf(""));
    status_.assign(size_t(c.batch), 0);

    AttendParams& p = params_;
    std::memset(static_cast<void*>(&p), 0, sizeof(p));
    p.q = q_.view(), p.k = k_.view(), p.v = v_.view();
    p.o = o_.view();
    if (c.o_f32) p.o = {o32_.data(), {c.heads_q * lse_rows * dv_, lse_rows * dv_, dv_, 1}};
    p.lse = {lse_.data(), {c.heads_q * lse_rows, lse_rows, 1, 0}};
    if (c.packed_q) p.q.strides[0] = p.o.strides[0] = p.lse.strides[0] = 0;
    if (c.packed_k) p.k.strides[0] = p.v.strides[0] = 0;
    if (c.causal) p.features |= ATTN_CAUSAL;
    if (c.left >= 0) p.features |= ATTN_WINDOW_LEFT, p.window_left = c.left;
    if (c.right >= 0) p.features |= ATTN_WINDOW_RIGHT, p.window_right = c.right;
    if (c.alibi) p.features |= ATTN_ALIBI, p.alibi_slopes = slopes_.data(), p.alibi_strides[1] = 1;
    if (c.sink) p.features |= ATTN_SINK, p.sink = sinks_.data(), p.sink_stride = 1;
    p.q_layout = c.packed_q ? ATTN_LAYOUT_PACKED : ATTN_LAYOUT_PADDED;
    p.kv_layout = c.page_size  ? ATTN_LAYOUT_PAGED
                  : c.packed_k ? ATTN_LAYOUT_PACKED
                               : ATTN_LAYOUT_PADDED;
    p.alignment = c.top_left ? ATTN_ALIGN_TOP_LEFT : ATTN_ALIGN_BOTTOM_RIGHT;
    p.o_dtype = c.o_f32 ? ATTN_DTYPE_F32 : c.dtype;
    p.scale = c.scale != 0 ? c.scale : static_cast<float>(1 / std::sqrt(c.head_dim));
    p.softcap = c.softcap;
    p.batch = c.batch, p.heads_q = c.heads_q, p.heads_kv = c.heads_kv;
    p.head_dim = c.head_dim, p.head_dim_v = dv_;
    p.seqlen_q = c.seqlen_q, p.seqlen_k = c.seqlen_k, p.page_size = c.page_size;
    p.total_q = cu_q_.back(), p.total_k = cu_k_.back(), p.num_pages = outer;
    seen_q_ = c.packed_q ? cu_q_ : lengths_q_;
    seen_k_ = c.packed_k ? cu_k_ : lengths_k_;
    if (c.bad_bit) {
      (c.bad_bit == ATTN_REQUEST_BAD_SEQLEN_Q ? seen_q_ : seen_k_)[size_t(c.bad_entry)] =
          c.bad_value;
    }
    if (c.packed_q)
      p.cu_seqlens_q = {seen_q_.data(), 1};
    else if (!c.seqlens_q.empty())
      p.seqlens_q = {seen_q_.data(), 1};
    if (c.packed_k)
      p.cu_seqlens_k = {seen_k_.data(), 1};
    else if (!c.seqlens_k.empty())
      p.seqlens_k = {seen_k_.data(), 1};
    p.block_table = table_.data();
    p.block_table_strides[0] = columns_, p.block_table_strides[1] = 1;
    p.block_table_columns = columns_;
    starts_.assign(size_t(c.batch), c.q_start);
    if (c.q_start != std::numeric_limits<int64_t>::min()) p.q_start = {starts_.data(), 1};
    p.gqa_pack = c.pack;
    p.num_chunks = chunks_, p.kv_chunk = c.kv_chunk;
    p.status = status_.data();
    p.partial_o = partial_o_.data(), p.partial_lse = partial_lse_.data();
    p.partial_chunk_rows = int64_t(lse_.size());
    p.partial_head_rows = lse_rows;
    p.partial_batch_rows = c.packed_q ? 0 : c.heads_q * lse_rows;
    lse_rows_ = lse_rows;
  }

  std::string launch(uint64_t seed) {
    const bool features = c_.features || c_.left >= 0 || c_.softcap != 0 || c_.alibi || c_.sink;
    const WgmmaKernel* kernel = wgmma_kernel(c_.dtype, c_.head_dim, dv_, features, c_.full);
#ifdef ATTN_TEST_FEW_KERNELS
    if (!kernel) return "";
#endif
    if (!kernel) return "no kernel";
    const std::string error =
        run_wgmma(*kernel, params_, {c_.ctas, c_.dynamic, c_.use_o_map, seed, c_.nan_values});
    return error.empty() ? compare() : error;
  }

  // O and LSE of sequence 0.
  std::vector<float> first_sequence() {
    std::vector<float> all;
    for (int h = 0; h < c_.heads_q; ++h) {
      for (int i = 0; i < lengths_q_[0]; ++i) {
        all.push_back(lse_[size_t(h * lse_rows_ + i)]);
        for (int d = 0; d < dv_; ++d) {
          all.push_back(static_cast<float>(value(element(o_, 0, i, h, d, c_.packed_q, cu_q_))));
        }
      }
    }
    return all;
  }

 private:
  static constexpr float kUntouched = 12345.0f;

  uint16_t& element(Tensor& t, int b, int i, int h, int d, bool packed,
                    const std::vector<int>& cu) {
    return packed ? t.at(0, cu[size_t(b)] + i, h, d) : t.at(b, i, h, d);
  }
  uint16_t& key(Tensor& t, int b, int j, int h, int d) {
    if (c_.page_size) {
      const int page =
          table_[size_t(b * ((c_.seqlen_k + c_.page_size - 1) / c_.page_size) + j / c_.page_size)];
      return t.at(page, j % c_.page_size, h, d);
    }
    return element(t, b, j, h, d, c_.packed_k, cu_k_);
  }
  double value(uint16_t bits) const {
    return c_.dtype == ATTN_DTYPE_F16 ? attn::emulator::from_half(bits)
                                      : attn::emulator::from_bfloat(bits);
  }
  void set(uint16_t& bits) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<double>(state_ >> 40) / (1 << 24) - 0.5;
    }
    const auto x = static_cast<float>(sum * 1.7);
    bits = c_.dtype == ATTN_DTYPE_F16 ? attn::emulator::to_half(x) : attn::emulator::to_bfloat(x);
  }

  static bool contains(const std::vector<int>& list, int b) {
    return std::find(list.begin(), list.end(), b) != list.end();
  }

  std::string compare() {
    for (int b = 0; b < c_.batch; ++b) {
      const bool orphan = contains(c_.orphans, b);
      const uint32_t right = b == c_.bad_page                    ? ATTN_REQUEST_BAD_PAGE
                             : orphan || contains(c_.spoiled, b) ? c_.bad_bit
                                                                 : 0;
      if (status_[size_t(b)] != right) return "status of " + std::to_string(b);
      if (orphan) continue;
      for (int h = 0; h < c_.heads_q; ++h) {
        const int extent = c_.packed_q ? lengths_q_[size_t(b)] : c_.seqlen_q;
        for (int i = 0; i < extent; ++i) {
          const std::string wrong = compare_row(b, h, i);
          if (!wrong.empty()) {
            return "b " + std::to_string(b) + " h " + std::to_string(h) + " row " +
                   std::to_string(i) + ": " + wrong;
          }
        }
      }
    }
    // What lies between and behind the rows is as it was.
    for (int64_t r = 0; r < o_.rows && !c_.o_f32; ++r) {
      for (int h = 0; h < c_.heads_q; ++h) {
        const bool owned = !c_.packed_q || r < cu_q_.back();
        for (int64_t x = 0; x < o_.stride; ++x) {
          if (owned && x < dv_ * o_.step && x % o_.step == 0) continue;
          if ((&o_.at(0, r, h, 0))[x] != 0xffff) return "O was written outside of its rows";
        }
      }
    }
    return "";
  }

  std::string compare_row(int b, int h, int i) {
    const int len_q = lengths_q_[size_t(b)], len_k = lengths_k_[size_t(b)];
    const bool real = i < len_q;
    const int g = c_.heads_q / c_.heads_kv;
    const int64_t start = c_.q_start != std::numeric_limits<int64_t>::min() ? c_.q_start
                          : c_.top_left                                     ? 0
                                                                            : len_k - len_q;
    std::vector<double> s(size_t(len_k), -INFINITY);
    double m = -INFINITY;
    for (int j = 0; j < len_k && real; ++j) {
      const int64_t p = start + i;
      if (c_.causal && j > p) continue;
      if (c_.right >= 0 && j > p + c_.right) continue;
      if (c_.left >= 0 && j < p - c_.left) continue;
      double x = 0;
      for (int d = 0; d < c_.head_dim; ++d) {
        x += value(element(q_, b, i, h, d, c_.packed_q, cu_q_)) * value(key(k_, b, j, h / g, d));
      }
      x *= static_cast<double>(params_.scale);
      if (c_.softcap != 0) x = c_.softcap * std::tanh(x / c_.softcap);
      if (c_.alibi)
        x -= static_cast<double>(slopes_[size_t(h)]) * std::fabs(static_cast<double>(p - j));
      s[size_t(j)] = x;
      m = std::fmax(m, x);
    }
    const double sink = c_.sink && real ? sinks_[size_t(h)] : -INFINITY;
    const double top = std::fmax(m, sink);
    double total = top == -INFINITY ? 0 : std::exp(sink - top);
    for (double x : s) total += x == -INFINITY ? 0 : std::exp(x - top);
    const double lse = total == 0 ? -INFINITY : top + std::log(total);
    // Rows past the end are 0 whatever the keys are; without a length, all rows are a sequence's
    // own.
    const bool bad = b == c_.bad_page ||
                     (contains(c_.spoiled, b) && (real || c_.bad_bit == ATTN_REQUEST_BAD_SEQLEN_Q));

    const int64_t row = (c_.packed_q ? cu_q_[size_t(b)] + i : i) + h * lse_rows_ +
                        (c_.packed_q ? 0 : int64_t{b} * c_.heads_q * lse_rows_);
    const double actual_lse = lse_[size_t(row)];
    for (int ch = 0; ch < chunks_ && chunks_ > 1 && !bad; ++ch) {
      if (std::isnan(partial_lse_[size_t(ch * int64_t(lse_.size()) + row)])) {
        return "a chunk's LSE was not written";
      }
    }
    if (bad ? !std::isnan(actual_lse)
            : !(actual_lse == lse || std::fabs(actual_lse - lse) < 2e-5)) {
      return "LSE " + std::to_string(actual_lse) + ", not " + std::to_string(lse);
    }
    for (int d = 0; d < dv_; ++d) {
      double expected = 0, size = 0;
      for (int j = 0; j < len_k; ++j) {
        if (s[size_t(j)] == -INFINITY) continue;
        const double p = std::exp(s[size_t(j)] - lse), v = value(key(v_, b, j, h / g, d));
        expected += p * v;
        size += p * p * v * v;
      }
      const double actual = c_.o_f32 ? o32_[size_t(row * dv_ + d)]
                                     : value(element(o_, b, i, h, d, c_.packed_q, cu_q_));
      if (bad) {
        if (!std::isnan(actual)) return "O of a bad request is no NaN";
        continue;
      }
      // P and O are rounded to the storage type: half a unit of each, and the f32 sums.
      const double unit = c_.dtype == ATTN_DTYPE_F16 ? 0x1p-11 : 0x1p-8;
      const double tolerance = unit * (3 * std::sqrt(size) + std::fabs(expected)) + 1e-6;
      const bool same = std::isnan(expected)   ? std::isnan(actual)
                        : std::isinf(expected) ? actual == expected
                                               : std::fabs(actual - expected) <= tolerance;
      if (!same || (!real && actual != 0)) {
        return "column " + std::to_string(d) + " is " + std::to_string(actual) + ", not " +
               std::to_string(expected) + " +- " + std::to_string(tolerance);
      }
    }
    return "";
  }
  const Case& c_;
  int dv_, chunks_;
  int64_t columns_ = 0, lse_rows_ = 0;
  uint64_t state_ = 88172645463325252u;
  std::vector<int> lengths_q_, lengths_k_, cu_q_, cu_k_, table_;
  std::vector<int> seen_q_, seen_k_;  // lengths or offsets as the device has them
  Tensor q_, k_, v_, o_;
  std::vector<float> slopes_, sinks_, lse_, o32_, partial_o_, partial_lse_;
  std::vector<uint32_t> status_;
  std::vector<int64_t> starts_;
  AttendParams params_;
};

// A sequence has the same bits alone, beside others, in every layout, with its heads in tiles of
// their own or not, and however the tiles fall to the CTAs. Case by case the first sequence has the
// same numbers, since these are drawn in the order of the sequences.
std::string bits_difference(bool features, bool split) {
  Case alone{.name = "alone", .head_dim = 64, .heads_q = 4, .heads_kv = 2};
  alone.seqlen_q = 150, alone.seqlen_k = 400;
  alone.causal = true;
  const WgmmaKernel* kernel = wgmma_kernel(alone.dtype, 64, 64, features, false);
  if (!kernel) return "no kernel";
  if (split) alone.kv_chunk = kernel->tile_k;
  alone.features = features;
  if (features) alone.left = 200, alone.softcap = 5, alone.alibi = alone.sink = true;
  const std::vector<int> lengths_q = {150, 9, 400}, lengths_k = {400, 70, 900};
  std::vector<Case> others;
  const auto add = [&](const char* name, auto change) {
    others.push_back(alone);
    others.back().name = name;
    change(others.back());
  };
  const auto three = [&](Case& c) {
    c.batch = 3;
    c.seqlens_q = lengths_q, c.seqlens_k = lengths_k;
    c.seqlen_q = 400, c.seqlen_k = 900;
  };
  add("one CTA, another seed", [](Case& c) { c.ctas = 1; });
  add("static tiles", [](Case& c) { c.dynamic = false; });
  add("packed heads", [](Case& c) { c.pack = 2; });
  add("rows of O one by one", [](Case& c) { c.use_o_map = false; });
  add("lengths", three);
  add("packed", [&](Case& c) { three(c), c.packed_q = c.packed_k = true; });
  for (const int page : {16, 128}) {
    add("paged", [&](Case& c) { three(c), c.page_size = page; });
  }
  add("packed Q, paged K, packed heads",
      [&](Case& c) { three(c), c.packed_q = true, c.page_size = 64, c.pack = 2; });
  Run first(alone);
  std::string error = first.launch(1);
  if (!error.empty()) return error;
  const std::vector<float> expected = first.first_sequence();
  for (const Case& c : others) {
    Run run(c);
    error = run.launch(3);
    if (!error.empty()) return c.name + ": " + error;
    const std::vector<float> actual = run.first_sequence();
    for (size_t i = 0; i < expected.size(); ++i) {
      if (actual.size() != expected.size() || !(actual[i] == expected[i])) {
        return c.name + ": other bits at " + std::to_string(i);
      }
    }
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
#ifdef ATTN_TEST_FEW_KERNELS
  constexpr int kUsualSeeds = 1;  // with sanitizers, which take their time
#else
  constexpr int kUsualSeeds = 2;
#endif
  const int seeds = argc > 2 ? std::atoi(argv[2]) : kUsualSeeds;
  std::vector<Case> cases;
  for (int d : {64, 96, 128, 192, 256}) {
    const std::string name = "d" + std::to_string(d);
    for (bool causal : {false, true}) {
      cases.push_back(
          {.name = name + (causal ? " causal" : " full"), .head_dim = d, .causal = causal});
    }
    cases.push_back({.name = name + " features", .head_dim = d, .features = true, .causal = true});
  }
  cases.push_back({.name = "long tiles", .full = true});
  cases.push_back({.name = "f16", .dtype = ATTN_DTYPE_F16, .causal = true});
  cases.push_back({.name = "d192 v128", .head_dim = 192, .head_dim_v = 128, .causal = true});
  cases.push_back({.name = "d80", .head_dim = 80, .causal = true});
  cases.push_back({.name = "d72 f16", .dtype = ATTN_DTYPE_F16, .head_dim = 72});
  cases.push_back({.name = "gqa", .heads_q = 6, .heads_kv = 2, .causal = true});
  cases.push_back({.name = "gqa pack 4",
                   .heads_q = 8,
                   .heads_kv = 2,
                   .seqlen_q = 37,
                   .causal = true,
                   .pack = 4});
  cases.push_back({.name = "gqa pack 7",
                   .heads_q = 7,
                   .heads_kv = 1,
                   .seqlen_q = 20,
                   .causal = true,
                   .pack = 7});
  cases.push_back({.name = "decode pack 8",
                   .heads_q = 8,
                   .heads_kv = 1,
                   .seqlen_q = 1,
                   .seqlen_k = 500,
                   .pack = 8});
  cases.push_back(
      {.name = "more queries than keys", .seqlen_q = 400, .seqlen_k = 100, .causal = true});
  cases.push_back({.name = "more queries than keys, top left",
                   .seqlen_q = 300,
                   .seqlen_k = 100,
                   .causal = true,
                   .top_left = true});
  cases.push_back({.name = "lengths",
                   .batch = 4,
                   .causal = true,
                   .seqlens_q = {200, 0, 77, 129},
                   .seqlens_k = {300, 100, 0, 33}});
  cases.push_back(
      {.name = "lengths full", .batch = 3, .seqlens_q = {10, 130, 200}, .seqlens_k = {256, 1, 0}});
  cases.push_back({.name = "packed",
                   .batch = 4,
                   .causal = true,
                   .seqlens_q = {200, 0, 77, 129},
                   .seqlens_k = {300, 100, 0, 33},
                   .packed_q = true,
                   .packed_k = true});
  cases.push_back({.name = "packed gqa",
                   .head_dim = 64,
                   .heads_q = 4,
                   .heads_kv = 2,
                   .batch = 3,
                   .causal = true,
                   .seqlens_q = {61, 5, 90},
                   .seqlens_k = {300, 100, 90},
                   .packed_q = true,
                   .packed_k = true,
                   .pack = 2});
  cases.push_back(
      {.name = "paged 16", .batch = 2, .causal = true, .seqlens_k = {300, 141}, .page_size = 16});
  cases.push_back(
      {.name = "paged 256", .batch = 2, .causal = true, .seqlens_k = {300, 141}, .page_size = 256});
  cases.push_back({.name = "paged 64 d256",
                   .head_dim = 256,
                   .batch = 2,
                   .causal = true,
                   .seqlens_k = {300, 141},
                   .page_size = 64});
  cases.push_back(
      {.name = "bad page", .batch = 2, .seqlens_k = {300, 141}, .page_size = 16, .bad_page = 1});
  for (const int length : {-1, 301}) {
    for (const auto bit : {ATTN_REQUEST_BAD_SEQLEN_Q, ATTN_REQUEST_BAD_SEQLEN_K}) {
      cases.push_back({.name = "bad length",
                       .batch = 2,
                       .seqlens_q = {150, 200},
                       .seqlens_k = {300, 141},
                       .bad_bit = bit,
                       .bad_value = length,
                       .spoiled = {0}});
    }
  }
  // An offset before all rows, one beyond them and one out of order: the sequences around it have
  // no rows of their own.
  const struct {
    int entry, value;
    std::vector<int> spoiled, orphans, spoiled_by_keys;
  } offsets[] = {{1, -5, {0}, {1}, {0, 1}},
                 {1, 2000000000, {0, 2}, {1}, {0, 1, 2}},
                 {2, 20, {0}, {1, 2}, {0, 1, 2}}};
  for (const auto& offset : offsets) {
    Case c{.name = "bad offset of queries", .batch = 4, .causal = true};
    c.seqlen_q = 40, c.seqlens_q = {40, 40, 40, 7};
    c.seqlen_k = 50, c.seqlens_k = {50, 50, 50, 9};
    c.packed_q = c.packed_k = true;
    c.bad_bit = ATTN_REQUEST_BAD_SEQLEN_Q, c.bad_entry = offset.entry, c.bad_value = offset.value;
    c.spoiled = offset.spoiled, c.orphans = offset.orphans;
    cases.push_back(c);
    c.name = "bad offset of keys", c.bad_bit = ATTN_REQUEST_BAD_SEQLEN_K;
    c.spoiled = offset.spoiled_by_keys, c.orphans = {};
    cases.push_back(c);
  }
  cases.push_back({.name = "columns of O apart",
                   .batch = 2,
                   .causal = true,
                   .seqlens_q = {200, 70},
                   .seqlens_k = {300, 0},
                   .use_o_map = false,
                   .o_step = 2,
                   .nan_values = true});
  for (const bool use_o_map : {false, true}) {
    cases.push_back({.name = "far apart",
                     .batch = 2,
                     .causal = true,
                     .use_o_map = use_o_map,
                     .nan_values = true,
                     .far_apart = true});
  }
  cases.push_back({.name = "pages far apart",
                   .batch = 2,
                   .seqlens_k = {300, 141},
                   .page_size = 64,
                   .far_apart = true});
  cases.push_back({.name = "NaN in V", .causal = true, .nan_values = true});
  cases.push_back({.name = "NaN in V, packed, f32",
                   .batch = 2,
                   .causal = true,
                   .seqlens_q = {70, 20},
                   .seqlens_k = {150, 90},
                   .packed_q = true,
                   .packed_k = true,
                   .o_f32 = true,
                   .nan_values = true});
  cases.push_back({.name = "NaN in V, features",
                   .seqlen_q = 100,
                   .seqlen_k = 100,
                   .causal = true,
                   .left = 20,
                   .softcap = 5,
                   .alibi = true,
                   .sink = true,
                   .nan_values = true});
  cases.push_back({.name = "window", .seqlen_q = 250, .seqlen_k = 400, .causal = true, .left = 70});
  cases.push_back(
      {.name = "window both", .seqlen_q = 250, .seqlen_k = 400, .left = 30, .right = 50});
  cases.push_back({.name = "softcap", .causal = true, .softcap = 2});
  cases.push_back({.name = "alibi sink", .causal = true, .alibi = true, .sink = true});
  cases.push_back(
      {.name = "sink without keys", .seqlen_q = 300, .seqlen_k = 40, .causal = true, .sink = true});
  cases.push_back({.name = "negative scale", .causal = true, .scale = -0.1f});
  cases.push_back(
      {.name = "negative scale, features", .features = true, .causal = true, .scale = -0.1f});
  cases.push_back({.name = "q_start", .causal = true, .q_start = 50});
  cases.push_back(
      {.name = "q_start before all keys", .seqlen_q = 300, .causal = true, .q_start = -150});
  cases.push_back({.name = "split", .seqlen_k = 700, .causal = true, .kv_chunk = 256});
  cases.push_back({.name = "split packed",
                   .batch = 2,
                   .seqlen_k = 700,
                   .causal = true,
                   .seqlens_q = {70, 20},
                   .seqlens_k = {700, 90},
                   .packed_q = true,
                   .packed_k = true,
                   .kv_chunk = 256,
                   .nan_values = true});
  // Nearly all rows stand far behind all keys, some before them: the partial LSEs leave out most of
  // ALiBi's distance, and the combining kernel adds it once.
  cases.push_back({.name = "split alibi sink",
                   .batch = 2,
                   .seqlen_k = 700,
                   .seqlens_k = {700, 300},
                   .alibi = true,
                   .sink = true,
                   .kv_chunk = 256,
                   .o_f32 = true});
  for (const int64_t q_start : {-1000, 3000}) {
    cases.push_back({.name = "split alibi far from all keys",
                     .seqlen_q = 70,
                     .seqlen_k = 400,
                     .alibi = true,
                     .kv_chunk = 128,
                     .q_start = q_start});
  }
  cases.push_back({.name = "alibi far from all keys, sink",
                   .seqlen_q = 70,
                   .seqlen_k = 200,
                   .alibi = true,
                   .sink = true,
                   .q_start = 500});
  cases.push_back({.name = "rows of O one by one", .causal = true, .use_o_map = false});
  cases.push_back({.name = "static tiles",
                   .heads_q = 3,
                   .heads_kv = 1,
                   .causal = true,
                   .ctas = 4,
                   .dynamic = false});
  cases.push_back({.name = "many tiles, one CTA",
                   .head_dim = 64,
                   .heads_q = 4,
                   .heads_kv = 4,
                   .seqlen_q = 500,
                   .causal = true,
                   .ctas = 1});

  Results results;
  if (only.empty()) {
    results.check("table", table_difference());
    results.check("numbering", numbering_difference());
  }
  for (const Case& c : cases) {
    if (!only.empty() && c.name.find(only) == std::string::npos) continue;
    for (int seed = 1; seed <= seeds; ++seed) {
      results.check(c.name + " seed " + std::to_string(seed),
                    Run(c).launch(static_cast<uint64_t>(seed)));
    }
  }
  for (const bool features : {false, true}) {
    for (const bool split : {false, true}) {
      if (std::string("bits").find(only) != std::string::npos) {
        results.check("bits", bits_difference(features, split));
      }
    }
  }
  return results.report();
}

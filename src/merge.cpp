// Merges partial results over disjoint sets of keys, row by row:
//   LSE = ln(sum_p exp(LSE_p)),   O = sum_p exp(LSE_p - LSE) O_p
#include "merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rows.h"
#include "tensor.h"

namespace attn {
namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kColumnsPerStep = 256;  // of O that are summed on the stack at a time

// lse [b, h, s] at one row.
float lse_at(const attn_tensor& lse, int64_t b, int64_t h, int64_t i) {
  return *reinterpret_cast<const float*>(tensor_at(lse, b, h, i));
}

// max + ln(denominator) is the LSE of all parts; denominator is 0 if no part has any weight.
struct Softmax {
  double max;
  double denominator;

  // exp(lse - LSE), 0 for an lse of -inf.
  double weight(double lse) const { return std::exp(lse - max) / denominator; }
};

Softmax combine(const attn_merge_args& args, int64_t b, int64_t h, int64_t i) {
  const double kNone = -std::numeric_limits<double>::infinity();
  const double sink = args.sink ? vector_at<float>(*args.sink, h) : kNone;
  Softmax all{sink, 0};
  for (int32_t p = 0; p < args.count; ++p) {
    all.max = std::max(all.max, double{lse_at(*args.lse_parts[p], b, h, i)});
  }
  if (all.max == kNone) all.max = 0;  // -inf - -inf is NaN
  for (int32_t p = 0; p < args.count; ++p) {
    all.denominator += std::exp(lse_at(*args.lse_parts[p], b, h, i) - all.max);
  }
  all.denominator += std::exp(sink - all.max);
  return all;
}

// O and LSE may be the very view of a part: a step reads all parts before it writes, and LSE is
// written last.
void merge_row(const attn_merge_args& args, int64_t b, int64_t h, int64_t i) {
  const Softmax all = combine(args, b, h, i);
  const attn_tensor& o = *args.o;
  const int64_t head_dim_v = o.shape[3];
  const int64_t element_size = static_cast<int64_t>(dtype_size(o.dtype));
  for (int64_t begin = 0; begin < head_dim_v; begin += kColumnsPerStep) {
    const int64_t n = std::min(kColumnsPerStep, head_dim_v - begin);
    float sum[kColumnsPerStep] = {};
    float column[kColumnsPerStep];
    for (int32_t p = 0; p < args.count; ++p) {
      const float lse = lse_at(*args.lse_parts[p], b, h, i);
      // A part without keys has no weight, whatever its O holds.
      if (lse == -std::numeric_limits<float>::infinity()) continue;
      const float weight = static_cast<float>(all.weight(lse));
      const attn_tensor& part = *args.o_parts[p];
      const char* from =
          tensor_at(part, b, h, i) + begin * part.strides[3] * int64_t{sizeof(float)};
      load_row(from, part.dtype, part.strides[3], n, column);
      for (int64_t c = 0; c < n; ++c) sum[c] += weight * column[c];
    }
    store_row(sum, n, tensor_at(o, b, h, i) + begin * o.strides[3] * element_size, o.dtype,
              o.strides[3]);
  }
  if (args.lse) {
    *reinterpret_cast<float*>(tensor_at(*args.lse, b, h, i)) =
        static_cast<float>(all.max + std::log(all.denominator));
  }
}

void merge_task(void* arg, int64_t task, int32_t) {
  const auto& args = *static_cast<const attn_merge_args*>(arg);
  const int64_t heads = args.o->shape[1];
  const int64_t seqlen = args.o->shape[2];
  const int64_t rows = args.o->shape[0] * heads * seqlen;
  const int64_t begin = task * kRowsPerTask;
  for (int64_t row = begin; row < std::min(rows, begin + kRowsPerTask); ++row) {
    merge_row(args, row / seqlen / heads, row / seqlen % heads, row % seqlen);
  }
}

}  // namespace

attn_status merge_cpu(const attn_host* host, const attn_merge_args* args, attn_error* error) {
  const int64_t rows = args->o->shape[0] * args->o->shape[1] * args->o->shape[2];
  if (rows == 0) return ATTN_OK;
  attn_merge_args copy = *args;
  return host->parallel_for(host, (rows + kRowsPerTask - 1) / kRowsPerTask, merge_task, &copy,
                            error);
}

}  // namespace attn

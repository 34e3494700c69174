// Makes one result of several: the chunks of split K and V (combine), and attn_merge (merge).
//   LSE = ln sum_p exp(LSE_p),   O = sum_p exp(LSE_p - LSE) O_p,   p in order
// A warp works on a row; lane x has the columns x, x + 32, ...
//
// Partial LSEs of a split leave out what ALiBi takes from all scores of a row (see left_out), so
// that they keep their digits; it is added here.
#ifndef ATTN_CUDA_KERNELS_COMBINE_CUH_
#define ATTN_CUDA_KERNELS_COMBINE_CUH_

#include "output.cuh"

namespace attn::cuda {

constexpr int kCombineWarps = 4;  // rows a CTA works on at a time

// The softmax over parts: `largest` + ln(`sum`) is the LSE of all.
struct Parts {
  float largest;
  float sum;

  // exp(lse - LSE). Of one part alone exactly 1.
  __device__ __forceinline__ float weight(float lse) const { return expf(lse - largest) / sum; }
  // -inf if there is no part with a key; NaN if one is NaN.
  __device__ __forceinline__ float lse() const { return largest + logf(sum); }
};

// lse_of(p): a part's LSE.
template <class LseOf>
__device__ __forceinline__ Parts parts_of(int32_t count, const LseOf& lse_of) {
  Parts parts{-kInfinity, 0.0f};
  for (int32_t p = 0; p < count; ++p) parts.largest = fmaxf(parts.largest, lse_of(p));
  if (parts.largest == -kInfinity) parts.largest = 0.0f;  // -inf - -inf is NaN
  for (int32_t p = 0; p < count; ++p) parts.sum += expf(lse_of(p) - parts.largest);
  return parts;
}

// Column x of the sum; value_of(p) is part p's. A part without keys has no weight, whatever it
// holds.
template <class LseOf, class ValueOf>
__device__ __forceinline__ float combined(const Parts& parts, int32_t count, const LseOf& lse_of,
                                          const ValueOf& value_of) {
  float sum = 0.0f;
  for (int32_t p = 0; p < count; ++p) {
    const float lse = lse_of(p);
    if (lse != -kInfinity) sum = fmaf(parts.weight(lse), value_of(p), sum);
  }
  return sum;
}

__device__ __forceinline__ void combine(const AttendParams& params) {
  const int lane = lane_index();
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t rows = int64_t{params.batch} * params.heads_q * params.seqlen_q;
  for (int64_t number = int64_t{blockIdx.x} * kCombineWarps + warp; number < rows;
       number += int64_t{gridDim.x} * kCombineWarps) {
    const auto query = static_cast<int32_t>(number % params.seqlen_q);
    const auto head = static_cast<int32_t>(number / params.seqlen_q % params.heads_q);
    const Sequence s =
        sequence_at(params, static_cast<int32_t>(number / params.seqlen_q / params.heads_q));
    const bool past_end = query >= s.seqlen_q;
    if (past_end && params.q_layout == ATTN_LAYOUT_PACKED) continue;

    const int32_t count = past_end || s.bad ? 0 : min_of(chunks_of(params, s), params.num_chunks);
    const auto lse_of = [&](int32_t p) {
      return params.partial_lse[partial_row(params, s, p, head, query)];
    };
    const Parts parts = parts_of(count, lse_of);
    FinishedRow end{1.0f, -kInfinity};
    if (!past_end && s.bad) {
      end = {quiet_nan(), quiet_nan()};
    } else if (!past_end) {
      end = finish_row(params, parts.lse(), head, left_out(params, s, head, query));
    }
    const int64_t o = row_index(params.o, s.index, head, s.q_row + query);
    for (int x = lane; x < params.head_dim_v; x += kWarpSize) {
      const float sum = combined(parts, count, lse_of, [&](int32_t p) {
        return params.partial_o[partial_row(params, s, p, head, query) * params.head_dim_v + x];
      });
      store_as(params.o_dtype, params.o.data, o + x * params.o.strides[3], sum * end.weight);
    }
    if (lane == 0) store_lse(params, s, head, query, end.lse);
  }
}

__device__ __forceinline__ void merge(const MergeParams& params) {
  const int lane = lane_index();
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t rows = params.shape[0] * params.shape[1] * params.shape[2];
  for (int64_t number = int64_t{blockIdx.x} * kCombineWarps + warp; number < rows;
       number += int64_t{gridDim.x} * kCombineWarps) {
    const int64_t i = number % params.shape[2];
    const int64_t h = number / params.shape[2] % params.shape[1];
    const int64_t b = number / params.shape[2] / params.shape[1];
    // The sink is one more part, of which O is 0.
    const float sink = params.sink ? params.sink[h * params.sink_stride] : -kInfinity;
    const auto lse_of = [&](int32_t p) {
      if (p == params.count) return sink;
      const MergePart& part = params.parts[p];
      return part.lse[b * part.lse_strides[0] + h * part.lse_strides[1] + i * part.lse_strides[2]];
    };
    const Parts parts = parts_of(params.count + 1, lse_of);
    const int64_t o = row_index(params.o, b, h, i);
    // O and LSE may be the very view of a part: a column's parts are read before it is written, and
    // LSE is written last.
    for (int64_t x = lane; x < params.shape[3]; x += kWarpSize) {
      const float sum = combined(parts, params.count, lse_of, [&](int32_t p) {
        const MergePart& part = params.parts[p];
        return part.o[b * part.o_strides[0] + h * part.o_strides[1] + i * part.o_strides[2] +
                      x * part.o_strides[3]];
      });
      store_as(params.o_dtype, params.o.data, o + x * params.o.strides[3], sum);
    }
    warp_sync();
    if (lane == 0 && params.lse.data) {
      static_cast<float*>(params.lse.data)[row_index(params.lse, b, h, i)] = parts.lse();
    }
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_COMBINE_CUH_

// The online softmax of a warp's rows, kept by the four lanes that share a row.
#ifndef ATTN_CUDA_KERNELS_MMA_SOFTMAX_CUH_
#define ATTN_CUDA_KERNELS_MMA_SOFTMAX_CUH_

#include "mma_scores.cuh"

namespace attn::cuda {

// O [kRowBlocks * 16, kDim] of a warp, as accumulators, with each row's maximum m (in units of
// log2) and sum l; until the end l has only the keys of this lane.
template <class Traits>
struct Accumulator {
  float o[Traits::kRowBlocks][Traits::kDimBlocks][4];
  float m[Traits::kRowBlocks][2];
  float l[Traits::kRowBlocks][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        m[block][half] = -kInfinity;
        l[block][half] = 0.0f;
      }
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) o[block][n][i] = 0.0f;
      }
    }
  }
};

// m' = max(m, scale rowmax S),  P = 2^(scale S - m'),  l = 2^(m - m') l + rowsum P,
// O = 2^(m - m') O. S becomes P. scale > 0 takes S to units of log2.
template <class Traits>
__device__ __forceinline__ void softmax(Scores<Traits>& s, Accumulator<Traits>& acc, float scale) {
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -kInfinity;
#pragma unroll
      for (int n = 0; n < Traits::kKeyBlocks; ++n) {
        largest = fmaxf(largest, fmaxf(s[block][n][half * 2], s[block][n][half * 2 + 1]));
      }
      largest = fmaxf(largest, shuffle_xor(largest, 1));
      largest = fmaxf(largest, shuffle_xor(largest, 2));
      const float m_old = acc.m[block][half];
      const float m_new = fmaxf(m_old, largest * scale);
      // A row without a key so far: -inf - -inf would be NaN.
      const float shift = m_new == -kInfinity ? 0.0f : m_new;
      const float alpha = exp2_fast(m_old - shift);
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < Traits::kKeyBlocks; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = s[block][n][half * 2 + e];
          score = exp2_fast(fmaf(score, scale, -shift));
          sum += score;
        }
      }
      acc.m[block][half] = m_new;
      acc.l[block][half] = fmaf(acc.l[block][half], alpha, sum);
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
        acc.o[block][n][half * 2] *= alpha;
        acc.o[block][n][half * 2 + 1] *= alpha;
      }
    }
  }
}

// Completes l: the sum over the row's four lanes.
template <class Traits>
__device__ __forceinline__ void reduce_sums(Accumulator<Traits>& acc) {
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& l = acc.l[block][half];
      l += shuffle_xor(l, 1);
      l += shuffle_xor(l, 2);
    }
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_SOFTMAX_CUH_

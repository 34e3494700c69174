// Numbers to global memory: O in any of its types, LSE, and the partial results of split K and V.
#ifndef ATTN_CUDA_KERNELS_OUTPUT_CUH_
#define ATTN_CUDA_KERNELS_OUTPUT_CUH_

#include "sequence.cuh"

namespace attn::cuda {

// data[index] = value, rounded to `dtype`.
__device__ __forceinline__ void store_as(attn_dtype dtype, void* data, int64_t index, float value) {
  if (dtype == ATTN_DTYPE_F32) {
    static_cast<float*>(data)[index] = value;
  } else if (dtype == ATTN_DTYPE_F16) {
    static_cast<uint16_t*>(data)[index] = F16::from_float(value);
  } else {
    static_cast<uint16_t*>(data)[index] = BF16::from_float(value);
  }
}

// Index of (b, h, packed or padded row, 0).
__device__ __forceinline__ int64_t row_index(const TensorView& t, int64_t b, int64_t h,
                                             int64_t row) {
  return b * t.strides[0] + h * t.strides[1] + row * t.strides[2];
}

__device__ __forceinline__ void store_lse(const AttendParams& params, const Sequence& s, int32_t h,
                                          int32_t query, float lse) {
  if (!params.lse.data) return;
  static_cast<float*>(params.lse.data)[row_index(params.lse, s.index, h, s.q_row + query)] = lse;
}

// The place of a query row's partial result of chunk `chunk`.
__device__ __forceinline__ int64_t partial_row(const AttendParams& params, const Sequence& s,
                                               int32_t chunk, int32_t h, int32_t query) {
  return chunk * params.partial_chunk_rows + s.index * params.partial_batch_rows +
         h * params.partial_head_rows + s.q_row + query;
}

// How many chunks of the sequence have keys at all; later ones leave no partial result.
__device__ __forceinline__ int32_t chunks_of(const AttendParams& params, const Sequence& s) {
  return (s.seqlen_k + params.kv_chunk - 1) / params.kv_chunk;
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_OUTPUT_CUH_

// The kernels that make one result of several: attn_merge, and the chunks of split K and V.
#include "combine.cuh"

extern "C" __global__ void __launch_bounds__(attn::cuda::kCombineWarps * 32)
    attn_combine(const __grid_constant__ attn::cuda::AttendParams params) {
  attn::cuda::combine(params);
}

extern "C" __global__ void __launch_bounds__(attn::cuda::kCombineWarps * 32)
    attn_merge_parts(const __grid_constant__ attn::cuda::MergeParams params) {
  attn::cuda::merge(params);
}

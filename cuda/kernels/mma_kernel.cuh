// Names a kernel of the mma.sync family: ATTN_MMA_KERNEL(symbol, type, kDim, kWarps, kRowBlocks,
// kTileK, kFeatures, CTAs on a multiprocessor that registers leave room for).
#ifndef ATTN_CUDA_KERNELS_MMA_KERNEL_CUH_
#define ATTN_CUDA_KERNELS_MMA_KERNEL_CUH_

#include "mma_mainloop.cuh"

#define ATTN_MMA_KERNEL(symbol, type, dim, warps, row_blocks, tile_k, features, ctas)       \
  extern "C" __global__ void __launch_bounds__(warps * 32, ctas)                            \
      symbol(const __grid_constant__ attn::cuda::AttendParams params) {                     \
    attn::cuda::attend<                                                                     \
        attn::cuda::MmaTraits<attn::cuda::type, dim, warps, row_blocks, tile_k, features>>( \
        params);                                                                            \
  }

#endif  // ATTN_CUDA_KERNELS_MMA_KERNEL_CUH_

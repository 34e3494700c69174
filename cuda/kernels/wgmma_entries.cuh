// wgmma_entries.cuh: the entry points of the wgmma family, one for each type, head size and
// variant.
#ifndef ATTN_CUDA_KERNELS_WGMMA_ENTRIES_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_ENTRIES_CUH_

#include "wgmma_kernel.cuh"

// X(symbol, type, head size, of V, keys of a tile, consumer warpgroups, features). wgmma_table.h
// has the same shapes. `full` is the plain kernel with longer tiles, which pay without a causal
// mask.
#ifdef ATTN_CUDA_SWEEP  // a variant of ./dev gpu sweep: the keys of its tiles come from outside
#define ATTN_WGMMA_KERNELS(X, t, T)                                           \
  X(attn_wgmma_##t##_d64_plain, T, 64, 64, ATTN_CUDA_SWEEP_D64, 3, false)     \
  X(attn_wgmma_##t##_d128_plain, T, 128, 128, ATTN_CUDA_SWEEP_D128, 2, false) \
  X(attn_wgmma_##t##_d256_plain, T, 256, 256, ATTN_CUDA_SWEEP_D256, 2, false)
#else
#define ATTN_WGMMA_KERNELS(X, t, T)                                 \
  X(attn_wgmma_##t##_d64_plain, T, 64, 64, 128, 3, false)           \
  X(attn_wgmma_##t##_d64_features, T, 64, 64, 112, 3, true)         \
  X(attn_wgmma_##t##_d96_plain, T, 96, 96, 96, 3, false)            \
  X(attn_wgmma_##t##_d96_features, T, 96, 96, 80, 3, true)          \
  X(attn_wgmma_##t##_d128_plain, T, 128, 128, 128, 2, false)        \
  X(attn_wgmma_##t##_d128_features, T, 128, 128, 128, 2, true)      \
  X(attn_wgmma_##t##_d128_full, T, 128, 128, 176, 2, false)         \
  X(attn_wgmma_##t##_d192_v128_plain, T, 192, 128, 128, 2, false)   \
  X(attn_wgmma_##t##_d192_v128_features, T, 192, 128, 128, 2, true) \
  X(attn_wgmma_##t##_d192_plain, T, 192, 192, 112, 2, false)        \
  X(attn_wgmma_##t##_d192_features, T, 192, 192, 96, 2, true)       \
  X(attn_wgmma_##t##_d256_plain, T, 256, 256, 80, 2, false)         \
  X(attn_wgmma_##t##_d256_features, T, 256, 256, 64, 2, true)
#endif

#define ATTN_ENTRY(name, T, d, dv, tile_k, consumers, features)                                    \
  extern "C" __global__ void __launch_bounds__((consumers + 1) * 128, 1)                           \
      name(const __grid_constant__ attn::cuda::WgmmaParams params) {                               \
    attn::cuda::attend_wgmma<attn::cuda::Tile<attn::cuda::T, d, dv, tile_k, consumers, features>>( \
        params);                                                                                   \
  }

#endif  // ATTN_CUDA_KERNELS_WGMMA_ENTRIES_CUH_

// attend_wgmma.cu: the entry points of the wgmma family, one for each type, head size and variant.
#include "wgmma_kernel.cuh"

#define ATTN_ENTRY(name, ...)                                                             \
  extern "C" __global__ void __launch_bounds__(attn::cuda::Tile<__VA_ARGS__>::Threads, 1)  \
      attn_wgmma_##name(const __grid_constant__ attn::cuda::WgmmaParams params) {              \
    attn::cuda::attend_wgmma<attn::cuda::Tile<__VA_ARGS__>>(params);                          \
  }
#define ATTN_ENTRIES(size, ...)                                              \
  ATTN_ENTRY(f16_##size##_plain, attn::cuda::F16, __VA_ARGS__, false)        \
  ATTN_ENTRY(f16_##size##_features, attn::cuda::F16, __VA_ARGS__, true)      \
  ATTN_ENTRY(bf16_##size##_plain, attn::cuda::BF16, __VA_ARGS__, false)   \
  ATTN_ENTRY(bf16_##size##_features, attn::cuda::BF16, __VA_ARGS__, true)

ATTN_ENTRIES(d64, 64, 64, 128, 3)
ATTN_ENTRIES(d96, 96, 96, 112, 3)
ATTN_ENTRIES(d128, 128, 128, 128, 2)
ATTN_ENTRIES(d192, 192, 192, 112, 2)
ATTN_ENTRIES(d192_v128, 192, 128, 128, 2)
ATTN_ENTRIES(d256, 256, 256, 80, 2)

// Without a causal mask longer tiles of keys pay.
ATTN_ENTRY(f16_d128_full, attn::cuda::F16, 128, 128, 176, 2, false)
ATTN_ENTRY(bf16_d128_full, attn::cuda::BF16, 128, 128, 176, 2, false)

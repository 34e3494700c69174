// The mma.sync kernels for f32: three products of tf32 make one of f32.
#include "mma_kernel.cuh"

ATTN_MMA_KERNEL(attn_mma_f32_d64, F32, 64, 4, 1, 32, true, 2)
ATTN_MMA_KERNEL(attn_mma_f32_d128, F32, 128, 4, 1, 32, true, 2)

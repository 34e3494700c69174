// The mma.sync kernels for bf16.
#define ATTN_MMA_TYPE BF16
#define ATTN_MMA_NAME bf16
#include "attend_mma_16bit.cuh"

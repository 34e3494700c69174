// The mma.sync kernels for f16.
#define ATTN_MMA_TYPE F16
#define ATTN_MMA_NAME f16
#include "attend_mma_16bit.cuh"

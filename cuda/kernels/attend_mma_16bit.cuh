// The mma.sync kernels of a 16-bit type, ATTN_MMA_TYPE. d64, d128 and d256 are the largest head
// sizes they serve; q64 and q128 their rows of queries; "features" ones change scores, or load
// what cp.async cannot. Rows of a table: mma_table.h.
#include "mma_kernel.cuh"

#define ATTN_JOIN_(a, b, c) a##b##c
#define ATTN_JOIN(a, b, c) ATTN_JOIN_(a, b, c)
#define ATTN_KERNEL(suffix, ...) \
  ATTN_MMA_KERNEL(ATTN_JOIN(attn_mma_, ATTN_MMA_NAME, suffix), ATTN_MMA_TYPE, __VA_ARGS__)

ATTN_KERNEL(_d64_q128, 64, 4, 2, 112, false, 2)
ATTN_KERNEL(_d64_q128_features, 64, 8, 1, 112, true, 1)
ATTN_KERNEL(_d64_q64, 64, 4, 1, 112, false, 3)
ATTN_KERNEL(_d64_q64_features, 64, 4, 1, 112, true, 2)
ATTN_KERNEL(_d128_q128, 128, 4, 2, 64, false, 2)
ATTN_KERNEL(_d128_q128_features, 128, 8, 1, 64, true, 1)
ATTN_KERNEL(_d128_q64, 128, 4, 1, 64, false, 3)
ATTN_KERNEL(_d128_q64_features, 128, 4, 1, 64, true, 2)
ATTN_KERNEL(_d256_q128, 256, 8, 1, 64, false, 1)
ATTN_KERNEL(_d256_q64, 256, 4, 1, 64, false, 1)
ATTN_KERNEL(_d256_q64_features, 256, 4, 1, 64, true, 1)

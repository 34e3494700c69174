// The mma.sync kernel for f32 and head sizes above 128: a module of its own, since it has options
// of its own (see CMakeLists.txt).
#include "mma_kernel.cuh"

ATTN_MMA_KERNEL(attn_mma_f32_d256, F32, 256, 4, 1, 16, true, 1)

// The f32 kernels for a host compiler.
#include "../kernels/attend_mma_f32.cu"
#include "../kernels/attend_mma_f32_d256.cu"

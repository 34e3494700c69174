// The f32 kernels for a host compiler.
#include "../kernels/attend_mma_f32.cu"

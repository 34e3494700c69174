// The f16 kernels for a host compiler.
#include "../kernels/attend_mma_f16.cu"

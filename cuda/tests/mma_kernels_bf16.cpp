// The bf16 kernels for a host compiler.
#include "../kernels/attend_mma_bf16.cu"

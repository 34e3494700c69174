// The words of CUDA C++ for a host compiler, so that kernels compile as they are. Included by the
// primitives alone, in place of what nvcc brings.
#ifndef ATTN_CUDA_EMULATOR_DEVICE_H_
#define ATTN_CUDA_EMULATOR_DEVICE_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"
#include "memory.h"
#include "warp.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

#define threadIdx (::attn::emulator::current().index)
#define blockIdx (::attn::emulator::current().cta->index)
#define blockDim (::attn::emulator::block_dim())
#define gridDim (::attn::emulator::grid_dim())

#endif  // ATTN_CUDA_EMULATOR_DEVICE_H_

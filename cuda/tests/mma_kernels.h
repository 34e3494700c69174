// mma_kernels.h: the kernels of the mma.sync family as host functions, found by their symbols.
#ifndef ATTN_CUDA_TESTS_MMA_KERNELS_H_
#define ATTN_CUDA_TESTS_MMA_KERNELS_H_

#include <string>

#include "../kernels/table.h"

namespace attn_test {

using AttendKernel = void (*)(const attn::cuda::AttendParams);
using MergeKernel = void (*)(const attn::cuda::MergeParams);

// nullptr for a symbol that there is none of.
AttendKernel attend_kernel(const std::string& symbol);
MergeKernel merge_kernel();

}  // namespace attn_test

#endif  // ATTN_CUDA_TESTS_MMA_KERNELS_H_

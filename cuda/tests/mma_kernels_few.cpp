// A few of the kernels in one file that compiles quickly: for planted mistakes.
#include "../kernels/merge.cu"
#include "../kernels/mma_kernel.cuh"
#include "mma_kernels.h"

ATTN_MMA_KERNEL(few_bf16_d64_q128, BF16, 64, 4, 2, 112, false, 2)
ATTN_MMA_KERNEL(few_bf16_d64_q64_features, BF16, 64, 4, 1, 112, true, 2)
ATTN_MMA_KERNEL(few_bf16_d128_q64, BF16, 128, 4, 1, 64, false, 3)
ATTN_MMA_KERNEL(few_f32_d64, F32, 64, 4, 1, 32, true, 2)

namespace attn_test {

AttendKernel attend_kernel(const std::string& symbol) {
  if (symbol == "attn_mma_bf16_d64_q128") return few_bf16_d64_q128;
  if (symbol == "attn_mma_bf16_d64_q64_features") return few_bf16_d64_q64_features;
  if (symbol == "attn_mma_bf16_d128_q64") return few_bf16_d128_q64;
  if (symbol == "attn_mma_f32_d64") return few_f32_d64;
  if (symbol == "attn_combine") return attn_combine;
  return nullptr;
}

MergeKernel merge_kernel() { return attn_merge_parts; }

}  // namespace attn_test

// The symbols of the mma.sync family, and the small kernels for a host compiler.
#include "mma_kernels.h"

#include "../kernels/merge.cu"

#define ATTN_EACH_16BIT(X, name)          \
  X(attn_mma_##name##_d64_q128)           \
  X(attn_mma_##name##_d64_q64)            \
  X(attn_mma_##name##_d64_q128_features)  \
  X(attn_mma_##name##_d64_q64_features)   \
  X(attn_mma_##name##_d128_q128)          \
  X(attn_mma_##name##_d128_q64)           \
  X(attn_mma_##name##_d128_q128_features) \
  X(attn_mma_##name##_d128_q64_features)  \
  X(attn_mma_##name##_d256_q128)          \
  X(attn_mma_##name##_d256_q64)           \
  X(attn_mma_##name##_d256_q64_features)
#define ATTN_EACH(X)       \
  ATTN_EACH_16BIT(X, f16)  \
  ATTN_EACH_16BIT(X, bf16) \
  X(attn_mma_f32_d64)      \
  X(attn_mma_f32_d128)     \
  X(attn_mma_f32_d256)

#define ATTN_DECLARE(symbol) extern "C" void symbol(const attn::cuda::AttendParams params);
ATTN_EACH(ATTN_DECLARE)

namespace attn_test {

AttendKernel attend_kernel(const std::string& symbol) {
#define ATTN_FIND(name) \
  if (symbol == #name) return name;
  ATTN_EACH(ATTN_FIND)
  if (symbol == "attn_combine") return attn_combine;
  return nullptr;
}

MergeKernel merge_kernel() { return attn_merge_parts; }

}  // namespace attn_test

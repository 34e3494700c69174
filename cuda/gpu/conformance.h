// conformance.h: the cases that hold each device primitive against its twin in the emulator: one
// kernel each, whose source is the same on both sides. Read by host compilers and nvcc.
#ifndef ATTN_CUDA_GPU_CONFORMANCE_H_
#define ATTN_CUDA_GPU_CONFORMANCE_H_

#include "../params.h"

namespace attn::cuda {

constexpr int kInputWords = 1 << 15;
constexpr int kOutputWords = 1 << 15;

// A 16-bit tensor over the input, and one over the output: no dimension is a multiple of its box,
// and rows have a gap between them.
constexpr int kColumns = 100, kRowsOfTensor = 60, kHeads = 3, kOuter = 2;
constexpr int kRowStride = 104;  // elements
static_assert(kOuter * kHeads * kRowsOfTensor * kRowStride <= 2 * kInputWords);

struct ConformanceParams {
  TensorMap in_map;
  TensorMap out_map;
  const uint32_t* in;  // [kInputWords]
  uint32_t* out;       // [kOutputWords], all bits set before the launch
};

enum class Input {
  kWords,  // any bits
  kF16,    // pairs of small integers, whose products and sums no type rounds
  kBF16,
  kF32,
};

// What a case compares: all bits, or f32 numbers to 2^-20 of their size, for approximations.
enum class Compare { kBits, kNumbers };

// X(symbol, threads, bytes of shared memory, input, comparison, rows and heads of a box)
#define ATTN_CONFORMANCE_SM80(X)                                \
  X(conform_cta_sync, 256, 1024, kWords, kBits, 1, 1)           \
  X(conform_copy_async, 128, 4096, kWords, kBits, 1, 1)         \
  X(conform_copy_async_groups, 64, 8192, kWords, kBits, 1, 1)   \
  X(conform_lanes, 64, 0, kWords, kBits, 1, 1)                  \
  X(conform_ldmatrix, 32, 8192, kWords, kBits, 1, 1)            \
  X(conform_ldmatrix_transposed, 32, 8192, kWords, kBits, 1, 1) \
  X(conform_mma_f16, 32, 0, kF16, kBits, 1, 1)                  \
  X(conform_mma_bf16, 32, 0, kBF16, kBits, 1, 1)                \
  X(conform_mma_tf32, 32, 0, kF32, kBits, 1, 1)                 \
  X(conform_swizzled_product, 128, 32768, kBF16, kBits, 1, 1)   \
  X(conform_roundings, 128, 0, kWords, kBits, 1, 1)             \
  X(conform_exp2, 128, 0, kWords, kNumbers, 1, 1)               \
  X(conform_atomics, 128, 0, kWords, kBits, 1, 1)

// Every shape that the kernels have. X(symbol, type, columns of the product, which dimension of B
// is contiguous, A in registers)
#define ATTN_CONFORMANCE_WGMMA(X)                       \
  X(conform_wgmma_ss_f16_k_64, F16, 64, K, false)       \
  X(conform_wgmma_ss_f16_mn_64, F16, 64, MN, false)     \
  X(conform_wgmma_rs_f16_k_64, F16, 64, K, true)        \
  X(conform_wgmma_rs_f16_mn_256, F16, 256, MN, true)    \
  X(conform_wgmma_ss_bf16_k_48, BF16, 48, K, false)     \
  X(conform_wgmma_ss_bf16_k_64, BF16, 64, K, false)     \
  X(conform_wgmma_ss_bf16_k_80, BF16, 80, K, false)     \
  X(conform_wgmma_ss_bf16_k_96, BF16, 96, K, false)     \
  X(conform_wgmma_ss_bf16_k_112, BF16, 112, K, false)   \
  X(conform_wgmma_ss_bf16_k_128, BF16, 128, K, false)   \
  X(conform_wgmma_ss_bf16_k_176, BF16, 176, K, false)   \
  X(conform_wgmma_ss_bf16_mn_128, BF16, 128, MN, false) \
  X(conform_wgmma_rs_bf16_k_128, BF16, 128, K, true)    \
  X(conform_wgmma_rs_bf16_mn_64, BF16, 64, MN, true)    \
  X(conform_wgmma_rs_bf16_mn_96, BF16, 96, MN, true)    \
  X(conform_wgmma_rs_bf16_mn_128, BF16, 128, MN, true)  \
  X(conform_wgmma_rs_bf16_mn_192, BF16, 192, MN, true)  \
  X(conform_wgmma_rs_bf16_mn_256, BF16, 256, MN, true)

#define ATTN_CONFORMANCE_SM90(X)                                 \
  X(conform_tensor_load, 128, 8256, kWords, kBits, 64, 1)        \
  X(conform_tensor_load_heads, 128, 8256, kWords, kBits, 21, 3)  \
  X(conform_tensor_load_pieces, 128, 8256, kWords, kBits, 16, 1) \
  X(conform_tensor_store, 128, 8256, kWords, kBits, 64, 1)       \
  X(conform_tensor_store_heads, 128, 8256, kWords, kBits, 21, 3) \
  X(conform_ring, 160, 16512, kWords, kBits, 64, 1)              \
  X(conform_turns, 384, 64, kWords, kBits, 1, 1)                 \
  X(conform_stmatrix, 128, 8192, kWords, kBits, 1, 1)            \
  X(conform_registers, 384, 0, kWords, kBits, 1, 1)              \
  X(conform_small_things, 128, 16, kWords, kBits, 1, 1)          \
  X(conform_fast_numbers, 128, 0, kWords, kNumbers, 1, 1)

}  // namespace attn::cuda

#endif  // ATTN_CUDA_GPU_CONFORMANCE_H_

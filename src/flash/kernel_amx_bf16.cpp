// Flash attention compiled for amx_bf16: with products of bf16 in tiles. All else is avx512's.
#include "../simd/vec_avx512.h"

#define ATTN_FLASH_ISA avx512
#define ATTN_FLASH_BF16
#define ATTN_FLASH_AMX
#define ATTN_FLASH_ROWS 32
#define ATTN_FLASH_VECS 4
#include "kernel.h"

namespace attn::flash {

const FlashKernels kFlashAmxBf16 = {
    "amx_bf16",
    avx512::kLanes,
    avx512::kPanel,
    avx512::kRows,
    avx512::Dot::kWidth,
    avx512::Dot::kItemBlock,
    avx512::pack_k,
    avx512::pack_v,
    avx512::scratch_size,
    avx512::attend,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace attn::flash

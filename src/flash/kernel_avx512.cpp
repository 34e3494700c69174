// Flash attention compiled for avx512.
#include "../simd/vec_avx512.h"

#define ATTN_FLASH_ISA avx512
#define ATTN_FLASH_ROWS 6
#define ATTN_FLASH_VECS 4
#include "kernel.h"

namespace attn::flash {

const FlashKernels kFlashAvx512 = {
    "avx512",       avx512::kLanes,       avx512::kPanel,
    avx512::kRows,  avx512::Dot::kWidth,  avx512::Dot::kItemBlock,
    avx512::pack_k, avx512::pack_v,       avx512::scratch_size,
    avx512::attend, avx512::partial_size, avx512::attend_chunk,
    avx512::merge,
};

}  // namespace attn::flash

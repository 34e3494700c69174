// Flash attention compiled for avx2.
#include "../simd/vec_avx2.h"

#define ATTN_FLASH_ISA avx2
#define ATTN_FLASH_ROWS 6
#define ATTN_FLASH_VECS 2
#include "kernel.h"

namespace attn::flash {

const FlashKernels kFlashAvx2 = {
    "avx2",       avx2::kLanes,       avx2::kPanel,
    avx2::kRows,  avx2::Dot::kWidth,  avx2::Dot::kItemBlock,
    avx2::pack_k, avx2::pack_v,       avx2::scratch_size,
    avx2::attend, avx2::partial_size, avx2::attend_chunk,
    avx2::merge,
};

}  // namespace attn::flash

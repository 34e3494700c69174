// Flash attention compiled for neon.
#include "../simd/vec_neon.h"

#define ATTN_FLASH_ISA neon
#define ATTN_FLASH_ROWS 6
#define ATTN_FLASH_VECS 4
#include "kernel.h"

namespace attn::flash {

const FlashKernels kFlashNeon = {
    "neon",       neon::kLanes,       neon::kPanel,
    neon::kRows,  neon::Dot::kWidth,  neon::Dot::kItemBlock,
    neon::pack_k, neon::pack_v,       neon::scratch_size,
    neon::attend, neon::partial_size, neon::attend_chunk,
    neon::merge,
};

}  // namespace attn::flash

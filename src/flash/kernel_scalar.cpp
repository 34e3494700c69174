// Flash attention compiled for scalar.
#include "../simd/vec_scalar.h"

#define ATTN_FLASH_ISA scalar
#define ATTN_FLASH_ROWS 4
#define ATTN_FLASH_VECS 2
#include "kernel.h"

namespace attn::flash {

const FlashKernels kFlashScalar = {
    "scalar",       scalar::kLanes,       scalar::kPanel,
    scalar::kRows,  scalar::Dot::kWidth,  scalar::Dot::kItemBlock,
    scalar::pack_k, scalar::pack_v,       scalar::scratch_size,
    scalar::attend, scalar::partial_size, scalar::attend_chunk,
    scalar::merge,
};

}  // namespace attn::flash

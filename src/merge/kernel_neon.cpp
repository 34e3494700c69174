// The loops of merging compiled for NEON.
#include "../simd/vec_neon.h"

#define ATTN_MERGE_ISA neon
#include "kernel.h"

namespace attn::merging {

const Kernels kNeon = {neon::find_max, neon::weigh, neon::add_parts};

}  // namespace attn::merging

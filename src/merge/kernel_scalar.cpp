// The loops of merging compiled for plain C++.
#include "../simd/vec_scalar.h"

#define ATTN_MERGE_ISA scalar
#include "kernel.h"

namespace attn::merging {

const Kernels kScalar = {scalar::find_max, scalar::weigh, scalar::add_parts};

}  // namespace attn::merging

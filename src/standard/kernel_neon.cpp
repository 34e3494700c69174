// The standard backend's loops compiled for NEON.
#include "../simd/vec_neon.h"

#define ATTN_STANDARD_ISA neon
#define ATTN_STANDARD_ROWS 6
#define ATTN_STANDARD_VECS 4
#include "kernel.h"

namespace attn::standard {

const Kernels kNeon = {neon::multiply, neon::apply_softcap, neon::exponentiate};

}  // namespace attn::standard

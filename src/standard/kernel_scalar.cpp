// The standard backend's loops compiled for plain C++.
#include "../simd/vec_scalar.h"

#define ATTN_STANDARD_ISA scalar
#define ATTN_STANDARD_ROWS 4
#define ATTN_STANDARD_VECS 2
#include "kernel.h"

namespace attn::standard {

const Kernels kScalar = {scalar::multiply, scalar::apply_softcap, scalar::exponentiate};

}  // namespace attn::standard

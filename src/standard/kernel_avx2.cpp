// The standard backend's loops compiled for AVX2.
#include "../simd/vec_avx2.h"

#define ATTN_STANDARD_ISA avx2
#define ATTN_STANDARD_ROWS 6
#define ATTN_STANDARD_VECS 2
#include "kernel.h"

namespace attn::standard {

const Kernels kAvx2 = {avx2::multiply, avx2::apply_softcap, avx2::exponentiate};

}  // namespace attn::standard

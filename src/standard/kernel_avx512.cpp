// The standard backend's loops compiled for AVX-512.
#include "../simd/vec_avx512.h"

#define ATTN_STANDARD_ISA avx512
#define ATTN_STANDARD_ROWS 6
#define ATTN_STANDARD_VECS 4
#include "kernel.h"

namespace attn::standard {

const Kernels kAvx512 = {avx512::multiply, avx512::apply_softcap, avx512::exponentiate};

}  // namespace attn::standard

// The loops of merging compiled for AVX-512.
#include "../simd/vec_avx512.h"

#define ATTN_MERGE_ISA avx512
#include "kernel.h"

namespace attn::merging {

const Kernels kAvx512 = {avx512::find_max, avx512::weigh, avx512::add_parts};

}  // namespace attn::merging

// The loops of merging compiled for AVX2.
#include "../simd/vec_avx2.h"

#define ATTN_MERGE_ISA avx2
#include "kernel.h"

namespace attn::merging {

const Kernels kAvx2 = {avx2::find_max, avx2::weigh, avx2::add_parts};

}  // namespace attn::merging

// attend_wgmma_f16.cu: the wgmma family for f16.
#include "wgmma_entries.cuh"

ATTN_WGMMA_KERNELS(ATTN_ENTRY, f16, F16)

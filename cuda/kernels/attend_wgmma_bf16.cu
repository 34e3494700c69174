// attend_wgmma_bf16.cu: the wgmma family for bf16.
#include "wgmma_entries.cuh"

ATTN_WGMMA_KERNELS(ATTN_ENTRY, bf16, BF16)

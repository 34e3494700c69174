// plan.h: which kernel serves a problem on a device, and what its runs need.
#ifndef ATTN_CUDA_PLAN_H_
#define ATTN_CUDA_PLAN_H_

#include <attn/backend.h>

#include "device.h"

namespace attn::cuda {

// A kernel of the table, ready to be launched.
struct Kernel {
  const KernelInfo* info;  // NULL: none
  CUfunction function;
};

// A plan's own part. Immutable after creation.
struct PlanState {
  Device* device;
  Kernel attend;
  Kernel unaligned;  // for runs whose addresses or strides `attend` cannot take; may be none
  Kernel combine;    // with a split only

  // The workspace: status words and tile counter, which a run clears, then partial results.
  int64_t status_count;
  int64_t clear_words;  // status and counter; 0: nothing is cleared
  bool has_counter;
  size_t partial_lse_offset;
  size_t partial_o_offset;

  char words[256];  // attn_backend_plan.kernel
};

// How many query heads, all of one kv head, a kernel puts into one tile of rows.
int32_t gqa_pack_of(const KernelInfo& kernel, const attn_plan_config& problem);

attn_status create_plan(const attn_host* host, const attn_plan_config* problem,
                        attn_backend_plan* plan, attn_error* error);
void destroy_plan(const attn_host* host, attn_backend_plan* plan);

}  // namespace attn::cuda

#endif  // ATTN_CUDA_PLAN_H_

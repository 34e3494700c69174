// Measuring which tile_k and kv_chunk are fastest for a plan's problem on this machine.
#ifndef ATTN_SRC_AUTOTUNE_H_
#define ATTN_SRC_AUTOTUNE_H_

#include "plan.h"

namespace attn {

attn_status autotune_plan(const attn_plan& plan, const attn_run_args* args, int64_t budget_ns,
                          attn_autotune_info* info, attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_AUTOTUNE_H_

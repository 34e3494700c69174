// attn_merge on the CPU, for the tables of all CPU backends.
#ifndef ATTN_MERGE_MERGE_H_
#define ATTN_MERGE_MERGE_H_

#include <attn/backend.h>

namespace attn {

// See attn_merge_args. `args` are checked.
attn_status merge_cpu(const attn_host* host, const attn_merge_args* args, attn_error* error);

}  // namespace attn

#endif  // ATTN_MERGE_MERGE_H_

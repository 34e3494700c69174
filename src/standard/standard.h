// The standard backend: attention as the formula says it, in O(seqlen_q * seqlen_k) memory.
#ifndef ATTN_STANDARD_STANDARD_H_
#define ATTN_STANDARD_STANDARD_H_

#include <attn/backend.h>

namespace attn {

extern const attn_backend kStandardBackend;

// Bytes of workspace for any run within the bounds of `problem` (completed, as a backend gets it),
// whichever backend serves it; SIZE_MAX if they do not fit in a size_t.
size_t standard_workspace_size(const attn_plan_config& problem, int concurrency);

}  // namespace attn

#endif  // ATTN_STANDARD_STANDARD_H_

// Checks of everything that comes through the door, before any backend sees it and before anything
// is written.
#ifndef ATTN_SRC_VALIDATE_H_
#define ATTN_SRC_VALIDATE_H_

#include <attn/backend.h>

namespace attn {

// Checks a plan's config and resolves its defaults in place.
attn_status resolve_problem(attn_plan_config* problem, attn_error* error);

// Checks a run's arguments against its plan's resolved problem and reads off the run's sizes. Looks
// into lengths, offsets, positions and page numbers if they lie in CPU memory. The workspace is the
// caller's to check.
attn_status check_run(const attn_host& host, const attn_plan_config& problem,
                      const attn_run_args& args, attn_run_shape* shape, attn_error* error);

attn_status check_merge(const attn_merge_args& args, attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_VALIDATE_H_

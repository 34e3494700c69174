// run.h: launching a plan's kernels and merges.
#ifndef ATTN_CUDA_RUN_H_
#define ATTN_CUDA_RUN_H_

#include <attn/backend.h>

namespace attn::cuda {

// Puts one run into the caller's stream: at most one memset and two launches. Allocates nothing,
// waits for nothing, reads no device memory, so that it may be captured into a graph.
attn_status run(const attn_plan_config* problem, const attn_backend_plan* plan,
                const attn_run_args* args, const attn_run_shape* shape, attn_error* error);

// The first merge on a device that no plan uses opens it, which a capture does not allow.
attn_status merge(const attn_merge_args* args, attn_error* error);

// At unload: gives back the devices that merges opened.
void release_merge_devices();

}  // namespace attn::cuda

#endif  // ATTN_CUDA_RUN_H_

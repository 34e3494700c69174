// A plan: a checked problem, the backend that serves it, and why the others do not.
#ifndef ATTN_SRC_PLAN_H_
#define ATTN_SRC_PLAN_H_

#include <attn/backend.h>

#include "context.h"

// Created zeroed, immutable afterwards. `refusals` has one entry for each backend of the context.
struct attn_plan {
  attn_context* context;
  attn_plan_config problem;  // every default resolved
  const attn_backend* backend;
  attn_backend_plan backend_plan;
  size_t standard_workspace_size;
  char refusals[attn::Registry::kMaxBackends][256];
};

namespace attn {

attn_status create_plan(attn_context* context, const attn_plan_config* config, attn_plan** plan,
                        attn_error* error);
void destroy_plan(attn_plan* plan);  // NULL is legal
attn_status run_plan(const attn_plan& plan, const attn_run_args* args, attn_error* error);
attn_status merge(attn_context* context, const attn_merge_args* args, attn_error* error);
size_t describe_plan(const attn_plan& plan, char* text, size_t size);

// One call with a plan and a workspace of its own.
attn_status run_once(attn_context* context, const attn_tensor* q, const attn_tensor* k,
                     const attn_tensor* v, const attn_tensor* o, attn_features features,
                     attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_PLAN_H_

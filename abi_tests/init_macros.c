/* init_macros.c: attn.h's macros and enums in each language standard, with every warning an error.
 * Only compiled. */
#include <attn/attn.h>

int use_everything(void);
int use_everything(void) {
  attn_allocator allocator = ATTN_ALLOCATOR_INIT;
  attn_executor executor = ATTN_EXECUTOR_INIT;
  attn_context_config context_config = ATTN_CONTEXT_CONFIG_INIT;
  attn_plan_config plan_config = ATTN_PLAN_CONFIG_INIT;
  attn_run_args run_args = ATTN_RUN_ARGS_INIT;
  attn_merge_args merge_args = ATTN_MERGE_ARGS_INIT;
  attn_context_info context_info = ATTN_CONTEXT_INFO_INIT;
  attn_isa_info isa_info = ATTN_ISA_INFO_INIT;
  attn_backend_info backend_info = ATTN_BACKEND_INFO_INIT;
  attn_plan_info plan_info = ATTN_PLAN_INFO_INIT;
  attn_autotune_info autotune_info = ATTN_AUTOTUNE_INFO_INIT;
  context_config.allocator = &allocator;
  context_config.executor = &executor;
  plan_config.q_dtype = ATTN_DTYPE_F32;
  plan_config.features = ATTN_CAUSAL | ATTN_SEQLENS_K;
  run_args.workspace_size = ATTN_WORKSPACE_ALIGNMENT;
  return context_config.struct_size + plan_config.struct_size + run_args.struct_size +
                         merge_args.struct_size + context_info.struct_size + isa_info.struct_size +
                         backend_info.struct_size + plan_info.struct_size +
                         autotune_info.struct_size >
                     0 &&
                 attn_version() == ATTN_VERSION
             ? ATTN_OK
             : ATTN_ERROR_VERSION;
}

/* plan.c: a context, a plan, a workspace, and runs that allocate nothing.
 *
 * Two sequences of 5 and 3 tokens, padded to 5; 4 query heads share 2 heads of keys and values. */
#include <attn/attn.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, HEADS_Q = 4, HEADS_KV = 2, SEQLEN = 5, DIM = 8 };

static float q[BATCH][HEADS_Q][SEQLEN][DIM], k[BATCH][HEADS_KV][SEQLEN][DIM],
    v[BATCH][HEADS_KV][SEQLEN][DIM], o[BATCH][HEADS_Q][SEQLEN][DIM];

int main(void) {
  const int32_t lengths[BATCH] = {5, 3};
  attn_context* context = NULL;
  attn_plan* plan = NULL;
  void* workspace = NULL;
  size_t size = 0, i;
  attn_error error;
  int result = 1;

  for (i = 0; i < sizeof v / sizeof(float); ++i) (&v[0][0][0][0])[i] = 1;

  if (attn_context_create(NULL, &context, &error)) goto failed; /* NULL: all defaults */

  attn_plan_config config = ATTN_PLAN_CONFIG_INIT; /* what stays 0 is a default */
  config.q_dtype = ATTN_DTYPE_F32;
  config.features = ATTN_CAUSAL | ATTN_SEQLENS_Q | ATTN_SEQLENS_K;
  config.heads_q = HEADS_Q;
  config.heads_kv = HEADS_KV;
  config.head_dim = DIM;
  config.max_batch = BATCH; /* upper bounds: runs may be smaller */
  config.max_seqlen_q = config.max_seqlen_k = SEQLEN;
  if (attn_plan_create(context, &config, &plan, &error)) goto failed;

  if (attn_plan_workspace_size(plan, &size, &error)) goto failed;
  workspace = aligned_alloc(ATTN_WORKSPACE_ALIGNMENT, size); /* its result is the run's to check */

  attn_tensor tq, tk, tv, to, tlengths;
  attn_tensor_init(&tq, q, ATTN_DTYPE_F32, 4, (int64_t[]){BATCH, HEADS_Q, SEQLEN, DIM});
  attn_tensor_init(&tk, k, ATTN_DTYPE_F32, 4, (int64_t[]){BATCH, HEADS_KV, SEQLEN, DIM});
  attn_tensor_init(&tv, v, ATTN_DTYPE_F32, 4, (int64_t[]){BATCH, HEADS_KV, SEQLEN, DIM});
  attn_tensor_init(&to, o, ATTN_DTYPE_F32, 4, (int64_t[]){BATCH, HEADS_Q, SEQLEN, DIM});
  attn_tensor_init(&tlengths, (void*)lengths, ATTN_DTYPE_I32, 1, (int64_t[]){BATCH});

  attn_run_args args = ATTN_RUN_ARGS_INIT;
  args.q = &tq;
  args.k = &tk;
  args.v = &tv;
  args.o = &to;
  args.seqlens_q = args.seqlens_k = &tlengths;
  args.workspace = workspace;
  args.workspace_size = size;
  if (attn_run(plan, &args, &error)) goto failed; /* as often as needed, from any thread */

  /* Every value is 1, so every row is 1, but for rows past a sequence's length, which are 0. */
  printf("%g %g\n", o[0][0][4][0], o[1][0][4][0]);
  result = 0;

failed:
  if (result) fprintf(stderr, "%s: %s\n", attn_status_name(error.status), error.message);
  free(workspace);
  attn_plan_destroy(plan); /* NULL is legal */
  attn_context_destroy(context);
  return result;
}

/* plugin.c: a backend as a third party writes it, against backend.h alone. CMakeLists.txt makes a
 * few plugins of it: one that works, and some that must be refused. */
#include <attn/backend.h>
#include <stdio.h>

#ifndef PLUGIN_ABI
#define PLUGIN_ABI ATTN_BACKEND_ABI
#endif

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION ATTN_VERSION
#endif

#ifndef PLUGIN_WITHOUT_ENTRY

static attn_status probe(const attn_host* host, attn_error* error) {
  (void)host;
#ifdef PLUGIN_WITHOUT_DEVICE
  error->status = ATTN_ERROR_UNAVAILABLE;
  snprintf(error->message, sizeof error->message, "no such device in this machine");
  return ATTN_ERROR_UNAVAILABLE;
#else
  (void)error;
  return ATTN_OK;
#endif
}

/* Serves what is 3 wide and refuses the rest. */
static attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                               attn_backend_plan* plan, attn_error* error) {
  (void)host;
  if (problem->head_dim_v != 3) {
    error->status = ATTN_ERROR_UNSUPPORTED;
    snprintf(error->message, sizeof error->message, "head_dim_v is %d; must be 3",
             (int)problem->head_dim_v);
    return ATTN_ERROR_UNSUPPORTED;
  }
  plan->workspace_size = 128;
  plan->tile_k = 5;
  return ATTN_OK;
}

static void plan_destroy(const attn_host* host, const attn_plan_config* problem,
                         attn_backend_plan* plan) {
  (void)host, (void)problem, (void)plan;
}

/* Sets o to the scale, the one default that the test can tell from what it passed. */
static attn_status run(const attn_host* host, const attn_plan_config* problem,
                       const attn_backend_plan* plan, const attn_run_args* args,
                       const attn_run_shape* shape, attn_error* error) {
  float* o = (float*)args->o->data;
  int64_t count = shape->batch * problem->heads_q * shape->seqlen_q * 3, i;
  (void)host, (void)plan, (void)error;
  for (i = 0; i < count; ++i) o[i] = problem->scale;
  return ATTN_OK;
}

ATTN_API const attn_backend* attn_backend_v1(void);
const attn_backend* attn_backend_v1(void) {
  static const attn_backend backend = {sizeof(attn_backend),
                                       PLUGIN_ABI,
                                       PLUGIN_NAME,
                                       "a test",
                                       ATTN_DEVICE_CPU,
                                       PLUGIN_VERSION,
                                       probe,
                                       plan_create,
                                       plan_destroy,
                                       run,
                                       NULL};
  return &backend;
}

#else
int attn_plugin_is_hollow;
#endif

/* plugin_tunable.c: a backend that only takes time, the less the nearer tile_k is to 128 and
 * kv_chunk to 4096. */
#define _POSIX_C_SOURCE 200809L
#include <attn/backend.h>
#include <stdio.h>
#include <time.h>

static attn_status probe(const attn_host* host, attn_error* error) {
  (void)host, (void)error;
  return ATTN_OK;
}

static int plans; /* created and not destroyed */

/* Refuses tile_k 64 and takes 512 for 384: neither may come out as the fastest, though both are. */
static attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                               attn_backend_plan* plan, attn_error* error) {
  (void)host;
  if (problem->tile_k == 64) {
    error->status = ATTN_ERROR_UNSUPPORTED;
    snprintf(error->message, sizeof error->message, "tile_k is 64; must be more");
    return ATTN_ERROR_UNSUPPORTED;
  }
  plan->tile_k = problem->tile_k == 0 || problem->tile_k == 384 ? 512 : problem->tile_k;
  plan->kv_chunk = problem->kv_chunk == 0 ? 1024 : problem->kv_chunk;
  ++plans;
  return ATTN_OK;
}

static void plan_destroy(const attn_host* host, const attn_plan_config* problem,
                         attn_backend_plan* plan) {
  (void)host, (void)problem, (void)plan;
  --plans;
}

static int steps_between(int64_t a, int64_t b) {
  int steps = 0;
  for (; a < b; a *= 2) ++steps;
  for (; b < a; b *= 2) ++steps;
  return steps;
}

static attn_status run(const attn_host* host, const attn_plan_config* problem,
                       const attn_backend_plan* plan, const attn_run_args* args,
                       const attn_run_shape* shape, attn_error* error) {
  const int steps = 1 + steps_between(plan->tile_k, 128) + steps_between(plan->kv_chunk, 4096);
  struct timespec time = {0, (problem->tile_k == 384 ? 0 : steps) * 1000000L};
  (void)host, (void)args, (void)shape;
  nanosleep(&time, NULL);
  if (problem->scale == 2.0f) { /* how a test asks for a failure */
    error->status = ATTN_ERROR_DEVICE;
    snprintf(error->message, sizeof error->message, "scale is 2; the device is lost");
    return ATTN_ERROR_DEVICE;
  }
  return ATTN_OK;
}

/* For the test: 0 if every plan was destroyed. */
ATTN_API int attn_tunable_plans(void);
int attn_tunable_plans(void) { return plans; }

ATTN_API const attn_backend* attn_backend_v1(void);
const attn_backend* attn_backend_v1(void) {
  static const attn_backend backend = {
      sizeof(attn_backend), ATTN_BACKEND_ABI, "tunable", "a test", ATTN_DEVICE_CPU, 0, probe,
      plan_create,          plan_destroy,     run,       NULL};
  return &backend;
}

/* loop.c: a run repeated in C, which Python's calls are held against. overhead.py compiles it. */
#define _POSIX_C_SOURCE 199309L
#include <attn/attn.h>
#include <time.h>

/* Nanoseconds of n runs; negative if one failed. `run` is attn_run. */
int64_t run_loop(attn_status (*run)(const attn_plan*, const attn_run_args*, attn_error*),
                 const attn_plan* plan, const attn_run_args* args, int64_t n);
int64_t run_loop(attn_status (*run)(const attn_plan*, const attn_run_args*, attn_error*),
                 const attn_plan* plan, const attn_run_args* args, int64_t n) {
  struct timespec start, end;
  attn_error error;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int64_t i = 0; i < n; ++i) {
    if (run(plan, args, &error)) return -1;
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  return (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec;
}

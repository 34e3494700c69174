/* backend.h: the interface that a backend implements, built in or as a plugin.
 *
 * A backend is one table of functions, attn_backend. The library checks and completes what the
 * user passed before it calls any of them, so that a backend sees valid problems only, with every
 * default resolved, and answers just one question at plan time: can you do this?
 *
 * A plugin is a shared library libattn_NAME.so that exports
 *
 *   const attn_backend* attn_backend_v1(void);
 *
 * and links against nothing of libattn. When a context is created, every such file of its plugin
 * directory (attn_context_config.backend_dir, by default that of libattn itself) is loaded and
 * listed as NAME; plans try them in the alphabet's order, after flash and before standard. A
 * complete one, with its own build, is examples/plugin.
 *
 * A backend must not throw, abort, print, or touch the process (signals, environment, locale,
 * floating-point modes). Its functions may be called from several threads at once. Returning
 * another status than ATTN_OK, it writes the reason into *error, which is never NULL here: one line
 * that names the field, what it held and what is allowed.
 */
#ifndef ATTN_BACKEND_H_
#define ATTN_BACKEND_H_

#include <attn/attn.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when the meaning of this file changes; appended fields do not change it. */
#define ATTN_BACKEND_ABI 1

typedef struct attn_host attn_host;

/* What the library offers to a backend: the context's threads, memory and machine. Lives longer
 * than any plan. */
struct attn_host {
  uint32_t struct_size;
  attn_isa isa;        /* the instruction set that CPU code is to use; never AUTO */
  int32_t concurrency; /* workers of parallel_for */
  int32_t reserved;
  size_t l1_cache_size; /* bytes for one core; 0 if unknown */
  size_t l2_cache_size;
  size_t l3_cache_size;
  void* (*allocate)(const attn_host* host, size_t size, size_t alignment);
  void (*deallocate)(const attn_host* host, void* pointer, size_t size, size_t alignment);
  /* Runs n tasks (see attn_executor) with fixed floating-point modes: round to nearest, no flush
   * to zero. Tasks of one call never wait for one another; phases are separate calls. */
  attn_status (*parallel_for)(const attn_host* host, int64_t n, attn_task_fn fn, void* arg,
                              attn_error* error);
  void (*log)(const attn_host* host, attn_log_level level, const char* message);
};

/* A backend's side of a plan. The library zeroes it and sets struct_size, the backend fills it. */
typedef struct attn_backend_plan {
  uint32_t struct_size;
  attn_isa isa; /* 0 on devices that are no CPU */
  void* state;  /* the backend's own, freed in plan_destroy */
  size_t workspace_size;
  int64_t tile_q;
  int64_t tile_k;
  int64_t kv_chunk;
  int64_t request_status_count; /* attn_request_status words at the workspace's beginning */
  const char* kernel; /* which of its kernels, and why none before it, in words; as long as state */
} attn_backend_plan;

/* The sizes of one run, read off its checked tensors. */
typedef struct attn_run_shape {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t batch;     /* sequences */
  int64_t seqlen_q;  /* padded: the extent; packed: the plan's max_seqlen_q */
  int64_t seqlen_k;  /* padded: the extent; packed and paged: the plan's max_seqlen_k */
  int64_t total_q;   /* packed: rows of q; else 0 */
  int64_t total_k;   /* packed: rows of k; else 0 */
  int64_t num_pages; /* paged: pages of k; else 0 */
} attn_run_shape;

/* What a backend is: a name and its functions. */
typedef struct attn_backend {
  uint32_t struct_size;
  uint32_t abi; /* ATTN_BACKEND_ABI of the header that it was compiled with */
  const char* name;
  const char* description; /* one line: what it serves, and where it departs from the contract */
  attn_device_type device_type;
  int32_t version; /* ATTN_VERSION of the header that it was compiled with; 0: it does not say */

  /* ATTN_OK if the backend can work on this machine, else ATTN_ERROR_UNAVAILABLE and the reason in
   * words. Touches no device. */
  attn_status (*probe)(const attn_host* host, attn_error* error);

  /* Accepts `problem` and fills `plan`, or refuses it with ATTN_ERROR_UNSUPPORTED and the reason.
   * `problem` has this library's full size and every default resolved (scale, dtypes, heads_kv,
   * totals), except tile_k and kv_chunk, where 0 asks for the backend's choice. It is valid as
   * long as the plan. */
  attn_status (*plan_create)(const attn_host* host, const attn_plan_config* problem,
                             attn_backend_plan* plan, attn_error* error);
  void (*plan_destroy)(const attn_host* host, const attn_plan_config* problem,
                       attn_backend_plan* plan);

  /* Runs. `args` are checked against the problem (on CPUs lengths and page numbers too), and have
   * this library's full size. args->workspace is aligned and large enough. */
  attn_status (*run)(const attn_host* host, const attn_plan_config* problem,
                     const attn_backend_plan* plan, const attn_run_args* args,
                     const attn_run_shape* shape, attn_error* error);

  /* Merges (see attn_merge); NULL if it cannot. `args` are checked. */
  attn_status (*merge)(const attn_host* host, const attn_merge_args* args, attn_error* error);
} attn_backend;

/* The symbol that a plugin exports. */
typedef const attn_backend* (*attn_backend_entry)(void);
#define ATTN_BACKEND_ENTRY "attn_backend_v1"

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ATTN_BACKEND_H_ */

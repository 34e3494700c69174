// plugin.cpp: the backend table of libattn_cuda.so.
#include <attn/backend.h>

#include "driver.h"
#include "error.h"
#include "plan.h"
#include "run.h"

namespace attn::cuda {
namespace {

// Structs of a library that is older than this plugin lack what it reads.
attn_status check_library(const attn_host* host, attn_error* error) {
  if (host->struct_size >= sizeof(attn_host)) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNAVAILABLE,
              "this plugin is of attn %d.%d.%d; the library is older: its attn_host has %u bytes, "
              "not %zu",
              ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR, ATTN_VERSION_PATCH, host->struct_size,
              sizeof(attn_host));
}

attn_status probe(const attn_host* host, attn_error* error) {
  ATTN_TRY(check_library(host, error));
  const Driver* driver;
  return find_driver(&driver, error);
}

void plan_destroy(const attn_host* host, const attn_plan_config*, attn_backend_plan* plan) {
  destroy_plan(host, plan);
}

attn_status run_plan(const attn_host*, const attn_plan_config* problem,
                     const attn_backend_plan* plan, const attn_run_args* args,
                     const attn_run_shape* shape, attn_error* error) {
  return run(problem, plan, args, shape, error);
}

attn_status merge_parts(const attn_host*, const attn_merge_args* args, attn_error* error) {
  return merge(args, error);
}

// At unload.
[[gnu::destructor]] void release() { release_merge_devices(); }

constexpr attn_backend kBackend = {
    sizeof(attn_backend),
    ATTN_BACKEND_ABI,
    "cuda",
    "NVIDIA GPUs from compute capability 8.0 on; in device memory, bad lengths and page numbers "
    "become NaN and a request status",
    ATTN_DEVICE_CUDA,
    ATTN_VERSION,
    probe,
    create_plan,
    plan_destroy,
    run_plan,
    merge_parts,
};

}  // namespace
}  // namespace attn::cuda

extern "C" ATTN_API const attn_backend* attn_backend_v1(void);
extern "C" const attn_backend* attn_backend_v1(void) { return &attn::cuda::kBackend; }

// driver.cpp: finding NVIDIA's driver and its functions.
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "error.h"
#include "images.h"

namespace attn::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

// cuGetProcAddress_v2 as of CUDA 12.0. `flags` 0: the ordinary form of each function.
using GetProcAddress = CUresult (*)(const char* symbol, void** function, int32_t cuda_version,
                                    uint64_t flags, int32_t* status);
using GetVersion = CUresult (*)(int32_t* version);

struct Found {
  attn_error error;  // status ATTN_OK if the driver can be used
  Driver driver;
};

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
bool searched = false;
Found found;

std::atomic<pid_t> init_process{0};

// The oldest driver that runs the images: within a major version of CUDA every driver does.
int32_t minimum_version() { return kToolkitVersion / 1000 * 1000; }

const char* minimum_driver() { return kToolkitVersion >= 13000 ? "580" : "525"; }

attn_status too_old(int32_t version, attn_error* error) {
  return fail(
      error, ATTN_ERROR_UNAVAILABLE,
      "the NVIDIA driver is too old: it serves CUDA %d.%d; this plugin's kernels, made with "
      "CUDA %d.%d, need CUDA %d.0, which driver %s brings",
      version / 1000, version % 1000 / 10, kToolkitVersion / 1000, kToolkitVersion % 1000 / 10,
      minimum_version() / 1000, minimum_driver());
}

attn_status search(Driver* driver, attn_error* error) {
  // Stays loaded whatever happens to the plugin: the driver has threads of its own.
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    const char* why = dlerror();
    if (!why || std::strstr(why, "No such file")) {
      return fail(error, ATTN_ERROR_UNAVAILABLE, "no NVIDIA driver: %s not found", kLibrary);
    }
    return fail(error, ATTN_ERROR_UNAVAILABLE, "the NVIDIA driver does not load: %.300s", why);
  }
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(library, "cuDriverGetVersion"));
  if (!get_version || get_version(&driver->version) != CUDA_SUCCESS) {
    return fail(error, ATTN_ERROR_UNAVAILABLE, "%s does not tell its version", kLibrary);
  }
  if (driver->version < minimum_version()) return too_old(driver->version, error);
  const auto get = reinterpret_cast<GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (!get) {
    return fail(error, ATTN_ERROR_UNAVAILABLE, "%s lacks cuGetProcAddress_v2", kLibrary);
  }
  const struct {
    const char* name;
    int32_t version;
    void* pointer;  // to the member
  } functions[] = {
#define ATTN_CUDA_ENTRY(name, version, ...) {#name, version, &driver->name},
      ATTN_CUDA_DRIVER_FUNCTIONS(ATTN_CUDA_ENTRY)
#undef ATTN_CUDA_ENTRY
  };
  for (const auto& function : functions) {
    void* address = nullptr;
    int32_t status = 0;
    const CUresult result = get(function.name, &address, function.version, 0, &status);
    if (result != CUDA_SUCCESS || !address) {
      return fail(error, ATTN_ERROR_UNAVAILABLE, "%s (CUDA %d.%d) lacks %s", kLibrary,
                  driver->version / 1000, driver->version % 1000 / 10, function.name);
    }
    std::memcpy(function.pointer, &address, sizeof(address));
  }
  return ATTN_OK;
}

}  // namespace

attn_status find_driver(const Driver** driver, attn_error* error) {
  pthread_mutex_lock(&mutex);
  if (!searched) {
    found.error.status = search(&found.driver, &found.error);
    searched = true;
  }
  pthread_mutex_unlock(&mutex);
  if (found.error.status != ATTN_OK) {
    *error = found.error;
    return error->status;
  }
  *driver = &found.driver;
  return ATTN_OK;
}

bool is_forked_child() {
  const pid_t process = init_process.load(std::memory_order_acquire);
  return process != 0 && process != getpid();
}

attn_status init_driver(const Driver& driver, attn_error* error) {
  if (is_forked_child()) {
    return fail(error, ATTN_ERROR_DEVICE,
                "this process was forked from one that had used CUDA, which does not survive a "
                "fork; start it anew instead (spawn)");
  }
  if (init_process.load(std::memory_order_acquire) != 0) return ATTN_OK;
  const CUresult result = driver.cuInit(0);
  if (result != CUDA_SUCCESS) {
    driver_failure(driver, result, "cuInit", error);
    error->status = ATTN_ERROR_UNAVAILABLE;
    return error->status;
  }
  init_process.store(getpid(), std::memory_order_release);
  return ATTN_OK;
}

attn_status driver_failure(const Driver& driver, CUresult result, const char* call,
                           attn_error* error) {
  const char* name = nullptr;
  const char* words = nullptr;
  if (driver.cuGetErrorName(result, &name) != CUDA_SUCCESS || !name) name = "unknown error";
  if (driver.cuGetErrorString(result, &words) != CUDA_SUCCESS || !words) words = "no description";
  const attn_status status =
      result == CUDA_ERROR_OUT_OF_MEMORY ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_ERROR_DEVICE;
  return fail(error, status, "%s failed: %s (%d): %s", call, name, result, words);
}

}  // namespace attn::cuda

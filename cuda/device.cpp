// device.cpp: opening and closing GPUs, loading kernels.
#include "device.h"

#include <pthread.h>

#include <cstdio>
#include <cstring>

#include "error.h"
#include "images.h"

namespace attn::cuda {
namespace {

Device devices[kMaxDevices];
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

class Lock {
 public:
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

attn_status read_attributes(Device* device, attn_error* error) {
  int32_t major, minor, pageable;
  const struct {
    int32_t attribute;
    int32_t* value;
  } attributes[] = {
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &major},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &minor},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &device->multiprocessors},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &device->shared_bytes},
      {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, &pageable},
  };
  for (const auto& [attribute, value] : attributes) {
    ATTN_CUDA_TRY(*device->driver, error, cuDeviceGetAttribute, value, attribute, device->handle);
  }
  device->sm = 10 * major + minor;
  device->reads_pageable = pageable != 0;
  return ATTN_OK;
}

attn_status load_kernel_locked(Device* device, const KernelInfo& kernel, CUfunction* function,
                               attn_error* error);

// attn_merge needs no plan, so its kernel comes with the device.
attn_status load_merge(Device* device, attn_error* error) {
  const CurrentContext current(*device, error);
  ATTN_TRY(current.status());
  for (const KernelInfo& kernel : kMmaKernels) {
    if (!kernel.symbol || kernel.kind != Kind::kMerge) continue;
    if (!fits_device(kernel, *device, nullptr, 0)) continue;
    device->merge_row = &kernel;
    return load_kernel_locked(device, kernel, &device->merge, error);
  }
  return ATTN_OK;
}

void close(Device* device) {
  const Driver& driver = *device->driver;
  if (device->context) {
    {
      attn_error ignored;
      const CurrentContext current(*device, &ignored);
      for (int32_t i = 0; current.status() == ATTN_OK && i < device->module_count; ++i) {
        driver.cuModuleUnload(device->modules[i].module);
      }
    }
    driver.cuDevicePrimaryCtxRelease(device->handle);
  }
  *device = Device{};
}

attn_status open(int32_t id, Device* device, attn_error* error) {
  const Driver* driver;
  ATTN_TRY(find_driver(&driver, error));
  ATTN_TRY(init_driver(*driver, error));
  int32_t count = 0;
  ATTN_CUDA_TRY(*driver, error, cuDeviceGetCount, &count);
  if (id >= count) {
    return fail(error, count == 0 ? ATTN_ERROR_UNAVAILABLE : ATTN_ERROR_INVALID_ARGUMENT,
                "device_id is %d; this process sees %d CUDA device%s", id, count,
                count == 1 ? "" : "s");
  }
  device->driver = driver;
  device->id = id;
  ATTN_CUDA_TRY(*driver, error, cuDeviceGet, &device->handle, id);
  ATTN_TRY(read_attributes(device, error));
  ATTN_CUDA_TRY(*driver, error, cuDevicePrimaryCtxRetain, &device->context, device->handle);
  return load_merge(device, error);
}

attn_status load_module(Device* device, const char* name, CUmodule* module, attn_error* error) {
  for (int32_t i = 0; i < device->module_count; ++i) {
    if (std::strcmp(device->modules[i].name, name) != 0) continue;
    *module = device->modules[i].module;
    return ATTN_OK;
  }
  const Image* image = find_image(name, device->sm);
  if (!image || device->module_count == kMaxModules) {
    return fail(error, ATTN_ERROR_INTERNAL, "no image '%s' for compute capability %d.%d", name,
                device->sm / 10, device->sm % 10);
  }
  const Driver& driver = *device->driver;
  const CUresult result = driver.cuModuleLoadDataEx(module, image->data, 0, nullptr, nullptr);
  if (result != CUDA_SUCCESS) {
    char call[96];
    std::snprintf(call, sizeof(call), "loading the kernels '%s' for %s", name, image->target);
    driver_failure(driver, result, call, error);
    // What this driver cannot run on this device, it never will.
    if (result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_UNSUPPORTED_PTX_VERSION ||
        result == CUDA_ERROR_JIT_COMPILER_NOT_FOUND ||
        result == CUDA_ERROR_JIT_COMPILATION_DISABLED) {
      error->status = ATTN_ERROR_UNAVAILABLE;
    }
    return error->status;
  }
  device->modules[device->module_count++] = {name, *module};
  return ATTN_OK;
}

attn_status load_kernel_locked(Device* device, const KernelInfo& kernel, CUfunction* function,
                               attn_error* error) {
  const Driver& driver = *device->driver;
  CUmodule module;
  ATTN_TRY(load_module(device, kernel.module, &module, error));
  ATTN_CUDA_TRY(driver, error, cuModuleGetFunction, function, module, kernel.symbol);
  if (kernel.shared_bytes > 0) {
    ATTN_CUDA_TRY(driver, error, cuFuncSetAttribute, *function,
                  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared_bytes);
  }
  // Asking for an attribute makes a driver that loads lazily load the kernel now: in a capture it
  // could not.
  int32_t local_bytes;
  ATTN_CUDA_TRY(driver, error, cuFuncGetAttribute, &local_bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
                *function);
  return ATTN_OK;
}

}  // namespace

attn_status acquire_device(int32_t id, Device** device, attn_error* error) {
  if (is_forked_child()) {
    const Driver* driver;
    ATTN_TRY(find_driver(&driver, error));
    return init_driver(*driver, error);  // tells why not
  }
  if (id < 0 || id >= kMaxDevices) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "device_id is %d; allowed: 0 to %d", id,
                kMaxDevices - 1);
  }
  const Lock lock;
  Device& d = devices[id];
  if (d.users == 0) {
    const attn_status status = open(id, &d, error);
    if (status != ATTN_OK) {
      if (d.driver) close(&d);
      return status;
    }
  }
  ++d.users;
  *device = &d;
  return ATTN_OK;
}

void release_device(Device* device) {
  if (!device || is_forked_child()) return;
  const Lock lock;
  if (--device->users == 0) close(device);
}

attn_status load_kernel(Device* device, const KernelInfo& kernel, CUfunction* function,
                        attn_error* error) {
  const Lock lock;
  return load_kernel_locked(device, kernel, function, error);
}

bool fits_device(const KernelInfo& kernel, const Device& device, char* why, size_t why_size) {
  if (device.sm < kernel.min_sm || !find_image(kernel.module, device.sm)) {
    std::snprintf(why, why_size, "has no code for compute capability %d.%d", device.sm / 10,
                  device.sm % 10);
    return false;
  }
  if (kernel.shared_bytes > device.shared_bytes) {
    std::snprintf(why, why_size, "needs %d bytes of shared memory in a block; this device has %d",
                  kernel.shared_bytes, device.shared_bytes);
    return false;
  }
  return true;
}

}  // namespace attn::cuda

// device.h: the GPUs that this process uses: primary context, loaded modules, what they can do.
#ifndef ATTN_CUDA_DEVICE_H_
#define ATTN_CUDA_DEVICE_H_

#include "driver.h"
#include "kernels/table.h"

namespace attn::cuda {

constexpr int32_t kMaxDevices = 64;
constexpr int32_t kMaxModules = 32;

// One GPU. Plans share it; between acquire and release only load_kernel changes it.
struct Device {
  const Driver* driver;
  int32_t id;
  CUdevice handle;
  CUcontext context;  // the primary one, retained
  int32_t sm;         // compute capability, 10 * major + minor
  int32_t multiprocessors;
  int32_t shared_bytes;  // that a block may opt into
  bool reads_pageable;   // memory of malloc can be reached from the device
  int32_t users;         // 0: closed
  struct {
    const char* name;
    CUmodule module;
  } modules[kMaxModules];
  int32_t module_count;
  const KernelInfo* merge_row;  // attn_merge's kernel, loaded with the device; NULL if it has none
  CUfunction merge;
};

// Opens device `id` if nobody has, and counts one user more. UNAVAILABLE if there is no GPU,
// INVALID_ARGUMENT for an id that is not there. Thread-safe; touches the device.
attn_status acquire_device(int32_t id, Device** device, attn_error* error);

// One user less. After the last one the modules are unloaded and the context is released; in a
// forked child they are the parent's and are left alone.
void release_device(Device* device);

// Finds a kernel, loads its module if that is new, and sets it up for launching, so that a launch
// does nothing lazily. The device's context must be current.
attn_status load_kernel(Device* device, const KernelInfo& kernel, CUfunction* function,
                        attn_error* error);

// Whether the table's row has code for the device that fits into its shared memory.
bool fits_device(const KernelInfo& kernel, const Device& device, char* why, size_t why_size);

// The device's context is current while this lives, if status() is ATTN_OK.
class CurrentContext {
 public:
  CurrentContext(const Device& device, attn_error* error) : driver_(*device.driver) {
    const CUresult result = driver_.cuCtxPushCurrent(device.context);
    status_ = result == CUDA_SUCCESS ? attn_status{ATTN_OK}
                                     : driver_failure(driver_, result, "cuCtxPushCurrent", error);
  }
  ~CurrentContext() {
    CUcontext popped;
    if (status_ == ATTN_OK) driver_.cuCtxPopCurrent(&popped);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
  attn_status status() const { return status_; }

 private:
  const Driver& driver_;
  attn_status status_;
};

}  // namespace attn::cuda

#endif  // ATTN_CUDA_DEVICE_H_

// driver.h: the functions of NVIDIA's driver that the plugin calls, found at run time in
// libcuda.so.1. Declared here, so that no toolkit is needed to compile the host side; names and
// values are those of cuda.h (a test compares them).
#ifndef ATTN_CUDA_DRIVER_H_
#define ATTN_CUDA_DRIVER_H_

#include <attn/attn.h>

namespace attn::cuda {

using CUresult = int32_t;
using CUdevice = int32_t;
using CUdeviceptr = uint64_t;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;

constexpr CUresult CUDA_SUCCESS = 0;
constexpr CUresult CUDA_ERROR_OUT_OF_MEMORY = 2;
constexpr CUresult CUDA_ERROR_NO_DEVICE = 100;
constexpr CUresult CUDA_ERROR_NO_BINARY_FOR_GPU = 209;
constexpr CUresult CUDA_ERROR_JIT_COMPILER_NOT_FOUND = 221;
constexpr CUresult CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222;
constexpr CUresult CUDA_ERROR_JIT_COMPILATION_DISABLED = 223;

constexpr int32_t CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16;
constexpr int32_t CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
constexpr int32_t CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;
constexpr int32_t CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS = 88;
constexpr int32_t CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;

constexpr int32_t CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3;
constexpr int32_t CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;

constexpr int32_t CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2;
constexpr int32_t CU_POINTER_ATTRIBUTE_IS_MANAGED = 8;
constexpr int32_t CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9;
constexpr int32_t CU_MEMORYTYPE_HOST = 1;
constexpr int32_t CU_MEMORYTYPE_DEVICE = 2;

constexpr int32_t CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6;
constexpr int32_t CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9;
constexpr int32_t CU_TENSOR_MAP_INTERLEAVE_NONE = 0;
constexpr int32_t CU_TENSOR_MAP_SWIZZLE_128B = 3;
constexpr int32_t CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3;
constexpr int32_t CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0;  // fills with 0

// Streams that are no handles: NULL, CU_STREAM_LEGACY (1) and CU_STREAM_PER_THREAD (2).
constexpr uintptr_t kLastSpecialStream = 2;

// X(name, the CUDA version whose form of it is meant, parameter types...)
#define ATTN_CUDA_DRIVER_FUNCTIONS(X)                                                             \
  X(cuInit, 2000, unsigned)                                                                       \
  X(cuDeviceGetCount, 2000, int32_t*)                                                             \
  X(cuDeviceGet, 2000, CUdevice*, int32_t)                                                        \
  X(cuDeviceGetName, 2000, char*, int32_t, CUdevice)                                              \
  X(cuDeviceGetAttribute, 2000, int32_t*, int32_t, CUdevice)                                      \
  X(cuGetErrorName, 6000, CUresult, const char**)                                                 \
  X(cuGetErrorString, 6000, CUresult, const char**)                                               \
  X(cuDevicePrimaryCtxRetain, 7000, CUcontext*, CUdevice)                                         \
  X(cuDevicePrimaryCtxRelease, 11000, CUdevice)                                                   \
  X(cuCtxPushCurrent, 4000, CUcontext)                                                            \
  X(cuCtxPopCurrent, 4000, CUcontext*)                                                            \
  X(cuModuleLoadDataEx, 2010, CUmodule*, const void*, unsigned, int32_t*, void**)                 \
  X(cuModuleUnload, 2000, CUmodule)                                                               \
  X(cuModuleGetFunction, 2000, CUfunction*, CUmodule, const char*)                                \
  X(cuFuncGetAttribute, 2020, int32_t*, int32_t, CUfunction)                                      \
  X(cuFuncSetAttribute, 9000, CUfunction, int32_t, int32_t)                                       \
  X(cuPointerGetAttributes, 7000, unsigned, int32_t*, void**, CUdeviceptr)                        \
  X(cuStreamGetCtx, 9020, CUstream, CUcontext*)                                                   \
  X(cuMemsetD32Async, 3020, CUdeviceptr, unsigned, size_t, CUstream)                              \
  X(cuTensorMapEncodeTiled, 12000, void*, int32_t, uint32_t, void*, const uint64_t*,              \
    const uint64_t*, const uint32_t*, const uint32_t*, int32_t, int32_t, int32_t, int32_t)        \
  X(cuLaunchKernel, 4000, CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
    unsigned, CUstream, void**, void**)

struct Driver {
#define ATTN_CUDA_POINTER(name, version, ...) CUresult (*name)(__VA_ARGS__);
  ATTN_CUDA_DRIVER_FUNCTIONS(ATTN_CUDA_POINTER)
#undef ATTN_CUDA_POINTER
  int32_t version;  // of CUDA that it serves, 13000 for 13.0
};

// Finds the driver once for the process, without touching a device. UNAVAILABLE, with the reason,
// if there is none, or one older than the toolkit that made the images. Thread-safe.
attn_status find_driver(const Driver** driver, attn_error* error);

// Makes the driver usable in this process (cuInit). Refuses in a child that was forked after its
// parent had done so: CUDA does not survive a fork.
attn_status init_driver(const Driver& driver, attn_error* error);

// True in a child that was forked from a process that had called init_driver.
bool is_forked_child();

// Writes what a call of the driver returned; `call` names it and what it was for.
attn_status driver_failure(const Driver& driver, CUresult result, const char* call,
                           attn_error* error);

}  // namespace attn::cuda

// Returns from the calling function if a call of the driver fails: ATTN_CUDA_TRY(driver, cuInit,
// 0).
#define ATTN_CUDA_TRY(driver, error, name, ...)                                                 \
  do {                                                                                          \
    if (const CUresult cuda_result = (driver).name(__VA_ARGS__); cuda_result != CUDA_SUCCESS) { \
      return driver_failure(driver, cuda_result, #name, error);                                 \
    }                                                                                           \
  } while (0)

#endif  // ATTN_CUDA_DRIVER_H_

// cuda.h: the driver, for a program with memory, streams and kernels of its own; and what a case
// reports.
#ifndef ATTN_CUDA_GPU_CUDA_H_
#define ATTN_CUDA_GPU_CUDA_H_

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace attn_test {

struct Report {
  std::string status = "pass";  // pass, fail or refused
  std::string words;
  std::string kernel;
};

inline Report failed(const std::string& words) { return {"fail", words, ""}; }

using Address = uint64_t;

// Functions of libcuda.so.1 that a program with memory and streams of its own calls.
struct Cuda {
  int (*init)(unsigned);
  int (*device_get)(int*, int);
  int (*device_name)(char*, int, int);
  int (*driver_version)(int*);
  int (*retain)(void**, int);
  int (*set_current)(void*);
  int (*allocate)(Address*, size_t);
  int (*release)(Address);
  int (*to_device)(Address, const void*, size_t);
  int (*to_host)(void*, Address, size_t);
  int (*fill)(Address, unsigned char, size_t);
  int (*wait)();
  int (*stream_create)(void**, unsigned);
  int (*stream_wait)(void*);
  int (*capture_begin)(void*, int);
  int (*capture_end)(void*, void**);
  int (*instantiate)(void**, void*, unsigned long long);
  int (*graph_launch)(void*, void*);
  int (*device_attribute)(int*, int, int);
  int (*load_module)(void**, const void*, unsigned, int*, void**);
  int (*get_function)(void**, void*, const char*);
  int (*set_function_attribute)(void*, int, int);
  int (*encode_map)(void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const uint32_t*,
                    const uint32_t*, int, int, int, int);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                void**, void**);
};

inline Cuda cuda;

// Says what went wrong and ends the program: without the driver no case means anything.
[[noreturn]] inline void give_up(const char* what, int code) {
  std::printf("{\"status\": \"error\", \"words\": \"%s failed: CUDA error %d\"}\n", what, code);
  std::exit(2);
}

inline void must(int code, const char* what) {
  if (code != 0) give_up(what, code);
}

inline void open_cuda() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) {
    std::printf(
        "{\"status\": \"error\", \"words\": \"no NVIDIA driver: libcuda.so.1 not found\"}\n");
    std::exit(2);
  }
  const struct {
    const char* name;
    void* pointer;
  } functions[] = {{"cuInit", &cuda.init},
                   {"cuDeviceGet", &cuda.device_get},
                   {"cuDeviceGetName", &cuda.device_name},
                   {"cuDriverGetVersion", &cuda.driver_version},
                   {"cuDevicePrimaryCtxRetain", &cuda.retain},
                   {"cuCtxSetCurrent", &cuda.set_current},
                   {"cuMemAlloc_v2", &cuda.allocate},
                   {"cuMemFree_v2", &cuda.release},
                   {"cuMemcpyHtoD_v2", &cuda.to_device},
                   {"cuMemcpyDtoH_v2", &cuda.to_host},
                   {"cuMemsetD8_v2", &cuda.fill},
                   {"cuCtxSynchronize", &cuda.wait},
                   {"cuStreamCreate", &cuda.stream_create},
                   {"cuStreamSynchronize", &cuda.stream_wait},
                   {"cuStreamBeginCapture_v2", &cuda.capture_begin},
                   {"cuStreamEndCapture", &cuda.capture_end},
                   {"cuGraphInstantiateWithFlags", &cuda.instantiate},
                   {"cuGraphLaunch", &cuda.graph_launch},
                   {"cuDeviceGetAttribute", &cuda.device_attribute},
                   {"cuModuleLoadDataEx", &cuda.load_module},
                   {"cuModuleGetFunction", &cuda.get_function},
                   {"cuFuncSetAttribute", &cuda.set_function_attribute},
                   {"cuTensorMapEncodeTiled", &cuda.encode_map},
                   {"cuLaunchKernel", &cuda.launch}};
  for (const auto& function : functions) {
    void* address = dlsym(library, function.name);
    if (!address) give_up(function.name, -1);
    std::memcpy(function.pointer, &address, sizeof address);
  }
  must(cuda.init(0), "cuInit");
}

inline void* open_device() {
  int device;
  void* context;
  must(cuda.device_get(&device, 0), "cuDeviceGet");
  must(cuda.retain(&context, device), "cuDevicePrimaryCtxRetain");
  must(cuda.set_current(context), "cuCtxSetCurrent");
  return context;
}

}  // namespace attn_test

#endif  // ATTN_CUDA_GPU_CUDA_H_

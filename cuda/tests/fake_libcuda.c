/* fake_libcuda.c: a libcuda.so.1 without a GPU, for tests of the plugin's host side. It records
 * calls, fails on demand, and notices misuse: calls without a context, a launch of what was not
 * loaded, too much shared memory, calls that a graph capture forbids, a symbol that the image does
 * not have. It computes nothing. */
#include "fake_libcuda.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef int32_t result;
enum {
  kOk = 0,
  kInvalidValue = 1,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNotFound = 500,
  kNoBinary = 209,
  kNotInitialized = 3,
  kLaunchFailed = 719,
  kInvalidHandle = 400
};
enum { kModules = 64, kFunctions = 256, kStack = 64, kStreams = 16 };

/* Handles are addresses of these. */
static struct context { int32_t device; } primary[FAKE_DEVICES], other[FAKE_DEVICES];
static struct module {
  const unsigned char* image;
  int32_t device, loaded;
} modules[kModules];
static struct function {
  struct module* module;
  char symbol[128];
  int32_t loaded, shared_bytes;
} functions[kFunctions];
static struct stream { struct context* context; } streams[kStreams];
static int32_t function_count, stream_count;
static struct context* stack[kStack];
static int32_t under_way; /* in the default stream, which other streams do not wait for */
static fake_cuda fake;

EXPORT fake_cuda* fake_cuda_state(void) { return &fake; }

EXPORT void fake_cuda_reset(void) {
  int i;
  memset(&fake, 0, sizeof fake);
  memset(modules, 0, sizeof modules);
  memset(functions, 0, sizeof functions);
  function_count = stream_count = 0;
  fake.driver_version = 13000;
  fake.device_count = 2;
  for (i = 0; i < FAKE_DEVICES; ++i) fake.sm[i] = 90, primary[i].device = other[i].device = i;
  fake.multiprocessors = 132;
  fake.shared_optin = 227 * 1024;
}

__attribute__((constructor)) static void start(void) { fake_cuda_reset(); }

EXPORT void* fake_cuda_stream(int32_t device, int32_t is_primary) {
  struct stream* stream = &streams[stream_count++ % kStreams];
  stream->context = is_primary ? &primary[device] : &other[device];
  return stream;
}

EXPORT void fake_cuda_add_memory(const void* begin, size_t size, int32_t device) {
  const fake_range range = {begin, size, 2, device, 0};
  if (fake.range_count == FAKE_RANGES) fake.range_count = 0;
  fake.ranges[fake.range_count++] = range;
  fake.param_bytes = sizeof(void*);
}

EXPORT const fake_launch* fake_cuda_last_launch(void) {
  return fake.launch_count ? &fake.launches[(fake.launch_count - 1) % FAKE_LAUNCHES] : NULL;
}

EXPORT const char* fake_cuda_last_symbol(void) {
  return fake.launch_count ? fake_cuda_last_launch()->symbol : "";
}

EXPORT void* fake_cuda_last_stream(void) {
  return fake.launch_count ? fake_cuda_last_launch()->stream : NULL;
}

EXPORT const void* fake_cuda_last_q(void) {
  const void* q = NULL;
  if (fake.launch_count) memcpy(&q, fake_cuda_last_launch()->params, sizeof q);
  return q;
}

static void violate(const char* what, const char* detail) {
  if (fake.violation[0]) return;
  snprintf(fake.violation, sizeof fake.violation, "%s: %s", what, detail);
}

/* Notes a call; returns what it is to fail with. */
static result enter(const char* name) {
  static const char* const legal_in_capture[] = {
      "cuCtxPushCurrent", "cuCtxPopCurrent",        "cuMemsetD32Async",      "cuLaunchKernel",
      "cuStreamGetCtx",   "cuPointerGetAttributes", "cuTensorMapEncodeTiled"};
  size_t i;
  if (fake.call_count < FAKE_CALLS) fake.calls[fake.call_count] = name;
  fake.call_count++;
  if (fake.capturing) {
    for (i = 0; i < sizeof legal_in_capture / sizeof *legal_in_capture; ++i) {
      if (strcmp(name, legal_in_capture[i]) == 0) break;
    }
    if (i == sizeof legal_in_capture / sizeof *legal_in_capture) violate("in a capture", name);
  }
  if (fake.fail_call && strcmp(name, fake.fail_call) == 0 && fake.fail_after-- == 0) {
    return fake.fail_result;
  }
  return kOk;
}

#define ENTER(name)                                   \
  do {                                                \
    const result enter_result = enter(name);          \
    if (enter_result != kOk) return enter_result;     \
    if (!fake.inits && strcmp(name, "cuInit") != 0) { \
      violate("before cuInit", name);                 \
      return kNotInitialized;                         \
    }                                                 \
  } while (0)
#define NEED_CONTEXT(name)                        \
  do {                                            \
    if (!fake.pushed) {                           \
      violate("without a current context", name); \
      return kInvalidContext;                     \
    }                                             \
  } while (0)

static int32_t current_device(void) { return stack[fake.pushed - 1]->device; }

static result fake_init(unsigned flags) {
  ENTER("cuInit");
  (void)flags;
  fake.inits++;
  return kOk;
}

static result fake_device_get_count(int32_t* count) {
  ENTER("cuDeviceGetCount");
  *count = fake.device_count;
  return kOk;
}

static result fake_device_get(int32_t* device, int32_t ordinal) {
  ENTER("cuDeviceGet");
  if (ordinal < 0 || ordinal >= fake.device_count) return 101;
  *device = ordinal;
  return kOk;
}

static result fake_device_get_attribute(int32_t* value, int32_t attribute, int32_t device) {
  ENTER("cuDeviceGetAttribute");
  switch (attribute) {
    case 16:
      *value = fake.multiprocessors;
      return kOk;
    case 75:
      *value = fake.sm[device] / 10;
      return kOk;
    case 76:
      *value = fake.sm[device] % 10;
      return kOk;
    case 88:
      *value = fake.pageable;
      return kOk;
    case 97:
      *value = fake.shared_optin;
      return kOk;
    default:
      violate("cuDeviceGetAttribute", "an attribute that the fake lacks");
      return kInvalidValue;
  }
}

static result fake_get_error_name(result code, const char** name) {
  switch (code) {
    case 2:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return kOk;
    case 100:
      *name = "CUDA_ERROR_NO_DEVICE";
      return kOk;
    case 200:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      return kOk;
    case 209:
      *name = "CUDA_ERROR_NO_BINARY_FOR_GPU";
      return kOk;
    case 719:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      return kOk;
    default:
      *name = NULL;
      return kInvalidValue;
  }
}

static result fake_get_error_string(result code, const char** words) {
  *words = code == 2 ? "out of memory" : "words of the fake driver";
  return kOk;
}

static result fake_retain(void** context, int32_t device) {
  ENTER("cuDevicePrimaryCtxRetain");
  fake.retained[device]++;
  *context = &primary[device];
  return kOk;
}

static result fake_release(int32_t device) {
  ENTER("cuDevicePrimaryCtxRelease");
  if (--fake.retained[device] < 0) violate("cuDevicePrimaryCtxRelease", "more often than retained");
  return kOk;
}

static result fake_push(void* context) {
  ENTER("cuCtxPushCurrent");
  if (fake.pushed == kStack) return kInvalidContext;
  stack[fake.pushed++] = (struct context*)context;
  if (!fake.retained[((struct context*)context)->device]) violate("cuCtxPushCurrent", "released");
  return kOk;
}

static result fake_pop(void** context) {
  ENTER("cuCtxPopCurrent");
  NEED_CONTEXT("cuCtxPopCurrent");
  *context = stack[--fake.pushed];
  return kOk;
}

/* Whether a cubin or PTX defines the kernel. */
static int image_has(const unsigned char* image, const char* symbol) {
  char entry[160];
  const Elf64_Ehdr* header = (const Elf64_Ehdr*)image;
  const Elf64_Shdr* sections;
  int i;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) {
    snprintf(entry, sizeof entry, ".entry %s(", symbol);
    return strstr((const char*)image, entry) != NULL;
  }
  sections = (const Elf64_Shdr*)(image + header->e_shoff);
  for (i = 0; i < header->e_shnum; ++i) {
    const Elf64_Sym* symbols = (const Elf64_Sym*)(image + sections[i].sh_offset);
    size_t n = sections[i].sh_size / sizeof(Elf64_Sym), k;
    const char* names;
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    names = (const char*)(image + sections[sections[i].sh_link].sh_offset);
    for (k = 0; k < n; ++k) {
      if (ELF64_ST_TYPE(symbols[k].st_info) == STT_FUNC &&
          strcmp(names + symbols[k].st_name, symbol) == 0) {
        return 1;
      }
    }
  }
  return 0;
}

static result fake_load(void** module, const void* image, unsigned n, int32_t* options,
                        void** values) {
  const unsigned char* bytes = (const unsigned char*)image;
  int i;
  (void)n, (void)options, (void)values;
  ENTER("cuModuleLoadDataEx");
  NEED_CONTEXT("cuModuleLoadDataEx");
  if (memcmp(bytes, ELFMAG, SELFMAG) == 0) {
    if (((const Elf64_Ehdr*)image)->e_machine != EM_CUDA) return kInvalidImage;
  } else if (!strstr((const char*)image, ".version")) {
    return kInvalidImage;
  }
  for (i = 0; i < kModules; ++i) {
    if (modules[i].loaded) continue;
    modules[i].image = bytes;
    modules[i].device = current_device();
    modules[i].loaded = 1;
    fake.modules++;
    *module = &modules[i];
    return kOk;
  }
  return 2;
}

static result fake_unload(void* handle) {
  struct module* module = (struct module*)handle;
  ENTER("cuModuleUnload");
  NEED_CONTEXT("cuModuleUnload");
  if (!module->loaded || module->device != current_device()) violate("cuModuleUnload", "not there");
  module->loaded = 0;
  fake.modules--;
  return kOk;
}

static result fake_get_function(void** handle, void* module, const char* symbol) {
  struct function* function = &functions[function_count % kFunctions];
  ENTER("cuModuleGetFunction");
  NEED_CONTEXT("cuModuleGetFunction");
  if (!image_has(((struct module*)module)->image, symbol)) return kNotFound;
  function_count++;
  memset(function, 0, sizeof *function);
  function->module = (struct module*)module;
  snprintf(function->symbol, sizeof function->symbol, "%s", symbol);
  *handle = function;
  return kOk;
}

static result fake_func_get_attribute(int32_t* value, int32_t attribute, void* handle) {
  ENTER("cuFuncGetAttribute");
  (void)attribute;
  ((struct function*)handle)->loaded = 1;
  *value = 0;
  return kOk;
}

static result fake_func_set_attribute(void* handle, int32_t attribute, int32_t value) {
  ENTER("cuFuncSetAttribute");
  if (attribute != 8 || value > fake.shared_optin) return kInvalidValue;
  ((struct function*)handle)->shared_bytes = value;
  return kOk;
}

static result fake_pointer_attributes(unsigned n, int32_t* attributes, void** values,
                                      uint64_t pointer) {
  static const fake_range unknown;
  const fake_range* range = &unknown;
  unsigned i;
  int32_t r;
  ENTER("cuPointerGetAttributes");
  for (r = 0; r < fake.range_count; ++r) {
    const uint64_t begin = (uint64_t)(uintptr_t)fake.ranges[r].begin;
    if (pointer >= begin && pointer < begin + fake.ranges[r].size) range = &fake.ranges[r];
  }
  for (i = 0; i < n; ++i) {
    switch (attributes[i]) {
      case 2:
        *(uint32_t*)values[i] = range->type;
        break;
      case 8:
        *(unsigned char*)values[i] = (unsigned char)range->managed;
        break;
      case 9:
        *(int32_t*)values[i] = range->device;
        break;
      default:
        return kInvalidValue;
    }
  }
  return kOk;
}

static result fake_stream_get_ctx(void* stream, void** context) {
  ENTER("cuStreamGetCtx");
  *context = ((struct stream*)stream)->context;
  return kOk;
}

static result fake_memset(uint64_t pointer, unsigned value, size_t n, void* stream) {
  unsigned* words = (unsigned*)(uintptr_t)pointer;
  size_t i;
  ENTER("cuMemsetD32Async");
  NEED_CONTEXT("cuMemsetD32Async");
  for (i = 0; i < n; ++i) words[i] = value;
  fake.cleared = words;
  fake.cleared_bytes = 4 * n;
  fake.cleared_stream = stream;
  return kOk;
}

static result fake_encode(void* map, int32_t type, uint32_t rank, void* address,
                          const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                          const uint32_t* steps, int32_t interleave, int32_t swizzle,
                          int32_t promotion, int32_t fill) {
  fake_map* to = &fake.maps[fake.map_count % FAKE_LAUNCHES];
  uint32_t i;
  (void)interleave, (void)promotion, (void)fill;
  ENTER("cuTensorMapEncodeTiled");
  /* What the driver's manual demands. */
  if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || rank < 3 || rank > 5) return kInvalidValue;
  for (i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > UINT64_C(1) << 32) return kInvalidValue;
    if (box[i] == 0 || box[i] > 256 || steps[i] != 1) return kInvalidValue;
    if (i + 1 < rank && (strides[i] % 16 || strides[i] >= UINT64_C(1) << 40)) return kInvalidValue;
  }
  if (box[0] * 2 > 128) return kInvalidValue; /* 16-bit types under a swizzle of 128 bytes */
  memset(to, 0, sizeof *to);
  to->type = type, to->rank = rank, to->address = address, to->swizzle = swizzle;
  memcpy(to->dims, dims, rank * sizeof *dims);
  memcpy(to->strides, strides, (rank - 1) * sizeof *strides);
  memcpy(to->box, box, rank * sizeof *box);
  memset(map, 0, 128);
  memcpy(map, &fake.map_count, sizeof fake.map_count);
  fake.map_count++;
  return kOk;
}

static result fake_launch_kernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                 unsigned by, unsigned bz, unsigned shared_bytes, void* stream,
                                 void** params, void** extra) {
  struct function* function = (struct function*)handle;
  fake_launch* to = &fake.launches[fake.launch_count % FAKE_LAUNCHES];
  ENTER("cuLaunchKernel");
  NEED_CONTEXT("cuLaunchKernel");
  if (!function->loaded) violate("launched before it was loaded", function->symbol);
  if (!function->module->loaded) violate("launched after unloading", function->symbol);
  if (function->module->device != current_device()) violate("on another device", function->symbol);
  if (shared_bytes > 48 * 1024 && (int32_t)shared_bytes > function->shared_bytes) {
    violate("more shared memory than was set", function->symbol);
  }
  if (stream && under_way) return kLaunchFailed;
  if (!gx || !gy || !gz || !bx || bx * by * bz > 1024 || gx > INT32_MAX || gy > 65535 || extra) {
    return kInvalidValue;
  }
  memset(to, 0, sizeof *to);
  snprintf(to->symbol, sizeof to->symbol, "%s", function->symbol);
  to->device = current_device();
  to->grid[0] = gx, to->grid[1] = gy, to->grid[2] = gz;
  to->block[0] = bx, to->block[1] = by, to->block[2] = bz;
  to->shared_bytes = shared_bytes;
  to->stream = stream;
  if (fake.param_bytes) memcpy(to->params, params[0], fake.param_bytes);
  fake.launch_count++;
  return kOk;
}

static result fake_device_get_name(char* name, int32_t size, int32_t device) {
  ENTER("cuDeviceGetName");
  snprintf(name, (size_t)size, "fake GPU %d", device);
  return kOk;
}

/* What the runner of ./dev gpu calls: memory that is the host's, streams that do all at once, and
 * graphs that hold nothing. */
EXPORT result cuInit(unsigned flags) { return fake_init(flags); }
EXPORT result cuDeviceGet(int32_t* device, int32_t ordinal) {
  return fake_device_get(device, ordinal);
}
EXPORT result cuDeviceGetName(char* name, int32_t size, int32_t device) {
  return fake_device_get_name(name, size, device);
}
EXPORT result cuDevicePrimaryCtxRetain(void** context, int32_t device) {
  return fake_retain(context, device);
}
EXPORT result cuCtxSetCurrent(void* context) {
  if (fake.pushed == 0) stack[fake.pushed++] = context;
  return kOk;
}
EXPORT result cuDeviceGetAttribute(int32_t* value, int32_t attribute, int32_t device) {
  return fake_device_get_attribute(value, attribute, device);
}
EXPORT result cuModuleLoadDataEx(void** module, const void* image, unsigned n, int32_t* options,
                                 void** values) {
  return fake_load(module, image, n, options, values);
}
EXPORT result cuModuleGetFunction(void** function, void* module, const char* symbol) {
  return fake_get_function(function, module, symbol);
}
EXPORT result cuFuncSetAttribute(void* function, int32_t attribute, int32_t value) {
  return fake_func_set_attribute(function, attribute, value);
}
EXPORT result cuTensorMapEncodeTiled(void* map, int32_t type, uint32_t rank, void* address,
                                     const uint64_t* dims, const uint64_t* strides,
                                     const uint32_t* box, const uint32_t* steps, int32_t interleave,
                                     int32_t swizzle, int32_t promotion, int32_t fill) {
  return fake_encode(map, type, rank, address, dims, strides, box, steps, interleave, swizzle,
                     promotion, fill);
}
EXPORT result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                             unsigned by, unsigned bz, unsigned shared_bytes, void* stream,
                             void** params, void** extra) {
  return fake_launch_kernel(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, params, extra);
}
EXPORT result cuMemAlloc_v2(uint64_t* address, size_t size) {
  void* memory = aligned_alloc(512, (size + 511) / 512 * 512);
  if (!memory) return 2;
  fake_cuda_add_memory(memory, size, 0);
  *address = (uint64_t)(uintptr_t)memory;
  return kOk;
}
EXPORT result cuMemFree_v2(uint64_t address) {
  free((void*)(uintptr_t)address);
  return kOk;
}
/* May go on in the default stream when the call returns, as cuMemsetD8 does. */
EXPORT result cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size) {
  memcpy((void*)(uintptr_t)to, from, size);
  under_way = 1;
  return kOk;
}
EXPORT result cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size) {
  memcpy(to, (const void*)(uintptr_t)from, size);
  return kOk;
}
EXPORT result cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
  memset((void*)(uintptr_t)address, value, size);
  under_way = 1;
  return kOk;
}
EXPORT result cuCtxSynchronize(void) {
  under_way = 0;
  return kOk;
}
EXPORT result cuStreamCreate(void** stream, unsigned flags) {
  (void)flags;
  *stream = fake_cuda_stream(0, 1);
  return kOk;
}
EXPORT result cuStreamSynchronize(void* stream) {
  (void)stream;
  return kOk;
}
EXPORT result cuStreamBeginCapture_v2(void* stream, int32_t mode) {
  (void)stream, (void)mode;
  fake.capturing = 1;
  return kOk;
}
EXPORT result cuStreamEndCapture(void* stream, void** graph) {
  fake.capturing = 0;
  *graph = stream;
  return fake.violation[0] ? 900 : kOk;
}
EXPORT result cuGraphInstantiateWithFlags(void** executable, void* graph,
                                          unsigned long long flags) {
  (void)flags;
  *executable = graph;
  return kOk;
}
EXPORT result cuGraphLaunch(void* executable, void* stream) {
  (void)executable;
  return stream && under_way ? kLaunchFailed : kOk;
}

EXPORT result cuDriverGetVersion(int32_t* version) {
  *version = fake.driver_version;
  return kOk;
}

EXPORT result cuGetProcAddress_v2(const char* symbol, void** function, int32_t version,
                                  uint64_t flags, int32_t* status) {
  static const struct {
    const char* name;
    void* function;
  } all[] = {
      {"cuInit", (void*)fake_init},
      {"cuDeviceGetCount", (void*)fake_device_get_count},
      {"cuDeviceGet", (void*)fake_device_get},
      {"cuDeviceGetName", (void*)fake_device_get_name},
      {"cuDeviceGetAttribute", (void*)fake_device_get_attribute},
      {"cuGetErrorName", (void*)fake_get_error_name},
      {"cuGetErrorString", (void*)fake_get_error_string},
      {"cuDevicePrimaryCtxRetain", (void*)fake_retain},
      {"cuDevicePrimaryCtxRelease", (void*)fake_release},
      {"cuCtxPushCurrent", (void*)fake_push},
      {"cuCtxPopCurrent", (void*)fake_pop},
      {"cuModuleLoadDataEx", (void*)fake_load},
      {"cuModuleUnload", (void*)fake_unload},
      {"cuModuleGetFunction", (void*)fake_get_function},
      {"cuFuncGetAttribute", (void*)fake_func_get_attribute},
      {"cuFuncSetAttribute", (void*)fake_func_set_attribute},
      {"cuPointerGetAttributes", (void*)fake_pointer_attributes},
      {"cuStreamGetCtx", (void*)fake_stream_get_ctx},
      {"cuMemsetD32Async", (void*)fake_memset},
      {"cuTensorMapEncodeTiled", (void*)fake_encode},
      {"cuLaunchKernel", (void*)fake_launch_kernel},
  };
  size_t i;
  (void)version, (void)flags;
  *function = NULL;
  *status = 1;
  if (fake.missing && strcmp(symbol, fake.missing) == 0) return kNotFound;
  for (i = 0; i < sizeof all / sizeof *all; ++i) {
    if (strcmp(symbol, all[i].name) != 0) continue;
    *function = all[i].function;
    *status = 0;
    return kOk;
  }
  return kNotFound;
}

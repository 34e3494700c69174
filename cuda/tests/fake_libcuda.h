/* fake_libcuda.h: how a test steers and reads the fake libcuda.so.1. */
#ifndef ATTN_CUDA_TESTS_FAKE_LIBCUDA_H_
#define ATTN_CUDA_TESTS_FAKE_LIBCUDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FAKE_DEVICES = 4, FAKE_RANGES = 1024, FAKE_CALLS = 512, FAKE_LAUNCHES = 64 };

/* Memory that the fake driver knows. */
typedef struct fake_range {
  const void* begin;
  size_t size;
  uint32_t type; /* CU_MEMORYTYPE_*: 1 host, 2 device */
  int32_t device;
  int32_t managed;
} fake_range;

typedef struct fake_launch {
  char symbol[128];
  int32_t device;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  void* stream;
  unsigned char params[4096]; /* the first fake_cuda.param_bytes of the kernel's parameter */
} fake_launch;

typedef struct fake_map {
  int32_t type;
  uint32_t rank;
  const void* address;
  uint64_t dims[5];
  uint64_t strides[4];
  uint32_t box[5];
  int32_t swizzle;
} fake_map;

typedef struct fake_cuda {
  /* The machine; set before the first use, fake_cuda_reset restores the defaults. */
  int32_t driver_version;
  int32_t device_count;
  int32_t sm[FAKE_DEVICES];
  int32_t multiprocessors;
  int32_t shared_optin;
  int32_t pageable;
  const char* missing; /* a symbol that cuGetProcAddress does not find; NULL: none */

  /* Failing on demand: one call of this name, after `fail_after` calls of it that succeed. */
  const char* fail_call;
  int32_t fail_result;
  int32_t fail_after;

  fake_range ranges[FAKE_RANGES];
  int32_t range_count;
  size_t param_bytes;
  int32_t capturing; /* calls that a capture forbids count as violations */

  /* What happened. */
  const char* calls[FAKE_CALLS];
  int32_t call_count;
  fake_launch launches[FAKE_LAUNCHES];
  int32_t launch_count;
  fake_map maps[FAKE_LAUNCHES];
  int32_t map_count;
  int32_t inits;
  int32_t retained[FAKE_DEVICES]; /* primary contexts */
  int32_t modules;                /* loaded now */
  int32_t pushed;                 /* contexts on the stack now */
  size_t cleared_bytes;           /* by the last memset, which really clears */
  const void* cleared;
  void* cleared_stream;
  char violation[256]; /* the first misuse of the driver; "" if there was none */
} fake_cuda;

fake_cuda* fake_cuda_state(void);
void fake_cuda_reset(void);
/* A stream of device `device`'s primary context, or of another context of its. */
void* fake_cuda_stream(int32_t device, int32_t primary);

/* For callers that do not know the structs. */
void fake_cuda_add_memory(const void* begin, size_t size, int32_t device);
/* The last launch, or NULL. The first pointer of its parameters is q's, for the mma family. */
const fake_launch* fake_cuda_last_launch(void);
const char* fake_cuda_last_symbol(void);
void* fake_cuda_last_stream(void);
const void* fake_cuda_last_q(void);

#ifdef __cplusplus
}
#endif

#endif /* ATTN_CUDA_TESTS_FAKE_LIBCUDA_H_ */

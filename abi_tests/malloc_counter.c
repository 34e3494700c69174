/* malloc_counter.c: to be preloaded; counts what the process asks of malloc, on any thread. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

/* glibc's own names of the functions that this file replaces. */
extern void* __libc_malloc(size_t size);
extern void* __libc_calloc(size_t count, size_t size);
extern void* __libc_realloc(void* pointer, size_t size);
extern void* __libc_memalign(size_t alignment, size_t size);

static atomic_long requests;

/* What the test looks up with dlsym. */
long malloc_counter_requests(void);
long malloc_counter_requests(void) { return atomic_load(&requests); }

void* malloc(size_t size) {
  atomic_fetch_add(&requests, 1);
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  atomic_fetch_add(&requests, 1);
  return __libc_calloc(count, size);
}

void* realloc(void* pointer, size_t size) {
  atomic_fetch_add(&requests, 1);
  return __libc_realloc(pointer, size);
}

void* memalign(size_t alignment, size_t size) {
  atomic_fetch_add(&requests, 1);
  return __libc_memalign(alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void** pointer, size_t alignment, size_t size) {
  void* memory = memalign(alignment, size);
  if (!memory) return ENOMEM;
  *pointer = memory;
  return 0;
}

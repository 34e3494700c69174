/* test_unload.c: loading the library, running it and unloading it, again and again, leaves nothing
 * behind: no mapping, no thread, no memory. A program of its own that does not link the library. */
#include <attn/attn.h>
#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kCycles = 200, kWarmCycles = 60, kSeqlen = 300, kHeads = 4, kHeadDim = 16 };
/* A leak of one small block a cycle would be above this. */
enum { kAllowedGrowth = (kCycles - kWarmCycles) * 16 };

static float memory[4][kHeads * kSeqlen * kHeadDim];

static int count_threads(void) {
  int count = 0;
  struct dirent* entry;
  DIR* tasks = opendir("/proc/self/task");
  if (!tasks) return -1;
  while ((entry = readdir(tasks)) != NULL) count += entry->d_name[0] != '.';
  closedir(tasks);
  return count;
}

static int fail(const char* what) {
  printf("FAILED: %s\n", what);
  return 1;
}

/* One cycle: the default context with its threads, and one of the program's own with three. */
static int cycle(const char* path) {
  const int64_t shape[4] = {1, kHeads, kSeqlen, kHeadDim};
  attn_tensor t[4];
  attn_error error;
  attn_context* context = NULL;
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(dlerror());
  __typeof__(&attn_tensor_init) tensor_init;
  __typeof__(&attn_attention) attention;
  __typeof__(&attn_context_create) create;
  __typeof__(&attn_context_warmup) warmup;
  __typeof__(&attn_context_destroy) destroy;
  *(void**)&tensor_init = dlsym(library, "attn_tensor_init");
  *(void**)&attention = dlsym(library, "attn_attention");
  *(void**)&create = dlsym(library, "attn_context_create");
  *(void**)&warmup = dlsym(library, "attn_context_warmup");
  *(void**)&destroy = dlsym(library, "attn_context_destroy");
  for (int i = 0; i < 4; ++i) tensor_init(&t[i], memory[i], ATTN_DTYPE_F32, 4, shape);
  if (attention(&t[0], &t[1], &t[2], &t[3], ATTN_CAUSAL, &error) != ATTN_OK) {
    return fail(error.message);
  }
  if (attention(NULL, &t[1], &t[2], &t[3], 0, &error) == ATTN_OK) return fail("NULL was taken");
  config.num_threads = 3;
  if (create(&config, &context, &error) != ATTN_OK || warmup(context, &error) != ATTN_OK) {
    return fail(error.message);
  }
  destroy(context);
  dlclose(library);
  if (dlopen(path, RTLD_NOW | RTLD_NOLOAD)) return fail("still loaded after dlclose");
  return 0;
}

int main(int argc, char** argv) {
  size_t before = 0, after;
  int threads = 0;
  if (argc != 2) return fail("usage: test_unload LIBRARY");
  for (int i = 0; i < kCycles; ++i) {
    if (i == kWarmCycles) {  // some sanitizers have a thread of their own by now
      before = mallinfo2().uordblks;
      threads = count_threads();
    }
    if (cycle(argv[1])) return 1;
  }
  after = mallinfo2().uordblks;
  printf(
      "%d cycles: %zu bytes in use after %d of them, %zu after all; threads: %d before, %d after\n",
      kCycles, before, kWarmCycles, after, threads, count_threads());
  if (threads < 1 || count_threads() != threads) return fail("threads are left");
  if (after > before + kAllowedGrowth) return fail("memory is left");
  return 0;
}

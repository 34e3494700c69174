/* dlopen.c: attention from a program that has libattn only if it finds it at run time.
 *
 *   dlopen [path of libattn]
 *
 * It needs the header to compile and nothing of libattn to link or start. Every function that it
 * calls is looked up by name, and a library that is too old is told by what it lacks. */
#include <attn/attn.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* The functions that this program calls. */
#define FUNCTIONS(X)       \
  X(attn_version)          \
  X(attn_version_string)   \
  X(attn_tensor_init)      \
  X(attn_context_create)   \
  X(attn_context_get_info) \
  X(attn_context_destroy)  \
  X(attn_attention)

#define DECLARE(name) __typeof__(name)* name;
static struct { FUNCTIONS(DECLARE) } api;

/* Fills `api`. Returns how many functions are missing, naming each. */
static int load_functions(void* library) {
  int missing = 0;
#define LOAD(name)                                       \
  {                                                      \
    void* symbol = dlsym(library, #name);                \
    memcpy(&api.name, &symbol, sizeof(symbol));          \
    if (symbol == NULL) {                                \
      fprintf(stderr, "this libattn lacks %s\n", #name); \
      ++missing;                                         \
    }                                                    \
  }
  FUNCTIONS(LOAD)
  return missing;
}

static int fail(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

int main(int argc, char** argv) {
  char soname[32];
  snprintf(soname, sizeof(soname), "libattn.so.%d.%d", ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR);
  const char* path = argc > 1 ? argv[1] : soname;

  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return fail("no libattn here, this program goes on without it", dlerror());
  if (load_functions(library) > 0) return fail(path, "too old for this program");
  if (api.attn_version() < ATTN_VERSION)
    printf("note: compiled for a newer libattn than %s\n", api.attn_version_string());

  attn_error error;
  attn_context* context = NULL;
  if (api.attn_context_create(NULL, &context, &error)) return fail("context", error.message);
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  if (api.attn_context_get_info(context, &info, &error)) return fail("info", error.message);
  printf("libattn %s, instruction set %s\n", api.attn_version_string(), info.isa_name);
  api.attn_context_destroy(context);

  /* Two equal keys: the result is the mean of their values, 1.5. */
  float q[2] = {1, 1}, k[4] = {1, 1, 1, 1}, v[2] = {1, 2}, o[1];
  attn_tensor tq, tk, tv, to;
  api.attn_tensor_init(&tq, q, ATTN_DTYPE_F32, 4, (const int64_t[]){1, 1, 1, 2});
  api.attn_tensor_init(&tk, k, ATTN_DTYPE_F32, 4, (const int64_t[]){1, 1, 2, 2});
  api.attn_tensor_init(&tv, v, ATTN_DTYPE_F32, 4, (const int64_t[]){1, 1, 2, 1});
  api.attn_tensor_init(&to, o, ATTN_DTYPE_F32, 4, (const int64_t[]){1, 1, 1, 1});
  if (api.attn_attention(&tq, &tk, &tv, &to, 0, &error)) return fail("attention", error.message);
  printf("the mean of 1 and 2 is %g\n", o[0]);

  dlclose(library);
  return 0;
}

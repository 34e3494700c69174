/* dlopen.c: attention from a program that has libattn only if it finds it at run time.
 *
 *   dlopen [path of libattn]
 *
 * It needs the header to compile and nothing of libattn to link or start. A library of another
 * version is refused before anything else of it is called, and what one lacks is told by name. */
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

/* Whether a library is one that this program can call: until 1.0 a minor version may change the
 * interface, from then on a major one. */
static int is_compatible(int32_t version) {
  const int32_t unit = ATTN_VERSION_MAJOR == 0 ? 1000 : 1000000;
  return version / unit == ATTN_VERSION / unit;
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
  const int missing = load_functions(library);
  if (api.attn_version == NULL) return fail(path, "is no libattn");
  if (!is_compatible(api.attn_version())) {
    fprintf(stderr, "%s: is version %d.%d.%d; this program was compiled for %d.%d\n", path,
            api.attn_version() / 1000000, api.attn_version() / 1000 % 1000,
            api.attn_version() % 1000, ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR);
    return 1;
  }
  if (missing > 0) return fail(path, "too old for this program");

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

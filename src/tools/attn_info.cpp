// attn_info.cpp: the program attn-info, which tells what the installed library has on this machine.
#include <attn/attn.h>
#include <stdio.h>
#include <string.h>

namespace {

constexpr char kUsage[] =
    "usage: attn-info [--help | --version]\n"
    "\n"
    "Tells the version of libattn, this machine's instruction sets and caches, the threads that a\n"
    "context of defaults has, and the backends; each that is not available with its reason.\n"
    "\n"
    "  --help     this text\n"
    "  --version  the library's version alone\n"
    "\n"
    "Environment: ATTN_FORCE_ISA forces an instruction set, ATTN_BACKEND_DIR names the absolute\n"
    "directory of plugins.\n";

int fail(const attn_error& error) {
  fprintf(stderr, "attn-info: %s: %s\n", attn_status_name(error.status), error.message);
  return 1;
}

// One row of the list of instruction sets or backends: "  flash     yes  what it serves".
void print_row(const char* name, bool available, const char* words) {
  printf("  %-12s%-4s %s\n", name, available ? "yes" : "no", words);
}

int print_info(attn_context* context) {
  attn_error error;

  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  if (attn_context_get_info(context, &info, &error) != ATTN_OK) return fail(error);
  printf("libattn %s\n", attn_version_string());
  printf("instruction set in use: %s\n", info.isa_name);
  printf("threads: %d\n", static_cast<int>(info.concurrency));
  printf("caches: L1 %zu KiB, L2 %zu KiB, L3 %zu KiB (0: unknown)\n", info.l1_cache_size / 1024,
         info.l2_cache_size / 1024, info.l3_cache_size / 1024);
  printf("plugins are looked for in: %s\n",
         info.backend_dir[0] != '\0' ? info.backend_dir : "nowhere");

  printf("\ninstruction sets\n");
  for (int32_t i = 0; i < attn_context_isa_count(context); ++i) {
    attn_isa_info isa = ATTN_ISA_INFO_INIT;
    if (attn_context_get_isa(context, i, &isa, &error) != ATTN_OK) return fail(error);
    const bool to_ask_for = isa.isa == ATTN_ISA_AMX_BF16 && isa.available != 0;
    print_row(isa.name, isa.available != 0,
              to_ask_for ? "never by default: to name it is to ask Linux for it" : isa.reason);
  }

  printf("\nbackends, in the order in which plans try them\n");
  for (int32_t i = 0; i < attn_context_backend_count(context); ++i) {
    attn_backend_info backend = ATTN_BACKEND_INFO_INIT;
    if (attn_context_get_backend(context, i, &backend, &error) != ATTN_OK) return fail(error);
    const bool available = backend.available != 0;
    print_row(backend.name, available, available ? backend.description : backend.reason);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--help") == 0) {
    fputs(kUsage, stdout);
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    printf("%s\n", attn_version_string());
    return 0;
  }
  if (argc != 1) {
    fputs(kUsage, stderr);
    return 2;
  }

  attn_error error;
  attn_context* context = nullptr;
  if (attn_context_create(nullptr, &context, &error) != ATTN_OK) return fail(error);
  const int status = print_info(context);
  attn_context_destroy(context);
  return status;
}

// A context: threads, memory, instruction set and backends.
#include "context.h"

#include <stdlib.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "config.h"
#include "error.h"
#include "fpmode.h"

namespace attn {
namespace {

constexpr int kMaxConcurrency = 1024;

void* default_allocate(void*, size_t size, size_t alignment) {
  void* pointer = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  return posix_memalign(&pointer, alignment, size) == 0 ? pointer : nullptr;
}

void default_deallocate(void*, void* pointer, size_t, size_t) { free(pointer); }

const attn_context* context_of(const attn_host* host) {
  return reinterpret_cast<const attn_context*>(host);
}

void* host_allocate(const attn_host* host, size_t size, size_t alignment) {
  const attn_allocator& allocator = context_of(host)->allocator;
  return allocator.allocate(allocator.user, size, alignment);
}

void host_deallocate(const attn_host* host, void* pointer, size_t size, size_t alignment) {
  if (!pointer) return;
  const attn_allocator& allocator = context_of(host)->allocator;
  allocator.deallocate(allocator.user, pointer, size, alignment);
}

struct Loop {
  attn_task_fn fn;
  void* arg;
};

void run_task(void* arg, int64_t task, int32_t worker) {
  const Loop* loop = static_cast<const Loop*>(arg);
  const FixedFpMode fixed;
  loop->fn(loop->arg, task, worker);
}

attn_status host_parallel_for(const attn_host* host, int64_t n, attn_task_fn fn, void* arg,
                              attn_error* error) {
  const attn_context* context = context_of(host);
  Loop loop{fn, arg};
  if (context->executor.parallel_for) {
    const int32_t result =
        context->executor.parallel_for(context->executor.user, n, run_task, &loop);
    if (result == 0) return ATTN_OK;
    return fail(error, ATTN_ERROR_EXECUTOR, "executor.parallel_for returned %d; it must be 0",
                result);
  }
#if !defined(ATTN_NO_THREADS)
  if (context->pool) return thread_pool_for(context->pool, n, run_task, &loop, error);
#endif
  for (int64_t task = 0; task < n; ++task) run_task(&loop, task, 0);
  return ATTN_OK;
}

void host_log(const attn_host* host, attn_log_level level, const char* message) {
  const attn_context* context = context_of(host);
  if (context->log) context->log(context->log_user, level, message);
}

// Variables of the environment, which a set-uid process must not trust.
const char* environment(const char* name) {
  const char* value = secure_getenv(name);
  return value && *value ? value : nullptr;
}

attn_status read_allocator(const attn_allocator* from, attn_allocator* to, attn_error* error) {
  if (!from) {
    *to = attn_allocator{sizeof(attn_allocator), 0, nullptr, default_allocate, default_deallocate};
    return ATTN_OK;
  }
  ATTN_TRY(read_config(from, "attn_allocator", to, error));
  if (to->reserved != 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "attn_allocator.reserved is %u; must be 0",
                to->reserved);
  }
  if (!to->allocate || !to->deallocate) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "attn_allocator.%s is NULL",
                to->allocate ? "deallocate" : "allocate");
  }
  return ATTN_OK;
}

attn_status read_executor(const attn_executor* from, attn_executor* to, attn_error* error) {
  if (!from) return ATTN_OK;
  ATTN_TRY(read_config(from, "attn_executor", to, error));
  if (to->concurrency < 0 || to->concurrency > kMaxConcurrency) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "attn_executor.concurrency is %d; allowed: 1 to %d, or 0 for 1", to->concurrency,
                kMaxConcurrency);
  }
  if (!to->parallel_for) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "attn_executor.parallel_for is NULL");
  }
  if (to->concurrency == 0) to->concurrency = 1;
  return ATTN_OK;
}

attn_status choose_isa(const Cpu& cpu, attn_isa forced, attn_isa* isa, attn_error* error) {
  *isa = cpu.best_isa;
  const char* source = "attn_context_config.isa";
  if (forced == ATTN_ISA_AUTO) {
    const char* name = environment("ATTN_FORCE_ISA");
    if (!name) return ATTN_OK;
    source = "ATTN_FORCE_ISA";
    for (const IsaEntry& entry : cpu.isas) {
      if (std::strcmp(entry.name, name) == 0) forced = entry.isa;
    }
    if (forced == ATTN_ISA_AUTO) {
      return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                  "ATTN_FORCE_ISA is '%.64s'; allowed: scalar, neon, avx2, avx512, avx512_bf16, "
                  "amx_bf16",
                  name);
    }
  }
  for (const IsaEntry& entry : cpu.isas) {
    if (entry.isa != forced) continue;
    const char* reason = *entry.reason ? entry.reason : ask_for_isa(forced);
    if (*reason) {
      return fail(error, ATTN_ERROR_UNAVAILABLE, "%s is %s, which is not available: %s", source,
                  entry.name, reason);
    }
    *isa = forced;
    return ATTN_OK;
  }
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is %d; allowed: 0 (auto) to %d", source,
              forced, ATTN_ISA_AMX_BF16);
}

attn_status choose_backend_dir(const char* configured, char* path, size_t size, attn_error* error) {
  const char* source = "attn_context_config.backend_dir";
  if (!configured) {
    source = "ATTN_BACKEND_DIR";
    configured = environment("ATTN_BACKEND_DIR");
  }
  if (!configured) {
    default_backend_dir(path, size);
    return ATTN_OK;
  }
  if (configured[0] != '/' || std::strlen(configured) >= size) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s is '%.200s'; must be an absolute path of less than %zu bytes", source,
                configured, size);
  }
  std::snprintf(path, size, "%s", configured);
  return ATTN_OK;
}

attn_status init_context(const attn_context_config& config, attn_context* context,
                         attn_error* error) {
  context->log = config.log;
  context->log_user = config.log_user;
  context->cpu = detect_cpu();
  attn_isa isa;
  ATTN_TRY(choose_isa(context->cpu, config.isa, &isa, error));
  ATTN_TRY(choose_backend_dir(config.backend_dir, context->backend_dir,
                              sizeof(context->backend_dir), error));

  int concurrency = context->executor.concurrency;
  if (!context->executor.parallel_for) {
    concurrency = config.num_threads;
    if (concurrency == 0) concurrency = std::min(context->cpu.num_cpus, kMaxConcurrency);
#if defined(ATTN_NO_THREADS)
    concurrency = 1;
#else
    context->pool = create_thread_pool(concurrency, context->allocator);
    if (!context->pool) {
      return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for a pool of %d threads",
                  concurrency);
    }
#endif
  }

  context->host = attn_host{sizeof(attn_host),
                            isa,
                            concurrency,
                            0,
                            context->cpu.l1_cache_size,
                            context->cpu.l2_cache_size,
                            context->cpu.l3_cache_size,
                            host_allocate,
                            host_deallocate,
                            host_parallel_for,
                            host_log};
  load_backends(context->host, context->backend_dir, &context->registry);
  for (int i = 0; i < context->registry.count; ++i) {
    const BackendEntry& entry = context->registry.entries[i];
    if (entry.available()) continue;
    char message[320];
    std::snprintf(message, sizeof(message), "backend %s is not available: %s", entry.name,
                  entry.reason);
    host_log(&context->host, ATTN_LOG_INFO, message);
  }
  return ATTN_OK;
}

}  // namespace

attn_status create_context(const attn_context_config* user_config, attn_context** result,
                           attn_error* error) {
  if (!result) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "context is NULL");
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  if (user_config) ATTN_TRY(read_config(user_config, "attn_context_config", &config, error));
  if (config.reserved != 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "attn_context_config.reserved is %u; must be 0",
                config.reserved);
  }
  if (config.num_threads < 0 || config.num_threads > kMaxConcurrency) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "attn_context_config.num_threads is %d; allowed: 1 to %d, or 0 for all CPUs",
                config.num_threads, kMaxConcurrency);
  }
  if (config.executor && config.num_threads != 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "attn_context_config.num_threads is %d beside an executor; must be 0: the "
                "executor's concurrency counts",
                config.num_threads);
  }
  attn_allocator allocator{};
  attn_executor executor{};
  ATTN_TRY(read_allocator(config.allocator, &allocator, error));
  ATTN_TRY(read_executor(config.executor, &executor, error));

  void* memory = allocator.allocate(allocator.user, sizeof(attn_context), alignof(attn_context));
  if (!memory) return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for a context");
  attn_context* context = new (memory) attn_context{};
  context->references.store(1);
  context->allocator = allocator;
  context->executor = executor;
  const attn_status status = init_context(config, context, error);
  if (status != ATTN_OK) {
    release_context(context);
    return status;
  }
  *result = context;
  return ATTN_OK;
}

void retain_context(attn_context* context) { context->references.fetch_add(1); }

void release_context(attn_context* context) {
  if (!context || context->references.fetch_sub(1) != 1) return;
  unload_backends(&context->registry);
#if !defined(ATTN_NO_THREADS)
  destroy_thread_pool(context->pool);
#endif
  const attn_allocator allocator = context->allocator;
  context->~attn_context();
  allocator.deallocate(allocator.user, context, sizeof(attn_context), alignof(attn_context));
}

attn_status warmup_context(attn_context* context, attn_error* error) {
#if !defined(ATTN_NO_THREADS)
  if (context->pool) return start_thread_pool(context->pool, error);
#else
  (void)context;
  (void)error;
#endif
  return ATTN_OK;
}

}  // namespace attn

// A context: threads, memory, instruction set and backends, shared by its plans.
#ifndef ATTN_SRC_CONTEXT_H_
#define ATTN_SRC_CONTEXT_H_

#include <attn/backend.h>
#include <limits.h>

#include <atomic>

#include "cpu.h"
#include "pool.h"
#include "registry.h"

// Value-initialised at creation. Immutable after creation but for the reference count.
struct attn_context {
  attn_host host;  // first: a backend's host pointer is the context's address
  std::atomic<int64_t> references;
  attn_allocator allocator;
  attn_executor executor;  // parallel_for is NULL with the built-in pool
  attn::ThreadPool* pool;  // NULL without it
  attn_log_fn log;
  void* log_user;
  attn::Cpu cpu;
  char backend_dir[PATH_MAX];
  attn::Registry registry;
};

namespace attn {

attn_status create_context(const attn_context_config* config, attn_context** context,
                           attn_error* error);
void retain_context(attn_context* context);
void release_context(attn_context* context);  // NULL is legal
attn_status warmup_context(attn_context* context, attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_CONTEXT_H_

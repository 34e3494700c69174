// host.h: hosts for contexts: executors and allocators of odd but legal kinds, and floating-point
// modes that a program may have set.
#ifndef ATTN_ABI_TESTS_HOST_H_
#define ATTN_ABI_TESTS_HOST_H_

#include <atomic>

#include "harness.h"

namespace attn_test {

// Floating-point modes of the calling thread.
enum class FpMode { kDefault, kFlushToZero, kRoundUp, kRoundDown, kRoundToZero, kFlushAndRoundUp };
const char* name_of(FpMode mode);
void set_fp_mode(FpMode mode);
uint64_t fp_control();  // the control register without its sticky flags

// Starts threads for each loop; tasks are handed out in a random order. The threads have modes of
// their own, which every task has to leave as they were.
struct ThreadExecutor {
  int32_t concurrency;
  FpMode mode = FpMode::kDefault;
  std::atomic<int> modes_lost{0};
  std::atomic<int64_t> loops{0};

  attn_executor executor();
};

// Runs all tasks on the calling thread: last first, or in a random order with random workers.
struct SerialExecutor {
  bool shuffled;
  int32_t concurrency;
  Random random{1};
  int64_t loops = 0;

  attn_executor executor();
};

// malloc, counted; what comes back has to be what went out. Fails from the `fail_at`-th request on.
struct CountingAllocator {
  std::atomic<int64_t> requests{0};
  std::atomic<int64_t> live{0};
  std::atomic<int64_t> live_bytes{0};
  std::atomic<int64_t> mistakes{0};  // wrong size, alignment or pointer given back
  int64_t fail_at = -1;

  attn_allocator allocator();
};

// A context, or NULL with a failed check.
attn_context* make_context(const attn_context_config& config);
attn_context* context_with_threads(attn_isa isa, int32_t threads);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_HOST_H_

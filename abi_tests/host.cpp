// host.cpp: executors, the counting allocator, floating-point control.
#include "host.h"

#include <cfenv>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace attn_test {
namespace {

std::vector<int64_t> shuffled_tasks(int64_t n, Random& random) {
  std::vector<int64_t> tasks(static_cast<size_t>(n));
  std::iota(tasks.begin(), tasks.end(), 0);
  for (size_t i = tasks.size(); i > 1; i--) {
    std::swap(tasks[i - 1], tasks[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
  }
  return tasks;
}

int32_t run_serial(void* user, int64_t n, attn_task_fn fn, void* arg) {
  SerialExecutor& self = *static_cast<SerialExecutor*>(user);
  self.loops++;
  if (!self.shuffled) {
    for (int64_t task = n; task-- > 0;) fn(arg, task, self.concurrency - 1);
    return 0;
  }
  for (const int64_t task : shuffled_tasks(n, self.random)) {
    fn(arg, task, static_cast<int32_t>(self.random.below(self.concurrency)));
  }
  return 0;
}

int32_t run_threads(void* user, int64_t n, attn_task_fn fn, void* arg) {
  ThreadExecutor& self = *static_cast<ThreadExecutor*>(user);
  Random random{static_cast<uint64_t>(++self.loops)};
  const std::vector<int64_t> tasks = shuffled_tasks(n, random);
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int32_t worker = 0; worker < self.concurrency; worker++) {
    threads.emplace_back([&, worker] {
      set_fp_mode(self.mode);
      const uint64_t before = fp_control();
      for (size_t i = next++; i < tasks.size(); i = next++) {
        fn(arg, tasks[i], worker);
        self.modes_lost += fp_control() != before;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

// In front of every block: what was asked for.
struct Header {
  size_t size;
  size_t alignment;
  void* block;
  uint64_t magic;
};
constexpr uint64_t kMagic = 0x6174746e74657374;

void* counting_allocate(void* user, size_t size, size_t alignment) {
  CountingAllocator& self = *static_cast<CountingAllocator*>(user);
  const int64_t request = self.requests++;
  if (self.fail_at >= 0 && request >= self.fail_at) return nullptr;
  if (alignment == 0 || (alignment & (alignment - 1)) != 0) self.mistakes++;
  void* block = std::malloc(size + 2 * alignment + sizeof(Header));
  if (!block) return nullptr;
  const uintptr_t lowest = reinterpret_cast<uintptr_t>(block) + sizeof(Header);
  char* data = reinterpret_cast<char*>((lowest + alignment - 1) / alignment * alignment);
  // No more aligned than asked for.
  if (reinterpret_cast<uintptr_t>(data) % (2 * alignment) == 0) data += alignment;
  const Header header = {size, alignment, block, kMagic};
  std::memcpy(data - sizeof header, &header, sizeof header);
  std::memset(data, 0xa5, size);
  self.live++;
  self.live_bytes += static_cast<int64_t>(size);
  return data;
}

void counting_deallocate(void* user, void* pointer, size_t size, size_t alignment) {
  CountingAllocator& self = *static_cast<CountingAllocator*>(user);
  if (!pointer) return;
  Header header;
  std::memcpy(&header, static_cast<char*>(pointer) - sizeof header, sizeof header);
  if (header.magic != kMagic || header.size != size || header.alignment != alignment) {
    self.mistakes++;
    return;
  }
  std::memset(static_cast<char*>(pointer) - sizeof header, 0, sizeof header);
  std::memset(pointer, 0x5a, size);
  self.live--;
  self.live_bytes -= static_cast<int64_t>(size);
  std::free(header.block);
}

}  // namespace

attn_executor SerialExecutor::executor() {
  attn_executor executor = ATTN_EXECUTOR_INIT;
  executor.concurrency = concurrency;
  executor.user = this;
  executor.parallel_for = run_serial;
  return executor;
}

attn_executor ThreadExecutor::executor() {
  attn_executor executor = ATTN_EXECUTOR_INIT;
  executor.concurrency = concurrency;
  executor.user = this;
  executor.parallel_for = run_threads;
  return executor;
}

attn_allocator CountingAllocator::allocator() {
  attn_allocator allocator = ATTN_ALLOCATOR_INIT;
  allocator.user = this;
  allocator.allocate = counting_allocate;
  allocator.deallocate = counting_deallocate;
  return allocator;
}

attn_context* make_context(const attn_context_config& config) {
  attn_context* context = nullptr;
  CHECK_OK(attn_context_create(&config, &context, nullptr));
  return context;
}

attn_context* context_with_threads(attn_isa isa, int32_t threads) {
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.isa = isa;
  config.num_threads = threads;
  return make_context(config);
}

const char* name_of(FpMode mode) {
  static const char* const kNames[] = {"default",    "flush to zero", "round up",
                                       "round down", "round to zero", "flush to zero, round up"};
  return kNames[static_cast<int>(mode)];
}

#if defined(__x86_64__)

// MXCSR: 6 flags below, DAZ at bit 6, rounding at bits 13 and 14, FTZ at bit 15.
uint64_t fp_control() { return _mm_getcsr() & ~0x3fu; }

static void set_flush(bool on) {
  _mm_setcsr(on ? _mm_getcsr() | 0x8040u : _mm_getcsr() & ~0x8040u);
}

#elif defined(__aarch64__)

uint64_t fp_control() {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}

static void set_flush(bool on) {  // FPCR.FZ is bit 24
  const uint64_t value = on ? fp_control() | (1u << 24) : fp_control() & ~(uint64_t{1} << 24);
  __asm__ volatile("msr fpcr, %0" : : "r"(value));
}

#endif

void set_fp_mode(FpMode mode) {
  const bool up = mode == FpMode::kRoundUp || mode == FpMode::kFlushAndRoundUp;
  std::fesetround(up                             ? FE_UPWARD
                  : mode == FpMode::kRoundDown   ? FE_DOWNWARD
                  : mode == FpMode::kRoundToZero ? FE_TOWARDZERO
                                                 : FE_TONEAREST);
  set_flush(mode == FpMode::kFlushToZero || mode == FpMode::kFlushAndRoundUp);
}

}  // namespace attn_test

// Fibers: stacks of their own that one host thread switches between.
#ifndef ATTN_CUDA_EMULATOR_FIBER_H_
#define ATTN_CUDA_EMULATOR_FIBER_H_

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace attn::emulator {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackSize = 512 << 10;  // variables have room around them
#else
constexpr size_t kStackSize = 128 << 10;
#endif

// A place to switch to. A default one is filled by the first switch away from it.
class Fiber {
 public:
  // Begins entry() on `stack` (kStackSize bytes) at the first switch to it. entry never returns.
  void start(void* stack, void (*entry)());
  // Goes on where `to` was left, until something switches back to `from`.
  static void switch_to(Fiber& from, Fiber& to);

 private:
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_{};
#endif
#if defined(__SANITIZE_ADDRESS__)
 public:
  void (*entry_)() = nullptr;
  // Of the stack that it runs on, for the sanitizer.
  const void* bottom_ = nullptr;
  size_t size_ = 0;
#endif
};

// A stack with a guard page below it; kept for the next launch when given back.
void* take_stack();
void give_back_stack(void* stack);

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_FIBER_H_

// Fibers: the switch itself, and the stacks.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace attn::emulator {

// The address sanitizer has to be told of each switch and of what it switches to.
#if defined(__SANITIZE_ADDRESS__)
namespace {
Fiber* last_from;
Fiber* last_to;

void begin_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, &last_from->bottom_, &last_from->size_);
  last_to->entry_();
}
}  // namespace
#endif

#if defined(__x86_64__)

// void attn_emulator_switch(void** save, void* load): the callee-saved registers go on the stack.
extern "C" void attn_emulator_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.type attn_emulator_switch, @function
attn_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size attn_emulator_switch, .-attn_emulator_switch
)");

void Fiber::start(void* stack, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  entry_ = entry;
  bottom_ = stack;
  size_ = kStackSize;
  entry = begin_fiber;
#endif
  // As if entry() had been called: the stack is 8 below a multiple of 16 on its first instruction.
  auto top = (reinterpret_cast<uintptr_t>(stack) + kStackSize) & ~uintptr_t{15};
  auto* words = reinterpret_cast<uintptr_t*>(top) - 2;
  *words = reinterpret_cast<uintptr_t>(entry);
  stack_pointer_ = words - 6;  // six registers, whatever they hold
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  last_from = &from;
  last_to = &to;
  void* fake_stack;
  __sanitizer_start_switch_fiber(&fake_stack, to.bottom_, to.size_);
#endif
  attn_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

#else

void Fiber::start(void* stack, void (*entry)()) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackSize;
  makecontext(&context_, entry, 0);
}

void Fiber::switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }

#endif

namespace {
std::vector<void*> free_stacks;
constexpr size_t kGuard = 16 << 10;  // at least a page everywhere
}  // namespace

void* take_stack() {
  if (!free_stacks.empty()) {
    void* stack = free_stacks.back();
    free_stacks.pop_back();
#if defined(__SANITIZE_ADDRESS__)
    // Its last fiber never returned from its calls.
    __asan_unpoison_memory_region(stack, kStackSize);
#endif
    return stack;
  }
  void* memory = mmap(nullptr, kGuard + kStackSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) std::abort();
  return static_cast<char*>(memory) + kGuard;
}

void give_back_stack(void* stack) { free_stacks.push_back(stack); }

}  // namespace attn::emulator

// Fixed floating-point modes for the duration of a scope: round to nearest, denormals kept,
// exceptions masked. The caller's modes come back at its end.
#ifndef ATTN_SRC_FPMODE_H_
#define ATTN_SRC_FPMODE_H_

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace attn {

class FixedFpMode {
 public:
  FixedFpMode() : saved_(read()) {
    if (saved_ != kFixed) write(kFixed);
  }
  ~FixedFpMode() {
    if (read() != saved_) write(saved_);
  }
  FixedFpMode(const FixedFpMode&) = delete;
  FixedFpMode& operator=(const FixedFpMode&) = delete;

 private:
#if defined(__x86_64__)
  using Register = uint32_t;
  static constexpr Register kFixed = 0x1f80;  // MXCSR: all exceptions masked, nothing else
  static Register read() { return _mm_getcsr(); }
  static void write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kFixed = 0;  // FPCR
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  using Register = uint32_t;  // no such modes, or none that we know
  static constexpr Register kFixed = 0;
  static Register read() { return kFixed; }
  static void write(Register) {}
#endif

  Register saved_;
};

}  // namespace attn

#endif  // ATTN_SRC_FPMODE_H_

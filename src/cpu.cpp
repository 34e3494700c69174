// What this machine's CPU and operating system offer.
#include "cpu.h"

#include <sched.h>
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace attn {
namespace {

#if defined(__x86_64__)

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned subleaf = 0) {
  Leaf r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) r = Leaf{};
  return r;
}

// XCR0: the register state that the operating system saves. Without it an instruction set that the
// processor has cannot be used.
uint64_t saved_state() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

constexpr bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

// Intel SDM volume 2, CPUID, leaves 1 and 7.
const char* avx2_reason() {
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kAvx2 = 1u << 5;
  constexpr uint64_t kYmmState = 0x6;  // XMM and YMM
  const Leaf leaf1 = cpuid(1);
  if (!has(leaf1.ecx, kFma | kAvx | kF16c) || !has(cpuid(7).ebx, kAvx2)) {
    return "the processor lacks AVX2, FMA or F16C";
  }
  if (!has(leaf1.ecx, kOsxsave) || (saved_state() & kYmmState) != kYmmState) {
    return "the operating system does not save the AVX registers";
  }
  return "";
}

const char* avx512_reason() {
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  constexpr uint64_t kZmmState = 0xe6;  // XMM, YMM, masks and both parts of ZMM
  if (const char* reason = avx2_reason(); *reason) return reason;
  if (!has(cpuid(7).ebx, kF | kDq | kBw | kVl))
    return "the processor lacks AVX-512 F, BW, DQ or VL";
  if ((saved_state() & kZmmState) != kZmmState) {
    return "the operating system does not save the AVX-512 registers";
  }
  return "";
}

const char* avx512_bf16_reason() {
  constexpr unsigned kBf16 = 1u << 5;
  if (const char* reason = avx512_reason(); *reason) return reason;
  return has(cpuid(7, 1).eax, kBf16) ? "" : "the processor lacks AVX512_BF16";
}

#if defined(__linux__)
// Linux gives the tile registers to processes that ask: Documentation/arch/x86/xstate.rst.
constexpr int kTileData = 18;  // the number of this part of the register state
long ask_about_state(int operation, unsigned long argument) {
  return syscall(SYS_arch_prctl, operation, argument);
}
bool offers_tiles() {
  constexpr int kGetSupported = 0x1021;
  uint64_t supported = 0;
  return ask_about_state(kGetSupported, reinterpret_cast<unsigned long>(&supported)) == 0 &&
         (supported >> kTileData & 1) != 0;
}
bool ask_for_tiles() {
  constexpr int kRequest = 0x1023;
  return ask_about_state(kRequest, kTileData) == 0;
}
#else
bool offers_tiles() { return false; }
bool ask_for_tiles() { return false; }
#endif

const char* amx_bf16_reason() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  constexpr uint64_t kTileState = 0x60000;  // their configuration and their data
  if (const char* reason = avx512_bf16_reason(); *reason) return reason;
  if (!has(cpuid(7).edx, kAmxBf16 | kAmxTile)) return "the processor lacks AMX_TILE or AMX_BF16";
  if ((saved_state() & kTileState) != kTileState || !offers_tiles()) {
    return "the operating system does not offer the AMX registers";
  }
  return "";
}

// Whether 512-bit products of bf16 are faster than those of f32. Zen 4 does twice as many
// multiplications in a cycle; of Intel's cores, Emerald Rapids was measured: half as many.
bool has_fast_bf16() {
  const Leaf vendor = cpuid(0);  // "AuthenticAMD"
  return vendor.ebx == 0x68747541 && vendor.edx == 0x69746e65 && vendor.ecx == 0x444d4163;
}

const char* neon_reason() { return "this is no AArch64 processor"; }

#else

const char* avx2_reason() { return "this is no x86-64 processor"; }
const char* avx512_reason() { return "this is no x86-64 processor"; }
const char* avx512_bf16_reason() { return "this is no x86-64 processor"; }
const char* amx_bf16_reason() { return "this is no x86-64 processor"; }
bool ask_for_tiles() { return false; }
bool has_fast_bf16() { return false; }
#if defined(__aarch64__)
const char* neon_reason() { return ""; }
#else
const char* neon_reason() { return "this is no AArch64 processor"; }
#endif

#endif

int count_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(CPU_COUNT(&set), 1);
#endif
  return static_cast<int>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
}

size_t cache_size(int name) { return static_cast<size_t>(std::max(sysconf(name), 0L)); }

}  // namespace

Cpu detect_cpu() {
  Cpu cpu{{{ATTN_ISA_SCALAR, isa_name(ATTN_ISA_SCALAR), ""},
           {ATTN_ISA_NEON, isa_name(ATTN_ISA_NEON), neon_reason()},
           {ATTN_ISA_AVX2, isa_name(ATTN_ISA_AVX2), avx2_reason()},
           {ATTN_ISA_AVX512, isa_name(ATTN_ISA_AVX512), avx512_reason()},
           {ATTN_ISA_AVX512_BF16, isa_name(ATTN_ISA_AVX512_BF16), avx512_bf16_reason()},
           {ATTN_ISA_AMX_BF16, isa_name(ATTN_ISA_AMX_BF16), amx_bf16_reason()}},
          ATTN_ISA_SCALAR,
          count_cpus(),
          0,
          0,
          0};
  for (const IsaEntry& entry : cpu.isas) {
    if (entry.isa == ATTN_ISA_AVX512_BF16 && !has_fast_bf16()) continue;
    if (entry.isa == ATTN_ISA_AMX_BF16) continue;
    if (!*entry.reason) cpu.best_isa = entry.isa;
  }
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  cpu.l1_cache_size = cache_size(_SC_LEVEL1_DCACHE_SIZE);
  cpu.l2_cache_size = cache_size(_SC_LEVEL2_CACHE_SIZE);
  cpu.l3_cache_size = cache_size(_SC_LEVEL3_CACHE_SIZE);
#endif
  return cpu;
}

const char* ask_for_isa(attn_isa isa) {
  if (isa != ATTN_ISA_AMX_BF16 || ask_for_tiles()) return "";
  return "the operating system refuses it to this process (are stacks for signal handlers too "
         "small?)";
}

const char* isa_name(attn_isa isa) {
  switch (isa) {
    case ATTN_ISA_SCALAR:
      return "scalar";
    case ATTN_ISA_AVX2:
      return "avx2";
    case ATTN_ISA_AVX512:
      return "avx512";
    case ATTN_ISA_AVX512_BF16:
      return "avx512_bf16";
    case ATTN_ISA_AMX_BF16:
      return "amx_bf16";
    case ATTN_ISA_NEON:
      return "neon";
    default:
      return "";
  }
}

}  // namespace attn

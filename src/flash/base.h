// What all parts of flash's kernel share: the register tile's size and integer arithmetic.
// Included through kernel.h alone.
#ifndef ATTN_FLASH_BASE_H_
#define ATTN_FLASH_BASE_H_

#include "kernel_args.h"

// Unrolls early enough for an array of vectors to become registers.
#ifdef __clang__
#define ATTN_UNROLL _Pragma("clang loop unroll(full)")
#define ATTN_UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#else
#define ATTN_UNROLL _Pragma("GCC unroll 32")
#define ATTN_UNROLL_TWICE _Pragma("GCC unroll 2")
#endif

namespace attn::ATTN_FLASH_ISA {
namespace {

constexpr int kRows = ATTN_FLASH_ROWS;  // of the register tile
constexpr int kVecs = ATTN_FLASH_VECS;  // of the register tile
constexpr int kPanel = kVecs * kLanes;  // columns of the register tile
constexpr int kPaddedRows = (kRows + kLanes - 1) / kLanes * kLanes;
constexpr int64_t kMinStep = 32;  // keys of a chunk that are worked on at a time, at least
constexpr float kInfinity = __builtin_inff();
constexpr double kLog2E = 1.44269504088896341;

static_assert(64 % kPanel == 0);

[[gnu::always_inline]] inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
[[gnu::always_inline]] inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t round_down(int64_t n, int64_t multiple) { return n / multiple * multiple; }

template <int kValue>
struct Int {
  static constexpr int value = kValue;
};

// fn(Int<n>{}) for 1 <= n <= kMax: what is known at run time becomes a constant.
template <int kMax, class Fn>
[[gnu::always_inline]] inline void with_int(int n, const Fn& fn) {
  if constexpr (kMax > 1) {
    if (n < kMax) return with_int<kMax - 1>(n, fn);
  }
  fn(Int<kMax>{});
}

// Where the panel of a column ends.
constexpr int64_t panel_end(int64_t column) { return round_down(column, kPanel) + kPanel; }

// Columns of a V panel: 5 vectors, say, become 3 + 2 rather than 4 + 1, since a register tile one
// vector wide has too few accumulators to hide the latency of its additions.
constexpr int64_t v_panel(int64_t padded_dim) {
  const int64_t panels = (padded_dim + kPanel - 1) / kPanel;
  return round_up((padded_dim + panels - 1) / panels, kLanes);
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_BASE_H_

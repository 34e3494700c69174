// What the products Q K^T and P V are made of. Included through kernel.h alone.
//
// An item is what a product takes of an operand in one step: 4 bytes, one element of the summed
// dimension or two.
//   DotF32   an f32
//   DotBF16  a pair of bf16, if they hold Q, K and V without rounding. What would not fit in is
//            applied to f32 numbers, one for each key: Q's and K's scales to S, V's to P.
#ifndef ATTN_FLASH_DOT_H_
#define ATTN_FLASH_DOT_H_

#include "base.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

[[gnu::always_inline]] inline uint32_t bits_of(const float* p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits;
}

struct DotF32 {
  static constexpr int kWidth = 1;      // elements of an item
  static constexpr int kItemBlock = 1;  // items that a product takes at a time
  static constexpr bool kScalesKeys = false;
  template <class Type>
  static constexpr bool kHolds = true;

  // sum + a * b
  [[gnu::always_inline]] static Vec add(Vec a, Vec b, Vec sum) { return MulAdd(a, b, sum); }
  // The same without elements of a that are -0.
  [[gnu::always_inline]] static Vec add_marked(const float* a, Vec b, Vec sum) {
    return bits_of(a) == 0x80000000 ? sum : add(Broadcast(a), b, sum);
  }
  [[gnu::always_inline]] static Vec finish(Vec sum) { return sum; }

  // Elements [dim, dim + kLanes) of a row of Q, where it is packed.
  [[gnu::always_inline]] static void store_q(Vec q, Vec scale, float* row, int64_t dim) {
    Store(Mul(q, scale), row + dim);
  }
  // Items [item, item + kLanes) of key i, 0 past the end. For Rows see KeyRows in pack.h.
  template <class Rows>
  [[gnu::always_inline]] static Vec load_k(const Rows& rows, int64_t i, int64_t item) {
    return rows.at(i, item);
  }
  // Elements [dim, dim + kLanes) of keys i and, in an item of two, i + 1; 0 from key n on. NaN and
  // infinities make *poison NaN.
  template <class Rows>
  [[gnu::always_inline]] static Vec load_v(const Rows& rows, int64_t i, int64_t, int64_t dim,
                                           Vec* poison) {
    const Vec v = rows.at(i, dim);
    *poison = MulAdd(v, Zero(), *poison);
    return v;
  }
  // Columns [column, column + kLanes) of P over those of S.
  [[gnu::always_inline]] static void store_p(Vec p, float* row, int64_t column) {
    Store(p, row + column);
  }
};

#if defined(ATTN_FLASH_BF16)
struct DotBF16 {
  static constexpr int kWidth = 2;
#if defined(ATTN_FLASH_AMX)
  static constexpr int kItemBlock = 16;
#else
  static constexpr int kItemBlock = 1;
#endif
  static constexpr bool kScalesKeys = true;
  template <class Type>
  static constexpr bool kHolds = Type::kFitsBF16;

  [[gnu::always_inline]] static Vec add(Vec a, Vec b, Vec sum) { return DotPairs(a, b, sum); }
  [[gnu::always_inline]] static Vec add_marked(const float* a, Vec b, Vec sum) {
    return add(Broadcast(a), AndBits(b, unmarked(a)), sum);
  }
  // The bits of a pair but of elements that are -0 in a.
  [[gnu::always_inline]] static uint32_t unmarked(const float* a) {
    const uint32_t bits = bits_of(a);
    const uint32_t low = (bits & 0xffff) == 0x8000 ? 0 : 0xffff;
    const uint32_t high = bits >> 16 == 0x8000 ? 0 : 0xffff0000;
    return low | high;
  }
  // A denormal sum is made 0 with its sign, which must not depend on how many additions of 0
  // follow.
  [[gnu::always_inline]] static Vec finish(Vec sum) { return Add(sum, Zero()); }

  [[gnu::always_inline]] static void store_q(Vec q, Vec, float* row, int64_t dim) {
    StoreBF16(q, reinterpret_cast<uint16_t*>(row) + dim);
  }
  template <class Rows>
  [[gnu::always_inline]] static Vec load_k(const Rows& rows, int64_t i, int64_t item) {
    const int64_t dim = item * kWidth;
    if constexpr (Rows::kBF16) {
      if (rows.whole(dim, kWidth * kLanes)) return LoadPairs(rows.address(i) + dim);
    }
    return PairsInOrder(rows.elements(i, dim), rows.elements(i, dim + kLanes));
  }
  template <class Rows>
  [[gnu::always_inline]] static Vec load_v(const Rows& rows, int64_t i, int64_t n, int64_t dim,
                                           Vec* poison) {
    if constexpr (Rows::kBF16) {
      if (i + 1 < n && rows.whole(dim, kLanes)) {
        const Vec pairs = LoadPairsOfRows(rows.address(i) + dim, rows.address(i + 1) + dim);
        // As an f32 a pair is its second number, but for digits that say nothing of infinity.
        *poison = MulAdd(ShiftPairs(pairs), Zero(), MulAdd(pairs, Zero(), *poison));
        return pairs;
      }
    }
    const Vec first = rows.elements(i, dim);
    const Vec second = i + 1 < n ? rows.elements(i + 1, dim) : Zero();
    *poison = MulAdd(first, Zero(), MulAdd(second, Zero(), *poison));
    return PairsOfLanes(first, second);
  }
  [[gnu::always_inline]] static void store_p(Vec p, float* row, int64_t column) {
    StoreRoundedBF16(p, reinterpret_cast<uint16_t*>(row) + column);
  }
};
using Dot = DotBF16;
#else
using Dot = DotF32;
#endif

// Items that hold n elements, in whole blocks.
constexpr int64_t items(int64_t n) {
  return round_up((n + Dot::kWidth - 1) / Dot::kWidth, Dot::kItemBlock);
}

constexpr int64_t kKeyBlock = Dot::kWidth * Dot::kItemBlock;  // keys that P V takes at a time

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_DOT_H_

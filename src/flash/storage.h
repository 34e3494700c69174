// Storage types: rows in the caller's memory, from any type to vectors of f32, and from those to
// f32, f16 or bf16. Included through kernel.h alone.
#ifndef ATTN_FLASH_STORAGE_H_
#define ATTN_FLASH_STORAGE_H_

#include "base.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

struct F32 {
  using Element = float;
  static constexpr bool kScaled = false;
  static constexpr bool kFitsBF16 = false;
  static constexpr bool kBF16 = false;
  static Vec load(const float* p) { return LoadU(p); }
  static Vec load_n(const float* p, int64_t n) { return LoadN(p, n); }
  static void store(Vec v, float* p) { StoreU(v, p); }
};

// The first n elements, the other lanes 0.
template <class Type>
[[gnu::noinline]] Vec load_by_lanes(const typename Type::Element* p, int64_t stride, int64_t n) {
  alignas(64) typename Type::Element lanes[kLanes] = {};
  for (int64_t i = 0; i < min(n, kLanes); ++i) lanes[i] = p[i * stride];
  return Type::load(lanes);
}

template <class Type>
[[gnu::noinline]] void store_by_lanes(Vec v, typename Type::Element* p, int64_t stride, int64_t n) {
  alignas(64) typename Type::Element lanes[kLanes];
  Type::store(v, lanes);
  for (int64_t i = 0; i < min(n, kLanes); ++i) p[i * stride] = lanes[i];
}

struct F16 {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static constexpr bool kFitsBF16 = false;
  static constexpr bool kBF16 = false;
  static Vec load(const uint16_t* p) { return LoadF16(p); }
  static Vec load_n(const uint16_t* p, int64_t n) { return load_by_lanes<F16>(p, 1, n); }
  static void store(Vec v, uint16_t* p) { StoreF16(v, p); }
};

struct BF16 {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static constexpr bool kFitsBF16 = true;
  static constexpr bool kBF16 = true;
  static Vec load(const uint16_t* p) { return LoadBF16(p); }
  static Vec load_n(const uint16_t* p, int64_t n) { return load_by_lanes<BF16>(p, 1, n); }
  static void store(Vec v, uint16_t* p) { StoreBF16(v, p); }
};

struct I8 {
  using Element = int8_t;
  static constexpr bool kScaled = true;    // with scales in the caller's memory
  static constexpr bool kFitsBF16 = true;  // without rounding, but for the scale
  static constexpr bool kBF16 = false;
  static Vec load(const int8_t* p) { return LoadI8(p); }
  static Vec load_n(const int8_t* p, int64_t n) { return load_by_lanes<I8>(p, 1, n); }
};

struct F8E4M3 {
  using Element = uint8_t;
  static constexpr bool kScaled = true;    // with scales in the caller's memory
  static constexpr bool kFitsBF16 = true;  // without rounding, but for the scale
  static constexpr bool kBF16 = false;
  static Vec load(const uint8_t* p) { return LoadF8E4M3(p); }
  static Vec load_n(const uint8_t* p, int64_t n) { return load_by_lanes<F8E4M3>(p, 1, n); }
};

// fn(F32{}), fn(F16{}) or fn(BF16{}): the types of Q, O and biases.
template <class Fn>
[[gnu::always_inline]] inline void with_float_type(flash::Storage storage, const Fn& fn) {
  switch (storage) {
    case flash::Storage::kF16:
      return fn(F16{});
    case flash::Storage::kBF16:
      return fn(BF16{});
    default:
      return fn(F32{});
  }
}

// The same with those of K and V.
template <class Fn>
[[gnu::always_inline]] inline void with_type(flash::Storage storage, const Fn& fn) {
  switch (storage) {
    case flash::Storage::kI8:
      return fn(I8{});
    case flash::Storage::kF8E4M3:
      return fn(F8E4M3{});
    default:
      return with_float_type(storage, fn);
  }
}

// Elements [0, n) of a line with that stride, at most kLanes of them; the other lanes are 0.
template <class Type>
[[gnu::always_inline]] inline Vec load(const typename Type::Element* p, int64_t stride, int64_t n) {
  if (stride != 1) return load_by_lanes<Type>(p, stride, n);
  return n >= kLanes ? Type::load(p) : Type::load_n(p, n);
}

template <class Type>
[[gnu::always_inline]] inline void store(Vec v, typename Type::Element* p, int64_t stride,
                                         int64_t n) {
  if (stride == 1 && n >= kLanes) return Type::store(v, p);
  store_by_lanes<Type>(v, p, stride, n);
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_STORAGE_H_

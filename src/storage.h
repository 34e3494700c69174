// Storage types beside f32: f16 (IEEE binary16) and bf16 (the upper half of an f32), held as
// uint16_t, to and from f32, and f8e4m3 (OCP E4M3), held as uint8_t, to f32.
// To f32 is exact; from f32 rounds to nearest even, overflows to infinity and keeps NaN a NaN.
// All of it is branch-free for the compiler's sake: loops over these vectorise.
#ifndef ATTN_SRC_STORAGE_H_
#define ATTN_SRC_STORAGE_H_

#include <bit>
#include <cstdint>

namespace attn {

inline float f32_from_bf16(uint16_t x) { return std::bit_cast<float>(uint32_t{x} << 16); }

inline uint16_t bf16_from_f32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // ties go to the even one
  const uint32_t quiet_nan = bits | 0x00400000;
  return static_cast<uint16_t>(((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded) >> 16);
}

// The exponent's bias is 15 in f16 and 127 in f32: a factor of 2^112, which makes subnormals normal
// on the way.
inline float f32_from_f16(uint16_t x) {
  const uint32_t sign = uint32_t{x & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{x & 0x7fffu} << 13;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t infinite_or_nan = magnitude | 0x7f800000;
  return std::bit_cast<float>(sign | (magnitude < 0x7c00u << 13 ? finite : infinite_or_nan));
}

inline uint16_t f16_from_f32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // The unit of f16's subnormals, 2^-24, is the last bit of an f32 in [0.5, 1): the addition
  // rounds.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) -
                             std::bit_cast<uint32_t>(0.5f);
  uint32_t half = magnitude < 0x38800000 ? subnormal : normal;  // 2^-14
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;               // 65520, halfway to 2^16
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return static_cast<uint16_t>(sign | half);
}

// Sign, 4 bits of exponent, 3 of fraction. The exponent's bias is 7: a factor of 2^120, as above.
// All ones but the sign is NaN; there is no infinity.
inline float f32_from_f8e4m3(uint8_t x) {
  const uint32_t sign = uint32_t{x & 0x80u} << 24;
  const uint32_t magnitude = uint32_t{x & 0x7fu} << 20;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p120f);
  return std::bit_cast<float>(sign | ((x & 0x7fu) == 0x7fu ? 0x7fc00000u : finite));
}

}  // namespace attn

#endif  // ATTN_SRC_STORAGE_H_

// Plain C++: vectors of one float, and the contract that all vec_*.h keep.
//
// These headers are included only by translation units that are compiled for one instruction set.
// Everything stands in an anonymous namespace inside attn::<isa>, and no standard C++ header is
// included: an inline function with external linkage that is compiled here with, say, AVX-512 could
// be picked by the linker for the whole program. Compile such units with -ffp-contract=off: the
// operations are then the same in every unrolled variant of a kernel, and so are the bits.
//
// Names and meanings are those of Google Highway where it has the operation.
#ifndef ATTN_SIMD_VEC_SCALAR_H_
#define ATTN_SIMD_VEC_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#define ATTN_VEC_OP [[gnu::always_inline]] inline

namespace attn::scalar {
namespace {

constexpr int kLanes = 1;  // floats in a Vec
using Vec = float;
using Mask = bool;  // one truth value for each lane

ATTN_VEC_OP Vec Zero() { return 0.0f; }
ATTN_VEC_OP Vec Set(float x) { return x; }
ATTN_VEC_OP Vec Broadcast(const float* p) { return *p; }  // Set(*p)

// Keeps v in a register; see vec_avx512.h. Nothing to do here.
ATTN_VEC_OP void Pin(Vec&) {}

// Lanes 0 .. n-1; n may be negative (none) or exceed kLanes (all).
ATTN_VEC_OP Mask FirstN(int64_t n) { return n > 0; }
ATTN_VEC_OP Mask And(Mask a, Mask b) { return a && b; }
ATTN_VEC_OP Mask AndNot(Mask a, Mask b) { return !a && b; }
ATTN_VEC_OP Mask Eq(Vec a, Vec b) { return a == b; }  // false for NaN
ATTN_VEC_OP bool AllTrue(Mask m) { return m; }
ATTN_VEC_OP Vec IfThenElse(Mask m, Vec yes, Vec no) { return m ? yes : no; }

// Load and Store want p aligned to the vector; LoadU and StoreU to a float. LoadN and StoreN touch
// only the first n floats (as FirstN); the other lanes of LoadN are 0.
ATTN_VEC_OP Vec Load(const float* p) { return *p; }
ATTN_VEC_OP Vec LoadU(const float* p) { return *p; }
ATTN_VEC_OP Vec LoadN(const float* p, int64_t n) { return n > 0 ? *p : 0.0f; }
ATTN_VEC_OP void Store(Vec v, float* p) { *p = v; }
ATTN_VEC_OP void StoreU(Vec v, float* p) { *p = v; }
ATTN_VEC_OP void StoreN(Vec v, float* p, int64_t n) {
  if (n > 0) *p = v;
}

// f16 (IEEE binary16) and bf16 (the upper half of an f32), held as uint16_t, at any address that
// their type allows. To f32 is exact; from f32 rounds to nearest even, overflows to infinity and
// keeps NaN a NaN.
ATTN_VEC_OP uint32_t BitsOf(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
ATTN_VEC_OP float FloatOf(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
ATTN_VEC_OP Vec LoadBF16(const uint16_t* p) { return FloatOf(uint32_t{*p} << 16); }
ATTN_VEC_OP void StoreBF16(Vec v, uint16_t* p) {
  const uint32_t bits = BitsOf(v);
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  *p = static_cast<uint16_t>((v != v ? bits | 0x00400000 : rounded) >> 16);
}
// The exponent's bias is 15 in f16 and 127 in f32: a factor of 2^112.
ATTN_VEC_OP Vec LoadF16(const uint16_t* p) {
  const uint32_t magnitude = uint32_t{*p & 0x7fffu} << 13;
  const uint32_t finite = BitsOf(FloatOf(magnitude) * 0x1p112f);
  return FloatOf(uint32_t{*p & 0x8000u} << 16 |
                 (magnitude < 0x7c00u << 13 ? finite : magnitude | 0x7f800000));
}
ATTN_VEC_OP void StoreF16(Vec v, uint16_t* p) {
  const uint32_t magnitude = BitsOf(v) & 0x7fffffff;
  uint32_t half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // The last bit of an f32 in [0.5, 1) is the unit of f16's subnormals: the addition rounds.
  if (magnitude < 0x38800000) half = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);
  if (magnitude >= 0x477ff000) half = 0x7c00;
  if (magnitude > 0x7f800000) half = 0x7e00;
  *p = static_cast<uint16_t>((BitsOf(v) >> 16 & 0x8000) | half);
}

// i8, and f8e4m3 (OCP E4M3), held as uint8_t, to f32: exact.
ATTN_VEC_OP Vec LoadI8(const int8_t* p) { return static_cast<float>(*p); }
// The exponent's bias is 7 in f8e4m3: a factor of 2^120. All ones but the sign is NaN.
ATTN_VEC_OP Vec LoadF8E4M3(const uint8_t* p) {
  if ((*p & 0x7f) == 0x7f) return __builtin_nanf("");
  const uint32_t finite = BitsOf(FloatOf(uint32_t{*p & 0x7fu} << 20) * 0x1p120f);
  return FloatOf(uint32_t{*p & 0x80u} << 24 | finite);
}

// Where the bytes p[0 .. kLanes) are not 0.
ATTN_VEC_OP Mask NonZeroBytes(const uint8_t* p) { return *p != 0; }

ATTN_VEC_OP Vec Add(Vec a, Vec b) { return a + b; }
ATTN_VEC_OP Vec Sub(Vec a, Vec b) { return a - b; }
ATTN_VEC_OP Vec Mul(Vec a, Vec b) { return a * b; }
ATTN_VEC_OP Vec Div(Vec a, Vec b) { return a / b; }
// Within 2 ulp, for b and a / b far from the ends of the exponents' range; NaN gives NaN.
ATTN_VEC_OP Vec FastDiv(Vec a, Vec b) { return Div(a, b); }
ATTN_VEC_OP Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }  // a * b + c; fused elsewhere
// b where either operand is NaN: so Max(x, m) skips NaN in x, and Max(bound, x) keeps it.
ATTN_VEC_OP Vec Max(Vec a, Vec b) { return a > b ? a : b; }
ATTN_VEC_OP Vec Min(Vec a, Vec b) { return a < b ? a : b; }
ATTN_VEC_OP Vec Abs(Vec v) { return __builtin_fabsf(v); }
ATTN_VEC_OP Vec Iota() { return 0.0f; }  // 0, 1, 2, ...

// No lane is NaN or infinite.
ATTN_VEC_OP bool AllFinite(Vec v) { return v - v == 0.0f; }

// The order of the sum is fixed: halves are added. ReduceMax wants a vector without NaN.
ATTN_VEC_OP float ReduceSum(Vec v) { return v; }
ATTN_VEC_OP float ReduceMax(Vec v) { return v; }
// Lane i is the sum of v[i]: of all of them in the same order. v is used up.
ATTN_VEC_OP Vec ReduceSums(Vec (&v)[kLanes]) { return v[0]; }

// 2^x for x < 127: relative error below 3e-7; exactly 1 for 0; NaN for NaN; exactly 0 for x < -100.
// That is nothing beside a softmax's greatest weight, 1, and keeps what follows clear of denormal
// numbers: arithmetic on one costs more than a hundred cycles. The polynomial is the minimax one
// (relative error 8e-8) on [0, 1) with 2^0 = 1 fixed.
//
// 2^x = 2^n * 2^f, n = floor(x), f = x - n in [0, 1). The factor 2^(n - 26) is built in the
// exponent's bits, n = -101 giving 0, and 2^26 is part of the polynomial. The clamp's operand order
// lets NaN through.
ATTN_VEC_OP Vec Exp2(Vec x) {
  constexpr float k2To26 = 67108864.0f;
  const float clamped = Max(-101.0f, x);
  const float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float nearest = (clamped + kRound) - kRound;
  const float n = nearest > clamped ? nearest - 1.0f : nearest;
  const float f = clamped - n;
  float p = MulAdd(1.86713005e-3f * k2To26, f, 9.01703071e-3f * k2To26);
  p = MulAdd(p, f, 5.57999127e-2f * k2To26);
  p = MulAdd(p, f, 2.40164444e-1f * k2To26);
  p = MulAdd(p, f, 6.93151295e-1f * k2To26);
  p = MulAdd(p, f, k2To26);
  // n + 101 as an integer: the low mantissa bits of n + 101 + 2^23.
  const float biased = n + (8388608.0f + 101.0f);
  uint32_t bits;
  __builtin_memcpy(&bits, &biased, sizeof bits);
  bits <<= 23;
  float power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}

// v[i] lane j <-> v[j] lane i.
ATTN_VEC_OP void Transpose(Vec (&)[kLanes]) {}

}  // namespace
}  // namespace attn::scalar

#endif  // ATTN_SIMD_VEC_SCALAR_H_

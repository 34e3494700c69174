// AVX-512: vectors of 16 floats. Needs -mavx512f/bw/dq/vl -mfma; names as in Google Highway.
// With -mavx512bf16 also products of pairs of bf16.
// The contract of each operation is written in vec_scalar.h.
#ifndef ATTN_SIMD_VEC_AVX512_H_
#define ATTN_SIMD_VEC_AVX512_H_

// gcc 12 warns about the deliberately undefined operands in its own header (PR 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <stddef.h>
#include <stdint.h>

#define ATTN_VEC_OP [[gnu::always_inline]] inline

namespace attn::avx512 {
namespace {

constexpr int kLanes = 16;
using Vec = __m512;
using Mask = __mmask16;

ATTN_VEC_OP Vec Zero() { return _mm512_setzero_ps(); }
ATTN_VEC_OP Vec Set(float x) { return _mm512_set1_ps(x); }
ATTN_VEC_OP Vec Broadcast(const float* p) { return _mm512_set1_ps(*p); }

// The register itself is the operand: stops gcc from folding one load into each of its uses.
ATTN_VEC_OP void Pin(Vec& v) { __asm__("" : "+v"(v)); }

ATTN_VEC_OP Mask FirstN(int64_t n) {
  return n <= 0 ? Mask{0} : n >= kLanes ? Mask{0xffff} : static_cast<Mask>((1u << n) - 1);
}
ATTN_VEC_OP Mask And(Mask a, Mask b) { return static_cast<Mask>(a & b); }
ATTN_VEC_OP Mask AndNot(Mask a, Mask b) { return static_cast<Mask>(~a & b); }
ATTN_VEC_OP Mask Eq(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
ATTN_VEC_OP bool AllTrue(Mask m) { return m == 0xffff; }
ATTN_VEC_OP Vec IfThenElse(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }

ATTN_VEC_OP Vec Load(const float* p) { return _mm512_load_ps(p); }
ATTN_VEC_OP Vec LoadU(const float* p) { return _mm512_loadu_ps(p); }
ATTN_VEC_OP Vec LoadN(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstN(n), p); }
ATTN_VEC_OP void Store(Vec v, float* p) { _mm512_store_ps(p, v); }
ATTN_VEC_OP void StoreU(Vec v, float* p) { _mm512_storeu_ps(p, v); }
ATTN_VEC_OP void StoreN(Vec v, float* p, int64_t n) { _mm512_mask_storeu_ps(p, FirstN(n), v); }

ATTN_VEC_OP Vec LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ATTN_VEC_OP void StoreF16(Vec v, uint16_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
ATTN_VEC_OP Vec LoadBF16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
ATTN_VEC_OP void StoreBF16(Vec v, uint16_t* p) {
#if defined(__AVX512BF16__)
  if (_mm512_fpclass_ps_mask(v, 0x20) == 0) {  // vcvtneps2bf16 flushes denormal numbers
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
#endif
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i half = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(half));
}
ATTN_VEC_OP Vec LoadI8(const int8_t* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
ATTN_VEC_OP Vec LoadF8E4M3(const uint8_t* p) {  // by way of f16
  const __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i magnitude = _mm256_and_si256(x, _mm256_set1_epi16(0x7f));
  const __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(x, 7), 15);
  const __m256i half = _mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign);
  const Vec v = _mm512_mul_ps(_mm512_cvtph_ps(half), Set(256.0f));
  const Mask nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
  return _mm512_mask_blend_ps(nan, v, Set(__builtin_nanf("")));
}
ATTN_VEC_OP Mask NonZeroBytes(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm_test_epi8_mask(bytes, bytes);
}

ATTN_VEC_OP Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
ATTN_VEC_OP Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
ATTN_VEC_OP Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
ATTN_VEC_OP Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
ATTN_VEC_OP Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// A division keeps its unit busy for 16 cycles; this takes four.
ATTN_VEC_OP Vec FastDiv(Vec a, Vec b) {
  const Vec r = _mm512_rcp14_ps(b);
  const Vec quotient = Mul(a, r);
  return MulAdd(r, _mm512_fnmadd_ps(quotient, b, a), quotient);  // one step of Newton's
}
ATTN_VEC_OP Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
ATTN_VEC_OP Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
ATTN_VEC_OP Vec Abs(Vec v) { return _mm512_abs_ps(v); }
ATTN_VEC_OP Vec Iota() {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

ATTN_VEC_OP bool AllFinite(Vec v) {
  return _mm512_fpclass_ps_mask(v, 0x01 | 0x08 | 0x10 | 0x80) == 0;  // QNaN, +inf, -inf, SNaN
}

// The upper half is added to the lower one down to one lane.
ATTN_VEC_OP float ReduceSum(Vec v) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
ATTN_VEC_OP float ReduceMax(Vec v) {
  const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Each step adds the halves of two vectors (then their quarters, ...) and puts them side by side:
// a blend, which any port does, a shuffle and an addition.
ATTN_VEC_OP Vec ReduceSums(Vec (&v)[kLanes]) {
  for (int i = 0; i < 8; ++i) {
    v[i] = Add(IfThenElse(0xff00, v[i + 8], v[i]), _mm512_shuffle_f32x4(v[i], v[i + 8], 0x4e));
  }
  for (int i = 0; i < 4; ++i) {
    const Vec crossed = IfThenElse(0xf0f0, v[i], v[i + 4]);
    v[i] = Add(IfThenElse(0xf0f0, v[i + 4], v[i]), _mm512_shuffle_f32x4(crossed, crossed, 0xb1));
  }
  for (int i = 0; i < 2; ++i) {
    v[i] = Add(IfThenElse(0xcccc, v[i + 2], v[i]), _mm512_shuffle_ps(v[i], v[i + 2], 0x4e));
  }
  const Vec crossed = IfThenElse(0xaaaa, v[0], v[1]);
  return Add(IfThenElse(0xaaaa, v[1], v[0]), _mm512_permute_ps(crossed, 0xb1));
}

// 2^x = 2^floor(x) * 2^f, f = x - floor(x) in [0, 1). vreduceps gives f (0 for -inf) and vscalefps
// floors its second operand by itself. The comparison is true for NaN.
ATTN_VEC_OP Vec Exp2(Vec x) {
  const Vec f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vec p = MulAdd(Set(1.86713005e-3f), f, Set(9.01703071e-3f));
  p = MulAdd(p, f, Set(5.57999127e-2f));
  p = MulAdd(p, f, Set(2.40164444e-1f));
  p = MulAdd(p, f, Set(6.93151295e-1f));
  p = MulAdd(p, f, Set(1.0f));
  const Mask large = _mm512_cmp_ps_mask(x, Set(-100.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(large, p, x);
}

#if defined(__AVX512BF16__)

// Pairs of bf16 in each lane, the first one in its lower half. Denormal numbers count as 0, in
// results too: that is how the instructions are.

// a0 * b0 + a1 * b1 + sum
ATTN_VEC_OP Vec DotPairs(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
// low[0], low[1] | low[2], low[3] | ... | high[0], high[1] | ..., rounded to nearest even
ATTN_VEC_OP Vec PairsInOrder(Vec low, Vec high) { return (Vec)_mm512_cvtne2ps_pbh(high, low); }
// p[0], p[1] | p[2], p[3] | ...
ATTN_VEC_OP Vec LoadPairs(const uint16_t* p) { return _mm512_loadu_ps(p); }
// a[0], b[0] | a[1], b[1] | ...
ATTN_VEC_OP Vec LoadPairsOfRows(const uint16_t* a, const uint16_t* b) {
  const __m512i low =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
// The first number of each pair, as f32.
ATTN_VEC_OP Vec ShiftPairs(Vec pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
// a[0], b[0] | a[1], b[1] | ..., of numbers that bf16 holds
ATTN_VEC_OP Vec PairsOfLanes(Vec a, Vec b) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
  const __m512i high = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(-65536));
  return _mm512_castsi512_ps(_mm512_or_si512(low, high));
}
// To 16 bf16 in order, rounded to nearest even.
ATTN_VEC_OP void StoreRoundedBF16(Vec v, uint16_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
}
ATTN_VEC_OP Vec AndBits(Vec v, uint32_t bits) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(static_cast<int32_t>(bits))));
}

#endif

ATTN_VEC_OP void Transpose(Vec (&v)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 4) {  // 4 x 4 blocks within 128-bit quarters
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[i], v[i + 1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[i], v[i + 1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int i = 0; i < 4; ++i) {  // 4 x 4 quarters
    const Vec a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    const Vec b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    const Vec c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const Vec d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
    v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
    v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

}  // namespace
}  // namespace attn::avx512

#endif  // ATTN_SIMD_VEC_AVX512_H_

// AVX2, FMA and F16C: vectors of 8 floats. Needs -mavx2 -mfma -mf16c; names as in Google Highway.
// The contract of each operation is written in vec_scalar.h.
#ifndef ATTN_SIMD_VEC_AVX2_H_
#define ATTN_SIMD_VEC_AVX2_H_

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

namespace attn::avx2 {
namespace {

constexpr int kLanes = 8;
using Vec = __m256;
struct Mask {
  __m256 raw;  // all bits of a lane set or clear
};

ATTN_VEC_OP Vec Zero() { return _mm256_setzero_ps(); }
ATTN_VEC_OP Vec Set(float x) { return _mm256_set1_ps(x); }
ATTN_VEC_OP Vec Broadcast(const float* p) { return _mm256_broadcast_ss(p); }

// The register itself is the operand: stops gcc from folding one load into each of its uses.
ATTN_VEC_OP void Pin(Vec& v) { __asm__("" : "+x"(v)); }

ATTN_VEC_OP Mask FirstN(int64_t n) {
  const int clamped = n <= 0 ? 0 : n >= kLanes ? kLanes : static_cast<int>(n);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(clamped), lane))};
}
ATTN_VEC_OP Mask And(Mask a, Mask b) { return {_mm256_and_ps(a.raw, b.raw)}; }
ATTN_VEC_OP Mask AndNot(Mask a, Mask b) { return {_mm256_andnot_ps(a.raw, b.raw)}; }
ATTN_VEC_OP Mask Eq(Vec a, Vec b) { return {_mm256_cmp_ps(a, b, _CMP_EQ_OQ)}; }
ATTN_VEC_OP bool AllTrue(Mask m) { return _mm256_movemask_ps(m.raw) == 0xff; }
ATTN_VEC_OP Vec IfThenElse(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m.raw); }

ATTN_VEC_OP Vec Load(const float* p) { return _mm256_load_ps(p); }
ATTN_VEC_OP Vec LoadU(const float* p) { return _mm256_loadu_ps(p); }
ATTN_VEC_OP Vec LoadN(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, _mm256_castps_si256(FirstN(n).raw));
}
ATTN_VEC_OP void Store(Vec v, float* p) { _mm256_store_ps(p, v); }
ATTN_VEC_OP void StoreU(Vec v, float* p) { _mm256_storeu_ps(p, v); }
ATTN_VEC_OP void StoreN(Vec v, float* p, int64_t n) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(FirstN(n).raw), v);
}

ATTN_VEC_OP Vec LoadF16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ATTN_VEC_OP void StoreF16(Vec v, uint16_t* p) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
ATTN_VEC_OP Vec LoadBF16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
ATTN_VEC_OP void StoreBF16(Vec v, uint16_t* p) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i half = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_packus_epi32(half, half);  // within 128-bit halves
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
ATTN_VEC_OP Vec LoadI8(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
ATTN_VEC_OP Vec LoadF8E4M3(const uint8_t* p) {  // by way of f16
  const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(x, _mm_set1_epi16(0x7f));
  const __m128i sign = _mm_slli_epi16(_mm_srli_epi16(x, 7), 15);
  const __m128i half = _mm_or_si128(_mm_slli_epi16(magnitude, 7), sign);
  const Vec v = _mm256_mul_ps(_mm256_cvtph_ps(half), Set(256.0f));
  const __m256i nan = _mm256_cvtepi16_epi32(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)));
  return _mm256_blendv_ps(v, Set(__builtin_nanf("")), _mm256_castsi256_ps(nan));
}
ATTN_VEC_OP Mask NonZeroBytes(const uint8_t* p) {
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(bytes, _mm256_setzero_si256()))};
}

ATTN_VEC_OP Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
ATTN_VEC_OP Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
ATTN_VEC_OP Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
ATTN_VEC_OP Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
ATTN_VEC_OP Vec FastDiv(Vec a, Vec b) { return Div(a, b); }
ATTN_VEC_OP Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
ATTN_VEC_OP Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
ATTN_VEC_OP Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
ATTN_VEC_OP Vec Abs(Vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
ATTN_VEC_OP Vec Iota() { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }

ATTN_VEC_OP bool AllFinite(Vec v) {
  const Vec difference = _mm256_sub_ps(v, v);  // 0, or NaN for NaN and infinities
  return AllTrue(Eq(difference, Zero()));
}

// The upper half is added to the lower one down to one lane.
ATTN_VEC_OP float ReduceSum(Vec v) {
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
ATTN_VEC_OP float ReduceMax(Vec v) {
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

// Each step adds the halves of two vectors (then their quarters, ...) and puts them side by side:
// a blend, a shuffle and an addition.
ATTN_VEC_OP Vec ReduceSums(Vec (&v)[kLanes]) {
  for (int i = 0; i < 4; ++i) {
    v[i] = Add(_mm256_blend_ps(v[i], v[i + 4], 0xf0), _mm256_permute2f128_ps(v[i], v[i + 4], 0x21));
  }
  for (int i = 0; i < 2; ++i) {
    v[i] = Add(_mm256_blend_ps(v[i], v[i + 2], 0xcc), _mm256_shuffle_ps(v[i], v[i + 2], 0x4e));
  }
  return Add(_mm256_blend_ps(v[0], v[1], 0xaa),
             _mm256_permute_ps(_mm256_blend_ps(v[1], v[0], 0xaa), 0xb1));
}

// 2^x = 2^n * 2^f, n = floor(x), f = x - n in [0, 1). The factor 2^(n - 26) is built in the
// exponent's bits, n = -101 giving 0, and 2^26 is part of the polynomial. The clamp's operand order
// lets NaN through.
ATTN_VEC_OP Vec Exp2(Vec x) {
  constexpr float k2To26 = 67108864.0f;
  const Vec clamped = Max(Set(-101.0f), x);
  const Vec n = _mm256_floor_ps(clamped);
  const Vec f = Sub(clamped, n);
  Vec p = MulAdd(Set(1.86713005e-3f * k2To26), f, Set(9.01703071e-3f * k2To26));
  p = MulAdd(p, f, Set(5.57999127e-2f * k2To26));
  p = MulAdd(p, f, Set(2.40164444e-1f * k2To26));
  p = MulAdd(p, f, Set(6.93151295e-1f * k2To26));
  p = MulAdd(p, f, Set(k2To26));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(101));
  return Mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

ATTN_VEC_OP void Transpose(Vec (&v)[kLanes]) {
  Vec t[kLanes];
  for (int i = 0; i < kLanes; i += 4) {  // 4 x 4 blocks within 128-bit halves
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[i], v[i + 1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[i], v[i + 1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[i + 2], v[i + 3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[i + 2], v[i + 3]));
    t[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    t[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    t[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    t[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
  for (int i = 0; i < 4; ++i) {  // 2 x 2 halves
    v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

}  // namespace
}  // namespace attn::avx2

#endif  // ATTN_SIMD_VEC_AVX2_H_

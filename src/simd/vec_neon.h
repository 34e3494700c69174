// NEON on AArch64: vectors of 4 floats; names as in Google Highway.
// The contract of each operation is written in vec_scalar.h.
#ifndef ATTN_SIMD_VEC_NEON_H_
#define ATTN_SIMD_VEC_NEON_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#define ATTN_VEC_OP [[gnu::always_inline]] inline

namespace attn::neon {
namespace {

constexpr int kLanes = 4;
using Vec = float32x4_t;
using Mask = uint32x4_t;

ATTN_VEC_OP Vec Zero() { return vdupq_n_f32(0.0f); }
ATTN_VEC_OP Vec Set(float x) { return vdupq_n_f32(x); }
ATTN_VEC_OP Vec Broadcast(const float* p) { return vld1q_dup_f32(p); }

ATTN_VEC_OP void Pin(Vec& v) { __asm__("" : "+w"(v)); }

ATTN_VEC_OP Mask FirstN(int64_t n) {
  const uint32_t clamped = n <= 0 ? 0 : n >= kLanes ? kLanes : static_cast<uint32_t>(n);
  const uint32x4_t lane = {0, 1, 2, 3};
  return vcgtq_u32(vdupq_n_u32(clamped), lane);
}
ATTN_VEC_OP Mask And(Mask a, Mask b) { return vandq_u32(a, b); }
ATTN_VEC_OP Mask AndNot(Mask a, Mask b) { return vbicq_u32(b, a); }
ATTN_VEC_OP Mask Eq(Vec a, Vec b) { return vceqq_f32(a, b); }
ATTN_VEC_OP bool AllTrue(Mask m) { return vminvq_u32(m) != 0; }
ATTN_VEC_OP Vec IfThenElse(Mask m, Vec yes, Vec no) { return vbslq_f32(m, yes, no); }

ATTN_VEC_OP Vec Load(const float* p) { return vld1q_f32(p); }
ATTN_VEC_OP Vec LoadU(const float* p) { return vld1q_f32(p); }
ATTN_VEC_OP void Store(Vec v, float* p) { vst1q_f32(p, v); }
ATTN_VEC_OP void StoreU(Vec v, float* p) { vst1q_f32(p, v); }
ATTN_VEC_OP Vec LoadN(const float* p, int64_t n) {
  if (n >= kLanes) return vld1q_f32(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
ATTN_VEC_OP void StoreN(Vec v, float* p, int64_t n) {
  if (n >= kLanes) return vst1q_f32(p, v);
  float lanes[kLanes];
  vst1q_f32(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

ATTN_VEC_OP Vec LoadF16(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
ATTN_VEC_OP void StoreF16(Vec v, uint16_t* p) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
ATTN_VEC_OP Vec LoadBF16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
ATTN_VEC_OP void StoreBF16(Vec v, uint16_t* p) {
  const uint32x4_t bits = vreinterpretq_u32_f32(v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
  vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16));
}
ATTN_VEC_OP uint16x4_t LoadBytes(const void* p) {
  uint32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
}
ATTN_VEC_OP Vec LoadI8(const int8_t* p) {
  const int16x4_t high = vreinterpret_s16_u16(vshl_n_u16(LoadBytes(p), 8));
  return vcvtq_f32_s32(vmovl_s16(vshr_n_s16(high, 8)));
}
ATTN_VEC_OP Vec LoadF8E4M3(const uint8_t* p) {  // by way of f16
  const uint16x4_t x = LoadBytes(p);
  const uint16x4_t magnitude = vand_u16(x, vdup_n_u16(0x7f));
  const uint16x4_t sign = vshl_n_u16(vshr_n_u16(x, 7), 15);
  const uint16x4_t half = vorr_u16(vshl_n_u16(magnitude, 7), sign);
  const Vec v = vmulq_f32(vcvt_f32_f16(vreinterpret_f16_u16(half)), vdupq_n_f32(256.0f));
  const uint32x4_t nan = vceqq_u32(vmovl_u16(magnitude), vdupq_n_u32(0x7f));
  return vbslq_f32(nan, vdupq_n_f32(__builtin_nanf("")), v);
}
ATTN_VEC_OP Mask NonZeroBytes(const uint8_t* p) {
  return vcgtq_u32(vmovl_u16(LoadBytes(p)), vdupq_n_u32(0));
}

ATTN_VEC_OP Vec Add(Vec a, Vec b) { return vaddq_f32(a, b); }
ATTN_VEC_OP Vec Sub(Vec a, Vec b) { return vsubq_f32(a, b); }
ATTN_VEC_OP Vec Mul(Vec a, Vec b) { return vmulq_f32(a, b); }
ATTN_VEC_OP Vec Div(Vec a, Vec b) { return vdivq_f32(a, b); }
ATTN_VEC_OP Vec FastDiv(Vec a, Vec b) { return Div(a, b); }
ATTN_VEC_OP Vec MulAdd(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
// A comparison and a select, since fmax returns NaN if either operand is NaN.
ATTN_VEC_OP Vec Max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
ATTN_VEC_OP Vec Min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
ATTN_VEC_OP Vec Abs(Vec v) { return vabsq_f32(v); }
ATTN_VEC_OP Vec Iota() {
  const Vec iota = {0, 1, 2, 3};
  return iota;
}

ATTN_VEC_OP bool AllFinite(Vec v) {
  const Vec difference = vsubq_f32(v, v);  // 0, or NaN for NaN and infinities
  return AllTrue(Eq(difference, Zero()));
}

// The upper half is added to the lower one down to one lane.
ATTN_VEC_OP float ReduceSum(Vec v) {
  const float32x2_t b = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}
ATTN_VEC_OP float ReduceMax(Vec v) { return vmaxvq_f32(v); }
ATTN_VEC_OP Vec ReduceSums(Vec (&v)[kLanes]) {
  return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]));
}

// 2^x = 2^n * 2^f, n = floor(x), f = x - n in [0, 1). The factor 2^(n - 26) is built in the
// exponent's bits, n = -101 giving 0, and 2^26 is part of the polynomial. The clamp's operand order
// lets NaN through.
ATTN_VEC_OP Vec Exp2(Vec x) {
  constexpr float k2To26 = 67108864.0f;
  const Vec clamped = Max(Set(-101.0f), x);
  const Vec n = vrndmq_f32(clamped);
  const Vec f = Sub(clamped, n);
  Vec p = MulAdd(Set(1.86713005e-3f * k2To26), f, Set(9.01703071e-3f * k2To26));
  p = MulAdd(p, f, Set(5.57999127e-2f * k2To26));
  p = MulAdd(p, f, Set(2.40164444e-1f * k2To26));
  p = MulAdd(p, f, Set(6.93151295e-1f * k2To26));
  p = MulAdd(p, f, Set(k2To26));
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(101));
  return Mul(p, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}

ATTN_VEC_OP void Transpose(Vec (&v)[kLanes]) {
  const float32x4x2_t a = vtrnq_f32(v[0], v[1]);
  const float32x4x2_t b = vtrnq_f32(v[2], v[3]);
  v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

}  // namespace
}  // namespace attn::neon

#endif  // ATTN_SIMD_VEC_NEON_H_

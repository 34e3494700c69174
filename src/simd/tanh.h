// tanh on vectors. Include after a vec_<isa>.h, with ATTN_VEC_ISA defined as that header's
// namespace.
#ifndef ATTN_SIMD_TANH_H_
#define ATTN_SIMD_TANH_H_

namespace attn::ATTN_VEC_ISA {
namespace {

// tanh(x) = x P(x^2) / Q(x^2), fitted to |x| <= 9, past which tanh is 1 in f32: relative error
// 2e-8, with the roundings below 4e-7.
ATTN_VEC_OP Vec Tanh(Vec x) {
  x = Max(Set(-9.0f), Min(Set(9.0f), x));  // in this order of operands NaN stays NaN
  const Vec y = Mul(x, x);
  Vec p = MulAdd(Set(1.33546463e-8f), y, Set(2.06090717e-5f));
  p = MulAdd(p, y, Set(3.49558750e-3f));
  p = MulAdd(p, y, Set(1.33810252e-1f));
  p = MulAdd(p, y, Set(1.0f));
  Vec q = MulAdd(Set(7.77655202e-7f), y, Set(3.28563357e-4f));
  q = MulAdd(q, y, Set(2.58769803e-2f));
  q = MulAdd(q, y, Set(4.67143416e-1f));
  q = MulAdd(q, y, Set(1.0f));
  return FastDiv(Mul(x, p), q);
}

}  // namespace
}  // namespace attn::ATTN_VEC_ISA

#endif  // ATTN_SIMD_TANH_H_

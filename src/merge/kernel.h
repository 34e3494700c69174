// The loops of merging on vectors, once for all instruction sets.
//
// A kernel_<isa>.cpp includes its src/simd/vec_<isa>.h, defines ATTN_MERGE_ISA (that header's
// namespace) and includes this file. No standard C++ header, nothing with external linkage: see
// vec_scalar.h.
#include "kernels.h"

namespace attn::ATTN_MERGE_ISA {
namespace {

using merging::kRows;
using merging::Sum;

constexpr int kVecs = 8;  // of a row's sum that stay in registers

void find_max(const float* const* lse, int64_t count, float* max) {
  for (int64_t r = 0; r < kRows; r += kLanes) {
    Vec most = LoadU(max + r);
    for (int64_t p = 0; p < count; ++p) most = Max(LoadU(lse[p] + r), most);
    StoreU(most, max + r);
  }
}

void weigh(const float* const* lse, int64_t count, const float* max, float* weights) {
  const Vec log2_e = Set(1.44269504f);
  for (int64_t r = 0; r < kRows; r += kLanes) {
    const Vec most = LoadU(max + r);
    for (int64_t p = 0; p < count; ++p) {
      const Vec power = Mul(Sub(LoadU(lse[p] + r), most), log2_e);
      StoreU(Exp2(power), weights + p * kRows + r);
    }
  }
}

// Row r, so many vectors from a column on; `n` floats of them if they are no whole ones.
template <int Vecs, bool Whole>
[[gnu::always_inline]] inline void add_columns(const Sum& s, int64_t r, int64_t column, int64_t n) {
  const auto load = [&](const float* p) { return Whole ? LoadU(p) : LoadN(p, n); };
  Vec sum[Vecs];
#pragma GCC unroll 8
  for (int v = 0; v < Vecs; ++v) {
    sum[v] = s.start ? load(s.start + r * s.start_step + column + v * kLanes) : Zero();
  }
  for (int64_t p = 0; p < s.count; ++p) {
    const float* weight = s.weights + p * kRows + r;
    if (*weight < 0.0f) continue;
    const float* row = s.parts[p] + r * s.part_steps[p] + column;
    const Vec factor = Broadcast(weight);
#pragma GCC unroll 8
    for (int v = 0; v < Vecs; ++v) sum[v] = MulAdd(factor, load(row + v * kLanes), sum[v]);
  }
  float* to = s.sum + r * s.sum_step + column;
#pragma GCC unroll 8
  for (int v = 0; v < Vecs; ++v) {
    Whole ? StoreU(sum[v], to + v * kLanes) : StoreN(sum[v], to + v * kLanes, n);
  }
}

void add_parts(const Sum* sum) {
  const Sum s = *sum;
  for (int64_t r = 0; r < s.rows; ++r) {
    int64_t column = 0;
    for (; column + kVecs * kLanes <= s.n; column += kVecs * kLanes) {
      add_columns<kVecs, true>(s, r, column, 0);
    }
    for (; column + kLanes <= s.n; column += kLanes) add_columns<1, true>(s, r, column, 0);
    if (column < s.n) add_columns<1, false>(s, r, column, s.n - column);
  }
}

}  // namespace
}  // namespace attn::ATTN_MERGE_ISA

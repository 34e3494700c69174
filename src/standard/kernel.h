// The standard backend's loops on vectors, once for all instruction sets.
//
// A kernel_<isa>.cpp includes its src/simd/vec_<isa>.h, defines ATTN_STANDARD_ISA (that header's
// namespace), ATTN_STANDARD_ROWS x ATTN_STANDARD_VECS (its register tile) and includes this file.
// No standard C++ header, nothing with external linkage: see vec_scalar.h.
#include "kernels.h"

#define ATTN_VEC_ISA ATTN_STANDARD_ISA
#include "../simd/tanh.h"

namespace attn::ATTN_STANDARD_ISA {
namespace {

using standard::Exponentials;
using standard::Product;

constexpr int kRows = ATTN_STANDARD_ROWS;
constexpr int kVecs = ATTN_STANDARD_VECS;
constexpr int64_t kDepthBlock = 256;  // so many rows of a panel of B stay in the first-level cache
constexpr int64_t kRowBlock = 96;     // and so many rows of A in the second-level one
constexpr int64_t kSumBlock = 256;    // exponentials that are summed in f32

[[gnu::always_inline]] inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// One register tile: C [Rows, Vecs vectors] = A [Rows, depth] B [depth, Vecs vectors], added to
// what C holds if `accumulate`. Each element is summed in the same order whatever the tile it falls
// into.
template <int Rows, int Vecs>
[[gnu::always_inline]] inline void multiply_tile(const Product& p, const float* a, const float* b,
                                                 float* c, int64_t depth, bool accumulate) {
  Vec sum[Rows][Vecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) sum[r][v] = Zero();
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec b_row[Vecs];
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) {
      b_row[v] = Load(b + k * p.ldb + v * kLanes);
      Pin(b_row[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec a_element = Broadcast(a + r * p.lda + k);
#pragma GCC unroll 16
      for (int v = 0; v < Vecs; ++v) sum[r][v] = MulAdd(a_element, b_row[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Vecs; ++v) {
      float* to = c + r * p.ldc + v * kLanes;
      Store(accumulate ? Add(Load(to), sum[r][v]) : sum[r][v], to);
    }
  }
}

// One panel of columns, Vecs vectors wide: rows [row, row_end), depth [k, k + depth).
template <int Vecs>
void multiply_panel(const Product& p, int64_t row, int64_t row_end, int64_t column, int64_t k,
                    int64_t depth) {
  const float* b = p.b + k * p.ldb + column;
  for (; row + kRows <= row_end; row += kRows) {
    multiply_tile<kRows, Vecs>(p, p.a + row * p.lda + k, b, p.c + row * p.ldc + column, depth,
                               k > 0);
  }
  for (; row < row_end; ++row) {
    multiply_tile<1, Vecs>(p, p.a + row * p.lda + k, b, p.c + row * p.ldc + column, depth, k > 0);
  }
}

void multiply(const Product* product) {
  const Product& p = *product;
  int64_t k = 0;
  do {  // once for a depth of 0, too: C is 0 then
    const int64_t depth = min(kDepthBlock, p.depth - k);
    for (int64_t row = 0; row < p.rows; row += kRowBlock) {
      const int64_t row_end = min(p.rows, row + kRowBlock);
      int64_t column = 0;
      for (; column + (kVecs - 1) * kLanes < p.columns; column += kVecs * kLanes) {
        multiply_panel<kVecs>(p, row, row_end, column, k, depth);
      }
      for (; column < p.columns; column += kLanes) {
        multiply_panel<1>(p, row, row_end, column, k, depth);
      }
    }
    k += kDepthBlock;
  } while (k < p.depth);
}

void apply_softcap(float* row, int64_t n, float softcap) {
  const Vec cap = Set(softcap);
  for (int64_t j = 0; j < n; j += kLanes) {
    Store(Mul(cap, Tanh(Div(Load(row + j), cap))), row + j);
  }
}

void exponentiate(Exponentials* e) {
  const float kInfinity = __builtin_inff();
  Vec max = Set(e->floor);
  for (int64_t j = 0; j < e->n; j += kLanes) max = Max(Load(e->row + j), max);  // skips NaN
  e->max = ReduceMax(max);
  if (e->max == -kInfinity) e->max = 0.0f;  // -inf - -inf is NaN

  const Vec subtract = Set(e->max);
  const Vec log2_e = Set(1.44269504f);
  // Weights become multiples of 2^-103: far below what counts, but no subnormal number, which are
  // slow on many machines, goes into the product with V.
  const Vec grid = Set(0x1p-80f);
  e->sum = 0.0;
  for (int64_t begin = 0; begin < e->n; begin += kSumBlock) {
    Vec sum = Zero();
    for (int64_t j = begin; j < min(e->n, begin + kSumBlock); j += kLanes) {
      const Vec weight = Exp2(Mul(Sub(Load(e->row + j), subtract), log2_e));
      const Vec rounded = Sub(Add(weight, grid), grid);
      Store(rounded, e->row + j);
      sum = Add(sum, rounded);
    }
    e->sum += ReduceSum(sum);
  }
}

}  // namespace
}  // namespace attn::ATTN_STANDARD_ISA

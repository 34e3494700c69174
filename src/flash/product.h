// The products Q K^T and P V: in vector registers, or see product_amx.h. Included through
// kernel.h alone.
#ifndef ATTN_FLASH_PRODUCT_H_
#define ATTN_FLASH_PRODUCT_H_

#include "dot.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

enum class Init { kZero, kRescale };

// C = A B, or C = diag(alpha) C + A B:  A [m, k] row-major, B [k, n] with row stride ldb, C [m, n];
// k counts items. B and C are aligned to vectors.
struct Product {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  int64_t k;
  const float* alpha;
  const float* column_scales;  // C = A B diag(column_scales); NULL: all are 1
  float* c;
  int64_t ldc;
  const char* ahead;   // each of the k steps fetches a cache line into L2: this one, and
  int64_t ahead_step;  // so many bytes further in the next step
};

constexpr int kLine = 64;  // bytes

#ifndef ATTN_FLASH_AMX

template <Init kInit, int kM, int kN>
[[gnu::noinline]] void multiply(const Product& product) {
  const int64_t lda = product.lda;
  const int64_t ldb = product.ldb;
  const int64_t ldc = product.ldc;
  float* c = product.c;
  Vec acc[kM][kN];
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) {
      if constexpr (kInit == Init::kZero) {
        acc[r][v] = Zero();
      } else {  // + 0 so that no -0 depends on how many additions of 0 follow
        acc[r][v] = MulAdd(Broadcast(product.alpha + r), Load(c + r * ldc + v * kLanes), Zero());
      }
    }
  }
  // One pointer for three rows: x86 addresses base + {0, 1, 2} * lda.
  const float* row[(kM + 2) / 3];
  ATTN_UNROLL
  for (int i = 0; i < (kM + 2) / 3; ++i) row[i] = product.a + 3 * i * lda;
  const float* b = product.b;
  const char* ahead = product.ahead;
  const int64_t ahead_step = product.ahead_step;
  ATTN_UNROLL_TWICE
  for (int64_t p = product.k; p > 0; --p) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += ahead_step;
    Vec bv[kN];
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) {
      bv[v] = Load(b + v * kLanes);
      Pin(bv[v]);
    }
    ATTN_UNROLL
    for (int r = 0; r < kM; ++r) {
      Vec x = Broadcast(row[r / 3] + (r % 3) * lda);
      Pin(x);
      ATTN_UNROLL
      for (int v = 0; v < kN; ++v) acc[r][v] = Dot::add(x, bv[v], acc[r][v]);
    }
    ATTN_UNROLL
    for (int i = 0; i < (kM + 2) / 3; ++i) ++row[i];
    b += ldb;
  }
  if (Dot::kScalesKeys && kInit == Init::kZero && product.column_scales) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) {
      const Vec scale = Load(product.column_scales + v * kLanes);
      ATTN_UNROLL
      for (int r = 0; r < kM; ++r) acc[r][v] = Mul(acc[r][v], scale);
    }
  }
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) Store(Dot::finish(acc[r][v]), c + r * ldc + v * kLanes);
  }
}

// The same for `rows` <= kM and `vecs` <= kN.
template <Init kInit>
void multiply(int rows, int vecs, const Product& product) {
  with_int<kRows>(rows, [&](auto m) {
    with_int<kVecs>(
        vecs, [&](auto n) { multiply<kInit, decltype(m)::value, decltype(n)::value>(product); });
  });
}

// O = alpha O + P V where V holds NaN or infinities: keys marked with P = -0 do not take part.
// The same operations in the same order as multiply(), one row and vector at a time.
template <Init kInit>
void multiply_marked(int rows, int vecs, const Product& product) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < vecs; ++i) {
      float* out = product.c + r * product.ldc + i * kLanes;
      Vec acc = Zero();
      if constexpr (kInit == Init::kRescale) {
        acc = MulAdd(Broadcast(product.alpha + r), Load(out), Zero());
      }
      for (int64_t item = 0; item < product.k; ++item) {
        acc = Dot::add_marked(product.a + r * product.lda + item,
                              Load(product.b + item * product.ldb + i * kLanes), acc);
      }
      Store(Dot::finish(acc), out);
    }
  }
}

#endif

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#ifdef ATTN_FLASH_AMX
#include "product_amx.h"
#endif

#endif  // ATTN_FLASH_PRODUCT_H_

// The products of product.h on AMX's tiles, of pairs of bf16. Included through kernel.h alone.
//
// A tile has 16 rows of 64 bytes: 16 items of A, 16 items of B side by side, or 16 sums. One
// instruction adds the products of 16 x 16 items of A with 16 x 16 of B to 16 x 16 sums; four tiles
// of sums, C [32, 32], need each tile of A and B twice. Rows of A and C past the last one exist up
// to a whole tile, and what they hold does not matter.
#ifndef ATTN_FLASH_PRODUCT_AMX_H_
#define ATTN_FLASH_PRODUCT_AMX_H_

namespace attn::ATTN_FLASH_ISA {
namespace {

constexpr int kTile = 16;

static_assert(kRows == 2 * kTile && kLanes == kTile && Dot::kItemBlock == kTile);

// The tile registers of the thread, as these products have them. No caller expects anything of
// them: they are not preserved across calls.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {  // Intel SDM volume 1, 18.2
      uint8_t palette = 1;
      uint8_t start_row = 0;
      uint8_t reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
    } config;
    asm volatile("" : : "r"(&config) : "memory");  // the intrinsics do not say what they read
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// C [kM tiles, kN tiles] = A B, or C + A B.
template <Init kInit, int kM, int kN>
[[gnu::noinline]] void add_tiles(const Product& product) {
  const float* a = product.a;
  const float* b = product.b;
  float* c = product.c;
  const int64_t lda = product.lda * int64_t{sizeof *a};
  const int64_t ldb = product.ldb * int64_t{sizeof *b};
  const int64_t ldc = product.ldc * int64_t{sizeof *c};
  float* c_below = c + kTile * product.ldc;
  asm volatile("" : : : "memory");  // as above
  if constexpr (kInit == Init::kZero) {
    _tile_zero(0);
    if constexpr (kN == 2) _tile_zero(1);
    if constexpr (kM == 2) _tile_zero(2);
    if constexpr (kM == 2 && kN == 2) _tile_zero(3);
  } else {
    _tile_loadd(0, c, ldc);
    if constexpr (kN == 2) _tile_loadd(1, c + kTile, ldc);
    if constexpr (kM == 2) _tile_loadd(2, c_below, ldc);
    if constexpr (kM == 2 && kN == 2) _tile_loadd(3, c_below + kTile, ldc);
  }
  const char* ahead = product.ahead;
  for (int64_t k = product.k; k > 0; k -= kTile, a += kTile, b += kTile * product.ldb) {
    for (const char* end = ahead + kTile * product.ahead_step; ahead < end; ahead += kLine) {
      __builtin_prefetch(ahead, 0, 2);
    }
    _tile_loadd(4, a, lda);
    _tile_loadd(6, b, ldb);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kN == 2) {
      _tile_loadd(7, b + kTile, ldb);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kM == 2) {
      _tile_loadd(5, a + kTile * product.lda, lda);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kN == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, ldc);
  if constexpr (kN == 2) _tile_stored(1, c + kTile, ldc);
  if constexpr (kM == 2) _tile_stored(2, c_below, ldc);
  if constexpr (kM == 2 && kN == 2) _tile_stored(3, c_below + kTile, ldc);
}

// fn(c) for each vector of C [rows, vecs].
template <class Fn>
[[gnu::always_inline]] inline void for_each_vector_of_c(int rows, int vecs, const Product& product,
                                                        const Fn& fn) {
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vecs; ++v) fn(r, v, product.c + r * product.ldc + v * kLanes);
  }
}

// For `rows` <= kRows and `vecs` <= kVecs; k is a multiple of kItemBlock.
template <Init kInit>
void multiply(int rows, int vecs, const Product& product) {
  if constexpr (kInit == Init::kRescale) {  // + 0 as in product.h
    for_each_vector_of_c(rows, vecs, product, [&](int r, int, float* c) {
      Store(MulAdd(Broadcast(product.alpha + r), Load(c), Zero()), c);
    });
  }
  Product part = product;
  for (int v = 0; v < vecs; v += 2, part.b += 2 * kTile, part.c += 2 * kTile) {
    with_int<2>(rows > kTile ? 2 : 1, [&](auto m) {
      with_int<2>(min(vecs - v, 2),
                  [&](auto n) { add_tiles<kInit, decltype(m)::value, decltype(n)::value>(part); });
    });
    part.ahead_step = 0;
  }
  if constexpr (kInit == Init::kZero) {
    if (!product.column_scales) return;
    for_each_vector_of_c(rows, vecs, product, [&](int, int v, float* c) {
      Store(Mul(Load(c), Load(product.column_scales + v * kLanes)), c);
    });
  }
}

// O = alpha O + P V where V holds NaN or infinities: keys marked with P = -0 do not take part.
// The same operations in the same order as multiply(), one row and vector at a time.
template <Init kInit>
void multiply_marked(int rows, int vecs, const Product& product) {
  alignas(64) float a[kTile * kTile] = {};
  alignas(64) float b[kTile * kTile];
  alignas(64) float c[kTile * kTile] = {};
  Product part{};
  part.a = a;
  part.b = b;
  part.c = c;
  part.lda = part.ldb = part.ldc = part.k = kTile;
  for_each_vector_of_c(rows, vecs, product, [&](int r, int v, float* out) {
    Vec sum = Zero();
    if constexpr (kInit == Init::kRescale) {
      sum = MulAdd(Broadcast(product.alpha + r), Load(out), Zero());
    }
    Store(sum, c);
    for (int64_t item = 0; item < product.k; item += kTile) {
      const float* from = product.a + r * product.lda + item;
      Store(LoadU(from), a);
      for (int i = 0; i < kTile; ++i) {
        const Vec items = Load(product.b + (item + i) * product.ldb + v * kLanes);
        Store(AndBits(items, Dot::unmarked(from + i)), b + i * kTile);
      }
      add_tiles<Init::kRescale, 1, 1>(part);
    }
    Store(Load(c), out);
  });
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_PRODUCT_AMX_H_

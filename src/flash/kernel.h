// Flash attention on vectors, once for all instruction sets.
//
// A kernel_<isa>.cpp includes its src/simd/vec_<isa>.h, defines ATTN_FLASH_ISA (that header's
// namespace), ATTN_FLASH_ROWS x ATTN_FLASH_VECS (its register tile) and includes this file. No
// standard C++ header, nothing with external linkage: see vec_scalar.h.
//
//   for each block of tile_k keys (counted from key 0: the bits must not depend on anything else)
//     for each group of kRows query rows
//       S = Q K^T                         [kRows, tile_k]   register tiles [kRows, kPanel]
//       S = -inf where masked
//       m' = max(m, rowmax S),  alpha = 2^(m - m')
//       P = 2^(S - m'),  l = alpha l + rowsum P
//       O = alpha O + P V                 [kRows, head_dim_v]
//   O = O / l,  LSE = ln 2 (m + log2 l)
//
// Q carries scale * log2(e), so that S is in units of log2. What a row gets is a fixed sequence of
// operations on its own data; the grouping of rows and the trimming of keys only leave out
// additions of 0 and maxima with -inf.
#include "kernel_args.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::AttendArgs;
using flash::PackArgs;
using flash::TileShape;

constexpr int kRows = ATTN_FLASH_ROWS;  // of the register tile
constexpr int kVecs = ATTN_FLASH_VECS;  // of the register tile
constexpr int kPanel = kVecs * kLanes;  // columns of the register tile
constexpr int kPaddedRows = (kRows + kLanes - 1) / kLanes * kLanes;
constexpr float kInfinity = __builtin_inff();
constexpr float kMinusZero = -0.0f;

static_assert(64 % kPanel == 0);

[[gnu::always_inline]] inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
[[gnu::always_inline]] inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t round_down(int64_t n, int64_t multiple) { return n / multiple * multiple; }

// ---- reading rows

struct RowsF32 {
  const float* data;
  int64_t row_stride;
  int64_t dim_stride;

  explicit RowsF32(const flash::Rows& rows)
      : data(static_cast<const float*>(rows.data)),
        row_stride(rows.row_stride),
        dim_stride(rows.dim_stride) {}

  // Elements [dim, dim + n) of a row, at most kLanes of them; the other lanes are 0.
  Vec load(int64_t row, int64_t dim, int64_t n) const {
    const float* p = data + row * row_stride + dim * dim_stride;
    if (dim_stride == 1) return n >= kLanes ? LoadU(p) : LoadN(p, n);
    alignas(64) float lanes[kLanes] = {};
    for (int64_t i = 0; i < min(n, kLanes); ++i) lanes[i] = p[i * dim_stride];
    return Load(lanes);
  }
};

// ---- packing

// K [key_begin .. key_end, dim] to panels [key panel][dim][kPanel], by kLanes x kLanes blocks.
template <class Reader>
void pack_k(const PackArgs* args) {
  const Reader rows(args->rows);
  for (int64_t key = args->key_begin; key < args->key_end; key += kLanes) {
    float* packed = args->packed + round_down(key, kPanel) * args->dim + key % kPanel;
    const int64_t keys = min(kLanes, args->key_end - key);
    for (int64_t dim = 0; dim < args->dim; dim += kLanes) {
      const int64_t dims = min(kLanes, args->dim - dim);
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < keys ? rows.load(key + i, dim, dims) : Zero();
      }
      Transpose(block);
      for (int i = 0; i < kLanes; ++i) {
        if (i < dims) Store(block[i], packed + (dim + i) * kPanel);
      }
    }
  }
}

// V [key_begin .. key_end, dim] to [key block][dv panel][key][width].
template <class Reader>
void pack_v(const PackArgs* args) {
  const Reader rows(args->rows);
  const int64_t padded_dim = round_up(args->dim, kLanes);
  for (int64_t begin = args->key_begin; begin < args->key_end; begin += args->tile_k) {
    const int64_t end = min(begin + args->tile_k, args->key_end);
    float* packed = args->packed + begin * padded_dim;
    Vec poison = Zero();  // 0 * v is NaN if v is not finite, and NaN stays
    for (int64_t panel = 0; panel < padded_dim; panel += kPanel) {
      const int64_t width = min(kPanel, padded_dim - panel);
      for (int64_t key = begin; key < end; ++key) {
        for (int64_t i = 0; i < width; i += kLanes) {
          const Vec v = rows.load(key, panel + i, args->dim - panel - i);
          poison = MulAdd(v, Zero(), poison);
          Store(v, packed + i);
        }
        packed += width;
      }
    }
    args->nonfinite[begin / args->tile_k] = !AllFinite(poison);
  }
}

// ---- the register tile

// Unrolls early enough for an array of vectors to become registers.
#ifdef __clang__
#define ATTN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ATTN_UNROLL _Pragma("GCC unroll 32")
#endif

enum class Init { kZero, kRescale };

// C = A B, or C = diag(alpha) C + A B:  A [kM, k] row-major, B [k, kN * kLanes] with row stride
// ldb, C [kM, kN * kLanes]. B and C are aligned to vectors.
template <Init kInit, int kM, int kN>
[[gnu::noinline]] void multiply(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k,
                                const float* alpha, float* c, int64_t ldc) {
  Vec acc[kM][kN];
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) {
      if constexpr (kInit == Init::kZero) {
        acc[r][v] = Zero();
      } else {  // + 0 so that no -0 depends on how many additions of 0 follow
        acc[r][v] = MulAdd(Broadcast(alpha + r), Load(c + r * ldc + v * kLanes), Zero());
      }
    }
  }
  // One pointer for three rows: x86 addresses base + {0, 1, 2} * lda.
  const float* row[(kM + 2) / 3];
  ATTN_UNROLL
  for (int i = 0; i < (kM + 2) / 3; ++i) row[i] = a + 3 * i * lda;
#pragma GCC unroll 4
  for (int64_t p = 0; p < k; ++p) {
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
      for (int v = 0; v < kN; ++v) acc[r][v] = MulAdd(x, bv[v], acc[r][v]);
    }
    ATTN_UNROLL
    for (int i = 0; i < (kM + 2) / 3; ++i) ++row[i];
    b += ldb;
  }
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) Store(acc[r][v], c + r * ldc + v * kLanes);
  }
}

// The same for `rows` <= kM and `vecs` <= kN.
template <Init kInit, int kM = kRows, int kN = kVecs>
void multiply(int rows, int vecs, const float* a, int64_t lda, const float* b, int64_t ldb,
              int64_t k, const float* alpha, float* c, int64_t ldc) {
  if constexpr (kM > 1) {
    if (rows < kM) {
      return multiply<kInit, kM - 1, kN>(rows, vecs, a, lda, b, ldb, k, alpha, c, ldc);
    }
  }
  if constexpr (kN > 1) {
    if (vecs < kN) {
      return multiply<kInit, kM, kN - 1>(rows, vecs, a, lda, b, ldb, k, alpha, c, ldc);
    }
  }
  multiply<kInit, kM, kN>(a, lda, b, ldb, k, alpha, c, ldc);
}

// ---- a query tile

struct Scratch {
  float* q;     // [tile_q, ldq] scale * log2(e) * Q
  float* o;     // [tile_q, ldo]
  float* s;     // [kRows, lds] S, then P
  float* l;     // [tile_q, kLanes] the row sums, by lanes
  float* m;     // [tile_q + kLanes]
  int64_t ldq;  // row strides: a line more than the row, so that rows lie in different cache sets
  int64_t ldo;
  int64_t lds;
  size_t size;

  Scratch(const TileShape& shape, void* memory) {
    ldq = round_up(shape.head_dim, 16) + 16;
    ldo = round_up(shape.head_dim_v, 16) + 16;
    lds = shape.tile_k + 16;
    size = 0;
    q = take(memory, shape.tile_q * ldq);
    o = take(memory, shape.tile_q * ldo);
    s = take(memory, kRows * lds);
    l = take(memory, shape.tile_q * kLanes);
    m = take(memory, shape.tile_q + kLanes);
  }

 private:
  float* take(void* memory, int64_t floats) {
    float* p = reinterpret_cast<float*>(static_cast<char*>(memory) + size);
    size += static_cast<size_t>(round_up(floats, 16)) * sizeof(float);
    return p;
  }
};

size_t scratch_size(const TileShape* shape) {
  alignas(64) char base[1];
  return Scratch(*shape, base).size;
}

// kRows query rows (or fewer) and the columns of S that one key block needs for them.
struct Group {
  int64_t row;    // the first one, in the tile
  int rows;       // 1 .. kRows
  int64_t key;    // of column 0
  int64_t begin;  // columns [begin, end) are attended by some row; begin is a multiple of kPanel
  int64_t end;
  float* s;
  int64_t lds;
};

// Masks each row's keys outside of its interval.
struct IntervalMask {
  static void apply(const AttendArgs& args, const Group& group) {
    const int64_t last = group.row + group.rows - 1;
    if (last + args.key_lo <= group.key + group.begin &&
        min(group.row + args.key_hi, args.seqlen_k) >= group.key + group.end) {
      return;
    }
    for (int r = 0; r < group.rows; ++r) {
      float* s = group.s + r * group.lds;
      const int64_t row = group.row + r;
      const int64_t lo = row + args.key_lo - group.key;
      const int64_t hi = min(row + args.key_hi, args.seqlen_k) - group.key;
      const auto mask = [&](int64_t column) {
        const Mask attended = AndNot(FirstN(lo - column), FirstN(hi - column));
        Store(IfThenElse(attended, Load(s + column), Set(-kInfinity)), s + column);
      };
      int64_t column = group.begin;
      for (; column < group.end && column < lo; column += kLanes) mask(column);
      column = max(column, round_down(max(hi, 0), kLanes));
      for (; column < group.end; column += kLanes) mask(column);
    }
  }
};

// S -> P with the running maximum m and sum l; alpha[row] is what O is to be scaled by. With
// kMarkMasked a masked key's P is -0 instead of 0.
template <bool kMarkMasked>
void softmax(const Group& group, float* m, float* l, float* alpha) {
  alignas(64) float row_max[kPaddedRows] = {};
  alignas(64) float shift[kPaddedRows];
  for (int r = 0; r < group.rows; ++r) {
    const float* s = group.s + r * group.lds;
    Vec best[kVecs];
    ATTN_UNROLL
    for (int v = 0; v < kVecs; ++v) best[v] = Set(-kInfinity);
    int64_t column = group.begin;
    for (; column + kPanel <= group.end; column += kPanel) {
      ATTN_UNROLL
      for (int v = 0; v < kVecs; ++v) best[v] = Max(Load(s + column + v * kLanes), best[v]);
    }
    for (; column < group.end; column += kLanes) best[0] = Max(Load(s + column), best[0]);
    ATTN_UNROLL
    for (int v = 1; v < kVecs; ++v) best[0] = Max(best[0], best[v]);
    row_max[r] = ReduceMax(best[0]);
  }
  for (int r = 0; r < group.rows; r += kLanes) {
    const Vec m_old = LoadU(m + r);
    const Vec m_new = Max(Load(row_max + r), m_old);
    // A row without a key so far: -inf - -inf would be NaN.
    const Vec finite = IfThenElse(Eq(m_new, Set(-kInfinity)), Zero(), m_new);
    StoreN(m_new, m + r, group.rows - r);
    Store(finite, shift + r);
    Store(Exp2(Sub(m_old, finite)), alpha + r);
  }
  for (int r = 0; r < group.rows; ++r) {
    float* s = group.s + r * group.lds;
    const Vec subtract = Broadcast(shift + r);
    const auto exponentiate = [&](float* p) {
      const Vec score = Load(p);
      Vec weight = Exp2(Sub(score, subtract));
      if constexpr (kMarkMasked) {
        weight = IfThenElse(Eq(score, Set(-kInfinity)), Set(kMinusZero), weight);
      }
      Store(weight, p);
      return weight;
    };
    Vec sum[kVecs];
    ATTN_UNROLL for (int v = 0; v < kVecs; ++v) sum[v] = Zero();
    int64_t column = group.begin;
    for (; column + kPanel <= group.end; column += kPanel) {
      ATTN_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[v] = Add(sum[v], exponentiate(s + column + v * kLanes));
    }
    ATTN_UNROLL
    for (int v = 0; v < kVecs; ++v, column += kLanes) {
      if (column < group.end) sum[v] = Add(sum[v], exponentiate(s + column));
    }
    ATTN_UNROLL
    for (int v = 1; v < kVecs; ++v) sum[0] = Add(sum[0], sum[v]);
    Store(MulAdd(Load(l + r * kLanes), Broadcast(alpha + r), sum[0]), l + r * kLanes);
  }
}

// O = alpha O + P V where V holds NaN or infinities: keys marked with P = -0 do not take part.
// The same operations in the same order as multiply(), one row and vector at a time.
void multiply_marked(int rows, int vecs, const float* p, int64_t ldp, const float* v, int64_t ldv,
                     int64_t keys, const float* alpha, float* o, int64_t ldo) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < vecs; ++i) {
      float* out = o + r * ldo + i * kLanes;
      Vec acc = MulAdd(Broadcast(alpha + r), Load(out), Zero());
      for (int64_t key = 0; key < keys; ++key) {
        const float weight = p[r * ldp + key];
        if (weight == 0.0f && __builtin_signbit(weight)) continue;
        acc = MulAdd(Set(weight), Load(v + key * ldv + i * kLanes), acc);
      }
      Store(acc, out);
    }
  }
}

// One group of rows against one key block. Mask is the stage between S = Q K^T and the softmax.
template <class Mask>
void attend_group(const AttendArgs& args, const Scratch& scratch, Group group) {
  const int64_t tile_k = args.shape.tile_k;
  const int64_t head_dim = args.shape.head_dim;
  const float* q = scratch.q + group.row * scratch.ldq;
  for (int64_t column = group.begin; column < group.end; column += kPanel) {
    const int vecs = static_cast<int>(min(kVecs, (group.end - column + kLanes - 1) / kLanes));
    multiply<Init::kZero>(group.rows, vecs, q, scratch.ldq,
                          args.packed_k + (group.key + column) * head_dim, kPanel, head_dim,
                          nullptr, group.s + column, group.lds);
  }

  Mask::apply(args, group);

  alignas(64) float alpha[kPaddedRows];
  float* m = scratch.m + group.row;
  float* l = scratch.l + group.row * kLanes;
  const bool nonfinite = args.nonfinite[group.key / tile_k] != 0;
  if (nonfinite) {
    softmax<true>(group, m, l, alpha);
  } else {
    softmax<false>(group, m, l, alpha);
  }

  const int64_t padded_dim = round_up(args.shape.head_dim_v, kLanes);
  const int64_t block_keys = min(tile_k, args.seqlen_k - group.key);
  const float* v = args.packed_v + group.key * padded_dim;
  for (int64_t dim = 0; dim < padded_dim; dim += kPanel) {
    const int64_t width = min(kPanel, padded_dim - dim);
    const auto product = nonfinite ? multiply_marked : multiply<Init::kRescale>;
    product(group.rows, static_cast<int>(width / kLanes), group.s + group.begin, group.lds,
            v + group.begin * width, width, group.end - group.begin, alpha,
            scratch.o + group.row * scratch.ldo + dim, scratch.ldo);
    v += block_keys * width;
  }
}

// Q times scale * log2(e); m = -inf, l = 0, O = 0.
template <class Reader>
void begin_tile(const AttendArgs& args, const Scratch& scratch) {
  const Reader rows(args.q);
  const Vec scale = Set(args.scale * 1.44269504088896341f);
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t dim = 0; dim < args.shape.head_dim; dim += kLanes) {
      Store(Mul(rows.load(r, dim, args.shape.head_dim - dim), scale),
            scratch.q + r * scratch.ldq + dim);
    }
    for (int64_t dim = 0; dim < args.shape.head_dim_v; dim += kLanes) {
      Store(Zero(), scratch.o + r * scratch.ldo + dim);
    }
    Store(Zero(), scratch.l + r * kLanes);
  }
  for (int64_t r = 0; r < args.rows + kLanes; ++r) scratch.m[r] = -kInfinity;
}

// O / l and LSE to the caller's memory. A row without a key has l = 0 and O = 0.
void end_tile(const AttendArgs& args, const Scratch& scratch) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float l = ReduceSum(Load(scratch.l + r * kLanes));
    const Vec inverse = Set(l == 0.0f ? 0.0f : 1.0f / l);
    float* o = args.o + r * args.o_row_stride;
    for (int64_t dim = 0; dim < args.shape.head_dim_v; dim += kLanes) {
      const int64_t dims = min(kLanes, args.shape.head_dim_v - dim);
      const Vec out = Mul(Load(scratch.o + r * scratch.ldo + dim), inverse);
      if (args.o_dim_stride == 1) {
        StoreN(out, o + dim, dims);
      } else {
        alignas(64) float lanes[kLanes];
        Store(out, lanes);
        for (int64_t i = 0; i < dims; ++i) o[(dim + i) * args.o_dim_stride] = lanes[i];
      }
    }
    if (args.lse) {
      constexpr float kLn2 = 0.693147180559945309f;
      args.lse[r * args.lse_stride] =
          l == 0.0f ? -kInfinity : scratch.m[r] * kLn2 + __builtin_logf(l);
    }
  }
}

template <class Reader, class Mask>
void attend(const AttendArgs* args) {
  const Scratch scratch(args->shape, args->scratch);
  begin_tile<Reader>(*args, scratch);
  const int64_t tile_k = args->shape.tile_k;
  const int64_t last_row = args->rows - 1;
  const int64_t tile_begin = max(args->key_lo, 0);
  const int64_t tile_end = min(last_row + args->key_hi, args->seqlen_k);
  for (int64_t key = round_down(tile_begin, tile_k); key < tile_end; key += tile_k) {
    for (int64_t row = 0; row < args->rows; row += kRows) {
      const int64_t rows = min(kRows, args->rows - row);
      const int64_t begin = max(row + args->key_lo - key, 0);
      const int64_t end = min(min(row + rows - 1 + args->key_hi, args->seqlen_k) - key, tile_k);
      if (begin >= end) continue;
      attend_group<Mask>(*args, scratch,
                         {row, static_cast<int>(rows), key, round_down(begin, kPanel), end,
                          scratch.s, scratch.lds});
    }
  }
  end_tile(*args, scratch);
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

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

// Columns of a V panel: 5 vectors, say, become 3 + 2 rather than 4 + 1, since a register tile one
// vector wide has too few accumulators to hide the latency of its additions.
constexpr int64_t v_panel(int64_t padded_dim) {
  const int64_t panels = (padded_dim + kPanel - 1) / kPanel;
  return round_up((padded_dim + panels - 1) / panels, kLanes);
}

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
    if (dim_stride != 1) return gather(p, dim_stride, n);
    return n >= kLanes ? LoadU(p) : LoadN(p, n);
  }

  // Out of line, to keep the loops around load() short.
  [[gnu::noinline]] static Vec gather(const float* p, int64_t stride, int64_t n) {
    alignas(64) float lanes[kLanes] = {};
    for (int64_t i = 0; i < min(n, kLanes); ++i) lanes[i] = p[i * stride];
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
    for (int64_t panel = 0; panel < padded_dim; panel += v_panel(padded_dim)) {
      const int64_t width = min(v_panel(padded_dim), padded_dim - panel);
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
#define ATTN_UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#else
#define ATTN_UNROLL _Pragma("GCC unroll 32")
#define ATTN_UNROLL_TWICE _Pragma("GCC unroll 2")
#endif

enum class Init { kZero, kRescale };

// C = A B, or C = diag(alpha) C + A B:  A [m, k] row-major, B [k, n] with row stride ldb, C [m, n].
// B and C are aligned to vectors.
struct Product {
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  int64_t k;
  const float* alpha;
  float* c;
  int64_t ldc;
  const char* ahead;  // k / kStepsPerLine cache lines from here on are fetched into L2
};

constexpr int kLine = 64;  // bytes
constexpr int kStepsPerLine = 4;

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
  ATTN_UNROLL_TWICE
  for (int64_t p = product.k; p > 0; --p) {
    __builtin_prefetch(ahead, 0, 2);
    ahead += kLine / kStepsPerLine;
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
void multiply(int rows, int vecs, const Product& product) {
  if constexpr (kM > 1) {
    if (rows < kM) return multiply<kInit, kM - 1, kN>(rows, vecs, product);
  }
  if constexpr (kN > 1) {
    if (vecs < kN) return multiply<kInit, kM, kN - 1>(rows, vecs, product);
  }
  multiply<kInit, kM, kN>(product);
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
    float* p = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(memory) + size);
    size += static_cast<size_t>(round_up(floats, 16)) * sizeof(float);
    return p;
  }
};

size_t scratch_size(const TileShape* shape) { return Scratch(*shape, nullptr).size; }

// kRows query rows (or fewer) and the columns of S that one key block needs for them.
struct Group {
  int64_t row;    // the first one, in the tile
  int rows;       // 1 .. kRows
  int64_t key;    // of column 0
  int64_t begin;  // columns [begin, end) are attended by some row; begin is a multiple of kPanel
  int64_t end;
  bool first;  // no key block before this one: O holds nothing yet
  float* s;
  int64_t lds;
};

// Masks each row's keys outside of its interval.
struct IntervalMask {
  static void apply(const AttendArgs& args, const Group& group) {
    // Nothing to do where all rows attend to all columns, whole vectors of them.
    const int64_t last_row = group.row + group.rows - 1;
    const int64_t end = round_up(group.end, kLanes);
    if (last_row + args.key_lo <= group.key + group.begin &&
        min(group.row + args.key_hi, args.seqlen_k) >= group.key + end) {
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
template <Init kInit>
void multiply_marked(int rows, int vecs, const Product& product) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < vecs; ++i) {
      float* out = product.c + r * product.ldc + i * kLanes;
      Vec acc = Zero();
      if constexpr (kInit == Init::kRescale) {
        acc = MulAdd(Broadcast(product.alpha + r), Load(out), Zero());
      }
      for (int64_t key = 0; key < product.k; ++key) {
        const float weight = product.a[r * product.lda + key];
        if (weight == 0.0f && __builtin_signbit(weight)) continue;
        acc = MulAdd(Set(weight), Load(product.b + key * product.ldb + i * kLanes), acc);
      }
      Store(acc, out);
    }
  }
}

// Memory that is wanted soon: the products fetch it into L2, a line every few steps, so that it
// arrives while they compute.
class Ahead {
 public:
  explicit Ahead(const flash::Span* spans, int count) : span_(spans), end_(spans + count) {}

  // The part for a product of k steps, or `cached`, which costs nothing to fetch, if all is done.
  const char* take(int64_t k, const void* cached) {
    while (span_ != end_ && offset_ >= span_->size) {
      ++span_;
      offset_ = 0;
    }
    if (span_ == end_) return static_cast<const char*>(cached);
    const char* part = static_cast<const char*>(span_->data) + offset_;
    offset_ += k / kStepsPerLine * kLine;
    return part;
  }

 private:
  const flash::Span* span_;
  const flash::Span* end_;
  int64_t offset_ = 0;
};

// One group of rows against one key block. Stage is what happens to S between Q K^T and the
// softmax: masks now; softcap, ALiBi and bias would come here.
template <class Stage>
void attend_group(const AttendArgs& args, const Scratch& scratch, const Group& group,
                  Ahead* ahead) {
  const int64_t tile_k = args.shape.tile_k;
  const int64_t head_dim = args.shape.head_dim;
  Product qk{};
  qk.a = scratch.q + group.row * scratch.ldq;
  qk.lda = scratch.ldq;
  qk.ldb = kPanel;
  qk.k = head_dim;
  qk.ldc = group.lds;
  for (int64_t column = group.begin; column < group.end; column += kPanel) {
    const int vecs = static_cast<int>(min(kVecs, (group.end - column + kLanes - 1) / kLanes));
    qk.b = args.packed_k + (group.key + column) * head_dim;
    qk.c = group.s + column;
    qk.ahead = ahead->take(qk.k, qk.b);
    multiply<Init::kZero>(group.rows, vecs, qk);
  }

  Stage::apply(args, group);

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
  Product pv{};
  pv.a = group.s + group.begin;
  pv.lda = group.lds;
  pv.k = group.end - group.begin;
  pv.alpha = alpha;
  pv.ldc = scratch.ldo;
  const int64_t panel = v_panel(padded_dim);
  for (int64_t dim = 0; dim < padded_dim; dim += panel) {
    pv.ldb = min(panel, padded_dim - dim);
    pv.b = args.packed_v + group.key * padded_dim + block_keys * dim + group.begin * pv.ldb;
    pv.c = scratch.o + group.row * scratch.ldo + dim;
    pv.ahead = ahead->take(pv.k, pv.b);
    const int vecs = static_cast<int>(pv.ldb / kLanes);
    if (nonfinite) {
      group.first ? multiply_marked<Init::kZero>(group.rows, vecs, pv)
                  : multiply_marked<Init::kRescale>(group.rows, vecs, pv);
    } else {
      group.first ? multiply<Init::kZero>(group.rows, vecs, pv)
                  : multiply<Init::kRescale>(group.rows, vecs, pv);
    }
  }
}

// Q times scale * log2(e); m = -inf, l = 0.
template <class Reader>
void begin_tile(const AttendArgs& args, const Scratch& scratch) {
  const Reader reader(args.q);
  const Vec scale = Set(args.scale * 1.44269504088896341f);
  const int64_t rows = args.rows;
  const int64_t head_dim = args.shape.head_dim;
  for (int64_t r = 0; r < rows; ++r) {
    float* q = scratch.q + r * scratch.ldq;
    for (int64_t dim = 0; dim < head_dim; dim += kLanes) {
      Store(Mul(reader.load(r, dim, head_dim - dim), scale), q + dim);
    }
    Store(Zero(), scratch.l + r * kLanes);
  }
  for (int64_t r = 0; r < rows + kLanes; ++r) scratch.m[r] = -kInfinity;
}

[[gnu::noinline]] void scatter(Vec v, float* p, int64_t stride, int64_t n) {
  alignas(64) float lanes[kLanes];
  Store(v, lanes);
  for (int64_t i = 0; i < min(n, kLanes); ++i) p[i * stride] = lanes[i];
}

// O / l and LSE to the caller's memory. A row without a key has l = 0, and O may hold nothing.
void end_tile(const AttendArgs& args, const Scratch& scratch) {
  const int64_t rows = args.rows;
  const int64_t head_dim_v = args.shape.head_dim_v;
  const int64_t dim_stride = args.o_dim_stride;
  for (int64_t r = 0; r < rows; ++r) {
    const float l = ReduceSum(Load(scratch.l + r * kLanes));
    const Vec inverse = Set(1.0f / l);
    const Mask empty = Eq(Set(l), Zero());
    const float* from = scratch.o + r * scratch.ldo;
    float* to = args.o + r * args.o_row_stride;
    for (int64_t dim = 0; dim < head_dim_v; dim += kLanes) {
      const Vec out = IfThenElse(empty, Zero(), Mul(Load(from + dim), inverse));
      if (dim_stride != 1) {
        scatter(out, to + dim * dim_stride, dim_stride, head_dim_v - dim);
      } else if (dim + kLanes <= head_dim_v) {
        StoreU(out, to + dim);
      } else {
        StoreN(out, to + dim, head_dim_v - dim);
      }
    }
    if (args.lse) {
      constexpr float kLn2 = 0.693147180559945309f;
      args.lse[r * args.lse_stride] =
          l == 0.0f ? -kInfinity : scratch.m[r] * kLn2 + __builtin_logf(l);
    }
  }
}

template <class Reader, class Stage>
void attend(const AttendArgs* args) {
  const Scratch scratch(args->shape, args->scratch);
  begin_tile<Reader>(*args, scratch);
  const int64_t tile_k = args->shape.tile_k;
  const int64_t seqlen_k = args->seqlen_k;
  const int64_t head_dim = args->shape.head_dim;
  const int64_t padded_dim_v = round_up(args->shape.head_dim_v, kLanes);
  const int64_t tile_begin = round_down(max(args->key_lo, 0), tile_k);
  const int64_t tile_end = min(args->rows - 1 + args->key_hi, seqlen_k);
  for (int64_t key = tile_begin; key < tile_end; key += tile_k) {
    const int64_t next_key = key + tile_k;
    const int64_t next_size =
        (min(next_key + tile_k, seqlen_k) - next_key) * int64_t{sizeof(float)};
    const flash::Span next_block[] = {
        {args->packed_k + next_key * head_dim, next_size * head_dim},
        {args->packed_v + next_key * padded_dim_v, next_size * padded_dim_v}};
    Ahead ahead = next_key < tile_end ? Ahead(next_block, 2) : Ahead(args->next, 3);
    for (int64_t row = 0; row < args->rows; row += kRows) {
      const int64_t rows = min(kRows, args->rows - row);
      const int64_t lo = max(row + args->key_lo, 0);
      const int64_t hi = min(row + rows - 1 + args->key_hi, seqlen_k);
      const int64_t begin = max(lo - key, 0);
      const int64_t end = min(hi - key, tile_k);
      if (begin >= end) continue;
      Group group;
      group.row = row;
      group.rows = static_cast<int>(rows);
      group.key = key;
      group.begin = round_down(begin, kPanel);
      group.end = end;
      group.first = key == round_down(lo, tile_k);
      group.s = scratch.s;
      group.lds = scratch.lds;
      attend_group<Stage>(*args, scratch, group, &ahead);
    }
  }
  end_tile(*args, scratch);
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

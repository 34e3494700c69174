// Flash attention on vectors, once for all instruction sets.
//
// A kernel_<isa>.cpp includes its src/simd/vec_<isa>.h, defines ATTN_FLASH_ISA (that header's
// namespace), ATTN_FLASH_ROWS x ATTN_FLASH_VECS (its register tile) and includes this file. No
// standard C++ header, nothing with external linkage: see vec_scalar.h.
//
//   for each block of tile_k keys (counted from key 0: the bits must not depend on anything else)
//     for each group of kRows query rows
//       S = Q K^T                         [kRows, tile_k]   register tiles [kRows, kPanel]
//       S = what the stage makes of S: softcap, ALiBi, bias, masks (-inf)
//       m' = max(m, rowmax S),  alpha = 2^(m - m')
//       P = 2^(S - m'),  l = alpha l + rowsum P
//       O = alpha O + P V                 [kRows, head_dim_v]
//   O = O / l,  LSE = ln 2 (m + log2 l)
//
// Q carries scale * log2(e), so that S is in units of log2. What a row gets is a fixed sequence of
// operations on its own data; the grouping of rows and the trimming of keys only leave out
// additions of 0 and maxima with -inf. A sink is where a row's m and l begin.
//
// Storage types are seen by packing (pack.h), begin_tile and end_tile alone; the loop in between
// knows f32 only.
#include "base.h"
#include "pack.h"
#include "stage.h"
#include "storage.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::AttendArgs;
using flash::TileShape;

constexpr float kMinusZero = -0.0f;
constexpr float kOnes[] = {1, 1, 1, 1, 1, 1, 1, 1};
static_assert(kRows <= 8);

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
  const char* ahead;   // each of the k steps fetches a cache line into L2: this one,
  int64_t ahead_step;  // and so many bytes further in the next step
};

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
  float* q;          // [tile_q, ldq] scale * log2(e) * Q
  float* o;          // [tile_q, ldo]
  float* s;          // [kRows, lds] S, then P
  float* l;          // [tile_q, kLanes] the row sums, by lanes
  float* m;          // [tile_q + kLanes]
  uint8_t* started;  // [tile_q / kRows] whether O holds anything
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
    started = reinterpret_cast<uint8_t*>(take(memory, shape.tile_q / kRows));
  }

 private:
  float* take(void* memory, int64_t floats) {
    float* p = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(memory) + size);
    size += static_cast<size_t>(round_up(floats, 16)) * sizeof(float);
    return p;
  }
};

size_t scratch_size(const TileShape* shape) { return Scratch(*shape, nullptr).size; }

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

  // Gives the product its part, or what it reads anyway if all is done.
  void give(Product* product) {
    while (span_ != end_ && offset_ >= span_->size) {
      ++span_;
      offset_ = 0;
    }
    if (span_ == end_) {
      product->ahead = reinterpret_cast<const char*>(product->b);
      product->ahead_step = 0;
      return;
    }
    product->ahead = static_cast<const char*>(span_->data) + offset_;
    product->ahead_step = kStep;
    offset_ += product->k * kStep;
  }

 private:
  static constexpr int64_t kStep = 16;  // bytes: a line every fourth step

  const flash::Span* span_;
  const flash::Span* end_;
  int64_t offset_ = 0;
};

// A panel of S that is not worth computing.
void mask_panel(const Group& group, int64_t column) {
  for (int r = 0; r < group.rows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      Store(Set(-kInfinity), group.s + r * group.lds + column + v * kLanes);
    }
  }
}

// One group of rows against one key block. For Stage see stage.h.
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
  typename Stage::Fetch fetch(args, group);
  for (int64_t column = group.begin; column < group.end;) {
    const int64_t attended = Stage::skip(args, group, column);
    for (; column < attended; column += kPanel) mask_panel(group, column);
    const int64_t run_end = Stage::run_end(args, group, column);
    for (; column < run_end; column += kPanel) {
      const int vecs = static_cast<int>(min(kVecs, (group.end - column + kLanes - 1) / kLanes));
      qk.b = args.packed_k + (group.key + column) * head_dim;
      qk.c = group.s + column;
      if (!fetch.next(qk.k, &qk.ahead, &qk.ahead_step)) {
        ahead->give(&qk);
      }
      multiply<Init::kZero>(group.rows, vecs, qk);
    }
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
  pv.lda = group.lds;
  pv.ldc = scratch.ldo;
  const int64_t panel = v_panel(padded_dim);
  for (int64_t dim = 0; dim < padded_dim; dim += panel) {
    const int64_t width = min(panel, padded_dim - dim);
    const int vecs = static_cast<int>(width / kLanes);
    const float* v = args.packed_v + group.key * padded_dim + block_keys * dim;
    pv.ldb = width;
    pv.c = scratch.o + group.row * scratch.ldo + dim;
    pv.alpha = alpha;
    bool first = group.first;
    for (int64_t column = Stage::skip(args, group, group.begin); column < group.end;) {
      const int64_t run_end = Stage::run_end(args, group, column);
      pv.a = group.s + column;
      pv.b = v + column * width;
      pv.k = run_end - column;
      if (!fetch.next(pv.k, &pv.ahead, &pv.ahead_step)) {
        ahead->give(&pv);
      }
      if (nonfinite) {
        first ? multiply_marked<Init::kZero>(group.rows, vecs, pv)
              : multiply_marked<Init::kRescale>(group.rows, vecs, pv);
      } else {
        first ? multiply<Init::kZero>(group.rows, vecs, pv)
              : multiply<Init::kRescale>(group.rows, vecs, pv);
      }
      first = false;
      pv.alpha = kOnes;  // O is rescaled once
      column = Stage::skip(args, group, run_end);
    }
  }
}

// Q times scale * log2(e). m and l are those of the sink: -inf and 0 if there is none.
template <class Type>
void begin_tile(const AttendArgs& args, const Scratch& scratch) {
  const auto* q = static_cast<const typename Type::Element*>(args.q.data);
  const Vec scale = Set(args.scale * static_cast<float>(kLog2E));
  const int64_t rows = args.rows;
  const int64_t head_dim = args.shape.head_dim;
  const int64_t stride = args.q.dim_stride;
  for (int64_t r = 0; r < rows; ++r) {
    const auto* from = q + r * args.q.row_stride;
    float* to = scratch.q + r * scratch.ldq;
    for (int64_t dim = 0; dim < head_dim; dim += kLanes) {
      Store(Mul(load<Type>(from + dim * stride, stride, head_dim - dim), scale), to + dim);
    }
    Store(Zero(), scratch.l + r * kLanes);
  }
  for (int64_t r = 0; r < rows + kLanes; ++r) scratch.m[r] = -kInfinity;
  for (int64_t group = 0; group * kRows < rows; ++group) scratch.started[group] = 0;
  if (args.sink == -kInfinity) return;
  for (int64_t r = 0; r < rows; ++r) {  // what m loses in f32, l has
    const double logit = (args.sink - left_out(args, r)) * kLog2E;
    scratch.m[r] = static_cast<float>(logit);
    const double rest = logit - static_cast<double>(scratch.m[r]);
    scratch.l[r * kLanes] = __builtin_exp2f(static_cast<float>(rest));
  }
}

// O / l and LSE to the caller's memory. A row without a key has l = 0, or the sink's, and O may
// hold nothing.
template <class Type>
void end_tile(const AttendArgs& args, const Scratch& scratch) {
  auto* o = static_cast<typename Type::Element*>(args.o);
  const int64_t rows = args.rows;
  const int64_t head_dim_v = args.shape.head_dim_v;
  const int64_t stride = args.o_dim_stride;
  for (int64_t r = 0; r < rows; ++r) {
    const float l = ReduceSum(Load(scratch.l + r * kLanes));
    const Vec inverse = Set(1.0f / l);
    const Mask empty = Eq(Set(scratch.started[r / kRows] ? l : 0.0f), Zero());
    const float* from = scratch.o + r * scratch.ldo;
    auto* to = o + r * args.o_row_stride;
    for (int64_t dim = 0; dim < head_dim_v; dim += kLanes) {
      const Vec out = IfThenElse(empty, Zero(), Mul(Load(from + dim), inverse));
      store<Type>(out, to + dim * stride, stride, head_dim_v - dim);
    }
    if (args.lse) {
      constexpr double kLn2 = 0.693147180559945309;
      const double m = static_cast<double>(scratch.m[r]) * kLn2 + left_out(args, r);
      args.lse[r * args.lse_stride] =
          l == 0.0f ? -kInfinity : static_cast<float>(m + static_cast<double>(__builtin_logf(l)));
    }
  }
}

template <class Stage>
void attend_tile(const AttendArgs& args) {
  const Scratch scratch(args.shape, args.scratch);
  with_float_type(args.q.storage, [&](auto type) { begin_tile<decltype(type)>(args, scratch); });
  const int64_t tile_k = args.shape.tile_k;
  const int64_t seqlen_k = args.seqlen_k;
  const int64_t head_dim = args.shape.head_dim;
  const int64_t padded_dim_v = round_up(args.shape.head_dim_v, kLanes);
  const int64_t tile_begin = round_down(max(args.key_lo, 0), tile_k);
  const int64_t tile_end = min(args.rows - 1 + args.key_hi, seqlen_k);
  for (int64_t key = tile_begin; key < tile_end; key += tile_k) {
    const int64_t next_key = key + tile_k;
    const int64_t next_size =
        (min(next_key + tile_k, seqlen_k) - next_key) * int64_t{sizeof(float)};
    const flash::Span next_block[] = {
        {args.packed_k + next_key * head_dim, next_size * head_dim},
        {args.packed_v + next_key * padded_dim_v, next_size * padded_dim_v}};
    Ahead ahead = next_key < tile_end ? Ahead(next_block, 2) : Ahead(args.next, 3);
    for (int64_t row = 0; row < args.rows; row += kRows) {
      const int64_t rows = min(kRows, args.rows - row);
      const int64_t lo = max(row + args.key_lo, 0);
      const int64_t hi = min(row + rows - 1 + args.key_hi, seqlen_k);
      int64_t begin = max(lo - key, 0);
      int64_t end = min(hi - key, tile_k);
      Stage::narrow(args, row, rows, key, &begin, &end);
      if (begin >= end) continue;
      uint8_t* started = scratch.started + row / kRows;
      Group group;
      group.row = row;
      group.rows = static_cast<int>(rows);
      group.key = key;
      group.begin = round_down(begin, kPanel);
      group.end = end;
      group.first = !*started;
      group.s = scratch.s;
      group.lds = scratch.lds;
      attend_group<Stage>(args, scratch, group, &ahead);
      *started = 1;
    }
  }
  with_float_type(args.o_storage, [&](auto type) { end_tile<decltype(type)>(args, scratch); });
}

void attend(const AttendArgs* args) {
  if (args->features) {
    attend_tile<FeatureStage>(*args);
  } else {
    attend_tile<IntervalMask>(*args);
  }
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

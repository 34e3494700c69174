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
// Q, or K's scales, carry scale * log2(e), so that S is in units of log2. What a row gets is a
// fixed sequence of operations on its own data; the grouping of rows and the trimming of keys only
// leave out additions of 0 and maxima with -inf. A sink is where a row's m and l begin.
//
// Storage types are seen by packing (pack.h), begin_tile and end_tile alone; the loop in between
// knows items of f32 or, in the products, of pairs of bf16 (dot.h).
//
// That is a tile of queries against packed K and V. For short queries over long K and V see
// chunk.h.
#include "base.h"
#include "dot.h"
#include "pack.h"
#include "product.h"
#include "stage.h"
#include "storage.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::AttendArgs;
using flash::QueryTile;
using flash::TileShape;

constexpr float kMinusZero = -0.0f;
constexpr struct Ones {
  float of[kRows];
  constexpr Ones() : of() {
    for (float& one : of) one = 1.0f;
  }
} kOnes;

// ---- a query tile

// Cuts memory into arrays of floats, each aligned to 64 bytes.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(memory) {}
  float* take(int64_t floats) {
    float* p = reinterpret_cast<float*>(reinterpret_cast<uintptr_t>(memory_) + size_);
    size_ += static_cast<size_t>(round_up(floats, 16)) * sizeof(float);
    return p;
  }
  size_t size() const { return size_; }

 private:
  void* memory_;
  size_t size_ = 0;
};

// Rows in memory are a line longer than they need to be, so that they lie in different cache sets.
constexpr int64_t row_stride_of(int64_t floats) { return round_up(floats, 16) + 16; }

// The softmax of each row as far as it has come.
struct State {
  int64_t ldo;
  float* o;  // [rows, ldo]
  float* l;  // [rows, kLanes] the row sums, by lanes
  float* m;  // [rows + kLanes]

  State(const TileShape& shape, int64_t rows, Arena* arena)
      : ldo(row_stride_of(shape.head_dim_v)),
        o(arena->take(rows * ldo)),
        l(arena->take(rows * kLanes)),
        m(arena->take(rows + kLanes)) {}
};

struct Scratch {
  Arena arena;
  int64_t ldq;
  int64_t lds;
  State state;       // [tile_q] rows
  float* q;          // [tile_q, ldq] items of scale * log2(e) * Q, or of Q if K's scales have that
  float* s;          // [score_rows, lds] S, then P
  uint8_t* started;  // [tile_q / kRows] whether O holds anything
  // For chunks:
  float* rows;      // [kMinStep, ldq or ldo] of K or V
  float* k_scales;  // [tile_k], likewise of V
  float* v_scales;

  Scratch(const TileShape& shape, void* memory)
      : arena(memory),
        ldq(row_stride_of(items(shape.head_dim))),
        lds(shape.tile_k + 16),
        state(shape, shape.tile_q, &arena),
        q(arena.take(shape.tile_q * ldq)),
        s(arena.take(shape.score_rows * lds)),
        started(reinterpret_cast<uint8_t*>(arena.take(shape.tile_q / kRows))),
        rows(arena.take(kMinStep * max(ldq, state.ldo))),
        k_scales(arena.take(shape.tile_k)),
        v_scales(arena.take(shape.tile_k)) {}
};

// S -> P with the running maximum m and sum l; alpha[row] is what O is to be scaled by. With
// kMarkMasked a masked key's P is -0 instead of 0. P takes V's scales, if there are any, l does
// not.
template <bool kMarkMasked>
void softmax(const Group& group, const float* v_scales, float* m, float* l, float* alpha) {
  alignas(64) float row_max[kPaddedRows] = {};
  alignas(64) float shift[kPaddedRows];
  for (int r = 0; r < group.rows; ++r) {
    const float* s = group.s + r * group.lds;
    Vec best[kVecs];
    ATTN_UNROLL
    for (int v = 0; v < kVecs; ++v) best[v] = Set(-kInfinity);
    int64_t column = group.begin;
    for (; column % kPanel != 0 && column < group.end; column += kLanes) {
      best[0] = Max(Load(s + column), best[0]);
    }
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
    const auto exponentiate = [&](int64_t column) {
      const Vec score = Load(s + column);
      Vec weight = Exp2(Sub(score, subtract));
      if constexpr (kMarkMasked) {
        weight = IfThenElse(Eq(score, Set(-kInfinity)), Set(kMinusZero), weight);
      }
      Dot::store_p(v_scales ? Mul(weight, Load(v_scales + column)) : weight, s, column);
      return weight;
    };
    Vec sum[kVecs];
    ATTN_UNROLL for (int v = 0; v < kVecs; ++v) sum[v] = Zero();
    // A column's place in its panel says which sum it goes to, wherever the group begins.
    const auto part_of_panel = [&](int64_t panel) {
      ATTN_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        const int64_t column = panel + v * kLanes;
        if (column >= group.begin && column < group.end) {
          sum[v] = Add(sum[v], exponentiate(column));
        }
      }
    };
    int64_t column = round_down(group.begin, kPanel);
    if (column < group.begin) {
      part_of_panel(column);
      column += kPanel;
    }
    for (; column + kPanel <= group.end; column += kPanel) {
      ATTN_UNROLL
      for (int v = 0; v < kVecs; ++v) sum[v] = Add(sum[v], exponentiate(column + v * kLanes));
    }
    part_of_panel(column);
    ATTN_UNROLL
    for (int v = 1; v < kVecs; ++v) sum[0] = Add(sum[0], sum[v]);
    Store(MulAdd(Load(l + r * kLanes), Broadcast(alpha + r), sum[0]), l + r * kLanes);
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
  static constexpr int64_t kStep = 16 * Dot::kWidth;  // bytes: a line every four elements

  const flash::Span* span_;
  const flash::Span* end_;
  int64_t offset_ = 0;
};

// A vector of S for each row that is not worth computing.
void mask_vectors(const Group& group, int64_t column) {
  for (int r = 0; r < group.rows; ++r) Store(Set(-kInfinity), group.s + r * group.lds + column);
}

// One group of rows against one key block. For Stage see stage.h.
template <class Stage>
void attend_group(const AttendArgs& args, const Scratch& scratch, const Group& group,
                  Ahead* ahead) {
  const QueryTile& tile = args.tile;
  const int64_t tile_k = tile.shape.tile_k;
  const int64_t dim_items = items(tile.shape.head_dim);
  Product qk{};
  qk.a = scratch.q + group.row * scratch.ldq;
  qk.lda = scratch.ldq;
  qk.ldb = kPanel;
  qk.k = dim_items;
  qk.ldc = group.lds;
  typename Stage::Fetch fetch(tile, group);
  for (int64_t column = group.begin; column < group.end;) {
    const int64_t attended = Stage::skip(tile, group, column);
    for (; column < attended; column += kLanes) mask_vectors(group, column);
    const int64_t run_end = Stage::run_end(tile, group, column);
    for (; column < run_end; column = panel_end(column)) {
      const int64_t columns = min(panel_end(column), group.end) - column;
      const int vecs = static_cast<int>((columns + kLanes - 1) / kLanes);
      const int64_t panel = round_down(column, kPanel);
      qk.b = args.packed_k + (group.key + panel) * dim_items + (column - panel);
      if (Dot::kScalesKeys) qk.column_scales = args.packed_k_scales + group.key + column;
      qk.c = group.s + column;
      if (!fetch.next(qk.k, &qk.ahead, &qk.ahead_step)) {
        ahead->give(&qk);
      }
      multiply<Init::kZero>(group.rows, vecs, qk);
    }
  }

  Stage::apply(tile, group);

  alignas(64) float alpha[kPaddedRows];
  float* m = scratch.state.m + group.row;
  float* l = scratch.state.l + group.row * kLanes;
  const bool nonfinite = args.nonfinite[group.key / tile_k] != 0;
  const float* v_scales = args.packed_v_scales ? args.packed_v_scales + group.key : nullptr;
  if (nonfinite) {
    softmax<true>(group, v_scales, m, l, alpha);
  } else {
    softmax<false>(group, v_scales, m, l, alpha);
  }

  const int64_t padded_dim = round_up(tile.shape.head_dim_v, kLanes);
  const int64_t block_items = items(min(tile_k, tile.seqlen_k - group.key));
  Product pv{};
  pv.lda = group.lds;
  pv.ldc = scratch.state.ldo;
  const int64_t panel = v_panel(padded_dim);
  for (int64_t dim = 0; dim < padded_dim; dim += panel) {
    const int64_t width = min(panel, padded_dim - dim);
    const int vecs = static_cast<int>(width / kLanes);
    const float* v = args.packed_v + items(group.key) * padded_dim + block_items * dim;
    pv.ldb = width;
    pv.c = scratch.state.o + group.row * scratch.state.ldo + dim;
    pv.alpha = alpha;
    bool first = group.first;
    for (int64_t column = Stage::skip(tile, group, group.begin); column < group.end;) {
      const int64_t run_end = Stage::run_end(tile, group, column);
      pv.a = group.s + items(column);
      pv.b = v + items(column) * width;
      pv.k = items(run_end - column);
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
      pv.alpha = kOnes.of;  // O is rescaled once
      column = Stage::skip(tile, group, run_end);
    }
  }
}

// Q times scale * log2(e).
template <class Type>
void load_queries(const QueryTile& tile, const Scratch& scratch) {
  const auto* q = static_cast<const typename Type::Element*>(tile.q.data);
  const Vec scale = Set(tile.scale * static_cast<float>(kLog2E));
  const int64_t head_dim = tile.shape.head_dim;
  const int64_t stride = tile.q.dim_stride;
  const int64_t padded_dim = items(head_dim) * Dot::kWidth;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const Row row = row_at(tile, r);
    const auto* from = q + row.head * tile.q_head_stride + row.query * tile.q.row_stride;
    float* to = scratch.q + r * scratch.ldq;
    for (int64_t dim = 0; dim < padded_dim; dim += kLanes) {
      Dot::store_q(load<Type>(from + dim * stride, stride, head_dim - dim), scale, to, dim);
    }
  }
}

void load_queries(const QueryTile& tile, const Scratch& scratch) {
  with_float_type(tile.q.storage, [&](auto type) { load_queries<decltype(type)>(tile, scratch); });
}

// No key yet: m and l are -inf and 0.
void begin(const QueryTile& tile, const State& state) {
  for (int64_t r = 0; r < tile.rows; ++r) Store(Zero(), state.l + r * kLanes);
  for (int64_t r = 0; r < tile.rows + kLanes; ++r) state.m[r] = -kInfinity;
}

// m and l become those of the sinks, if there are any.
void add_sinks(const QueryTile& tile, const State& state) {
  if (!tile.sinks) return;
  for (int64_t r = 0; r < tile.rows; ++r) {  // what m loses in f32, l has
    const float sink = tile.sinks[row_at(tile, r).head * tile.sink_stride];
    if (sink == -kInfinity) continue;
    const double logit = (sink - left_out(tile, r)) * kLog2E;
    state.m[r] = static_cast<float>(logit);
    const double rest = logit - static_cast<double>(state.m[r]);
    state.l[r * kLanes] = __builtin_exp2f(static_cast<float>(rest));
  }
}

// O / l and LSE to the caller's memory. A row without a key has l = 0, or the sink's, and O may
// hold nothing.
template <class Type>
void finish(const QueryTile& tile, const State& state, const uint8_t* started) {
  auto* o = static_cast<typename Type::Element*>(tile.o);
  const int64_t head_dim_v = tile.shape.head_dim_v;
  const int64_t stride = tile.o_dim_stride;
  for (int64_t r = 0; r < tile.rows; ++r) {
    const Row row = row_at(tile, r);
    const float l = ReduceSum(Load(state.l + r * kLanes));
    const Vec inverse = Set(1.0f / l);
    const Mask empty = Eq(Set(started[r / kRows] ? l : 0.0f), Zero());
    const float* from = state.o + r * state.ldo;
    auto* to = o + row.head * tile.o_head_stride + row.query * tile.o_row_stride;
    for (int64_t dim = 0; dim < head_dim_v; dim += kLanes) {
      const Vec out =
          IfThenElse(empty, Zero(), MulAdd(Load(from + dim), inverse, Zero()));  // no -0
      store<Type>(out, to + dim * stride, stride, head_dim_v - dim);
    }
    if (tile.lse) {
      constexpr double kLn2 = 0.693147180559945309;
      const double m = static_cast<double>(state.m[r]) * kLn2 + left_out(tile, r);
      tile.lse[row.head * tile.lse_head_stride + row.query * tile.lse_stride] =
          l == 0.0f ? -kInfinity : static_cast<float>(m + static_cast<double>(__builtin_logf(l)));
    }
  }
}

void finish(const QueryTile& tile, const State& state, const uint8_t* started) {
  with_float_type(tile.o_storage, [&](auto type) { finish<decltype(type)>(tile, state, started); });
}

// The columns of a block of `keys` keys that some of the rows attends to; empty if begin == end.
template <class Stage>
Group group_at(const QueryTile& tile, int64_t row, int64_t rows, int64_t key, int64_t keys) {
  const Queries queries = queries_of(tile, row, rows);
  const int64_t lo = max(queries.first + tile.key_lo, 0);
  const int64_t hi = min(queries.last + tile.key_hi, tile.seqlen_k);
  int64_t begin = max(lo - key, 0);
  int64_t end = min(hi - key, keys);
  Stage::narrow(tile, row, rows, key, &begin, &end);
  Group group{};
  group.row = row;
  group.rows = static_cast<int>(rows);
  group.key = key;
  group.begin = round_down(begin, max(kLanes, kKeyBlock));
  group.end = begin < end ? round_up(end, kKeyBlock) : group.begin;
  return group;
}

template <class Stage>
void attend_tile(const AttendArgs& args) {
  const QueryTile& tile = args.tile;
  const Scratch scratch(tile.shape, tile.scratch);
  load_queries(tile, scratch);
  begin(tile, scratch.state);
  add_sinks(tile, scratch.state);
  for (int64_t group = 0; group * kRows < tile.rows; ++group) scratch.started[group] = 0;
  const int64_t tile_k = tile.shape.tile_k;
  const int64_t seqlen_k = tile.seqlen_k;
  const int64_t dim_items = items(tile.shape.head_dim);
  const int64_t padded_dim_v = round_up(tile.shape.head_dim_v, kLanes);
  const int64_t tile_begin = round_down(max(tile.key_lo, 0), tile_k);
  const int64_t tile_end = min(tile.queries - 1 + tile.key_hi, seqlen_k);
  for (int64_t key = tile_begin; key < tile_end; key += tile_k) {
    const int64_t next_key = key + tile_k;
    const int64_t next_keys = min(next_key + tile_k, seqlen_k) - next_key;
    constexpr int64_t kItem = sizeof(float);
    const flash::Span next_block[] = {
        {args.packed_k + next_key * dim_items, next_keys * dim_items * kItem},
        {args.packed_v + items(next_key) * padded_dim_v, items(next_keys) * padded_dim_v * kItem}};
    Ahead ahead = next_key < tile_end ? Ahead(next_block, 2) : Ahead(args.next, 4);
    for (int64_t row = 0; row < tile.rows; row += kRows) {
      Group group = group_at<Stage>(tile, row, min(kRows, tile.rows - row), key, tile_k);
      if (group.begin == group.end) continue;
      uint8_t* started = scratch.started + row / kRows;
      group.first = !*started;
      group.s = scratch.s;
      group.lds = scratch.lds;
      attend_group<Stage>(args, scratch, group, &ahead);
      *started = 1;
    }
  }
  finish(tile, scratch.state, scratch.started);
}

size_t scratch_size(const TileShape* shape) { return Scratch(*shape, nullptr).arena.size(); }

void attend(const AttendArgs* args) {
#ifdef ATTN_FLASH_AMX
  const TileRegisters registers;
#endif
  if (args->tile.features) {
    attend_tile<FeatureStage>(*args);
  } else {
    attend_tile<IntervalMask>(*args);
  }
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#ifndef ATTN_FLASH_BF16
#include "chunk.h"
#endif

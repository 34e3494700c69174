// Stages: what happens to the scores S between Q K^T and the softmax. S is in units of log2.
//   IntervalMask  lengths, causality, windows
//   FeatureStage  softcap, ALiBi, bias, masks as the arguments ask for, then IntervalMask
// A stage has
//   narrow    takes columns off both ends of a group that none of its rows attends to
//   skip      the first column from the given one on that some row attends to
//   run_end   the end of the columns from there on that are not skipped; both where panels end
//   Fetch     what the products of a group fetch for the next group's apply
//   apply     the work on S
// Each row is worked on by itself, and each element too, so that how rows are grouped and which
// columns are left out changes no bit. Included through kernel.h alone.
#ifndef ATTN_FLASH_STAGE_H_
#define ATTN_FLASH_STAGE_H_

#include "storage.h"

#define ATTN_VEC_ISA ATTN_FLASH_ISA
#include "../simd/tanh.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::Alibi;
using flash::BlockMask;
using flash::Features;
using flash::Overlay;
using flash::QueryTile;

// kRows query rows (or fewer) and the columns of S that one key block needs for them.
struct Group {
  int64_t row;    // the first one, in the tile
  int rows;       // 1 .. kRows
  int64_t key;    // of column 0
  int64_t begin;  // columns [begin, end) are attended by some row; begin is a multiple of kLanes
  int64_t end;
  bool first;  // no key block before this one: O holds nothing yet
  float* s;
  int64_t lds;
};

// Where a row stands in its tile.
struct Row {
  int64_t head;
  int64_t query;
};

Row row_at(const QueryTile& tile, int64_t row) {
  if (row < tile.queries) return {0, row};  // divisions take as long as a row of O
  return {row / tile.queries, row % tile.queries};
}

// The queries [first, last] that rows [row, row + rows) are of; all, if they are of several heads.
struct Queries {
  int64_t first;
  int64_t last;
};

Queries queries_of(const QueryTile& tile, int64_t row, int64_t rows) {
  const int64_t first = row_at(tile, row).query;
  const int64_t last = first + rows - 1;
  return last < tile.queries ? Queries{first, last} : Queries{0, tile.queries - 1};
}

// Masks each row's keys outside of its interval.
struct IntervalMask {
  static void narrow(const QueryTile&, int64_t, int64_t, int64_t, int64_t*, int64_t*) {}
  static int64_t skip(const QueryTile&, const Group&, int64_t column) { return column; }
  static int64_t run_end(const QueryTile&, const Group& group, int64_t) { return group.end; }
  struct Fetch {
    Fetch(const QueryTile&, const Group&) {}
    bool next(int64_t, const char**, int64_t*) { return false; }
  };

  static void apply(const QueryTile& tile, const Group& group) {
    // Nothing to do where all rows attend to all columns, whole vectors of them.
    const Queries queries = queries_of(tile, group.row, group.rows);
    const int64_t end = round_up(group.end, kLanes);
    if (queries.last + tile.key_lo <= group.key + group.begin &&
        min(queries.first + tile.key_hi, tile.seqlen_k) >= group.key + end) {
      return;
    }
    for (int r = 0; r < group.rows; ++r) {
      float* s = group.s + r * group.lds;
      const int64_t query = row_at(tile, group.row + r).query;
      const int64_t lo = query + tile.key_lo - group.key;
      const int64_t hi = min(query + tile.key_hi, tile.seqlen_k) - group.key;
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

// S = softcap * tanh(S / softcap)
[[gnu::noinline]] void apply_softcap(float softcap, const Group& group, float* s) {
  const float cap = static_cast<float>(softcap * kLog2E);
  const float inverse = 1.0f / cap;
  const Vec times = Set(inverse < __FLT_MAX__ ? inverse : __FLT_MAX__);
  for (int64_t column = group.begin; column < group.end; column += kLanes) {
    Store(Mul(Set(cap), Tanh(Mul(Load(s + column), times))), s + column);
  }
}

float slope_of(const Alibi& alibi, Row row) {
  return alibi.slopes ? alibi.slopes[row.head * alibi.head_stride] : 0.0f;
}

// The key nearest to a row's position, its distance left out of the row's scores: a query far from
// all keys would lose the digits of its scores to slope * distance. An infinite slope has none,
// since infinity * 0 is NaN.
int64_t nearest_key(const Alibi& alibi, Row row, int64_t seqlen_k) {
  const int64_t diagonal = alibi.diagonal + row.query;
  const float slope = slope_of(alibi, row);
  if (slope - slope != 0.0f) return diagonal;
  return max(0, min(diagonal, seqlen_k - 1));
}

// What all scores of a row lack, in natural units.
double left_out(const QueryTile& tile, int64_t r) {
  if (!tile.features) return 0.0;
  const Alibi& alibi = tile.features->alibi;
  const Row row = row_at(tile, r);
  const float slope = slope_of(alibi, row);
  if (slope == 0.0f) return 0.0;
  const int64_t distance = alibi.diagonal + row.query - nearest_key(alibi, row, tile.seqlen_k);
  if (distance == 0) return 0.0;
  return -static_cast<double>(slope) * static_cast<double>(max(distance, -distance));
}

// S = S - slope * |nearest - key|
[[gnu::noinline]] void add_alibi(float slope, int64_t nearest, const Group& group, float* s) {
  const Vec factor = Set(static_cast<float>(-slope * kLog2E));
  Vec distance = Add(Set(static_cast<float>(group.key + group.begin - nearest)), Iota());
  for (int64_t column = group.begin; column < group.end; column += kLanes) {
    Store(MulAdd(Abs(distance), factor, Load(s + column)), s + column);
    distance = Add(distance, Set(kLanes));
  }
}

// fn(column, elements) for each vector of the columns that the overlay covers; `neutral` stands
// for elements outside of it.
template <class Element, class Fn>
[[gnu::always_inline]] inline void for_each_vector(const Overlay& overlay, Row row,
                                                   const Group& group, Element neutral,
                                                   const Fn& fn) {
  const int64_t lo = max(overlay.key_begin - group.key, group.begin);
  const int64_t hi = min(overlay.key_end - group.key, group.end);
  const Element* line = static_cast<const Element*>(overlay.data) + row.head * overlay.head_stride +
                        row.query * overlay.row_stride +
                        (group.key - overlay.key_begin) * overlay.key_stride;  // of column 0
  int64_t column = round_down(lo, kLanes);
  const auto gather = [&] {
    alignas(64) Element lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const bool covered = column + i >= lo && column + i < hi;
      lanes[i] = covered ? line[(column + i) * overlay.key_stride] : neutral;
    }
    fn(column, lanes);
  };
  if (overlay.key_stride == 1) {  // whole vectors as they lie there
    if (column < lo && column < hi) {
      gather();
      column += kLanes;
    }
    for (; column + kLanes <= hi; column += kLanes) fn(column, line + column);
  }
  for (; column < hi; column += kLanes) gather();
}

// S = S + bias. A bias of -inf is a mask: it selects, since NaN - inf would be NaN.
template <class Type>
[[gnu::noinline]] void add_bias(const Overlay& bias, Row row, const Group& group, float* s) {
  using Element = typename Type::Element;
  for_each_vector(bias, row, group, Element{0}, [s](int64_t column, const Element* elements) {
    const Vec addend = Type::load(elements);
    const Vec sum = MulAdd(addend, Set(static_cast<float>(kLog2E)), Load(s + column));
    Store(IfThenElse(Eq(addend, Set(-kInfinity)), addend, sum), s + column);
  });
}

[[gnu::noinline]] void apply_mask(const Overlay& mask, Row row, const Group& group, float* s) {
  for_each_vector(mask, row, group, uint8_t{1}, [s](int64_t column, const uint8_t* elements) {
    const Mask attends = NonZeroBytes(elements);
    Store(IfThenElse(attends, Load(s + column), Set(-kInfinity)), s + column);
  });
}

[[gnu::noinline]] void apply_block_mask(const BlockMask& mask, int64_t seqlen_k, Row row,
                                        const Group& group, float* s) {
  const uint8_t* blocks = mask.data + row.head * mask.head_stride +
                          (mask.first_query + row.query) / mask.block_q * mask.q_stride;
  const int64_t end = min(group.key + round_up(group.end, kLanes), seqlen_k);
  for (int64_t key = group.key + group.begin; key < end;) {
    const int64_t block = key / mask.block_k;
    const int64_t block_end = min((block + 1) * mask.block_k, end);
    if (blocks[block * mask.k_stride]) {
      key = block_end;
    } else {
      for (; key < block_end; ++key) s[key - group.key] = -kInfinity;
    }
  }
}

// The elements of an overlay that the next group of rows will read: for the columns of this group,
// or for those of the next key block if this group is the block's last one.
class NextRows {
 public:
  NextRows(const Overlay& overlay, int64_t size, const QueryTile& tile, const Group& group) {
    if (overlay.key_begin >= overlay.key_end || overlay.key_stride != 1) return;
    const bool wraps = group.row + kRows >= tile.rows;
    const int64_t row = wraps ? 0 : group.row + kRows;
    const int64_t key = wraps ? group.key + tile.shape.tile_k : group.key;
    const int64_t begin = max(key + group.begin, overlay.key_begin);
    const int64_t end = min(key + group.end, overlay.key_end);
    if (begin >= end) return;
    data_ = static_cast<const char*>(overlay.data) +
            (row * overlay.row_stride + begin - overlay.key_begin) * size;
    stride_ = overlay.row_stride * size;
    size_ = (end - begin) * size;
    rows_ = min(kRows, tile.rows - row);
  }

  // The next row, for a product of so many steps to fetch; false if there is none.
  bool take(int64_t steps, const char** ahead, int64_t* ahead_step) {
    if (rows_ == 0) return false;
    *ahead = data_;
    *ahead_step = min((size_ + steps - 1) / steps, 64);
    data_ += stride_;
    --rows_;
    return true;
  }

 private:
  const char* data_ = nullptr;
  int64_t stride_ = 0;
  int64_t size_ = 0;  // bytes of a row
  int64_t rows_ = 0;
};

struct FeatureStage {
  // Some of the rows attends to some of the keys [key, key_end), as far as the block mask goes.
  static bool attends(const QueryTile& tile, int64_t r, int64_t rows, int64_t key,
                      int64_t key_end) {
    const BlockMask& mask = tile.features->block_mask;
    for (const int64_t end = r + rows; r < end;) {  // one head after the other
      const Row row = row_at(tile, r);
      const int64_t last_query = min(row.query + end - r, tile.queries) - 1;
      r += last_query - row.query + 1;
      const int64_t first = (mask.first_query + row.query) / mask.block_q;
      const int64_t last = (mask.first_query + last_query) / mask.block_q;
      for (int64_t k = key / mask.block_k; k * mask.block_k < key_end; ++k) {
        for (int64_t q = first; q <= last; ++q) {
          if (mask.data[row.head * mask.head_stride + q * mask.q_stride + k * mask.k_stride]) {
            return true;
          }
        }
      }
    }
    return false;
  }

  static void narrow(const QueryTile& tile, int64_t row, int64_t rows, int64_t key, int64_t* begin,
                     int64_t* end) {
    const BlockMask& mask = tile.features->block_mask;
    if (!mask.data) return;
    while (*begin < *end && !attends(tile, row, rows, key + *begin, key + *begin + 1)) {
      *begin = round_up(key + *begin + 1, mask.block_k) - key;
    }
    while (*begin < *end && !attends(tile, row, rows, key + *end - 1, key + *end)) {
      *end = round_down(key + *end - 1, mask.block_k) - key;
    }
  }

  static bool attends_panel(const QueryTile& tile, const Group& group, int64_t column) {
    const BlockMask& mask = tile.features->block_mask;
    const int64_t end = min(panel_end(column), group.end);
    return !mask.data || attends(tile, group.row, group.rows, group.key + column, group.key + end);
  }

  static int64_t skip(const QueryTile& tile, const Group& group, int64_t column) {
    while (column < group.end && !attends_panel(tile, group, column)) column = panel_end(column);
    return min(column, group.end);
  }

  static int64_t run_end(const QueryTile& tile, const Group& group, int64_t column) {
    while (column < group.end && attends_panel(tile, group, column)) column = panel_end(column);
    return min(column, group.end);
  }

  // A group computes long enough for the rows to arrive, one with each product, so that no more
  // lines are on their way than the core can wait for. Without it each row waits for memory.
  class Fetch {
   public:
    Fetch(const QueryTile& tile, const Group& group)
        : bias_(tile.features->bias, tile.features->bias.storage == flash::Storage::kF32 ? 4 : 2,
                tile, group),
          mask_(tile.features->mask, 1, tile, group) {}
    bool next(int64_t steps, const char** ahead, int64_t* ahead_step) {
      return bias_.take(steps, ahead, ahead_step) || mask_.take(steps, ahead, ahead_step);
    }

   private:
    NextRows bias_;
    NextRows mask_;
  };

  static void apply(const QueryTile& tile, const Group& group) {
    const Features& features = *tile.features;
    const Overlay& bias = features.bias;
    const Overlay& mask = features.mask;
    for (int r = 0; r < group.rows; ++r) {
      float* s = group.s + r * group.lds;
      const Row row = row_at(tile, group.row + r);
      const float slope = slope_of(features.alibi, row);
      if (features.softcap != 0.0f) apply_softcap(features.softcap, group, s);
      if (slope != 0.0f) {
        add_alibi(slope, nearest_key(features.alibi, row, tile.seqlen_k), group, s);
      }
      if (bias.key_begin < bias.key_end) {
        with_float_type(bias.storage,
                        [&](auto type) { add_bias<decltype(type)>(bias, row, group, s); });
      }
      if (mask.key_begin < mask.key_end) apply_mask(mask, row, group, s);
      if (features.block_mask.data) {
        apply_block_mask(features.block_mask, tile.seqlen_k, row, group, s);
      }
    }
    IntervalMask::apply(tile, group);
  }
};

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_STAGE_H_

// Stages: what happens to the scores S between Q K^T and the softmax. S is in units of log2.
//   IntervalMask  lengths, causality, windows
//   FeatureStage  softcap, ALiBi, bias, masks as the arguments ask for, then IntervalMask
// A stage has
//   narrow    takes columns off both ends of a group that none of its rows attends to
//   skip      the first column from the given one on that some row attends to
//   run_end   the end of the columns from there on that are not skipped; both whole panels
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
using flash::AttendArgs;
using flash::BlockMask;
using flash::Features;
using flash::Overlay;

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
  static void narrow(const AttendArgs&, int64_t, int64_t, int64_t, int64_t*, int64_t*) {}
  static int64_t skip(const AttendArgs&, const Group&, int64_t column) { return column; }
  static int64_t run_end(const AttendArgs&, const Group& group, int64_t) { return group.end; }
  struct Fetch {
    Fetch(const AttendArgs&, const Group&) {}
    bool next(int64_t, const char**, int64_t*) { return false; }
  };

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

// S = softcap * tanh(S / softcap)
[[gnu::noinline]] void apply_softcap(float softcap, const Group& group, float* s) {
  const float cap = static_cast<float>(softcap * kLog2E);
  const float inverse = 1.0f / cap;
  const Vec times = Set(inverse < __FLT_MAX__ ? inverse : __FLT_MAX__);
  for (int64_t column = group.begin; column < group.end; column += kLanes) {
    Store(Mul(Set(cap), Tanh(Mul(Load(s + column), times))), s + column);
  }
}

// The key nearest to a row's position, its distance left out of the row's scores: a query far from
// all keys would lose the digits of its scores to slope * distance. An infinite slope has none,
// since infinity * 0 is NaN.
int64_t nearest_key(const Alibi& alibi, int64_t row, int64_t seqlen_k) {
  const int64_t diagonal = alibi.diagonal + row;
  if (alibi.slope - alibi.slope != 0.0f) return diagonal;
  return max(0, min(diagonal, seqlen_k - 1));
}

// What all scores of a row lack, in natural units.
double left_out(const AttendArgs& args, int64_t row) {
  if (!args.features || args.features->alibi.slope == 0.0f) return 0.0;
  const Alibi& alibi = args.features->alibi;
  const int64_t distance = alibi.diagonal + row - nearest_key(alibi, row, args.seqlen_k);
  if (distance == 0) return 0.0;
  return -static_cast<double>(alibi.slope) * static_cast<double>(max(distance, -distance));
}

// S = S - slope * |nearest - key|
[[gnu::noinline]] void add_alibi(const Alibi& alibi, int64_t nearest, const Group& group,
                                 float* s) {
  const Vec slope = Set(static_cast<float>(-alibi.slope * kLog2E));
  Vec distance = Add(Set(static_cast<float>(group.key + group.begin - nearest)), Iota());
  for (int64_t column = group.begin; column < group.end; column += kLanes) {
    Store(MulAdd(Abs(distance), slope, Load(s + column)), s + column);
    distance = Add(distance, Set(kLanes));
  }
}

// fn(column, elements) for each vector of the columns that the overlay covers; `neutral` stands
// for elements outside of it.
template <class Element, class Fn>
[[gnu::always_inline]] inline void for_each_vector(const Overlay& overlay, int64_t row,
                                                   const Group& group, Element neutral,
                                                   const Fn& fn) {
  const int64_t lo = max(overlay.key_begin - group.key, group.begin);
  const int64_t hi = min(overlay.key_end - group.key, group.end);
  const Element* line = static_cast<const Element*>(overlay.data) + row * overlay.row_stride +
                        (group.key - overlay.key_begin) * overlay.key_stride;  // of column 0
  int64_t column = round_down(lo, kLanes);
  const auto gather = [&] {
    alignas(64) Element lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const bool covered = column + i >= lo && column + i < hi;
      lanes[i] = covered ? line[(column + i) * overlay.key_stride] : neutral;
    }
    fn(column, lanes);
    column += kLanes;
  };
  if (overlay.key_stride == 1) {  // whole vectors as they lie there
    if (column < lo && column < hi) gather();
    for (; column + kLanes <= hi; column += kLanes) fn(column, line + column);
  }
  while (column < hi) gather();
}

// S = S + bias. A bias of -inf is a mask: it selects, since NaN - inf would be NaN.
template <class Type>
[[gnu::noinline]] void add_bias(const Overlay& bias, int64_t row, const Group& group, float* s) {
  using Element = typename Type::Element;
  for_each_vector(bias, row, group, Element{0}, [s](int64_t column, const Element* elements) {
    const Vec addend = Type::load(elements);
    const Vec sum = MulAdd(addend, Set(static_cast<float>(kLog2E)), Load(s + column));
    Store(IfThenElse(Eq(addend, Set(-kInfinity)), addend, sum), s + column);
  });
}

[[gnu::noinline]] void apply_mask(const Overlay& mask, int64_t row, const Group& group, float* s) {
  for_each_vector(mask, row, group, uint8_t{1}, [s](int64_t column, const uint8_t* elements) {
    const Mask attends = NonZeroBytes(elements);
    Store(IfThenElse(attends, Load(s + column), Set(-kInfinity)), s + column);
  });
}

[[gnu::noinline]] void apply_block_mask(const BlockMask& mask, int64_t seqlen_k, int64_t row,
                                        const Group& group, float* s) {
  const uint8_t* blocks = mask.data + (mask.first_query + row) / mask.block_q * mask.q_stride;
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
  NextRows(const Overlay& overlay, int64_t size, const AttendArgs& args, const Group& group) {
    if (overlay.key_begin >= overlay.key_end || overlay.key_stride != 1) return;
    const bool wraps = group.row + kRows >= args.rows;
    const int64_t row = wraps ? 0 : group.row + kRows;
    const int64_t key = wraps ? group.key + args.shape.tile_k : group.key;
    const int64_t begin = max(key + group.begin, overlay.key_begin);
    const int64_t end = min(key + group.end, overlay.key_end);
    if (begin >= end) return;
    data_ = static_cast<const char*>(overlay.data) +
            (row * overlay.row_stride + begin - overlay.key_begin) * size;
    stride_ = overlay.row_stride * size;
    size_ = (end - begin) * size;
    rows_ = min(kRows, args.rows - row);
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
  static bool attends(const BlockMask& mask, int64_t row, int64_t rows, int64_t key,
                      int64_t key_end) {
    const int64_t first = (mask.first_query + row) / mask.block_q;
    const int64_t last = (mask.first_query + row + rows - 1) / mask.block_q;
    for (int64_t k = key / mask.block_k; k * mask.block_k < key_end; ++k) {
      for (int64_t q = first; q <= last; ++q) {
        if (mask.data[q * mask.q_stride + k * mask.k_stride]) return true;
      }
    }
    return false;
  }

  static void narrow(const AttendArgs& args, int64_t row, int64_t rows, int64_t key, int64_t* begin,
                     int64_t* end) {
    const BlockMask& mask = args.features->block_mask;
    if (!mask.data) return;
    while (*begin < *end && !attends(mask, row, rows, key + *begin, key + *begin + 1)) {
      *begin = round_up(key + *begin + 1, mask.block_k) - key;
    }
    while (*begin < *end && !attends(mask, row, rows, key + *end - 1, key + *end)) {
      *end = round_down(key + *end - 1, mask.block_k) - key;
    }
  }

  static bool attends_panel(const AttendArgs& args, const Group& group, int64_t column) {
    const BlockMask& mask = args.features->block_mask;
    const int64_t end = min(column + kPanel, group.end);
    return !mask.data || attends(mask, group.row, group.rows, group.key + column, group.key + end);
  }

  static int64_t skip(const AttendArgs& args, const Group& group, int64_t column) {
    while (column < group.end && !attends_panel(args, group, column)) column += kPanel;
    return min(column, group.end);
  }

  static int64_t run_end(const AttendArgs& args, const Group& group, int64_t column) {
    while (column < group.end && attends_panel(args, group, column)) column += kPanel;
    return min(column, group.end);
  }

  // A group computes long enough for the rows to arrive, one with each product, so that no more
  // lines are on their way than the core can wait for. Without it each row waits for memory.
  class Fetch {
   public:
    Fetch(const AttendArgs& args, const Group& group)
        : bias_(args.features->bias, args.features->bias.storage == flash::Storage::kF32 ? 4 : 2,
                args, group),
          mask_(args.features->mask, 1, args, group) {}
    bool next(int64_t steps, const char** ahead, int64_t* ahead_step) {
      return bias_.take(steps, ahead, ahead_step) || mask_.take(steps, ahead, ahead_step);
    }

   private:
    NextRows bias_;
    NextRows mask_;
  };

  static void apply(const AttendArgs& args, const Group& group) {
    const Features& features = *args.features;
    const Overlay& bias = features.bias;
    const Overlay& mask = features.mask;
    for (int r = 0; r < group.rows; ++r) {
      float* s = group.s + r * group.lds;
      const int64_t row = group.row + r;
      if (features.softcap != 0.0f) apply_softcap(features.softcap, group, s);
      if (features.alibi.slope != 0.0f) {
        add_alibi(features.alibi, nearest_key(features.alibi, row, args.seqlen_k), group, s);
      }
      if (bias.key_begin < bias.key_end) {
        with_float_type(bias.storage,
                        [&](auto type) { add_bias<decltype(type)>(bias, row, group, s); });
      }
      if (mask.key_begin < mask.key_end) apply_mask(mask, row, group, s);
      if (features.block_mask.data) {
        apply_block_mask(features.block_mask, args.seqlen_k, row, group, s);
      }
    }
    IntervalMask::apply(args, group);
  }
};

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_STAGE_H_

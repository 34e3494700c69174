// Short queries over long K and V: all rows of a tile against one chunk of keys, which are read
// where the caller has them, and the merge of chunks. Included through kernel.h alone.
//
//   for each block of tile_k keys, counted from the chunk's first one
//     for each step of kStep keys: K to f32,  S = Q K^T      [rows, kStep]   sums along head_dim
//     for each group of kRows rows: stage, softmax, O = alpha O
//     for each step of kStep keys: V to f32,  O = O + P V    [rows, head_dim_v]
//
// K and V are read once for all rows, which are those of all heads that share them. While a step is
// computed the rows of the next one are fetched, V's after K's and the next block's after V's.
//
// Merging goes on where the online softmax of a chunk stopped: in the order of the chunks, one
// after the other.
#ifndef ATTN_FLASH_CHUNK_H_
#define ATTN_FLASH_CHUNK_H_

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::ChunkArgs;
using flash::MergeArgs;

constexpr int kDotKeys = kLanes < 8 ? 8 : kLanes;
constexpr int kLinesPerStep = 2;  // cache lines that each step of a product's loop fetches
constexpr int64_t kMaxGroups = flash::kMaxChunkRows / kRows;
constexpr int64_t kMaxSteps = flash::kMaxTileK / kStep;

static_assert(kStep <= kLocated && kStep % kDotKeys == 0 && 64 % kStep == 0);
static_assert(flash::kMaxChunkRows % kRows == 0);

// The rows of the step that comes next: fetched into L2 a few lines at a time all over the present
// one, so that memory always has something to do and never more than it can take.
class Fetch {
 public:
  void set(const Keys& keys, int64_t key, int64_t n) {
    clear();
    if (keys.rows.dim_stride != 1) return;
    with_type(keys.rows.storage, [&](auto type) {
      using Type = decltype(type);
      KeyRows<Type> rows(keys);
      rows.seek(key, n);
      const int64_t bytes = keys.dim * int64_t{sizeof(typename Type::Element)};
      for (int64_t i = 0; i < n; ++i) {
        const char* row = reinterpret_cast<const char*>(rows.address(i));
        if (count_ == 0 || spans_[count_ - 1].end != row) spans_[count_++].begin = row;
        spans_[count_ - 1].end = row + bytes;
      }
    });
    span_ = spans_[0];
  }
  void clear() {
    count_ = next_ = 0;
    span_ = {};
  }

  // What a product of so many steps is to fetch: a part of the rows, or what it reads anyway if
  // nothing is left, or if the part does not lie in one piece and was fetched here.
  void give(int64_t steps, const void* cached, const char** ahead, int64_t* ahead_step) {
    const int64_t bytes = steps * kLinesPerStep * kLine;
    *ahead = span_.begin;
    *ahead_step = kLinesPerStep * kLine;
    if (span_.end - span_.begin >= bytes) {
      span_.begin += bytes;
      return;
    }
    fetch(bytes);
    *ahead = static_cast<const char*>(cached);
    *ahead_step = 0;
  }

  void fetch(int64_t bytes) {
    while (bytes > 0 && next_ < count_) {
      for (; bytes > 0 && span_.begin < span_.end; span_.begin += kLine, bytes -= kLine) {
        __builtin_prefetch(span_.begin, 0, 2);
      }
      if (span_.begin >= span_.end && ++next_ < count_) span_ = spans_[next_];
    }
  }
  void fetch_rest() { fetch(int64_t{1} << 62); }

 private:
  struct Piece {
    const char* begin = nullptr;
    const char* end = nullptr;
  };
  Piece spans_[kStep];
  int64_t count_ = 0;
  int64_t next_ = 0;
  Piece span_;
};

// Keys [key, key + n) as f32 [n, ld], padded with 0 to whole vectors. False if kCheck and one of
// them is NaN or infinite.
template <class Type, bool kCheck>
bool load_rows(const Keys& keys, int64_t key, int64_t n, float* to, int64_t ld, Fetch* fetch) {
  KeyRows<Type> rows(keys);
  rows.seek(key, n);
  const int64_t row_bytes = keys.dim * int64_t{sizeof(typename Type::Element)};
  Vec poison = Zero();  // 0 * v is NaN if v is not finite, and NaN stays
  for (int64_t i = 0; i < n; ++i, to += ld) {
    fetch->fetch(row_bytes / 4);
    Vec row_poison = Zero();
    rows.for_each(i, [&](int64_t dim, Vec v) {
      if constexpr (kCheck) row_poison = MulAdd(v, Zero(), row_poison);
      Store(v, to + dim);
    });
    poison = Add(poison, row_poison);
  }
  return !kCheck || AllFinite(poison);
}

template <bool kCheck>
bool load_rows(const Keys& keys, int64_t key, int64_t n, float* to, int64_t ld, Fetch* fetch) {
  bool finite = true;
  with_type(keys.rows.storage, [&](auto type) {
    finite = load_rows<decltype(type), kCheck>(keys, key, n, to, ld, fetch);
  });
  return finite;
}

// The products of one query with kDotKeys keys: sums along head_dim in lanes, which are added last.
[[gnu::noinline]] void dot(const float* q, const float* k, int64_t ldk, int64_t dim, float* s,
                           const char* ahead, int64_t ahead_step) {
  Vec acc[kDotKeys / kLanes][kLanes];
  ATTN_UNROLL
  for (int i = 0; i < kDotKeys; ++i) acc[i / kLanes][i % kLanes] = Zero();
  // One pointer for three keys, as in multiply().
  const float* key[(kDotKeys + 2) / 3];
  ATTN_UNROLL
  for (int i = 0; i < (kDotKeys + 2) / 3; ++i) key[i] = k + 3 * i * ldk;
  for (int64_t d = 0; d < dim; d += kLanes) {
    fetch_lines<kLinesPerStep>(ahead);
    ahead += ahead_step;
    const Vec x = Load(q + d);
    ATTN_UNROLL
    for (int i = 0; i < kDotKeys; ++i) {
      Vec& sum = acc[i / kLanes][i % kLanes];
      sum = MulAdd(x, Load(key[i / 3] + (i % 3) * ldk), sum);
    }
    ATTN_UNROLL
    for (int i = 0; i < (kDotKeys + 2) / 3; ++i) key[i] += kLanes;
  }
  ATTN_UNROLL
  for (int i = 0; i < kDotKeys / kLanes; ++i) Store(ReduceSums(acc[i]), s + i * kLanes);
}

// A block of keys: the groups of rows that attend to some of them, and the steps that some group
// needs.
struct Block {
  int64_t key;  // of column 0
  int num_groups;
  Group groups[kMaxGroups];
  int num_steps;
  bool has_gaps;  // between the steps
  struct Step {
    int64_t column;
    int64_t keys;
  } steps[kMaxSteps];
};

template <class Stage>
bool attends(const QueryTile& tile, const Block& block, int64_t column) {
  for (int g = 0; g < block.num_groups; ++g) {
    const Group& group = block.groups[g];
    const int64_t first = max(round_down(column, kPanel), group.begin);
    const int64_t end = min(column + kStep, group.end);
    if (first < end && Stage::skip(tile, group, first) < end) return true;
  }
  return false;
}

// The block of keys [key, key_end), at most tile_k of them.
template <class Stage>
void set_block(const QueryTile& tile, const Scratch& scratch, int64_t key, int64_t key_end,
               Block* block) {
  const int64_t keys = max(0, min(key_end - key, tile.shape.tile_k));
  block->key = key;
  block->num_groups = 0;
  int64_t begin = keys;
  int64_t end = 0;
  for (int64_t row = 0; row < tile.rows; row += kRows) {
    Group group = group_at<Stage>(tile, row, key, keys);
    if (group.begin == group.end) continue;
    group.s = scratch.s + row * scratch.lds;
    group.lds = scratch.lds;
    block->groups[block->num_groups++] = group;
    begin = min(begin, group.begin);
    end = max(end, group.end);
  }
  block->num_steps = 0;
  block->has_gaps = false;
  for (int64_t column = round_down(begin, kStep); column < end; column += kStep) {
    if (attends<Stage>(tile, *block, column)) {
      block->steps[block->num_steps++] = {column, min(kStep, end - column)};
    } else {
      block->has_gaps = true;
    }
  }
}

void mask_all(const Block& block) {
  for (int g = 0; g < block.num_groups; ++g) {
    const Group& group = block.groups[g];
    for (int64_t column = group.begin; column < group.end; column += kLanes) {
      mask_vectors(group, column);
    }
  }
}

// S = Q K^T for the keys of one step, which are in scratch.rows.
void score(const QueryTile& tile, const Scratch& scratch, const Block& block, Block::Step step,
           Fetch* fetch) {
  const int64_t padded_dim = round_up(tile.shape.head_dim, kLanes);
  for (int64_t i = step.keys; i < round_up(step.keys, kDotKeys); ++i) {
    for (int64_t dim = 0; dim < padded_dim; dim += kLanes) {
      Store(Zero(), scratch.rows + i * scratch.ldq + dim);
    }
  }
  for (int64_t i = 0; i < step.keys; i += kDotKeys) {
    for (int g = 0; g < block.num_groups; ++g) {
      const Group& group = block.groups[g];
      for (int r = 0; r < group.rows; ++r) {
        const char* ahead;
        int64_t ahead_step;
        fetch->give(padded_dim / kLanes, scratch.rows, &ahead, &ahead_step);
        dot(scratch.q + (group.row + r) * scratch.ldq, scratch.rows + i * scratch.ldq, scratch.ldq,
            padded_dim, group.s + r * group.lds + step.column + i, ahead, ahead_step);
      }
    }
  }
}

// C = diag(alpha) C for [rows, dim].
void rescale(int64_t rows, int64_t dim, const float* alpha, float* c, int64_t ldc) {
  for (int64_t r = 0; r < rows; ++r, c += ldc) {
    for (int64_t i = 0; i < dim; i += kLanes) {
      Store(Mul(Load(c + i), Broadcast(alpha + r)), c + i);
    }
  }
}

// S -> P and O = alpha O. V is not known to be finite yet: P of masked keys is marked.
template <class Stage>
void weigh(const QueryTile& tile, const Scratch& scratch, const Group& group) {
  const State& state = scratch.state;
  alignas(64) float alpha[kPaddedRows];
  Stage::apply(tile, group);
  softmax<true>(group, nullptr, state.m + group.row, state.l + group.row * kLanes, alpha);
  rescale(group.rows, tile.shape.head_dim_v, alpha, state.o + group.row * state.ldo, state.ldo);
}

// O = O + P V for the keys of one step, which are in scratch.rows.
void accumulate(const QueryTile& tile, const Scratch& scratch, const Block& block, Block::Step step,
                bool finite, Fetch* fetch) {
  const State& state = scratch.state;
  const int64_t padded_dim = round_up(tile.shape.head_dim_v, kLanes);
  const int64_t panel = v_panel(padded_dim);
  Product pv{};
  pv.ldb = state.ldo;
  pv.alpha = kOnes;
  pv.ldc = state.ldo;
  for (int64_t dim = 0; dim < padded_dim; dim += panel) {
    const int vecs = static_cast<int>(min(panel, padded_dim - dim) / kLanes);
    for (int g = 0; g < block.num_groups; ++g) {
      const Group& group = block.groups[g];
      const int64_t first = max(step.column, group.begin);
      pv.k = min(step.column + step.keys, group.end) - first;
      if (pv.k <= 0) continue;
      pv.a = group.s + first;
      pv.lda = group.lds;
      pv.b = scratch.rows + (first - step.column) * pv.ldb + dim;
      pv.c = state.o + group.row * state.ldo + dim;
      fetch->give(pv.k, scratch.rows, &pv.ahead, &pv.ahead_step);
      finite ? multiply<Init::kRescale, kLinesPerStep>(group.rows, vecs, pv)
             : multiply_marked<Init::kRescale>(group.rows, vecs, pv);
    }
  }
}

// Nothing attended to yet, O included.
void begin_chunk(const QueryTile& tile, const Scratch& scratch, bool sinks) {
  const State& state = scratch.state;
  begin(tile, state);
  if (sinks) add_sinks(tile, state);
  const int64_t padded_dim = round_up(tile.shape.head_dim_v, kLanes);
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t dim = 0; dim < padded_dim; dim += kLanes) {
      Store(Zero(), state.o + r * state.ldo + dim);
    }
    scratch.started[r / kRows] = 1;
  }
}

size_t partial_size(const TileShape* shape, int64_t rows) {
  Arena arena(nullptr);
  State(*shape, rows, &arena);
  return arena.size();
}

void store_partial(const QueryTile& tile, const State& from, void* memory) {
  Arena arena(memory);
  const State to(tile.shape, tile.rows, &arena);
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t dim = 0; dim < tile.shape.head_dim_v; dim += kLanes) {
      Store(Load(from.o + r * from.ldo + dim), to.o + r * to.ldo + dim);
    }
    Store(Load(from.l + r * kLanes), to.l + r * kLanes);
    to.m[r] = from.m[r];
  }
}

template <class Stage>
void attend_chunk(const ChunkArgs& args) {
  const QueryTile& tile = args.tile;
  const Scratch scratch(tile.shape, tile.scratch);
  const int64_t tile_k = tile.shape.tile_k;
  Block blocks[2];
  set_block<Stage>(tile, scratch, args.key_begin, args.key_end, &blocks[0]);
  Fetch fetch;
  // Sets what is fetched during a step: step `i` of the block, if it has that many.
  const auto fetch_next = [&](const Keys& keys, const Block& block, int i) {
    if (i < block.num_steps) {
      fetch.set(keys, block.key + block.steps[i].column, block.steps[i].keys);
    } else {
      fetch.clear();
    }
  };
  fetch_next(args.k, blocks[0], 0);
  fetch.fetch_rest();
  load_queries(tile, scratch);
  begin_chunk(tile, scratch, !args.partial);
  int current = 0;
  for (int64_t key = args.key_begin; key < args.key_end; key += tile_k, current ^= 1) {
    const Block& block = blocks[current];
    const Block& next = blocks[current ^ 1];
    set_block<Stage>(tile, scratch, key + tile_k, args.key_end, &blocks[current ^ 1]);
    if (block.has_gaps) mask_all(block);
    for (int i = 0; i < block.num_steps; ++i) {
      const Block::Step step = block.steps[i];
      i + 1 < block.num_steps ? fetch_next(args.k, block, i + 1) : fetch_next(args.v, block, 0);
      load_rows<false>(args.k, key + step.column, step.keys, scratch.rows, scratch.ldq, &fetch);
      score(tile, scratch, block, step, &fetch);
      fetch.fetch_rest();
    }
    for (int g = 0; g < block.num_groups; ++g) weigh<Stage>(tile, scratch, block.groups[g]);
    for (int i = 0; i < block.num_steps; ++i) {
      const Block::Step step = block.steps[i];
      i + 1 < block.num_steps ? fetch_next(args.v, block, i + 1) : fetch_next(args.k, next, 0);
      const bool finite = load_rows<true>(args.v, key + step.column, step.keys, scratch.rows,
                                          scratch.state.ldo, &fetch);
      accumulate(tile, scratch, block, step, finite, &fetch);
      fetch.fetch_rest();
    }
  }
  if (args.partial) {
    store_partial(tile, scratch.state, args.partial);
  } else {
    finish(tile, scratch.state, scratch.started);
  }
}

void attend_chunk(const ChunkArgs* args) {
  if (args->tile.features) {
    attend_chunk<FeatureStage>(*args);
  } else {
    attend_chunk<IntervalMask>(*args);
  }
}

// What the softmax of kLanes rows or fewer becomes when that of further keys is added:
//   m' = max(m, m_next),  l = 2^(m - m') l + 2^(m_next - m') l_next,  O likewise
void add_partial(const QueryTile& tile, const State& state, const State& next, int64_t row) {
  const int64_t rows = min(kLanes, tile.rows - row);
  alignas(64) float alpha[kLanes];
  alignas(64) float beta[kLanes];
  const Vec m_old = LoadU(state.m + row);
  const Vec m_next = LoadU(next.m + row);
  const Vec m_new = Max(m_next, m_old);
  const Vec finite = IfThenElse(Eq(m_new, Set(-kInfinity)), Zero(), m_new);
  StoreN(m_new, state.m + row, rows);
  Store(Exp2(Sub(m_old, finite)), alpha);
  Store(Exp2(Sub(m_next, finite)), beta);
  for (int64_t r = 0; r < rows; ++r) {
    const auto add = [&](float* sum, const float* addend) {
      const Vec kept = Mul(Load(sum), Broadcast(alpha + r));
      Store(MulAdd(Load(addend), Broadcast(beta + r), kept), sum);
    };
    add(state.l + (row + r) * kLanes, next.l + (row + r) * kLanes);
    for (int64_t dim = 0; dim < tile.shape.head_dim_v; dim += kLanes) {
      add(state.o + (row + r) * state.ldo + dim, next.o + (row + r) * next.ldo + dim);
    }
  }
}

void merge(const MergeArgs* args) {
  const QueryTile& tile = args->tile;
  const Scratch scratch(tile.shape, tile.scratch);
  begin_chunk(tile, scratch, true);
  Arena arena(const_cast<void*>(args->partials));
  for (int64_t i = 0; i < args->num_partials; ++i) {
    const State next(tile.shape, tile.rows, &arena);
    for (int64_t row = 0; row < tile.rows; row += kLanes) {
      add_partial(tile, scratch.state, next, row);
    }
  }
  finish(tile, scratch.state, scratch.started);
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_CHUNK_H_

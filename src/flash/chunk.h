// Short queries over long K and V: all rows of a tile against one chunk of keys, which are read
// where the caller has them, and the merge of chunks. Included through kernel.h alone.
//
//   for each block of tile_k keys, counted from the chunk's first one
//     for each step of keys: S = Q K^T                       [rows, step]   sums along head_dim
//     for each group of kRows rows: stage, softmax, O = alpha O
//     for each step of keys: O = O + P V                     [rows, head_dim_v]
//
// K and V are read once for all rows, which are those of all heads that share them. A tile may have
// several kv heads, whose keys lie near each other where pages or tokens hold all heads: then
// kTogether keys of one kv head are followed by those of the next one, as memory likes it. Few rows
// take them as they are stored; for many rows, or if they are not whole vectors, a step's keys are
// made f32 in scratch memory first, which changes no bit. Scales of whole keys go to S and P, those
// of blocks to the elements. While a step is computed the rows of the next one are fetched, V's
// after K's and the next block's after V's.
//
// Merging goes on where the online softmax of a chunk stopped: in the order of the chunks, one
// after the other.
#ifndef ATTN_FLASH_CHUNK_H_
#define ATTN_FLASH_CHUNK_H_

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::ChunkArgs;
using flash::MergeArgs;

constexpr int kDotSums = kLanes < 8 ? 8 : kLanes;  // of a register tile of Q K^T
constexpr int kMaxDotRows = 4;                     // of the same
constexpr int64_t kMaxStep = kLocated;             // keys
constexpr int64_t kStepBytes = 16 << 10;           // of K and V on their way from memory to L1
constexpr int64_t kMaxStoredRows = 8;              // more rows than these want a step's keys as f32
constexpr int64_t kTogether = 32;                  // keys of a kv head before those of the next one
constexpr int64_t kMaxHeads = flash::kMaxChunkHeads;
constexpr int64_t kMaxGroups = flash::kMaxChunkRows / kRows + kMaxHeads;
constexpr int64_t kMaxSteps = flash::kMaxTileK / kMinStep;

static_assert(kMinStep % kDotSums == 0 && kMaxStep % kMinStep == 0);

int64_t element_size(const Keys& keys) {
  int64_t size = 0;
  with_type(keys.rows.storage, [&](auto type) { size = sizeof(typename decltype(type)::Element); });
  return size;
}

int64_t row_bytes_of(const Keys& keys) { return keys.dim * element_size(keys); }

// Those of a tile's kv head.
Keys keys_of(Keys keys, int64_t head) {
  with_type(keys.rows.storage, [&](auto type) {
    using Element = typename decltype(type)::Element;
    keys.rows.data = static_cast<const Element*>(keys.rows.data) + head * keys.head_stride;
  });
  if (keys.scales.data) keys.scales.data += head * keys.scales.head_stride;
  return keys;
}

bool scales_keys(const Keys& keys) { return keys.scales.data && keys.scales.block >= keys.dim; }

// Whether products take the keys as they are stored.
bool as_stored(const Keys& keys, int64_t rows) {
  return keys.rows.dim_stride == 1 && keys.dim % kLanes == 0 &&
         (!keys.scales.data || scales_keys(keys)) &&
         (keys.rows.storage == flash::Storage::kF32 || rows <= kMaxStoredRows);
}

// Where keys lie that are worked on together, those of the tile's first kv head.
struct Places {
  int64_t keys = 0;
  int64_t row_bytes;          // that are fetched with each: of a kv head, or of all of the tile's
  bool in_one_piece;          // all rows of all keys
  const char* row[kMaxStep];  // beyond the last key, up to a whole register tile: that one

  void set(const Keys& of, int64_t key, int64_t n, int64_t heads) {
    keys = max(n, 0);
    if (keys == 0) return;
    row_bytes = heads * row_bytes_of(of);
    in_one_piece =
        of.pages.size == 0 && of.rows.dim_stride == 1 && of.rows.row_stride == heads * of.dim;
    with_type(of.rows.storage, [&](auto type) {
      const auto* data = static_cast<const typename decltype(type)::Element*>(of.rows.data);
      locate(of.pages, data, of.pages.stride, of.rows.row_stride, key, n, row);
    });
    for (int64_t i = n; i < round_up(n, kDotSums); ++i) row[i] = row[n - 1];
  }
};

// Where the keys of a step lie: from place `first` on, each `offset` bytes further.
struct StepPlaces {
  const Places* places;
  int64_t first;
  int64_t keys;
  int64_t offset;
};

// Fetches a step's keys a few cache lines at a time all over the step before, so that memory always
// has something to do and never more than it can take: in the order in which they lie, which the
// core's own prefetcher follows, but of pages, which it cannot foresee, two at once. Where the kv
// heads of a key lie side by side, what is fetched is the next keys of all of them.
class Fetch {
 public:
  // Two lines at a time, `line` and `line` + delta, from there on.
  struct Pairs {
    const char* line;
    const char* end;
    int64_t delta;
    int64_t step;
  };
  Pairs pairs;

  void set(const StepPlaces& step) {
    places_ = step.places;
    next_ = step.first;
    end_ = step.first + step.keys;
    offset_ = step.offset;
    advance();
  }

  // n pairs of lines. *at is the caller's copy of `pairs`, which stays in registers.
  ATTN_VEC_OP void lines(int n, Pairs* at) {
    ATTN_UNROLL
    for (int i = 0; i < n; ++i) {
      if (__builtin_expect(at->line >= at->end, 0)) {
        advance();
        *at = pairs;
      }
      __builtin_prefetch(at->line, 0, 3);
      __builtin_prefetch(at->line + at->delta, 0, 3);
      at->line += at->step;
    }
  }
  void rest() {
    Pairs at = pairs;
    while (at.step > 0) lines(1, &at);
  }

 private:
  // The next rows that lie in one piece; returns its size, 0 after the last one.
  int64_t run(const char** begin) {
    if (next_ >= end_) return 0;
    const char* const row = places_->row[next_];
    const int64_t bytes = places_->row_bytes;
    *begin = row + offset_;
    if (places_->in_one_piece) {
      const int64_t size = (end_ - next_) * bytes;
      next_ = end_;
      return size;
    }
    int64_t size = 0;
    while (next_ < end_ && places_->row[next_] == row + size) {
      size += bytes;
      ++next_;
    }
    return size;
  }

  [[gnu::noinline]] void advance() {
    const char* first;
    const char* second;
    const int64_t size = run(&first);
    if (size == 0) {  // goes on with a line that is there
      static const char nothing = 0;
      pairs = {&nothing, reinterpret_cast<const char*>(UINTPTR_MAX), 0, 0};
      return;
    }
    const int64_t before = next_;
    if (run(&second) == size) {
      pairs = {first, first + size, second - first, kLine};
    } else {
      next_ = before;
      pairs = {first, first + size, kLine, 2 * kLine};
    }
  }

  const Places* places_;
  int64_t next_;
  int64_t end_;
  int64_t offset_;
};

// The scales of keys [key, key + n), 1 up to the end of the vector.
void load_scales(const Keys& keys, int64_t key, int64_t n, float* scales) {
  const flash::Scales& from = keys.scales;
  for (int64_t i = 0; i < n;) {  // page by page
    const int64_t size = keys.pages.size;
    const int64_t end = size == 0 ? n : min(n, i + size - (key + i) % size);
    const float* scale;
    locate(keys.pages, from.data, from.page_stride, from.row_stride, key + i, 1, &scale);
    if (from.row_stride == 1) {
      __builtin_memcpy(scales + i, scale, static_cast<size_t>(end - i) * sizeof *scale);
      i = end;
    }
    for (; i < end; ++i, scale += from.row_stride) scales[i] = *scale;
  }
  for (int64_t i = n; i < round_up(n, kLanes); ++i) scales[i] = 1.0f;
}

// Makes keys [key, key + n) f32 [n, ld] at `to`, padded with 0 to whole vectors.
template <class Type>
void load_rows(const Keys& keys, int64_t key, int64_t n, float* to, int64_t ld, Fetch* fetch) {
  KeyRows<Type> rows(keys);
  rows.seek(key, n);
  const bool plain = scales_keys(keys);
  Fetch::Pairs at = fetch->pairs;
  for (int64_t i = 0; i < n; ++i, to += ld) {
    for (int64_t dim = 0; dim < keys.dim; dim += kLanes) {
      if (dim % 64 == 0) fetch->lines(1, &at);
      Store(plain ? rows.elements(i, dim) : rows.at(i, dim), to + dim);
    }
  }
  fetch->pairs = at;
}

// The same; *places then says where they lie.
void load_rows(const Keys& keys, int64_t key, int64_t n, float* to, int64_t ld, Fetch* fetch,
               Places* places) {
  with_type(keys.rows.storage,
            [&](auto type) { load_rows<decltype(type)>(keys, key, n, to, ld, fetch); });
  for (int64_t i = 0; i < round_up(n, kDotSums); ++i) {
    places->row[i] = reinterpret_cast<const char*>(to + min(i, n - 1) * ld);
  }
}

// Pairs of lines that so many vectors of elements take.
template <class Element>
constexpr int pairs_of(int vecs) {
  return (vecs * kLanes * int{sizeof(Element)} + 2 * kLine - 1) / (2 * kLine);
}

// Keys of a register tile of kR rows.
template <int kR>
constexpr int kDotKeys = kDotSums / (kR == 3 ? 4 : kR);

// S [kR, keys] = Q K^T: sums along head_dim in lanes, which are added last. As many columns as
// whole register tiles have are written.
template <class Type, int kR>
[[gnu::noinline]] void dot(const float* q, int64_t ldq, const char* const* places, int64_t offset,
                           int64_t keys, int64_t dim, float* s, int64_t lds, Fetch* fetch) {
  using Element = typename Type::Element;
  Fetch::Pairs at = fetch->pairs;
  constexpr int kKeys = kDotKeys<kR>;
  constexpr int kPart = kKeys < 8 ? kKeys : 8;  // as many pointers as there are registers for
  for (int64_t column = 0; column < keys; column += kKeys) {
    Vec acc[kDotSums / kLanes][kLanes];
    ATTN_UNROLL
    for (int i = 0; i < kDotSums; ++i) acc[i / kLanes][i % kLanes] = Zero();
    ATTN_UNROLL
    for (int part = 0; part < kKeys; part += kPart) {
      const Element* key[kPart];
      ATTN_UNROLL
      for (int i = 0; i < kPart; ++i) {
        key[i] = reinterpret_cast<const Element*>(places[column + part + i] + offset);
      }
      for (int64_t d = 0; d < dim; d += kLanes) {
        fetch->lines(pairs_of<Element>(kPart), &at);
        Vec x[kR];
        ATTN_UNROLL
        for (int r = 0; r < kR; ++r) x[r] = Load(q + r * ldq + d);
        ATTN_UNROLL
        for (int i = 0; i < kPart; ++i) {
          const Vec y = Type::load(key[i] + d);
          ATTN_UNROLL
          for (int r = 0; r < kR; ++r) {
            Vec& sum = acc[(r * kKeys + part + i) / kLanes][(r * kKeys + part + i) % kLanes];
            sum = MulAdd(x[r], y, sum);
          }
        }
      }
    }
    alignas(64) float sums[kDotSums];
    ATTN_UNROLL
    for (int i = 0; i < kDotSums / kLanes; ++i) Store(ReduceSums(acc[i]), sums + i * kLanes);
    ATTN_UNROLL
    for (int r = 0; r < kR; ++r) {
      __builtin_memcpy(s + r * lds + column, sums + r * kKeys, kKeys * sizeof *s);
    }
  }
  fetch->pairs = at;
}

// O [kM, kN vectors] = O + P V for n keys.
template <class Type, int kM, int kN>
[[gnu::noinline]] void add_weighted(const float* p, int64_t ldp, const char* const* places,
                                    int64_t offset, int64_t n, float* o, int64_t ldo,
                                    Fetch* fetch) {
  using Element = typename Type::Element;
  Fetch::Pairs at = fetch->pairs;
  Vec acc[kM][kN];
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) acc[r][v] = Add(Load(o + r * ldo + v * kLanes), Zero());
  }
  const float* row[(kM + 2) / 3];  // as in multiply()
  ATTN_UNROLL
  for (int i = 0; i < (kM + 2) / 3; ++i) row[i] = p + 3 * i * ldp;
  for (int64_t j = 0; j < n; ++j) {
    fetch->lines(pairs_of<Element>(kN), &at);
    const Element* from = reinterpret_cast<const Element*>(places[j] + offset);
    Vec y[kN];
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) {
      y[v] = Type::load(from + v * kLanes);
      Pin(y[v]);
    }
    ATTN_UNROLL
    for (int r = 0; r < kM; ++r) {
      Vec x = Broadcast(row[r / 3] + (r % 3) * ldp);
      Pin(x);
      ATTN_UNROLL
      for (int v = 0; v < kN; ++v) acc[r][v] = MulAdd(x, y[v], acc[r][v]);
    }
    ATTN_UNROLL
    for (int i = 0; i < (kM + 2) / 3; ++i) ++row[i];
  }
  ATTN_UNROLL
  for (int r = 0; r < kM; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < kN; ++v) Store(acc[r][v], o + r * ldo + v * kLanes);
  }
  fetch->pairs = at;
}

// A block of keys: the groups of rows that attend to some of them, and the steps that these need.
struct Block {
  int64_t key;  // of column 0
  int64_t keys;
  int num_groups;
  Group groups[kMaxGroups];   // kv head by kv head
  int groups_end[kMaxHeads];  // of each kv head and the ones before it
  int num_steps;
  bool has_gaps;  // columns of a group that no step computes
  int64_t end;    // of the columns that steps are of
  struct Step {
    int32_t head;
    int32_t together;  // the first column of the keys that are worked on together
    int32_t column;
    int32_t keys;
  } steps[kMaxSteps * kMaxHeads];

  int groups_begin(int64_t head) const { return head == 0 ? 0 : groups_end[head - 1]; }
};

template <class Stage>
bool attends(const QueryTile& tile, const Block& block, Block::Step step) {
  for (int g = block.groups_begin(step.head); g < block.groups_end[step.head]; ++g) {
    const Group& group = block.groups[g];
    const int64_t first = max(round_down(step.column, kPanel), group.begin);
    const int64_t end = min(step.column + step.keys, group.end);
    if (first < end && Stage::skip(tile, group, first) < end) return true;
  }
  return false;
}

// The block of keys [key, key_end), at most tile_k of them, in steps of step_keys.
template <class Stage>
void set_block(const ChunkArgs& args, const Scratch& scratch, int64_t key, int64_t step_keys,
               int64_t together, Block* block) {
  const QueryTile& tile = args.tile;
  const int64_t head_rows = tile.rows / args.heads_kv;
  block->key = key;
  block->keys = max(0, min(args.key_end - key, tile.shape.tile_k));
  block->num_groups = 0;
  int64_t begin = block->keys;
  int64_t end = 0;
  for (int64_t head = 0; head < args.heads_kv; ++head) {
    const int64_t row_end = (head + 1) * head_rows;
    for (int64_t row = row_end - head_rows; row < row_end; row += kRows) {
      Group group = group_at<Stage>(tile, row, min(kRows, row_end - row), key, block->keys);
      if (group.begin == group.end) continue;
      group.s = scratch.s + row * scratch.lds;
      group.lds = scratch.lds;
      block->groups[block->num_groups++] = group;
      begin = min(begin, group.begin);
      end = max(end, group.end);
    }
    block->groups_end[head] = block->num_groups;
  }
  block->end = end;
  block->num_steps = 0;
  block->has_gaps = false;
  for (int64_t first = round_down(begin, step_keys); first < end; first += together) {
    for (int64_t head = 0; head < args.heads_kv; ++head) {
      for (int64_t column = first; column < min(first + together, end); column += step_keys) {
        const Block::Step step = {static_cast<int32_t>(head), static_cast<int32_t>(first),
                                  static_cast<int32_t>(column),
                                  static_cast<int32_t>(min(step_keys, end - column))};
        if (attends<Stage>(tile, *block, step)) {
          block->steps[block->num_steps++] = step;
        } else {
          block->has_gaps = true;
        }
      }
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

// S = Q K^T for the keys of one step.
template <class Type>
void score(const QueryTile& tile, const Scratch& scratch, const Block& block, Block::Step step,
           const StepPlaces& at, Fetch* fetch) {
  const int64_t padded_dim = round_up(tile.shape.head_dim, kLanes);
  for (int g = block.groups_begin(step.head); g < block.groups_end[step.head]; ++g) {
    const Group& group = block.groups[g];
    for (int r = 0; r < group.rows;) {  // 5 rows are 3 + 2
      const int left = group.rows - r;
      const int rows = left > kMaxDotRows ? kMaxDotRows - 1 : left;
      with_int<kMaxDotRows>(rows, [&](auto n) {
        dot<Type, decltype(n)::value>(scratch.q + (group.row + r) * scratch.ldq, scratch.ldq,
                                      at.places->row + at.first, at.offset, step.keys, padded_dim,
                                      group.s + r * group.lds + step.column, group.lds, fetch);
      });
      r += rows;
    }
  }
}

// S = S diag(scales)
void scale_columns(const Group& group, const float* scales) {
  for (int r = 0; r < group.rows; ++r) {
    float* s = group.s + r * group.lds;
    for (int64_t column = group.begin; column < group.end; column += kLanes) {
      Store(Mul(Load(s + column), Load(scales + column)), s + column);
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

// S -> P and O = alpha O. If kExact, P of masked keys is marked.
template <class Stage, bool kExact>
void weigh(const QueryTile& tile, const Scratch& scratch, const Group& group, const float* k_scales,
           const float* v_scales) {
  const State& state = scratch.state;
  alignas(64) float alpha[kPaddedRows];
  if (k_scales) scale_columns(group, k_scales);
  Stage::apply(tile, group);
  softmax<kExact>(group, v_scales, state.m + group.row, state.l + group.row * kLanes, alpha);
  rescale(group.rows, tile.shape.head_dim_v, alpha, state.o + group.row * state.ldo, state.ldo);
}

// O = O + P V for the keys of one step. If kExact, keys whose P is marked do not take part; V is
// in scratch memory then.
template <class Type, bool kExact>
void accumulate(const QueryTile& tile, const Scratch& scratch, const Block& block, Block::Step step,
                const StepPlaces& at, Fetch* fetch) {
  const State& state = scratch.state;
  const char* const* row = at.places->row + at.first;
  const int64_t padded_dim = round_up(tile.shape.head_dim_v, kLanes);
  const int64_t panel = v_panel(padded_dim);
  for (int64_t dim = 0; dim < padded_dim; dim += panel) {
    const int vecs = static_cast<int>(min(panel, padded_dim - dim) / kLanes);
    for (int g = block.groups_begin(step.head); g < block.groups_end[step.head]; ++g) {
      const Group& group = block.groups[g];
      const int64_t first = max(step.column, group.begin);
      const int64_t skipped = first - step.column;
      const int64_t keys = min(step.column + step.keys, group.end) - first;
      if (keys <= 0) continue;
      const float* p = group.s + first;
      float* o = state.o + group.row * state.ldo + dim;
      if constexpr (kExact) {
        Product pv{};
        pv.a = p;
        pv.lda = group.lds;
        pv.b = reinterpret_cast<const float*>(row[skipped]) + dim;
        pv.ldb = state.ldo;
        pv.k = keys;
        pv.alpha = kOnes.of;
        pv.c = o;
        pv.ldc = state.ldo;
        multiply_marked<Init::kRescale>(group.rows, vecs, pv);
      } else {
        with_int<kRows>(group.rows, [&](auto rows) {
          with_int<kVecs>(vecs, [&](auto n) {
            using Element = typename Type::Element;
            add_weighted<Type, decltype(rows)::value, decltype(n)::value>(
                p, group.lds, row + skipped, at.offset + dim * int64_t{sizeof(Element)}, keys, o,
                state.ldo, fetch);
          });
        });
      }
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

bool all_finite(const QueryTile& tile, const State& state) {
  Vec poison = Zero();  // 0 * o is NaN if o is not finite, and NaN stays
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t dim = 0; dim < tile.shape.head_dim_v; dim += kLanes) {
      poison = MulAdd(Load(state.o + r * state.ldo + dim), Zero(), poison);
    }
  }
  return AllFinite(poison);
}

template <class Stage, bool kExact>
void attend_keys(const ChunkArgs& args, const Scratch& scratch) {
  const QueryTile& tile = args.tile;
  const int64_t tile_k = tile.shape.tile_k;
  const int64_t head_rows = tile.rows / args.heads_kv;
  const bool k_stored = as_stored(args.k, head_rows);
  const bool v_stored = !kExact && as_stored(args.v, head_rows);
  const int64_t key_bytes = row_bytes_of(args.k) + row_bytes_of(args.v);
  const int64_t wanted = k_stored && v_stored ? kStepBytes / key_bytes : 0;
  const int64_t step_keys = max(kMinStep, min(kMaxStep, round_down(wanted, kMinStep)));
  const int64_t together = max(kTogether, step_keys);
  // The first block from that key on of which something is attended to; without steps: none.
  const auto find_block = [&](int64_t key, Block* block) {
    do {
      set_block<Stage>(args, scratch, key, step_keys, together, block);
      key += tile_k;
    } while (block->num_steps == 0 && key < args.key_end);
  };
  Places places[2];  // of the keys at hand, and of the ones after them
  Places loaded;     // of a step's keys that were made f32
  int at_hand = 0;
  Fetch fetch;
  const auto side_by_side = [&](const Keys& keys) {
    return args.heads_kv > 1 && keys.head_stride == keys.dim;
  };
  const auto step_places = [&](const Places& of, const Keys& keys, const Block::Step& step) {
    return StepPlaces{&of, step.column - step.together, step.keys,
                      step.head * keys.head_stride * element_size(keys)};
  };
  // Looks up the keys from step i of the block on that are worked on together, and begins to fetch
  // all of them, or the first step. After the last step come the next chunk's keys.
  const auto look_up = [&](const Keys& keys, const Block& block, int i, Places* to) {
    const bool ends = i == block.num_steps;
    const Keys& of = ends ? args.next : keys;
    const int64_t begin = ends ? args.next_begin : block.key + block.steps[i].together;
    const int64_t end = ends ? args.next_end : block.key + block.end;
    to->set(of, begin, min(together, end - begin), side_by_side(of) ? args.heads_kv : 1);
    return side_by_side(of) ? StepPlaces{to, 0, to->keys, 0}
           : ends           ? StepPlaces{to, 0, min(step_keys, to->keys), 0}
                            : step_places(*to, of, block.steps[i]);
  };
  // fn(type, step, places) for the block's steps; after them comes the first step of `then`.
  const auto for_each_step = [&](const Keys& keys, bool stored, int64_t ld, const Block& block,
                                 const Keys& then, const Block& then_block, const auto& fn) {
    StepPlaces after{};  // what is to be fetched when the keys at hand are done
    for (int i = 0; i < block.num_steps; ++i) {
      const Block::Step& step = block.steps[i];
      const auto goes_with = [&](int j) {
        return j < block.num_steps && block.steps[j].together == step.together;
      };
      if (i == 0 || !goes_with(i - 1)) {
        int next = i + 1;
        while (goes_with(next)) ++next;
        at_hand ^= 1;
        Places* to = &places[at_hand ^ 1];
        after = next < block.num_steps ? look_up(keys, block, next, to)
                                       : look_up(then, then_block, 0, to);
        if (side_by_side(keys)) fetch.set(after);
      }
      if (!side_by_side(keys)) {
        fetch.set(goes_with(i + 1) ? step_places(places[at_hand], keys, block.steps[i + 1])
                                   : after);
      }
      if (stored) {
        const StepPlaces now = step_places(places[at_hand], keys, step);
        with_type(keys.rows.storage, [&](auto type) { fn(type, step, now); });
      } else {
        load_rows(keys_of(keys, step.head), block.key + step.column, step.keys, scratch.rows, ld,
                  &fetch, &loaded);
        fn(F32{}, step, StepPlaces{&loaded, 0, step.keys, 0});
      }
    }
  };

  Block blocks[2];
  int current = 0;
  find_block(args.key_begin, &blocks[0]);
  fetch.set(look_up(args.k, blocks[0], 0, &places[1]));
  fetch.rest();
  begin_chunk(tile, scratch, !args.partial);
  for (; blocks[current].num_steps > 0; current ^= 1) {
    const Block& block = blocks[current];
    Block& next = blocks[current ^ 1];
    find_block(block.key + tile_k, &next);
    if (block.has_gaps) mask_all(block);
    for_each_step(args.k, k_stored, scratch.ldq, block, args.v, block,
                  [&](auto type, const auto& step, const StepPlaces& at) {
                    score<decltype(type)>(tile, scratch, block, step, at, &fetch);
                  });
    // The scales of whole keys, or NULL.
    const auto scales_of = [&](const Keys& keys, int64_t head, float* scales) -> const float* {
      if (!scales_keys(keys)) return nullptr;
      load_scales(keys_of(keys, head), block.key, block.keys, scales);
      return scales;
    };
    for (int64_t head = 0; head < args.heads_kv; ++head) {
      const float* k_scales = scales_of(args.k, head, scratch.k_scales);
      const float* v_scales = scales_of(args.v, head, scratch.v_scales);
      for (int g = block.groups_begin(head); g < block.groups_end[head]; ++g) {
        weigh<Stage, kExact>(tile, scratch, block.groups[g], k_scales, v_scales);
      }
    }
    for_each_step(args.v, v_stored, scratch.state.ldo, block, args.k, next,
                  [&](auto type, const auto& step, const StepPlaces& at) {
                    accumulate<decltype(type), kExact>(tile, scratch, block, step, at, &fetch);
                  });
  }
}

template <class Stage>
void attend_chunk(const ChunkArgs& args) {
  const QueryTile& tile = args.tile;
  const Scratch scratch(tile.shape, tile.scratch);
  load_queries(tile, scratch);
  attend_keys<Stage, false>(args, scratch);
  // Something attended to is not finite, or a masked V: 0 * V is NaN then.
  if (!all_finite(tile, scratch.state)) attend_keys<Stage, true>(args, scratch);
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

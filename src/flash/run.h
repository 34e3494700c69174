// A run of the flash backend, as its host side sees it: flash.cpp plans it, operands.cpp says where
// its tensors lie, prefill.cpp and decode.cpp cut it into tasks. The arithmetic is in kernel.h.
#ifndef ATTN_FLASH_RUN_H_
#define ATTN_FLASH_RUN_H_

#include <attn/backend.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "../sequence.h"
#include "kernel_args.h"

namespace attn::flash {

constexpr int64_t kMaxUnits = 256;     // in a batch
constexpr int64_t kShortQueries = 16;  // up to so many, a sequence is cut into chunks

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

// ---- sizes, all in bytes and multiples of 64

int64_t packed_k_size(const FlashKernels& kernels, int64_t seqlen_k, int64_t head_dim);
int64_t packed_v_size(const FlashKernels& kernels, int64_t seqlen_k, int64_t head_dim_v);
// Of K and V each: only products of bf16 have them apart.
int64_t packed_scales_size(const FlashKernels& kernels, int64_t seqlen_k);
int64_t nonfinite_size(int64_t seqlen_k, int64_t tile_k);

struct Unit {
  Sequence sequence;
  int64_t head_kv;
  int64_t first_key;  // keys [first_key, end_key) are packed: the blocks that some query needs
  int64_t end_key;
  float* packed_k;
  float* packed_v;
  float* packed_k_scales;
  float* packed_v_scales;
  uint8_t* nonfinite;
  Span next_q;  // in the caller's memory, what is likely to be read after this unit
  Span next_k;
  Span next_v;
  int64_t pack_tasks_end;  // in a batch: tasks of this unit and the ones before it
  int64_t attend_tasks_end;
};

// The unit that a worker has packed, and how many of its tiles nobody has taken yet.
struct alignas(64) Stream {
  Unit unit;
  std::atomic<int64_t> tiles_left;
};

// A unit whose queries are few.
struct ShortUnit {
  Sequence sequence;
  int64_t head_kv;
  int64_t first_chunk;  // the first one that some query needs
  int64_t num_chunks;
  int64_t num_tiles;
  bool merges;
  char* partials;           // [tile][chunk], if it merges
  int64_t chunk_tasks_end;  // tasks of this unit and the ones before it
  int64_t merge_tasks_end;
};

// How the rows of a short sequence's heads become tiles.
struct ShortTiles {
  int64_t heads;  // of a tile
  int64_t count;  // of tiles
};

inline ShortTiles short_tiles(int64_t seqlen_q, int64_t heads) {
  const int64_t fit = std::min(kMaxChunkRows / std::max<int64_t>(seqlen_q, 1), heads);
  return {fit, ceil_div(heads, fit)};
}

struct Workspace {
  int64_t unit_size;    // of packed K and V, at most
  size_t scratch_size;  // of one worker
  size_t streams_offset;
  size_t units_offset;
  size_t packed_offset;
  size_t packed_size;
  size_t size;
};

struct Run {
  const attn_host& host;
  const attn_plan_config& problem;
  const attn_run_args& args;
  const attn_run_shape& shape;
  const FlashKernels& kernels;
  const FlashKernels& tile_kernels;  // those that pack, and compute tiles
  int64_t tile_q;
  int64_t tile_k;
  int64_t kv_chunk;
  TileShape tile_shape;
  TileShape chunk_shape;
  Workspace workspace;
  int64_t total_units;

  // Units that are streamed: [0, end_streamed).
  Stream* streams;
  int64_t end_streamed;
  std::atomic<int64_t> next_streamed;

  // The batch at hand.
  Unit* units;
  ShortUnit* short_units;
  int64_t num_units;
};

inline char* workspace_at(const Run& run, size_t offset) {
  return static_cast<char*>(run.args.workspace) + offset;
}

// Rows of q and o that belong to the sequence, those past a padded query's length included.
inline int64_t rows_of(const Run& run, const Sequence& sequence) {
  return run.problem.q_layout == ATTN_LAYOUT_PACKED ? sequence.seqlen_q : run.shape.seqlen_q;
}

inline int64_t heads_per_kv(const Run& run) { return run.problem.heads_q / run.problem.heads_kv; }

// Whether a sequence is served by chunks: the bits depend on it, so it says nothing of the others.
inline bool is_short(const Sequence& sequence) { return sequence.seqlen_q <= kShortQueries; }

inline Sequence sequence_of(const Run& run, int64_t unit) {
  return sequence_at(run.problem, run.args, run.shape, unit / run.problem.heads_kv);
}

// The unit that a task belongs to; *task becomes its number within the unit.
template <class Unit>
const Unit& unit_of(const Unit* units, int64_t num_units, int64_t Unit::*tasks_end, int64_t* task) {
  const Unit* unit =
      std::upper_bound(units, units + num_units, *task,
                       [tasks_end](int64_t t, const Unit& u) { return t < u.*tasks_end; });
  if (unit != units) *task -= unit[-1].*tasks_end;
  return *unit;
}

// ---- operands.cpp

// The keys that the sequence's queries need, in whole blocks of block_k.
KeyRange needed_blocks(const Run& run, const Sequence& sequence, int64_t block_k);

// A head's rows of k or v, and their scales if they have any.
Keys k_of(const Run& run, const Sequence& sequence, int64_t head_kv);
Keys v_of(const Run& run, const Sequence& sequence, int64_t head_kv);

// Rows [begin, end) of o are 0 and of lse -inf.
void clear_rows(const Run& run, const Sequence& sequence, int64_t head, int64_t begin, int64_t end);

// The tile of `queries` queries of each of `heads` heads, from these on. What it says of Features
// is put into *features.
QueryTile tile_of(const Run& run, const Sequence& sequence, int64_t head, int64_t heads,
                  int64_t query, int64_t queries, int32_t worker, Features* features);

// ---- prefill.cpp and decode.cpp

attn_status attend_packed(Run* run, attn_error* error);
attn_status attend_short(Run* run, attn_error* error);

}  // namespace attn::flash

#endif  // ATTN_FLASH_RUN_H_

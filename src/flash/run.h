// A run of the flash backend, as its host side sees it: flash.cpp plans it, operands.cpp says where
// its tensors lie, prefill.cpp and decode.cpp cut it into tasks. The arithmetic is in kernel.h.
//
// A unit is a kv head of a sequence, where that has more than kShortQueries queries: packed and
// computed in tiles of one head (prefill). The other sequences' units have one kv head or several
// and are computed chunk by chunk, in tiles of as many heads as fit (decode). One run may have
// both.
#ifndef ATTN_FLASH_RUN_H_
#define ATTN_FLASH_RUN_H_

#include <attn/backend.h>

#include <algorithm>
#include <cstdint>

#include "../sequence.h"
#include "kernel_args.h"

namespace attn::flash {

constexpr int64_t kMaxUnits = 256;                      // in a batch
constexpr int64_t kPackedCapacity = int64_t{16} << 20;  // bytes; more where one unit needs more
constexpr int64_t kShortQueries = 16;  // up to so many, a sequence is cut into chunks

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

// One (sequence, kv head): K and V, and the queries of all heads that read them.
struct Unit {
  Sequence sequence;
  int64_t head_kv;
};

// Sizes and offsets in bytes; flash.cpp has the picture.
struct Workspace {
  int64_t unit_size;    // of a unit's packed K and V, at most
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
  const attn_backend_plan& plan;
  TileShape tile_shape;
  TileShape chunk_shape;
  Workspace workspace;
  int64_t heads_per_kv;  // query heads that read the same K and V
  int64_t total_units;   // batch * heads_kv
};

inline char* workspace_at(const Run& run, size_t offset) {
  return static_cast<char*>(run.args.workspace) + offset;
}

// Rows of q and o that belong to the sequence, those past a padded query's length included.
inline int64_t rows_of(const Run& run, const Sequence& sequence) {
  return run.problem.q_layout == ATTN_LAYOUT_PACKED ? sequence.seqlen_q : run.shape.seqlen_q;
}

inline Unit unit_at(const Run& run, int64_t index) {
  const int64_t heads_kv = run.problem.heads_kv;
  return {sequence_at(run.problem, run.args, run.shape, index / heads_kv), index % heads_kv};
}

// Whether a unit is served by chunks: the bits depend on it, so it says nothing of the others.
inline bool is_short(const Unit& unit) { return unit.sequence.seqlen_q <= kShortQueries; }

// Units whose tasks are run together. A phase is the member of theirs that counts its tasks: those
// of the unit and of the ones before it.
template <class BatchUnit>
struct Batch {
  using Phase = int64_t BatchUnit::*;
  BatchUnit* units;
  int64_t size;

  int64_t num_tasks(Phase phase) const { return size > 0 ? units[size - 1].*phase : 0; }

  // The unit that a task belongs to; *task becomes its number within the unit.
  const BatchUnit& unit_of(Phase phase, int64_t* task) const {
    const BatchUnit* unit =
        std::upper_bound(units, units + size, *task,
                         [phase](int64_t t, const BatchUnit& u) { return t < u.*phase; });
    if (unit != units) *task -= unit[-1].*phase;
    return *unit;
  }
};

inline attn_status parallel_for(const Run& run, int64_t tasks, attn_task_fn fn, void* arg,
                                attn_error* error) {
  return tasks > 0 ? run.host.parallel_for(&run.host, tasks, fn, arg, error) : ATTN_OK;
}

// ---- operands.cpp

// The keys that the sequence's queries need, in whole blocks of block_k.
KeyRange needed_blocks(const Run& run, const Sequence& sequence, int64_t block_k);

// The unit's rows of k or v, and their scales if they have any.
Keys k_of(const Run& run, const Unit& unit);
Keys v_of(const Run& run, const Unit& unit);

// Rows [begin, end) of o are 0 and of lse -inf.
void clear_rows(const Run& run, const Sequence& sequence, int64_t head, int64_t begin, int64_t end);

// Queries [query, query + queries) of each of the heads [head, head + heads).
struct TileRows {
  int64_t head;
  int64_t heads;
  int64_t query;
  int64_t queries;
};

// The tile of these rows. What it says of Features is put into *features.
QueryTile tile_of(const Run& run, const Sequence& sequence, const TileRows& rows,
                  const TileShape& shape, int32_t worker, Features* features);

// ---- prefill.cpp: units of many queries

TileShape tile_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                     const attn_backend_plan& plan);

// Bytes of a unit's packed K and V, a multiple of 64.
int64_t packed_size(const FlashKernels& kernels, const attn_plan_config& problem,
                    const attn_backend_plan& plan, int64_t seqlen_k);

extern const size_t kStreamSize;
extern const size_t kPackedUnitSize;

attn_status prefill(const Run& run, attn_error* error);

// ---- decode.cpp: units of few queries

TileShape chunk_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan);

// Bytes for the results of so many units' chunks, or for those of as many as are worked on at a
// time.
int64_t partials_size(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan, int64_t units);

extern const size_t kChunkedUnitSize;

attn_status decode(const Run& run, attn_error* error);

}  // namespace attn::flash

#endif  // ATTN_FLASH_RUN_H_

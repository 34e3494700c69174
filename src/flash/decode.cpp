// Few queries, as in decoding: packing K and V would cost more than what it is for. A unit's K and
// V are cut into chunks of kv_chunk keys, and each is read where it lies for all rows of all heads
// at once (chunk_task); a second parallel loop merges the results (merge_task).
//
// Where a head's keys lie in small pieces, in pages or token by token, units have several kv heads:
// their pieces lie side by side, and memory reads one long piece faster than many short ones.
#include "../error.h"
#include "run.h"

namespace attn::flash {
namespace {

constexpr int64_t kLongPiece = 32 << 10;  // bytes: from there on heads are read one by one
constexpr int64_t kChunksPerWorker = 4;   // so many that an uneven share costs little

// A unit whose queries are few; it may have several kv heads of its sequence.
struct ChunkedUnit : Unit {
  int64_t heads_kv = 1;     // from head_kv on
  int64_t first_chunk = 0;  // the first one that some query needs
  int64_t num_chunks = 0;
  int64_t num_tiles = 0;
  bool merges = false;
  char* partials = nullptr;  // [tile][chunk], if it merges
  int64_t chunk_tasks_end = 0;
  int64_t merge_tasks_end = 0;
};

struct Decode {
  const Run& run;
  Batch<ChunkedUnit> batch;
};

// Of a unit's heads, as many as fit make a tile; all of them, if they are of several kv heads.
int64_t heads_per_tile(int64_t seqlen_q, int64_t heads) {
  return std::min(kMaxChunkRows / std::max<int64_t>(seqlen_q, 1), heads);
}

// Bytes of a head's keys that lie in one piece.
int64_t piece_of(const attn_plan_config& problem, const attn_tensor& t) {
  const int64_t row = t.shape[3] * static_cast<int64_t>(dtype_size(t.dtype));
  if (t.strides[3] != 1 || t.strides[2] != t.shape[3]) return row;
  return row * (problem.kv_layout == ATTN_LAYOUT_PAGED ? problem.page_size : t.shape[2]);
}

// As many kv heads as a tile takes, but not so many that workers have nothing to do.
int64_t heads_kv_of_unit(const Run& run) {
  if (std::min(piece_of(run.problem, *run.args.k), piece_of(run.problem, *run.args.v)) >=
      kLongPiece) {
    return 1;
  }
  int64_t rows = 1;  // of a kv head
  for (int64_t b = 0; b < run.shape.batch; ++b) {
    const Unit unit{sequence_at(run.problem, run.args, run.shape, b), 0};
    if (is_short(unit)) rows = std::max(rows, unit.sequence.seqlen_q * run.heads_per_kv);
  }
  const int64_t chunks = run.shape.batch * ceil_div(run.shape.seqlen_k, run.plan.kv_chunk);
  const int64_t wanted = run.host.concurrency > 1 ? run.host.concurrency * kChunksPerWorker : 1;
  int64_t heads = std::min({kMaxChunkRows / rows, kMaxChunkHeads, run.problem.heads_kv});
  while (heads > 1 && chunks * ceil_div(run.problem.heads_kv, heads) < wanted) heads /= 2;
  return std::max<int64_t>(heads, 1);
}

int64_t units_of_sequence(const Run& run, int64_t heads_kv) {
  return ceil_div(run.problem.heads_kv, heads_kv);
}

int64_t heads_of(const Run& run, const ChunkedUnit& unit) {
  return unit.heads_kv * run.heads_per_kv;
}

TileRows rows_of_tile(const Run& run, const ChunkedUnit& unit, int64_t tile) {
  const int64_t queries = unit.sequence.seqlen_q;
  const int64_t heads = heads_per_tile(queries, heads_of(run, unit));
  const int64_t first = tile * heads;
  const int64_t head = unit.head_kv * run.heads_per_kv + first;
  return {head, std::min(heads, heads_of(run, unit) - first), 0, queries};
}

// The result of a tile's chunk; those of a tile lie one after the other.
char* partial_of(const Run& run, const ChunkedUnit& unit, int64_t tile, int64_t rows,
                 int64_t chunk) {
  const int64_t queries = unit.sequence.seqlen_q;
  const int64_t full_rows = heads_per_tile(queries, heads_of(run, unit)) * queries;
  const auto size_of = [&](int64_t n) {
    return static_cast<int64_t>(run.kernels.partial_size(&run.chunk_shape, n));
  };
  return unit.partials + tile * unit.num_chunks * size_of(full_rows) + chunk * size_of(rows);
}

// Rows of a tile's heads past the sequence's queries.
void clear_padding(const Run& run, const Sequence& sequence, const TileRows& tile) {
  for (int64_t i = 0; i < tile.heads; ++i) {
    clear_rows(run, sequence, tile.head + i, tile.queries, rows_of(run, sequence));
  }
}

KeyRange keys_of_chunk(const Run& run, const ChunkedUnit& unit, int64_t chunk) {
  const int64_t begin = (unit.first_chunk + chunk) * run.plan.kv_chunk;
  return {begin, std::min(begin + run.plan.kv_chunk, unit.sequence.seqlen_k)};
}

void chunk_task(void* arg, int64_t task, int32_t worker) {
  const auto& [run, batch] = *static_cast<const Decode*>(arg);
  int64_t next_task = task + run.host.concurrency;
  const ChunkedUnit& unit = batch.unit_of(&ChunkedUnit::chunk_tasks_end, &task);
  const int64_t chunk = task / unit.num_tiles;
  const int64_t tile = task % unit.num_tiles;
  const TileRows rows = rows_of_tile(run, unit, tile);
  const KeyRange keys = keys_of_chunk(run, unit, chunk);
  Features features;
  ChunkArgs args{};
  args.tile = tile_of(run, unit.sequence, rows, run.chunk_shape, worker, &features);
  args.heads_kv = unit.heads_kv;
  args.k = k_of(run, unit);
  args.v = v_of(run, unit);
  args.key_begin = keys.begin;
  args.key_end = keys.end;
  if (next_task < batch.num_tasks(&ChunkedUnit::chunk_tasks_end)) {
    const ChunkedUnit& next = batch.unit_of(&ChunkedUnit::chunk_tasks_end, &next_task);
    const KeyRange next_keys = keys_of_chunk(run, next, next_task / next.num_tiles);
    args.next = k_of(run, next);
    args.next_begin = next_keys.begin;
    args.next_end = next_keys.end;
  }
  if (unit.merges) {
    args.partial = partial_of(run, unit, tile, args.tile.rows, chunk);
  } else {
    clear_padding(run, unit.sequence, rows);
  }
  run.kernels.attend_chunk(&args);
}

void merge_task(void* arg, int64_t task, int32_t worker) {
  const auto& [run, batch] = *static_cast<const Decode*>(arg);
  const ChunkedUnit& unit = batch.unit_of(&ChunkedUnit::merge_tasks_end, &task);
  const TileRows rows = rows_of_tile(run, unit, task);
  clear_padding(run, unit.sequence, rows);
  Features features;
  MergeArgs args{};
  args.tile = tile_of(run, unit.sequence, rows, run.chunk_shape, worker, &features);
  args.partials = partial_of(run, unit, task, args.tile.rows, 0);
  args.num_partials = unit.num_chunks;
  if (args.tile.rows > 0) run.kernels.merge(&args);
}

// Makes a batch of units from `next` on, as many as fit; returns the number of the one after them.
int64_t gather(const Run& run, int64_t heads_kv, int64_t next, Batch<ChunkedUnit>* batch) {
  const int64_t of_sequence = units_of_sequence(run, heads_kv);
  char* partials = workspace_at(run, run.workspace.packed_offset);
  const char* const end = partials + run.workspace.packed_size;
  for (batch->size = 0; next < run.shape.batch * of_sequence && batch->size < kMaxUnits; ++next) {
    const int64_t head_kv = next % of_sequence * heads_kv;
    const Sequence sequence = sequence_at(run.problem, run.args, run.shape, next / of_sequence);
    ChunkedUnit unit{{sequence, head_kv}};
    if (!is_short(unit)) continue;
    unit.heads_kv = std::min(heads_kv, run.problem.heads_kv - head_kv);
    const KeyRange keys = needed_blocks(run, sequence, run.plan.kv_chunk);
    unit.first_chunk = keys.begin / run.plan.kv_chunk;
    unit.num_chunks = ceil_div(keys.end, run.plan.kv_chunk) - unit.first_chunk;
    const int64_t heads = heads_of(run, unit);
    unit.num_tiles = ceil_div(heads, heads_per_tile(sequence.seqlen_q, heads));
    // With one chunk nothing is merged, and a sink goes in first. That changes bits, so it is a
    // matter of the length, not of how many chunks are needed.
    unit.merges = sequence.seqlen_k > run.plan.kv_chunk || unit.num_chunks == 0;
    unit.chunk_tasks_end =
        batch->num_tasks(&ChunkedUnit::chunk_tasks_end) + unit.num_chunks * unit.num_tiles;
    unit.merge_tasks_end = batch->num_tasks(&ChunkedUnit::merge_tasks_end);
    if (unit.merges) {
      unit.partials = partials;
      partials = partial_of(run, unit, unit.num_tiles, 0, 0);
      if (partials > end) break;
      unit.merge_tasks_end += unit.num_tiles;
    }
    batch->units[batch->size++] = unit;
  }
  return next;
}

}  // namespace

const size_t kChunkedUnitSize = sizeof(ChunkedUnit);

TileShape chunk_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan) {
  const int64_t heads = std::min(problem.heads_q, kMaxChunkRows);
  const int64_t rows =
      std::min(heads * std::min(problem.max_seqlen_q, kShortQueries), kMaxChunkRows);
  const int64_t tile_q = round_up(rows, kernels.micro_rows);
  return {tile_q, tile_q, plan.tile_k, problem.head_dim, problem.head_dim_v};
}

int64_t partials_size(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan, int64_t units) {
  const int64_t chunks = ceil_div(problem.max_seqlen_k, plan.kv_chunk);
  if (chunks == 1) return 0;
  const int64_t heads = problem.heads_q / problem.heads_kv;
  const TileShape shape = chunk_shape(kernels, problem, plan);
  int64_t size = 0;  // of a chunk of one kv head
  for (int64_t queries = 1; queries <= std::min(problem.max_seqlen_q, kShortQueries); ++queries) {
    const int64_t tile_heads = heads_per_tile(queries, heads);
    const auto tile = static_cast<int64_t>(kernels.partial_size(&shape, tile_heads * queries));
    size = std::max(size, ceil_div(heads, tile_heads) * tile);
  }
  const auto tile = static_cast<int64_t>(kernels.partial_size(&shape, shape.tile_q));
  const int64_t least = chunks * std::max(size, tile);  // whatever a unit is
  return std::min(std::max(units * chunks * size, least), std::max(kPackedCapacity, least));
}

attn_status decode(const Run& run, attn_error* error) {
  const int64_t heads_kv = heads_kv_of_unit(run);
  void* const units = workspace_at(run, run.workspace.units_offset);
  Decode decode{run, {static_cast<ChunkedUnit*>(units), 0}};
  const Batch<ChunkedUnit>& batch = decode.batch;
  for (int64_t next = 0; next < run.shape.batch * units_of_sequence(run, heads_kv);) {
    next = gather(run, heads_kv, next, &decode.batch);
    ATTN_TRY(parallel_for(run, batch.num_tasks(&ChunkedUnit::chunk_tasks_end), chunk_task, &decode,
                          error));
    ATTN_TRY(parallel_for(run, batch.num_tasks(&ChunkedUnit::merge_tasks_end), merge_task, &decode,
                          error));
  }
  return ATTN_OK;
}

}  // namespace attn::flash

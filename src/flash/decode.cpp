// Few queries. Where a sequence's queries are few, packing would cost more than what it is for.
// There a unit's K and V are cut into chunks of kv_chunk keys, and each is read where it lies for
// all rows of all heads at once (chunk_task); a second parallel loop merges the results
// (merge_task).
#include "../error.h"
#include "run.h"

namespace attn::flash {
namespace {

// Tile `tile` of the unit; clears what its heads have past the sequence's queries.
QueryTile short_tile(const Run& run, const ShortUnit& unit, int64_t tile, int32_t worker,
                     Features* features) {
  const int64_t queries = unit.sequence.seqlen_q;
  const int64_t tile_heads = short_tiles(queries, heads_per_kv(run)).heads;
  const int64_t first = tile * tile_heads;
  const int64_t heads = std::min(tile_heads, heads_per_kv(run) - first);
  const int64_t head = unit.head_kv * heads_per_kv(run) + first;
  QueryTile t = tile_of(run, unit.sequence, head, heads, 0, queries, worker, features);
  t.shape = run.chunk_shape;
  return t;
}

// The result of a tile's chunk; those of a tile lie one after the other.
char* partial_of(const Run& run, const ShortUnit& unit, int64_t tile, int64_t rows, int64_t chunk) {
  const int64_t queries = unit.sequence.seqlen_q;
  const int64_t full_rows = short_tiles(queries, heads_per_kv(run)).heads * queries;
  const auto size_of = [&](int64_t n) {
    return static_cast<int64_t>(run.kernels.partial_size(&run.chunk_shape, n));
  };
  return unit.partials + tile * unit.num_chunks * size_of(full_rows) + chunk * size_of(rows);
}

// Rows of a tile's heads past the sequence's queries.
void clear_padding(const Run& run, const ShortUnit& unit, int64_t tile) {
  const int64_t heads = short_tiles(unit.sequence.seqlen_q, heads_per_kv(run)).heads;
  const int64_t begin = tile * heads;
  for (int64_t i = begin; i < std::min(begin + heads, heads_per_kv(run)); ++i) {
    clear_rows(run, unit.sequence, unit.head_kv * heads_per_kv(run) + i, unit.sequence.seqlen_q,
               rows_of(run, unit.sequence));
  }
}

KeyRange keys_of_chunk(const Run& run, const ShortUnit& unit, int64_t chunk) {
  const int64_t begin = (unit.first_chunk + chunk) * run.kv_chunk;
  return {begin, std::min(begin + run.kv_chunk, unit.sequence.seqlen_k)};
}

void chunk_task(void* arg, int64_t task, int32_t worker) {
  const Run& run = *static_cast<const Run*>(arg);
  int64_t next_task = task + run.host.concurrency;
  const ShortUnit& unit =
      unit_of(run.short_units, run.num_units, &ShortUnit::chunk_tasks_end, &task);
  const int64_t chunk = task / unit.num_tiles;
  const int64_t tile = task % unit.num_tiles;
  Features features;
  ChunkArgs args{};
  args.tile = short_tile(run, unit, tile, worker, &features);
  args.k = k_of(run, unit.sequence, unit.head_kv);
  args.v = v_of(run, unit.sequence, unit.head_kv);
  const KeyRange keys = keys_of_chunk(run, unit, chunk);
  args.key_begin = keys.begin;
  args.key_end = keys.end;
  if (next_task < run.short_units[run.num_units - 1].chunk_tasks_end) {
    const ShortUnit& next =
        unit_of(run.short_units, run.num_units, &ShortUnit::chunk_tasks_end, &next_task);
    const KeyRange next_keys = keys_of_chunk(run, next, next_task / next.num_tiles);
    args.next = k_of(run, next.sequence, next.head_kv);
    args.next_begin = next_keys.begin;
    args.next_end = next_keys.end;
  }
  if (unit.merges) {
    args.partial = partial_of(run, unit, tile, args.tile.rows, chunk);
  } else {
    clear_padding(run, unit, tile);
  }
  run.kernels.attend_chunk(&args);
}

void merge_task(void* arg, int64_t task, int32_t worker) {
  const Run& run = *static_cast<const Run*>(arg);
  const ShortUnit& unit =
      unit_of(run.short_units, run.num_units, &ShortUnit::merge_tasks_end, &task);
  clear_padding(run, unit, task);
  Features features;
  MergeArgs args{};
  args.tile = short_tile(run, unit, task, worker, &features);
  args.partials = partial_of(run, unit, task, args.tile.rows, 0);
  args.num_partials = unit.num_chunks;
  if (args.tile.rows > 0) run.kernels.merge(&args);
}

// Puts short units from `first` on into run->short_units, as many as fit; returns the number of the
// next one.
int64_t gather_short_units(Run* run, int64_t first) {
  char* partials = workspace_at(*run, run->workspace.packed_offset);
  const char* const end = partials + run->workspace.packed_size;
  int64_t chunk_tasks = 0;
  int64_t merge_tasks = 0;
  run->num_units = 0;
  int64_t next = first;
  for (; next < run->total_units && run->num_units < kMaxUnits; ++next) {
    ShortUnit unit{};
    unit.sequence = sequence_of(*run, next);
    if (!is_short(unit.sequence)) continue;
    unit.head_kv = next % run->problem.heads_kv;
    const KeyRange keys = needed_blocks(*run, unit.sequence, run->kv_chunk);
    unit.first_chunk = keys.begin / run->kv_chunk;
    unit.num_chunks = ceil_div(keys.end, run->kv_chunk) - unit.first_chunk;
    unit.num_tiles = short_tiles(unit.sequence.seqlen_q, heads_per_kv(*run)).count;
    // With one chunk nothing is merged, and a sink goes in first. That changes bits, so it is a
    // matter of the length, not of how many chunks are needed.
    unit.merges = unit.sequence.seqlen_k > run->kv_chunk || unit.num_chunks == 0;
    if (unit.merges) {
      unit.partials = partials;
      const int64_t rows = unit.sequence.seqlen_q * heads_per_kv(*run);
      char* const own_end = partial_of(*run, unit, unit.num_tiles, rows, 0);
      if (own_end > end) break;
      partials = own_end;
      merge_tasks += unit.num_tiles;
    }
    chunk_tasks += unit.num_chunks * unit.num_tiles;
    unit.chunk_tasks_end = chunk_tasks;
    unit.merge_tasks_end = merge_tasks;
    run->short_units[run->num_units++] = unit;
  }
  return next;
}

}  // namespace

attn_status attend_short(Run* run, attn_error* error) {
  const attn_host& host = run->host;
  run->short_units = reinterpret_cast<ShortUnit*>(workspace_at(*run, run->workspace.units_offset));
  for (int64_t unit = 0; unit < run->total_units;) {
    unit = gather_short_units(run, unit);
    if (run->num_units == 0) break;
    const ShortUnit& last = run->short_units[run->num_units - 1];
    if (last.chunk_tasks_end > 0) {
      ATTN_TRY(host.parallel_for(&host, last.chunk_tasks_end, chunk_task, run, error));
    }
    if (last.merge_tasks_end > 0) {
      ATTN_TRY(host.parallel_for(&host, last.merge_tasks_end, merge_task, run, error));
    }
  }
  return ATTN_OK;
}

}  // namespace attn::flash

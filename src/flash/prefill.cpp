// Many queries. A unit is one (sequence, kv head): its K and V are packed, then every query tile
// that reads them is computed. While there are units for all workers each takes whole ones, so that
// what it packs stays in its own caches, and nobody waits for anybody (stream_task). The units left
// over, fewer than workers, and units too large for that are shared: as many as fit in the packing
// buffer make a batch, packed in one parallel loop and computed in a second one (pack_task,
// attend_task).
#include <cstring>
#include <new>

#include "../error.h"
#include "../tensor.h"
#include "run.h"

namespace attn::flash {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kKeysPerPackTask = 1024;
constexpr int64_t kTasksPerBatch = 64;  // for each worker: the end of a batch waits for the last

// Packs keys [key_begin, key_end) of the unit.
void pack(const Run& run, const Unit& unit, int64_t key_begin, int64_t key_end) {
  if (key_begin == key_end) return;
  PackArgs pack{};
  pack.key_begin = key_begin;
  pack.key_end = key_end;
  pack.tile_k = run.tile_k;

  pack.keys = k_of(run, unit.sequence, unit.head_kv);
  pack.packed = unit.packed_k;
  pack.scales_packed = unit.packed_k_scales;
  pack.factor = run.problem.scale * kLog2E;
  run.tile_kernels.pack_k(&pack);

  pack.keys = v_of(run, unit.sequence, unit.head_kv);
  pack.packed = unit.packed_v;
  pack.scales_packed = unit.packed_v_scales;
  pack.nonfinite = unit.nonfinite;
  run.tile_kernels.pack_v(&pack);
}

// Rows [begin, end) of q, k, v or o, if they lie one after the other.
Span span_of(const attn_tensor& t, int64_t dim, const char* row, int64_t rows) {
  if (t.strides[3] != 1 || t.strides[2] != dim) return {};
  return {row, rows * dim * static_cast<int64_t>(dtype_size(t.dtype))};
}

int64_t num_tiles_of(const Run& run, const Unit& unit) {
  return ceil_div(rows_of(run, unit.sequence), run.tile_q) * heads_per_kv(run);
}

// Computes one of the unit's tiles; `next_tile` is likely to be the worker's next one.
void attend(const Run& run, const Unit& unit, int64_t tile, int64_t next_tile, int32_t worker) {
  const attn_plan_config& problem = run.problem;
  const Sequence& sequence = unit.sequence;
  const int64_t rows = rows_of(run, sequence);
  const int64_t row_tiles = ceil_div(rows, run.tile_q);
  const auto head_of = [&](int64_t t) {
    return unit.head_kv * heads_per_kv(run) + t % heads_per_kv(run);
  };
  // The last queries have the most keys if the mask is causal: longest tiles first.
  const auto begin_of = [&](int64_t t) {
    return (row_tiles - 1 - t / heads_per_kv(run)) * run.tile_q;
  };
  const int64_t head = head_of(tile);
  const int64_t begin = begin_of(tile);
  const int64_t end = std::min(begin + run.tile_q, rows);
  const int64_t attended_end = std::clamp(sequence.seqlen_q, begin, end);

  clear_rows(run, sequence, head, attended_end, end);
  if (begin == attended_end) return;

  Features features;
  AttendArgs attend{};
  attend.tile = tile_of(run, sequence, head, 1, begin, attended_end - begin, worker, &features);
  attend.tile.shape = run.tile_shape;
  attend.packed_k = unit.packed_k;
  attend.packed_v = unit.packed_v;
  attend.packed_k_scales = unit.packed_k_scales;
  if (run.args.v_scale && run.tile_kernels.item_width > 1)
    attend.packed_v_scales = unit.packed_v_scales;
  attend.nonfinite = unit.nonfinite;
  attend.next[0] =
      span_of(*run.args.o, problem.head_dim_v, static_cast<char*>(attend.tile.o), attend.tile.rows);
  if (next_tile < num_tiles_of(run, unit)) {
    attend.next[1] =
        span_of(*run.args.q, problem.head_dim,
                query_row(problem, *run.args.q, sequence, head_of(next_tile), begin_of(next_tile)),
                std::min(run.tile_q, rows - begin_of(next_tile)));
  } else {
    attend.next[1] = unit.next_q;
    attend.next[2] = unit.next_k;
    attend.next[3] = unit.next_v;
  }
  run.tile_kernels.attend(&attend);
}

// Unit `index`, to be packed at `packed`.
Unit unit_at(const Run& run, int64_t index, char* packed) {
  const FlashKernels& kernels = run.tile_kernels;
  const attn_plan_config& problem = run.problem;
  Unit unit{};
  unit.sequence = sequence_of(run, index);
  unit.head_kv = index % problem.heads_kv;
  const KeyRange keys = needed_blocks(run, unit.sequence, run.tile_k);
  unit.first_key = keys.begin;
  unit.end_key = keys.end;
  const int64_t seqlen_k = unit.sequence.seqlen_k;
  const int64_t k_size = packed_k_size(kernels, seqlen_k, problem.head_dim);
  const int64_t v_size = packed_v_size(kernels, seqlen_k, problem.head_dim_v);
  const int64_t scales_size = packed_scales_size(kernels, seqlen_k);
  unit.packed_k = reinterpret_cast<float*>(packed);
  unit.packed_v = reinterpret_cast<float*>(packed + k_size);
  unit.packed_k_scales = reinterpret_cast<float*>(packed + k_size + v_size);
  unit.packed_v_scales = reinterpret_cast<float*>(packed + k_size + v_size + scales_size);
  unit.nonfinite = reinterpret_cast<uint8_t*>(packed + k_size + v_size + 2 * scales_size);
  return unit;
}

int64_t size_of(const Run& run, const Unit& unit) {
  return reinterpret_cast<char*>(unit.nonfinite) - reinterpret_cast<char*>(unit.packed_k) +
         nonfinite_size(unit.sequence.seqlen_k, run.tile_k);
}

// Says that unit `next` is likely to be the worker's next one. Its first tile is its last rows.
void set_next(const Run& run, Unit* unit, int64_t next) {
  const attn_plan_config& problem = run.problem;
  if (next >= run.total_units) return;
  const Sequence sequence = sequence_of(run, next);
  const int64_t head_kv = next % problem.heads_kv;
  if (const int64_t rows = rows_of(run, sequence); rows > 0) {
    const int64_t begin = (rows - 1) / run.tile_q * run.tile_q;
    unit->next_q =
        span_of(*run.args.q, problem.head_dim,
                query_row(problem, *run.args.q, sequence, head_kv * heads_per_kv(run), begin),
                rows - begin);
  }
  if (problem.kv_layout == ATTN_LAYOUT_PAGED) return;
  const auto span = [&](const attn_tensor& t, int64_t dim) {
    return span_of(t, dim, key_row(problem, run.args, t, sequence, head_kv, 0), sequence.seqlen_k);
  };
  unit->next_k = span(*run.args.k, problem.head_dim);
  unit->next_v = span(*run.args.v, problem.head_dim_v);
}

// ---- units that one worker packs

// Computes tiles of the stream's unit, longest first, until they are all taken.
void drain(const Run& run, Stream* stream, int32_t worker) {
  for (;;) {
    const int64_t left = stream->tiles_left.fetch_sub(1, std::memory_order_acquire);
    if (left <= 0) return;
    const int64_t tile = num_tiles_of(run, stream->unit) - left;
    attend(run, stream->unit, tile, tile + 1, worker);
  }
}

// Packs and computes units while there are any, then helps the other workers with their last ones.
// A worker's last unit is safe to help with: nothing is packed over it once all units are taken. It
// is open to others from the moment it is packed to that when its tiles are all taken.
void stream_task(void* arg, int64_t, int32_t worker) {
  Run& run = *static_cast<Run*>(arg);
  Stream& own = run.streams[worker];
  for (;;) {
    const int64_t index = run.next_streamed.fetch_add(1, std::memory_order_acq_rel);
    if (index >= run.end_streamed) break;
    if (is_short(sequence_of(run, index))) continue;
    own.unit =
        unit_at(run, index,
                workspace_at(run, run.workspace.packed_offset) + worker * run.workspace.unit_size);
    set_next(run, &own.unit, run.next_streamed.load(std::memory_order_relaxed));
    pack(run, own.unit, own.unit.first_key, own.unit.end_key);
    own.tiles_left.store(num_tiles_of(run, own.unit), std::memory_order_release);
    drain(run, &own, worker);
  }
  for (int32_t i = 1; i < run.host.concurrency; ++i) {
    drain(run, &run.streams[(worker + i) % run.host.concurrency], worker);
  }
}

// ---- units that all workers share

int64_t keys_per_pack_task(const Run& run) { return round_up(kKeysPerPackTask, run.tile_k); }

void pack_task(void* arg, int64_t task, int32_t) {
  const Run& run = *static_cast<const Run*>(arg);
  const Unit& unit = unit_of(run.units, run.num_units, &Unit::pack_tasks_end, &task);
  const int64_t begin = unit.first_key + task * keys_per_pack_task(run);
  pack(run, unit, begin, std::min(begin + keys_per_pack_task(run), unit.end_key));
}

void attend_task(void* arg, int64_t task, int32_t worker) {
  const Run& run = *static_cast<const Run*>(arg);
  const Unit& unit = unit_of(run.units, run.num_units, &Unit::attend_tasks_end, &task);
  attend(run, unit, task, task + run.host.concurrency, worker);
}

// Puts units from `first` on into run->units, as many as fit, but no more than it takes to keep all
// workers busy; returns the number of the next one.
int64_t gather_units(Run* run, int64_t first) {
  char* packed = workspace_at(*run, run->workspace.packed_offset);
  const char* const end = packed + run->workspace.packed_size;
  int64_t pack_tasks = 0;
  int64_t attend_tasks = 0;
  run->num_units = 0;
  int64_t next = first;
  for (; next < run->total_units && run->num_units < kMaxUnits; ++next) {
    if (attend_tasks >= run->host.concurrency * kTasksPerBatch) break;
    if (is_short(sequence_of(*run, next))) continue;
    Unit unit = unit_at(*run, next, packed);
    if (size_of(*run, unit) > end - packed) break;
    packed += size_of(*run, unit);
    pack_tasks += ceil_div(unit.end_key - unit.first_key, keys_per_pack_task(*run));
    attend_tasks += num_tiles_of(*run, unit);
    unit.pack_tasks_end = pack_tasks;
    unit.attend_tasks_end = attend_tasks;
    run->units[run->num_units++] = unit;
  }
  for (int64_t i = 0; i < run->num_units; ++i) set_next(*run, &run->units[i], next);
  return next;
}

}  // namespace

attn_status attend_packed(Run* run, attn_error* error) {
  const attn_host& host = run->host;
  const int64_t workers = host.concurrency;
  const bool room =
      workers * run->workspace.unit_size <= static_cast<int64_t>(run->workspace.packed_size);
  if (room) run->end_streamed = run->total_units - run->total_units % workers;
  if (run->end_streamed > 0) {
    run->streams = reinterpret_cast<Stream*>(workspace_at(*run, run->workspace.streams_offset));
    for (int64_t i = 0; i < workers; ++i) new (&run->streams[i]) Stream{};
    ATTN_TRY(host.parallel_for(&host, workers, stream_task, run, error));
  }
  run->units = reinterpret_cast<Unit*>(workspace_at(*run, run->workspace.units_offset));
  for (int64_t unit = run->end_streamed; unit < run->total_units;) {
    unit = gather_units(run, unit);
    if (run->num_units == 0) break;
    const Unit& last = run->units[run->num_units - 1];
    if (last.pack_tasks_end > 0) {
      ATTN_TRY(host.parallel_for(&host, last.pack_tasks_end, pack_task, run, error));
    }
    if (last.attend_tasks_end > 0) {
      ATTN_TRY(host.parallel_for(&host, last.attend_tasks_end, attend_task, run, error));
    }
  }
  return ATTN_OK;
}

}  // namespace attn::flash

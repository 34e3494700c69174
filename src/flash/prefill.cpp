// Many queries. A unit is one (sequence, kv head): its K and V are packed, then every query tile
// that reads them is computed. While there are units for all workers each takes whole ones, so that
// what it packs stays in its own caches, and nobody waits for anybody (stream_task). The units left
// over, fewer than workers, and units too large for that are shared: as many as fit in the packing
// buffer make a batch, packed in one parallel loop and computed in a second one (pack_task,
// attend_task).
#include <atomic>
#include <new>

#include "../error.h"
#include "../tensor.h"
#include "run.h"

namespace attn::flash {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int64_t kKeysPerPackTask = 1024;
constexpr int64_t kTasksPerBatch = 64;  // for each worker: the end of a batch waits for the last

struct PackedUnit : Unit {
  int64_t first_key = 0;  // keys [first_key, end_key) are packed: the blocks that some query needs
  int64_t end_key = 0;
  float* packed_k = nullptr;
  float* packed_v = nullptr;
  float* packed_k_scales = nullptr;
  float* packed_v_scales = nullptr;
  uint8_t* nonfinite = nullptr;
  Span next_q{};  // in the caller's memory, what is likely to be read after this unit
  Span next_k{};
  Span next_v{};
  int64_t pack_tasks_end = 0;
  int64_t attend_tasks_end = 0;
};

// The unit that a worker has packed, and how many of its tiles nobody has taken yet.
struct alignas(64) Stream {
  PackedUnit unit;
  std::atomic<int64_t> tiles_left;
};

struct Prefill {
  const Run& run;
  Stream* streams;       // of each worker
  int64_t end_streamed;  // units [0, end_streamed) are streamed, the others shared
  std::atomic<int64_t> next_streamed;
  Batch<PackedUnit> batch;
};

// Where the parts of a packed unit lie: bytes from where its packed K does, multiples of 64.
struct PackedLayout {
  int64_t v;
  int64_t k_scales;
  int64_t v_scales;
  int64_t nonfinite;
  int64_t size;
};

PackedLayout packed_layout(const FlashKernels& kernels, const attn_plan_config& problem,
                           const attn_backend_plan& plan, int64_t seqlen_k) {
  constexpr int64_t kItem = 4;  // bytes
  const auto items = [&](int64_t elements) {
    return round_up(ceil_div(elements, kernels.item_width), kernels.item_block);
  };
  const int64_t keys = round_up(seqlen_k, kernels.panel);
  const int64_t dims_v = round_up(problem.head_dim_v, kernels.lanes);
  // Only products of bf16 have scales apart.
  const int64_t scales = kernels.item_width == 1 ? 0 : keys * kItem;
  PackedLayout at{};
  at.v = round_up(keys * items(problem.head_dim) * kItem, 64);
  at.k_scales = at.v + round_up(items(seqlen_k) * dims_v * kItem, 64);
  at.v_scales = at.k_scales + scales;
  at.nonfinite = at.v_scales + scales;
  at.size = at.nonfinite + round_up(ceil_div(seqlen_k, plan.tile_k), 64);
  return at;
}

int64_t size_of(const Run& run, const Unit& unit) {
  return packed_size(run.tile_kernels, run.problem, run.plan, unit.sequence.seqlen_k);
}

// The unit, to be packed at `packed`.
PackedUnit packed_at(const Run& run, const Unit& base, char* packed) {
  const int64_t seqlen_k = base.sequence.seqlen_k;
  const PackedLayout at = packed_layout(run.tile_kernels, run.problem, run.plan, seqlen_k);
  const KeyRange keys = needed_blocks(run, base.sequence, run.plan.tile_k);
  PackedUnit unit{base};
  unit.first_key = keys.begin;
  unit.end_key = keys.end;
  unit.packed_k = reinterpret_cast<float*>(packed);
  unit.packed_v = reinterpret_cast<float*>(packed + at.v);
  unit.packed_k_scales = reinterpret_cast<float*>(packed + at.k_scales);
  unit.packed_v_scales = reinterpret_cast<float*>(packed + at.v_scales);
  unit.nonfinite = reinterpret_cast<uint8_t*>(packed + at.nonfinite);
  return unit;
}

// Packs keys [key_begin, key_end) of the unit.
void pack(const Run& run, const PackedUnit& unit, int64_t key_begin, int64_t key_end) {
  if (key_begin == key_end) return;
  PackArgs pack{};
  pack.key_begin = key_begin;
  pack.key_end = key_end;
  pack.tile_k = run.plan.tile_k;

  pack.keys = k_of(run, unit);
  pack.packed = unit.packed_k;
  pack.scales_packed = unit.packed_k_scales;
  pack.factor = run.problem.scale * kLog2E;
  run.tile_kernels.pack_k(&pack);

  pack.keys = v_of(run, unit);
  pack.packed = unit.packed_v;
  pack.scales_packed = unit.packed_v_scales;
  pack.nonfinite = unit.nonfinite;
  run.tile_kernels.pack_v(&pack);
}

// Tiles of each head.
int64_t row_tiles(const Run& run, const Unit& unit) {
  return ceil_div(rows_of(run, unit.sequence), run.plan.tile_q);
}

int64_t num_tiles_of(const Run& run, const Unit& unit) {
  return row_tiles(run, unit) * run.heads_per_kv;
}

// The rows of the unit's tile, those past a padded query's length included. The last queries have
// the most keys if the mask is causal: longest tiles first.
TileRows rows_of_tile(const Run& run, const Unit& unit, int64_t tile) {
  const int64_t head = unit.head_kv * run.heads_per_kv + tile % run.heads_per_kv;
  const int64_t query = (row_tiles(run, unit) - 1 - tile / run.heads_per_kv) * run.plan.tile_q;
  return {head, 1, query, std::min(run.plan.tile_q, rows_of(run, unit.sequence) - query)};
}

// Rows from this one on of q, k, v or o, if they lie one after the other.
Span span_of(const attn_tensor& t, const char* row, int64_t rows) {
  const int64_t dim = t.shape[3];
  if (t.strides[3] != 1 || t.strides[2] != dim) return {};
  return {row, rows * dim * static_cast<int64_t>(dtype_size(t.dtype))};
}

Span q_span(const Run& run, const Unit& unit, int64_t tile) {
  const TileRows rows = rows_of_tile(run, unit, tile);
  const attn_tensor& q = *run.args.q;
  return span_of(q, query_row(run.problem, q, unit.sequence, rows.head, rows.query), rows.queries);
}

// Says that unit `next` is likely to be the worker's next one.
void set_next(const Run& run, PackedUnit* unit, int64_t next_index) {
  if (next_index >= run.total_units) return;
  const Unit next = unit_at(run, next_index);
  if (num_tiles_of(run, next) > 0) unit->next_q = q_span(run, next, 0);
  if (run.problem.kv_layout == ATTN_LAYOUT_PAGED) return;
  const auto span = [&](const attn_tensor& t) {
    const char* row = key_row(run.problem, run.args, t, next.sequence, next.head_kv, 0);
    return span_of(t, row, next.sequence.seqlen_k);
  };
  unit->next_k = span(*run.args.k);
  unit->next_v = span(*run.args.v);
}

// Computes one of the unit's tiles; `next_tile` is likely to be the worker's next one.
void attend(const Run& run, const PackedUnit& unit, int64_t tile, int64_t next_tile,
            int32_t worker) {
  const Sequence& sequence = unit.sequence;
  TileRows rows = rows_of_tile(run, unit, tile);
  const int64_t end = rows.query + rows.queries;
  const int64_t attended_end = std::clamp(sequence.seqlen_q, rows.query, end);
  clear_rows(run, sequence, rows.head, attended_end, end);
  rows.queries = attended_end - rows.query;
  if (rows.queries == 0) return;

  Features features;
  AttendArgs attend{};
  attend.tile = tile_of(run, sequence, rows, run.tile_shape, worker, &features);
  attend.packed_k = unit.packed_k;
  attend.packed_v = unit.packed_v;
  attend.packed_k_scales = unit.packed_k_scales;
  if (run.args.v_scale && run.tile_kernels.item_width > 1) {
    attend.packed_v_scales = unit.packed_v_scales;
  }
  attend.nonfinite = unit.nonfinite;
  attend.next[0] = span_of(*run.args.o, static_cast<char*>(attend.tile.o), rows.queries);
  if (next_tile < num_tiles_of(run, unit)) {
    attend.next[1] = q_span(run, unit, next_tile);
  } else {
    attend.next[1] = unit.next_q;
    attend.next[2] = unit.next_k;
    attend.next[3] = unit.next_v;
  }
  run.tile_kernels.attend(&attend);
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
  Prefill& prefill = *static_cast<Prefill*>(arg);
  const Run& run = prefill.run;
  Stream& own = prefill.streams[worker];
  char* const packed =
      workspace_at(run, run.workspace.packed_offset) + worker * run.workspace.unit_size;
  for (;;) {
    const int64_t index = prefill.next_streamed.fetch_add(1, std::memory_order_acq_rel);
    if (index >= prefill.end_streamed) break;
    const Unit unit = unit_at(run, index);
    if (is_short(unit)) continue;
    own.unit = packed_at(run, unit, packed);
    set_next(run, &own.unit, prefill.next_streamed.load(std::memory_order_relaxed));
    pack(run, own.unit, own.unit.first_key, own.unit.end_key);
    own.tiles_left.store(num_tiles_of(run, own.unit), std::memory_order_release);
    drain(run, &own, worker);
  }
  for (int32_t i = 1; i < run.host.concurrency; ++i) {
    drain(run, &prefill.streams[(worker + i) % run.host.concurrency], worker);
  }
}

// ---- units that all workers share

int64_t keys_per_pack_task(const Run& run) { return round_up(kKeysPerPackTask, run.plan.tile_k); }

void pack_task(void* arg, int64_t task, int32_t) {
  const Prefill& prefill = *static_cast<const Prefill*>(arg);
  const Run& run = prefill.run;
  const PackedUnit& unit = prefill.batch.unit_of(&PackedUnit::pack_tasks_end, &task);
  const int64_t begin = unit.first_key + task * keys_per_pack_task(run);
  pack(run, unit, begin, std::min(begin + keys_per_pack_task(run), unit.end_key));
}

void attend_task(void* arg, int64_t task, int32_t worker) {
  const Prefill& prefill = *static_cast<const Prefill*>(arg);
  const PackedUnit& unit = prefill.batch.unit_of(&PackedUnit::attend_tasks_end, &task);
  attend(prefill.run, unit, task, task + prefill.run.host.concurrency, worker);
}

// Makes a batch of units from `next` on, as many as fit, but no more than it takes to keep all
// workers busy; returns the number of the one after them.
int64_t gather(const Run& run, int64_t next, Batch<PackedUnit>* batch) {
  char* packed = workspace_at(run, run.workspace.packed_offset);
  const char* const end = packed + run.workspace.packed_size;
  const int64_t enough = run.host.concurrency * kTasksPerBatch;
  for (batch->size = 0; next < run.total_units && batch->size < kMaxUnits; ++next) {
    const int64_t attend_tasks = batch->num_tasks(&PackedUnit::attend_tasks_end);
    const Unit base = unit_at(run, next);
    if (attend_tasks >= enough) break;
    if (is_short(base)) continue;
    if (size_of(run, base) > end - packed) break;
    PackedUnit unit = packed_at(run, base, packed);
    packed += size_of(run, base);
    unit.pack_tasks_end = batch->num_tasks(&PackedUnit::pack_tasks_end) +
                          ceil_div(unit.end_key - unit.first_key, keys_per_pack_task(run));
    unit.attend_tasks_end = attend_tasks + num_tiles_of(run, unit);
    batch->units[batch->size++] = unit;
  }
  for (int64_t i = 0; i < batch->size; ++i) set_next(run, &batch->units[i], next);
  return next;
}

}  // namespace

const size_t kStreamSize = sizeof(Stream);
const size_t kPackedUnitSize = sizeof(PackedUnit);

TileShape tile_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                     const attn_backend_plan& plan) {
  return {plan.tile_q, kernels.micro_rows, plan.tile_k, problem.head_dim, problem.head_dim_v};
}

int64_t packed_size(const FlashKernels& kernels, const attn_plan_config& problem,
                    const attn_backend_plan& plan, int64_t seqlen_k) {
  return packed_layout(kernels, problem, plan, seqlen_k).size;
}

attn_status prefill(const Run& run, attn_error* error) {
  const int64_t workers = run.host.concurrency;
  void* const streams = workspace_at(run, run.workspace.streams_offset);
  void* const units = workspace_at(run, run.workspace.units_offset);
  Prefill prefill{run, static_cast<Stream*>(streams), 0, 0, {static_cast<PackedUnit*>(units), 0}};
  const bool room =
      workers * run.workspace.unit_size <= static_cast<int64_t>(run.workspace.packed_size);
  if (room) prefill.end_streamed = run.total_units - run.total_units % workers;
  if (prefill.end_streamed > 0) {
    for (int64_t i = 0; i < workers; ++i) new (&prefill.streams[i]) Stream{};
    ATTN_TRY(parallel_for(run, workers, stream_task, &prefill, error));
  }
  const Batch<PackedUnit>& batch = prefill.batch;
  for (int64_t next = prefill.end_streamed; next < run.total_units;) {
    next = gather(run, next, &prefill.batch);
    ATTN_TRY(parallel_for(run, batch.num_tasks(&PackedUnit::pack_tasks_end), pack_task, &prefill,
                          error));
    ATTN_TRY(parallel_for(run, batch.num_tasks(&PackedUnit::attend_tasks_end), attend_task,
                          &prefill, error));
  }
  return ATTN_OK;
}

}  // namespace attn::flash

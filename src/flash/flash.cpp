// The flash backend's host side: what it serves, how work is cut into tasks, where things lie in
// the workspace. The arithmetic is in kernel.h.
//
// A unit is one (sequence, kv head): its K and V are packed, then every query tile that reads them
// is computed. While there are units for all workers each takes whole ones, so that what it packs
// stays in its own caches, and nobody waits for anybody (stream_task). The units left over, fewer
// than workers, and units too large for that are shared: as many as fit in the packing buffer make
// a batch, packed in one parallel loop and computed in a second one (pack_task, attend_task).
//
// Where a sequence's queries are few, packing would cost more than what it is for. There a unit's
// K and V are cut into chunks of kv_chunk keys, and each is read where it lies for all rows of all
// heads at once (chunk_task); a second parallel loop merges the results (merge_task).
//
// Workspace: [workers] scratch | [workers] Stream | [kMaxUnits] Unit or ShortUnit |
//            packed K and V, or the results of chunks
#include "flash.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>

#include "../error.h"
#include "../merge/merge.h"
#include "../sequence.h"
#include "../tensor.h"
#include "kernel_args.h"

namespace attn {
namespace {

using flash::AttendArgs;
using flash::ChunkArgs;
using flash::Features;
using flash::FlashKernels;
using flash::kMaxChunkRows;
using flash::kMaxTileK;
using flash::MergeArgs;
using flash::PackArgs;
using flash::QueryTile;
using flash::Storage;
using flash::TileShape;

constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kTileKMultiple = 64;            // a multiple of every panel
constexpr int64_t kMaxSeqlen = int64_t{1} << 40;  // keeps all sizes far from overflow
constexpr float kLog2E = 1.44269504f;
constexpr int64_t kUnbounded = int64_t{1} << 61;        // more than any difference of positions
constexpr int64_t kPackedCapacity = int64_t{16} << 20;  // bytes; more where one unit needs more
constexpr int64_t kMaxUnits = 256;                      // in a batch
constexpr int64_t kKeysPerPackTask = 1024;
constexpr int64_t kTileQ = 96;
constexpr int64_t kMinTileQ = 24;
constexpr int64_t kTasksPerWorker = 16;  // so many that an uneven share costs little
constexpr int64_t kTasksPerBatch = 64;   // for each worker: the end of a batch waits for the last
constexpr int64_t kTileK = 512;
constexpr int64_t kBlockFloats = int64_t{128} << 10;  // of K and V in a key block: stays in L2
constexpr int64_t kShortQueries = 16;  // up to so many, a sequence is cut into chunks
constexpr int64_t kChunkFloats = int64_t{256} << 10;  // of K and V in a chunk
constexpr int64_t kMinChunk = 512;  // keys: beside fewer, results of many rows would be large
constexpr int64_t kMaxChunk = 2048;

// What beside softcap takes more than an interval of keys for each row.
constexpr attn_features kFeatureStage = ATTN_BIAS | ATTN_MASK | ATTN_ALIBI | ATTN_BLOCK_MASK;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

// The kernels that take every problem.
const FlashKernels* kernels_for(attn_isa isa) {
  switch (isa) {
    case ATTN_ISA_SCALAR:
      return &flash::kFlashScalar;
#if defined(__x86_64__)
    case ATTN_ISA_AVX2:
      return &flash::kFlashAvx2;
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
      return &flash::kFlashAvx512;
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
      return &flash::kFlashNeon;
#endif
    default:
      return nullptr;
  }
}

// bf16 holds the type's elements without rounding.
[[maybe_unused]] bool fits_bf16(attn_dtype dtype) {
  return dtype == ATTN_DTYPE_BF16 || dtype == ATTN_DTYPE_I8 || dtype == ATTN_DTYPE_F8E4M3;
}

// The kernels whose products are of bf16, where they may serve the problem; else NULL.
const FlashKernels* bf16_kernels_for([[maybe_unused]] attn_isa isa,
                                     [[maybe_unused]] const attn_plan_config& problem) {
#if defined(__x86_64__)
  if (isa == ATTN_ISA_AVX512_BF16 && problem.q_dtype == ATTN_DTYPE_BF16 &&
      fits_bf16(problem.k_dtype) && fits_bf16(problem.v_dtype)) {
    return &flash::kFlashAvx512Bf16;
  }
#endif
  return nullptr;
}

// Those of a run's tiles. Scales of blocks within a row cannot be put off until after the products.
const FlashKernels& tile_kernels_for(attn_isa isa, const attn_plan_config& problem,
                                     const attn_run_args& args) {
  const auto in_blocks = [](const attn_tensor* scale) {
    return scale && scale->rank == 4 && scale->shape[3] > 1;
  };
  const FlashKernels* bf16 = bf16_kernels_for(isa, problem);
  return bf16 && !in_blocks(args.k_scale) && !in_blocks(args.v_scale) ? *bf16 : *kernels_for(isa);
}

// How the kernels call a type.
Storage storage_of(attn_dtype dtype) {
  switch (dtype) {
    case ATTN_DTYPE_F16:
      return Storage::kF16;
    case ATTN_DTYPE_BF16:
      return Storage::kBF16;
    case ATTN_DTYPE_I8:
      return Storage::kI8;
    case ATTN_DTYPE_F8E4M3:
      return Storage::kF8E4M3;
    default:
      return Storage::kF32;
  }
}

// ---- sizes, all in bytes and multiples of 64

constexpr int64_t kItem = 4;

int64_t packed_k_size(const FlashKernels& kernels, int64_t seqlen_k, int64_t head_dim) {
  const int64_t items = ceil_div(head_dim, kernels.item_width);
  return round_up(round_up(seqlen_k, kernels.panel) * items * kItem, 64);
}

int64_t packed_v_size(const FlashKernels& kernels, int64_t seqlen_k, int64_t head_dim_v) {
  const int64_t items = ceil_div(seqlen_k, kernels.item_width);
  return round_up(items * round_up(head_dim_v, kernels.lanes) * kItem, 64);
}

// Of K and V each: only products of bf16 have them apart.
int64_t packed_scales_size(const FlashKernels& kernels, int64_t seqlen_k) {
  return kernels.item_width == 1 ? 0 : round_up(seqlen_k * int64_t{sizeof(float)}, 64);
}

int64_t nonfinite_size(int64_t seqlen_k, int64_t tile_k) {
  return round_up(ceil_div(seqlen_k, tile_k), 64);
}

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
  flash::Span next_q;  // in the caller's memory, what is likely to be read after this unit
  flash::Span next_k;
  flash::Span next_v;
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

ShortTiles short_tiles(int64_t seqlen_q, int64_t heads) {
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

// Whether the plan has sequences whose K and V are packed.
bool packs(const attn_plan_config& problem) { return problem.max_seqlen_q > kShortQueries; }

TileShape tile_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                     const attn_backend_plan& plan) {
  return {plan.tile_q, kernels.micro_rows, plan.tile_k, problem.head_dim, problem.head_dim_v};
}

TileShape chunk_shape(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan) {
  const int64_t heads = std::min(problem.heads_q / problem.heads_kv, kMaxChunkRows);
  const int64_t rows =
      std::min(heads * std::min(problem.max_seqlen_q, kShortQueries), kMaxChunkRows);
  const int64_t tile_q = round_up(rows, kernels.micro_rows);
  return {tile_q, tile_q, plan.tile_k, problem.head_dim, problem.head_dim_v};
}

// Bytes that the results of a unit's chunks need at most.
int64_t partials_size(const FlashKernels& kernels, const attn_plan_config& problem,
                      const attn_backend_plan& plan) {
  const int64_t chunks = ceil_div(problem.max_seqlen_k, plan.kv_chunk);
  if (chunks == 1) return 0;
  const TileShape shape = chunk_shape(kernels, problem, plan);
  int64_t size = 0;
  for (int64_t queries = 1; queries <= std::min(problem.max_seqlen_q, kShortQueries); ++queries) {
    const ShortTiles tiles = short_tiles(queries, problem.heads_q / problem.heads_kv);
    const auto tile = static_cast<int64_t>(kernels.partial_size(&shape, tiles.heads * queries));
    size = std::max(size, tiles.count * tile);
  }
  return chunks * size;
}

// tile_kernels: those that pack, and compute tiles.
Workspace lay_out(const FlashKernels& kernels, const FlashKernels& tile_kernels,
                  const attn_host& host, const attn_plan_config& problem,
                  const attn_backend_plan& plan) {
  const TileShape tile = tile_shape(kernels, problem, plan);
  const TileShape chunk = chunk_shape(kernels, problem, plan);
  const int64_t unit_size =
      packs(problem) ? packed_k_size(tile_kernels, problem.max_seqlen_k, problem.head_dim) +
                           packed_v_size(tile_kernels, problem.max_seqlen_k, problem.head_dim_v) +
                           2 * packed_scales_size(tile_kernels, problem.max_seqlen_k) +
                           nonfinite_size(problem.max_seqlen_k, plan.tile_k)
                     : 0;
  const int64_t workers = host.concurrency;
  int64_t units;
  if (__builtin_mul_overflow(problem.max_batch, problem.heads_kv, &units)) units = kMaxUnits;
  units = std::clamp<int64_t>(units, 1, std::max(workers, kMaxUnits));
  const auto limited = [](int64_t count, int64_t size) {
    return static_cast<size_t>(std::min(count * size, std::max(kPackedCapacity, size)));
  };

  Workspace w{};
  w.unit_size = unit_size;
  w.scratch_size = kernels.scratch_size(&chunk);
  if (packs(problem)) w.scratch_size = std::max(w.scratch_size, kernels.scratch_size(&tile));
  w.streams_offset = w.scratch_size * static_cast<size_t>(workers);
  w.units_offset =
      w.streams_offset + (packs(problem) ? static_cast<size_t>(workers) * sizeof(Stream) : 0);
  w.packed_offset =
      w.units_offset +
      static_cast<size_t>(round_up(
          std::min(units, kMaxUnits) *
              static_cast<int64_t>(std::max(sizeof(ShortUnit), packs(problem) ? sizeof(Unit) : 0)),
          64));
  w.packed_size = std::max(limited(std::min(units, workers), unit_size),
                           limited(units, partials_size(kernels, problem, plan)));
  w.size = w.packed_offset + w.packed_size;
  return w;
}

// ---- a run

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

char* workspace_at(const Run& run, size_t offset) {
  return static_cast<char*>(run.args.workspace) + offset;
}

// Rows of q and o that belong to the sequence, those past a padded query's length included.
int64_t rows_of(const Run& run, const Sequence& sequence) {
  return run.problem.q_layout == ATTN_LAYOUT_PACKED ? sequence.seqlen_q : run.shape.seqlen_q;
}

int64_t heads_per_kv(const Run& run) { return run.problem.heads_q / run.problem.heads_kv; }

// Whether a sequence is served by chunks: the bits depend on it, so it says nothing of the others.
bool is_short(const Sequence& sequence) { return sequence.seqlen_q <= kShortQueries; }

// The keys that the sequence's queries need, in whole blocks of block_k.
KeyRange needed_blocks(const Run& run, const Sequence& sequence, int64_t block_k) {
  // Both ends of a row's interval move only to the right from one query to the next, but a row
  // without a key says nothing about them: so the bounds are taken without clamping each row.
  const bool causal = run.problem.features & ATTN_CAUSAL;
  const bool right = run.problem.features & ATTN_WINDOW_RIGHT;
  const bool left = run.problem.features & ATTN_WINDOW_LEFT;
  const int64_t diagonal = sequence.q_start - sequence.k_start;
  int64_t begin = 0;
  int64_t end = sequence.seqlen_k;
  if (left) begin = std::max(begin, diagonal - run.problem.window_left);
  const int64_t last = diagonal + sequence.seqlen_q - 1;
  if (causal) end = std::min(end, last + 1);
  if (right) end = std::min(end, last + run.problem.window_right + 1);
  if (begin >= end || sequence.seqlen_q == 0) return {0, 0};
  return {begin / block_k * block_k, std::min(round_up(end, block_k), sequence.seqlen_k)};
}

// The scales of a head's rows of `columns` elements.
flash::Scales scales_at_row_0(const Run& run, const Sequence& sequence, int64_t head_kv,
                              const attn_tensor& scale, int64_t columns) {
  const bool paged = run.problem.kv_layout == ATTN_LAYOUT_PAGED;
  const KeyPlace first = paged ? KeyPlace{0, 0} : key_place(run.problem, run.args, sequence, 0);
  const int64_t offset = first.outer * broadcast_stride(scale, 0) +
                         head_kv * broadcast_stride(scale, 1) +
                         first.row * broadcast_stride(scale, 2);
  const bool blocks = scale.rank == 4;
  return {reinterpret_cast<const float*>(element_at(scale, offset)), broadcast_stride(scale, 2),
          broadcast_stride(scale, 0), blocks ? scale.strides[3] : 0,
          blocks ? columns / scale.shape[3] : columns};
}

// A head's rows of k or v, and their scales if they have any.
flash::Keys keys_of(const Run& run, const Sequence& sequence, int64_t head_kv, const attn_tensor& t,
                    const attn_tensor* scale) {
  const bool paged = run.problem.kv_layout == ATTN_LAYOUT_PAGED;
  const char* data =
      paged ? tensor_at(t, 0, head_kv) : key_row(run.problem, run.args, t, sequence, head_kv, 0);
  flash::Keys keys{};
  keys.rows = {data, storage_of(t.dtype), t.strides[2], t.strides[3]};
  if (paged) {
    const attn_tensor& table = *run.args.block_table;
    const char* entries = tensor_at(table, sequence.index);
    keys.pages = {run.problem.page_size, t.strides[0], reinterpret_cast<const int32_t*>(entries),
                  table.strides[1]};
  }
  if (scale) keys.scales = scales_at_row_0(run, sequence, head_kv, *scale, t.shape[3]);
  keys.dim = t.shape[3];
  return keys;
}

flash::Keys k_of(const Run& run, const Sequence& sequence, int64_t head_kv) {
  return keys_of(run, sequence, head_kv, *run.args.k, run.args.k_scale);
}

flash::Keys v_of(const Run& run, const Sequence& sequence, int64_t head_kv) {
  return keys_of(run, sequence, head_kv, *run.args.v, run.args.v_scale);
}

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

// Rows [begin, end) of o are 0 and of lse -inf.
void clear_rows(const Run& run, const Sequence& sequence, int64_t head, int64_t begin,
                int64_t end) {
  const attn_tensor& o = *run.args.o;
  const size_t size = dtype_size(o.dtype);
  for (int64_t i = begin; i < end; ++i) {
    char* row = query_row(run.problem, o, sequence, head, i);
    for (int64_t dim = 0; dim < run.problem.head_dim_v; ++dim) {
      std::memset(row + dim * o.strides[3] * static_cast<int64_t>(size), 0, size);
    }
    if (run.args.lse) {
      *reinterpret_cast<float*>(query_row(run.problem, *run.args.lse, sequence, head, i)) =
          -std::numeric_limits<float>::infinity();
    }
  }
}

// A bias or a mask over the rows of a tile, which begins with that head's query `first`.
flash::Overlay overlay_of(const Run& run, const Sequence& sequence, int64_t head, int64_t first,
                          const attn_tensor& t, bool ranged, const attn_tensor* k0) {
  const ColumnsView view = columns_of(run.problem, sequence, head, first, t, ranged, k0);
  return {view.data,   storage_of(t.dtype), broadcast_stride(t, 1), broadcast_stride(t, 2),
          view.stride, view.keys.begin,     view.keys.end};
}

Features features_of(const Run& run, const Sequence& sequence, int64_t head, int64_t first) {
  const attn_plan_config& problem = run.problem;
  const attn_run_args& args = run.args;
  Features f{};
  f.softcap = problem.softcap;
  if (args.alibi_slopes) {
    const attn_tensor& slopes = *args.alibi_slopes;
    const char* slope =
        slopes.rank == 1 ? tensor_at(slopes, head) : tensor_at(slopes, sequence.index, head);
    f.alibi = {reinterpret_cast<const float*>(slope), slopes.strides[slopes.rank - 1],
               sequence.q_start + first - sequence.k_start};
  }
  if (args.bias) {
    f.bias = overlay_of(run, sequence, head, first, *args.bias, problem.features & ATTN_BIAS_RANGE,
                        args.bias_k0);
  }
  if (args.mask) {
    f.mask = overlay_of(run, sequence, head, first, *args.mask, problem.features & ATTN_MASK_RANGE,
                        args.mask_k0);
  }
  if (args.block_mask) {
    const attn_tensor& mask = *args.block_mask;
    f.block_mask = {reinterpret_cast<const uint8_t*>(block_mask_of(mask, sequence, head)),
                    broadcast_stride(mask, 1),
                    broadcast_stride(mask, 2),
                    broadcast_stride(mask, 3),
                    problem.block_q,
                    problem.block_k,
                    first};
  }
  return f;
}

// The tile of `queries` queries of each of `heads` heads, from these on. What it says of Features
// is put into *features.
QueryTile tile_of(const Run& run, const Sequence& sequence, int64_t head, int64_t heads,
                  int64_t query, int64_t queries, int32_t worker, Features* features) {
  const attn_plan_config& problem = run.problem;
  const attn_run_args& args = run.args;
  const int64_t diagonal = sequence.q_start + query - sequence.k_start;
  QueryTile tile{};
  tile.rows = heads * queries;
  tile.queries = queries;
  tile.q = {query_row(problem, *args.q, sequence, head, query), storage_of(problem.q_dtype),
            args.q->strides[2], args.q->strides[3]};
  tile.q_head_stride = args.q->strides[1];
  tile.key_lo = -kUnbounded;
  tile.key_hi = kUnbounded;
  if (problem.features & ATTN_CAUSAL) tile.key_hi = diagonal + 1;
  if (problem.features & ATTN_WINDOW_RIGHT) {
    tile.key_hi = std::min(tile.key_hi, diagonal + problem.window_right + 1);
  }
  if (problem.features & ATTN_WINDOW_LEFT) tile.key_lo = diagonal - problem.window_left;
  tile.key_lo = std::clamp(tile.key_lo, -kUnbounded, kUnbounded);
  tile.key_hi = std::clamp(tile.key_hi, -kUnbounded, kUnbounded);
  tile.seqlen_k = sequence.seqlen_k;
  tile.scale = problem.scale;
  if (problem.softcap != 0.0f || problem.features & kFeatureStage) {
    *features = features_of(run, sequence, head, query);
    tile.features = features;
  }
  if (args.sink) {
    tile.sink_stride = broadcast_stride(*args.sink, 0);
    tile.sinks = reinterpret_cast<const float*>(element_at(*args.sink, head * tile.sink_stride));
  }
  tile.o = query_row(problem, *args.o, sequence, head, query);
  tile.o_storage = storage_of(problem.o_dtype);
  tile.o_head_stride = args.o->strides[1];
  tile.o_row_stride = args.o->strides[2];
  tile.o_dim_stride = args.o->strides[3];
  if (args.lse) {
    tile.lse = reinterpret_cast<float*>(query_row(problem, *args.lse, sequence, head, query));
    tile.lse_head_stride = args.lse->strides[1];
    tile.lse_stride = args.lse->strides[2];
  }
  tile.scratch = workspace_at(run, run.workspace.scratch_size * static_cast<size_t>(worker));
  return tile;
}

// Rows [begin, end) of q, k, v or o, if they lie one after the other.
flash::Span span_of(const attn_tensor& t, int64_t dim, const char* row, int64_t rows) {
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

Sequence sequence_of(const Run& run, int64_t unit) {
  return sequence_at(run.problem, run.args, run.shape, unit / run.problem.heads_kv);
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

// The unit that a task belongs to; *task becomes its number within the unit.
template <class Unit>
const Unit& unit_of(const Unit* units, int64_t num_units, int64_t Unit::*tasks_end, int64_t* task) {
  const Unit* unit =
      std::upper_bound(units, units + num_units, *task,
                       [tasks_end](int64_t t, const Unit& u) { return t < u.*tasks_end; });
  if (unit != units) *task -= unit[-1].*tasks_end;
  return *unit;
}

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

// ---- units that are cut into chunks

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

attn_status run_plan(const attn_host* host, const attn_plan_config* problem,
                     const attn_backend_plan* plan, const attn_run_args* args,
                     const attn_run_shape* shape, attn_error* error) {
  const FlashKernels& kernels = *kernels_for(plan->isa);
  const FlashKernels& tile_kernels = tile_kernels_for(plan->isa, *problem, *args);
  Run run{*host,
          *problem,
          *args,
          *shape,
          kernels,
          tile_kernels,
          plan->tile_q,
          plan->tile_k,
          plan->kv_chunk,
          tile_shape(kernels, *problem, *plan),
          chunk_shape(kernels, *problem, *plan),
          lay_out(kernels, tile_kernels, *host, *problem, *plan),
          shape->batch * problem->heads_kv,
          nullptr,
          0,
          0,
          nullptr,
          nullptr,
          0};
  if (packs(*problem)) ATTN_TRY(attend_packed(&run, error));
  return attend_short(&run, error);
}

// ---- a plan

attn_status probe(const attn_host* host, attn_error* error) {
  if (kernels_for(host->isa)) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNAVAILABLE, "flash has no kernels for instruction set %d",
              static_cast<int>(host->isa));
}

attn_status check_head_dim(const char* field, int64_t value, attn_error* error) {
  if (value <= kMaxHeadDim) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNSUPPORTED, "%s is %lld; flash serves 1 to %lld", field,
              static_cast<long long>(value), static_cast<long long>(kMaxHeadDim));
}

// The bits of a result depend on tile_k, so it must depend on nothing but head sizes here.
int64_t choose_tile_k(const attn_plan_config& problem) {
  const int64_t fits = kBlockFloats / (problem.head_dim + problem.head_dim_v);
  return std::clamp(fits / kTileKMultiple * kTileKMultiple, kTileKMultiple, kTileK);
}

// So is kv_chunk. Long enough for what a chunk costs beside its keys, short enough for several in a
// few thousand keys.
int64_t choose_kv_chunk(const attn_plan_config& problem) {
  const int64_t fits = kChunkFloats / (problem.head_dim + problem.head_dim_v);
  return std::clamp(fits / kTileKMultiple * kTileKMultiple, kMinChunk, kMaxChunk);
}

int64_t choose_tile_q(const attn_host& host, const attn_plan_config& problem, int64_t micro_rows) {
  const double heads =
      static_cast<double>(problem.max_batch) * static_cast<double>(problem.heads_q);
  const double enough = host.concurrency > 1 ? host.concurrency * kTasksPerWorker : 0;
  int64_t tile_q = std::min(kTileQ, problem.max_seqlen_q);
  while (tile_q > kMinTileQ &&
         heads * static_cast<double>(ceil_div(problem.max_seqlen_q, tile_q)) < enough) {
    tile_q /= 2;
  }
  return round_up(tile_q, micro_rows);
}

attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                        attn_backend_plan* plan, attn_error* error) {
  ATTN_TRY(probe(host, error));
  ATTN_TRY(check_head_dim("head_dim", problem->head_dim, error));
  ATTN_TRY(check_head_dim("head_dim_v", problem->head_dim_v, error));
  if (problem->max_seqlen_q > kMaxSeqlen || problem->max_seqlen_k > kMaxSeqlen) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "max_seqlen_q is %lld and max_seqlen_k %lld; flash serves up to %lld",
                static_cast<long long>(problem->max_seqlen_q),
                static_cast<long long>(problem->max_seqlen_k), static_cast<long long>(kMaxSeqlen));
  }
  if (problem->tile_k % kTileKMultiple != 0 || problem->tile_k > kMaxTileK) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "tile_k is %lld; flash serves multiples of %lld up to %lld",
                static_cast<long long>(problem->tile_k), static_cast<long long>(kTileKMultiple),
                static_cast<long long>(kMaxTileK));
  }
  if (problem->kv_chunk % kTileKMultiple != 0 || problem->kv_chunk > kMaxSeqlen) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "kv_chunk is %lld; flash serves multiples of %lld up to %lld",
                static_cast<long long>(problem->kv_chunk), static_cast<long long>(kTileKMultiple),
                static_cast<long long>(kMaxSeqlen));
  }
  const FlashKernels& kernels = *kernels_for(host->isa);
  plan->isa = host->isa;
  plan->tile_q = choose_tile_q(*host, *problem, kernels.micro_rows);
  plan->tile_k = problem->tile_k ? problem->tile_k : choose_tile_k(*problem);
  plan->kv_chunk = problem->kv_chunk ? problem->kv_chunk : choose_kv_chunk(*problem);
  plan->workspace_size = lay_out(kernels, kernels, *host, *problem, *plan).size;
  if (const FlashKernels* bf16 = bf16_kernels_for(host->isa, *problem)) {
    const size_t size = lay_out(kernels, *bf16, *host, *problem, *plan).size;
    plan->workspace_size = std::max(plan->workspace_size, size);
  }
  return ATTN_OK;
}

void plan_destroy(const attn_host*, const attn_plan_config*, attn_backend_plan*) {}

}  // namespace

const attn_backend kFlashBackend = {
    sizeof(attn_backend),
    ATTN_BACKEND_ABI,
    "flash",
    "tiled, with online softmax; every feature, layout and type, head sizes up to 1024",
    ATTN_DEVICE_CPU,
    0,
    probe,
    plan_create,
    plan_destroy,
    run_plan,
    merge_cpu,
};

}  // namespace attn

// Where a run's tensors lie, as the kernels want to know it.
#include <cstring>
#include <limits>

#include "../tensor.h"
#include "run.h"

namespace attn::flash {
namespace {

constexpr int64_t kUnbounded = int64_t{1} << 61;  // more than any difference of positions

// What beside softcap takes more than an interval of keys for each row.
constexpr attn_features kFeatureStage = ATTN_BIAS | ATTN_MASK | ATTN_ALIBI | ATTN_BLOCK_MASK;

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

// Query i attends to the keys [max(0, i + lo), min(seqlen_k, i + hi)).
struct Band {
  int64_t lo;
  int64_t hi;
};

// That of the sequence's queries, counted from `query` on.
Band band_of(const attn_plan_config& problem, const Sequence& sequence, int64_t query) {
  const int64_t diagonal = sequence.q_start + query - sequence.k_start;
  Band band{-kUnbounded, kUnbounded};
  if (problem.features & ATTN_CAUSAL) band.hi = diagonal + 1;
  if (problem.features & ATTN_WINDOW_RIGHT) {
    band.hi = std::min(band.hi, diagonal + problem.window_right + 1);
  }
  if (problem.features & ATTN_WINDOW_LEFT) band.lo = diagonal - problem.window_left;
  return {std::clamp(band.lo, -kUnbounded, kUnbounded),
          std::clamp(band.hi, -kUnbounded, kUnbounded)};
}

// The scales of a unit's rows of `columns` elements.
Scales scales_of(const Run& run, const Unit& unit, const attn_tensor& scale, int64_t columns) {
  const auto& [sequence, head_kv] = unit;
  const bool paged = run.problem.kv_layout == ATTN_LAYOUT_PAGED;
  const KeyPlace first = paged ? KeyPlace{0, 0} : key_place(run.problem, run.args, sequence, 0);
  const int64_t offset = first.outer * broadcast_stride(scale, 0) +
                         head_kv * broadcast_stride(scale, 1) +
                         first.row * broadcast_stride(scale, 2);
  const bool blocks = scale.rank == 4;
  return {reinterpret_cast<const float*>(element_at(scale, offset)),
          broadcast_stride(scale, 2),
          broadcast_stride(scale, 0),
          blocks ? scale.strides[3] : 0,
          blocks ? columns / scale.shape[3] : columns,
          broadcast_stride(scale, 1)};
}

Keys keys_of(const Run& run, const Unit& unit, const attn_tensor& t, const attn_tensor* scale) {
  const auto& [sequence, head_kv] = unit;
  const bool paged = run.problem.kv_layout == ATTN_LAYOUT_PAGED;
  const char* data =
      paged ? tensor_at(t, 0, head_kv) : key_row(run.problem, run.args, t, sequence, head_kv, 0);
  Keys keys{};
  keys.rows = {data, storage_of(t.dtype), t.strides[2], t.strides[3]};
  if (paged) {
    const attn_tensor& table = *run.args.block_table;
    const char* entries = tensor_at(table, sequence.index);
    keys.pages = {run.problem.page_size, t.strides[0], reinterpret_cast<const int32_t*>(entries),
                  table.strides[1]};
  }
  if (scale) keys.scales = scales_of(run, unit, *scale, t.shape[3]);
  keys.dim = t.shape[3];
  keys.head_stride = t.strides[1];
  return keys;
}

// A bias or a mask over the rows of a tile, which begins with that head's query `first`.
Overlay overlay_of(const Run& run, const Sequence& sequence, int64_t head, int64_t first,
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

}  // namespace

KeyRange needed_blocks(const Run& run, const Sequence& sequence, int64_t block_k) {
  // From one query to the next both ends of the band move to the right, so that the first one has
  // the first key and the last one the last key, whether they have keys themselves or not.
  const Band band = band_of(run.problem, sequence, 0);
  const int64_t begin = std::max<int64_t>(band.lo, 0);
  const int64_t end = std::min(sequence.seqlen_q - 1 + band.hi, sequence.seqlen_k);
  if (begin >= end || sequence.seqlen_q == 0) return {0, 0};
  return {begin / block_k * block_k, std::min(round_up(end, block_k), sequence.seqlen_k)};
}

Keys k_of(const Run& run, const Unit& unit) {
  return keys_of(run, unit, *run.args.k, run.args.k_scale);
}

Keys v_of(const Run& run, const Unit& unit) {
  return keys_of(run, unit, *run.args.v, run.args.v_scale);
}

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

QueryTile tile_of(const Run& run, const Sequence& sequence, const TileRows& rows,
                  const TileShape& shape, int32_t worker, Features* features) {
  const auto& [head, heads, query, queries] = rows;
  const attn_plan_config& problem = run.problem;
  const attn_run_args& args = run.args;
  const Band band = band_of(problem, sequence, query);
  QueryTile tile{};
  tile.shape = shape;
  tile.rows = heads * queries;
  tile.queries = queries;
  tile.q = {query_row(problem, *args.q, sequence, head, query), storage_of(problem.q_dtype),
            args.q->strides[2], args.q->strides[3]};
  tile.q_head_stride = args.q->strides[1];
  tile.key_lo = band.lo;
  tile.key_hi = band.hi;
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

}  // namespace attn::flash

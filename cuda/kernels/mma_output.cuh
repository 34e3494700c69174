// One row's end: from m, l and O to what the caller sees, or to a partial result of split K and V.
#ifndef ATTN_CUDA_KERNELS_MMA_OUTPUT_CUH_
#define ATTN_CUDA_KERNELS_MMA_OUTPUT_CUH_

#include "mma_tile.cuh"
#include "output.cuh"

namespace attn::cuda {

// Where a row's O goes: element x at data[index + x * stride].
struct RowPlace {
  attn_dtype dtype;
  void* data;
  int64_t index;
  int64_t stride;
};

__device__ __forceinline__ RowPlace row_place(const AttendParams& params, const Tile& tile,
                                              int row) {
  const TileRow r = row_of(tile, row);
  const Sequence& s = tile.sequence;
  if (params.num_chunks > 1) {
    return {ATTN_DTYPE_F32, params.partial_o,
            partial_row(params, s, tile.chunk, r.head, r.query) * params.head_dim_v, 1};
  }
  return {params.o_dtype, params.o.data, row_index(params.o, s.index, r.head, s.q_row + r.query),
          params.o.strides[3]};
}

// O = (O / l) * weight. A row without a key has l = 0, and O may hold anything.
struct EndOfRow {
  bool empty;
  float inverse;
  float weight;
  __device__ __forceinline__ float of(float o) const { return empty ? 0.0f : o * inverse * weight; }
};

// Stores LSE = m ln 2 + ln l if `stores`.
__device__ __forceinline__ EndOfRow end_row(const AttendParams& params, const Tile& tile, int row,
                                            float m, float l, bool stores) {
  const TileRow r = row_of(tile, row);
  const Sequence& s = tile.sequence;
  EndOfRow end{l == 0.0f, 1.0f / l, 1.0f};
  const float lse = end.empty ? -kInfinity : fmaf(m, static_cast<float>(kLn2), logf(l));
  if (params.num_chunks > 1) {
    if (stores) params.partial_lse[partial_row(params, s, tile.chunk, r.head, r.query)] = lse;
    return end;
  }
  const FinishedRow finished =
      finish_row(params, lse, r.head, left_out(params, s, r.head, r.query));
  end.weight = finished.weight;
  if (stores) store_lse(params, s, r.head, r.query, finished.lse);
  return end;
}

// One row of O and LSE that no key decides: 0 and -inf past a sequence's end, NaN after bad input.
__device__ __forceinline__ void fill_row(const AttendParams& params, const Tile& tile, int row,
                                         float o, float lse, int part, int parts) {
  const TileRow r = row_of(tile, row);
  const Sequence& s = tile.sequence;
  const int64_t at = row_index(params.o, s.index, r.head, s.q_row + r.query);
  for (int x = part; x < params.head_dim_v; x += parts) {
    store_as(params.o_dtype, params.o.data, at + x * params.o.strides[3], o);
  }
  if (part == 0) store_lse(params, s, r.head, r.query, lse);
}

// Rows past the end of a padded query; all rows of a sequence that cannot be read.
template <class Traits>
__device__ __forceinline__ void fill_rows(const AttendParams& params, const Tile& tile) {
  const int lane = lane_index();
  const bool bad = tile.sequence.bad != 0;
  const int64_t extent =
      params.q_layout == ATTN_LAYOUT_PACKED ? tile.sequence.seqlen_q : params.seqlen_q;
  const int end =
      static_cast<int>(min_of(extent * tile.pack - tile.first_row, int64_t{Traits::kTileQ}));
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  for (int row = (bad ? 0 : max_of(tile.rows, 0)) + warp; row < end; row += Traits::kWarps) {
    const bool exists = row < tile.rows;
    fill_row(params, tile, row, exists ? quiet_nan() : 0.0f, exists ? quiet_nan() : -kInfinity,
             lane, kWarpSize);
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_OUTPUT_CUH_

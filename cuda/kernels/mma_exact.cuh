// The exact path: rows whose O came out non-finite, one key at a time.
//
// Tensor cores compute 0 * NaN = NaN, so a NaN or an infinity in V spoils the rows that are not to
// see it. Here what is masked does not take part at all; a row that does attend to a NaN gets it.
// Splitting infinite f32 numbers for tf32 gives NaN too, and is put right here.
#ifndef ATTN_CUDA_KERNELS_MMA_EXACT_CUH_
#define ATTN_CUDA_KERNELS_MMA_EXACT_CUH_

#include "mma_load.cuh"
#include "mma_output.cuh"
#include "mma_softmax.cuh"

namespace attn::cuda {

// One row: lane x has the dims x, x + 32, ...
template <class Traits>
struct ExactRow {
  float o[Traits::kDim / kWarpSize];
  float m;
  float l;
};

// Dim x of a row in global memory, 0 past its end.
template <class T>
__device__ __forceinline__ float dim_at(const typename T::Element* row, int64_t stride, int dim,
                                        int x) {
  return x < dim ? T::to_float(row[x * stride]) : 0.0f;
}

template <class Traits>
__device__ __forceinline__ ExactRow<Traits> exact_row(const AttendParams& params, const Tile& tile,
                                                      const RowInfo& info, int row, float scale) {
  using T = typename Traits::T;
  using Element = typename Traits::Element;
  constexpr int kDims = Traits::kDim / kWarpSize;
  const int lane = lane_index();
  if (lane == 0) count_exact_row();
  const TileRow r = row_of(tile, row);
  const auto* q = element_at<const Element>(params.q, tile.sequence.index, r.head,
                                            tile.sequence.q_row + r.query);
  float query[kDims];
  ExactRow<Traits> result{};
  result.m = -kInfinity;
#pragma unroll
  for (int i = 0; i < kDims; ++i) {
    query[i] = dim_at<T>(q, params.q.strides[3], params.head_dim, lane + i * kWarpSize);
  }
  const int32_t end = min_of(info.end, tile.keys.end);
  for (int32_t key = max_of(info.begin, tile.keys.begin); key < end; ++key) {
    const Element* k = key_row<Element>(params, params.k, tile, key);
    float dot = k ? 0.0f : quiet_nan();
    if (k) {
#pragma unroll
      for (int i = 0; i < kDims; ++i) {
        const int x = lane + i * kWarpSize;
        dot = fmaf(query[i], dim_at<T>(k, params.k.strides[3], params.head_dim, x), dot);
      }
    }
    float s = warp_sum(dot) * scale;
    if constexpr (Traits::kFeatures) s = score_of<T>(params, info, tile.covered, key, s);
    if (s == -kInfinity) continue;
    const float m = fmaxf(result.m, s);
    const float alpha = exp2_fast(result.m - m);
    const float p = exp2_fast(s - m);
    const Element* v = key_row<Element>(params, params.v, tile, key);
    result.m = m;
    result.l = fmaf(result.l, alpha, p);
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      const int x = lane + i * kWarpSize;
      const float value = v ? dim_at<T>(v, params.v.strides[3], params.head_dim_v, x) : 0.0f;
      // 0 * infinity: what no key has added yet stays 0.
      result.o[i] = fmaf(p, value, alpha == 0.0f ? 0.0f : result.o[i] * alpha);
    }
  }
  return result;
}

// Recomputes and stores those of eight rows from `first_row` on whose four lanes have their bits
// set in `spoiled`.
template <class Traits>
__device__ __forceinline__ void repair_rows(const AttendParams& params, const Tile& tile,
                                            SharedAddress rows, uint32_t spoiled, int first_row,
                                            float scale) {
#pragma unroll 1
  for (int row = first_row; spoiled != 0; spoiled >>= 4, ++row) {
    if (!(spoiled & 15u) || row >= tile.rows) continue;
    const RowInfo info = load_shared<RowInfo>(rows + row * static_cast<int>(sizeof(RowInfo)));
    ExactRow<Traits> exact = exact_row<Traits>(params, tile, info, row, scale);
    const EndOfRow end = end_row(params, tile, row, exact.m, exact.l, lane_index() == 0);
    const RowPlace place = row_place(params, tile, row);
#pragma unroll
    for (int i = 0; i < Traits::kDim / kWarpSize; ++i) {
      const int x = lane_index() + i * kWarpSize;
      if (x >= params.head_dim_v) continue;
      store_as(place.dtype, place.data, place.index + x * place.stride, end.of(exact.o[i]));
    }
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_EXACT_CUH_

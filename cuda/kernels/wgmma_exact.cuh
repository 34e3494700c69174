// wgmma_exact.cuh: one row of O by a warp, key by key, reading attended keys alone.
//
// Tensor cores compute 0 * NaN for masked keys of a tile. Rows that come out non-finite are
// computed again here: what is masked out then has no influence, and what is attended keeps its
// own.
#ifndef ATTN_CUDA_KERNELS_WGMMA_EXACT_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_EXACT_CUH_

#include "wgmma_softmax.cuh"

namespace attn::cuda {

// Calls write(column, value) for the columns of O that this lane holds. `lse` is the row's over the
// keys of this chunk, without what sequence.cuh adds to it later.
template <class Tile, class Write>
__device__ __forceinline__ void exact_row(const AttendParams& attend, const Work& work, int query,
                                          int head, float lse, Write write) {
  using T = typename Tile::T;
  using Element = typename T::Element;
  constexpr int PerLane = (Tile::HeadDim + 31) / 32, PerLaneV = (Tile::HeadDimV + 31) / 32;
  const Sequence& sequence = work.sequence;
  const int lane = forget(lane_index());
  const int kv_head = head / (attend.heads_q / attend.heads_kv);
  const Element* q_row =
      element_at<const Element>(attend.q, sequence.index, head, sequence.q_row + query);
  float q[PerLane], o[PerLaneV];
#pragma unroll
  for (int i = 0; i < PerLane; ++i) {
    const int column = lane + 32 * i;
    q[i] = column < attend.head_dim ? T::to_float(q_row[column]) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < PerLaneV; ++i) o[i] = 0;

  KeyRange keys = attended_keys(attend, sequence, query);
  if (attend.num_chunks > 1) {
    keys.begin = max_of(keys.begin, work.chunk * attend.kv_chunk);
    keys.end = min_of(keys.end, (work.chunk + 1) * attend.kv_chunk);
  }
  const ScoreFeatures features(attend);
  float slope = 0;
  int nearest = 0;
  if (Tile::Features && attend.features & ATTN_ALIBI) {
    const float natural = alibi_slope(attend, sequence.index, head);
    slope = natural * static_cast<float>(kLog2E);
    nearest = nearest_key(sequence, query, natural);
  }
#pragma unroll 1
  for (int key = keys.begin; key < keys.end; ++key) {
    int64_t outer = sequence.index, row = sequence.k_row + key;
    if (attend.kv_layout == ATTN_LAYOUT_PAGED) {
      outer = attend.block_table[sequence.index * attend.block_table_strides[0] +
                                 key / attend.page_size * attend.block_table_strides[1]];
      row = key % attend.page_size;
    }
    const Element* k_row = element_at<const Element>(attend.k, outer, kv_head, row);
    const Element* v_row = element_at<const Element>(attend.v, outer, kv_head, row);
    float s = 0;
#pragma unroll
    for (int i = 0; i < PerLane; ++i) {
      const int column = lane + 32 * i;
      if (column < attend.head_dim) s = fmaf(q[i], T::to_float(k_row[column]), s);
    }
    s = warp_sum(s);
    s = Tile::Features ? features.apply(s, slope, nearest - key) : s * features.scale;
    if (s == -kInfinity) continue;  // no weight, whatever V holds
    const float p = exp2_fast(s - lse * static_cast<float>(kLog2E));
#pragma unroll
    for (int i = 0; i < PerLaneV; ++i) {
      const int column = lane + 32 * i;
      if (column < attend.head_dim_v) o[i] = fmaf(p, T::to_float(v_row[column]), o[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < PerLaneV; ++i) {
    if (lane + 32 * i < attend.head_dim_v) write(lane + 32 * i, o[i]);
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_EXACT_CUH_

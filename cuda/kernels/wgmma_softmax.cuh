// wgmma_softmax.cuh: scores in a warpgroup's accumulators: features, masks, and the online softmax.
//
// An accumulator tile S [64][N] of a warpgroup: warp w has rows 16 w to 16 w + 15, and a thread of
// it two of them, r = lane / 4 and r + 8:
//   s[4 c], s[4 c + 1]      row r,     columns 8 c + 2 (lane % 4) and the next
//   s[4 c + 2], s[4 c + 3]  row r + 8, the same columns
#ifndef ATTN_CUDA_KERNELS_WGMMA_SOFTMAX_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_SOFTMAX_CUH_

#include "wgmma_scheduler.cuh"

namespace attn::cuda {

// One of a thread's two rows.
struct Row {
  int index;  // of the warpgroup's 64
  int query;  // within the sequence; may lie past its end
  int head;   // query head; of an idle row: of some row
  bool idle;  // no query's: the rest of 64 / gqa_pack
};

__device__ __forceinline__ Row row_of(const AttendParams& attend, const Work& work, int consumer,
                                      int i) {
  const int queries = queries_of(attend);
  const int thread = forget(static_cast<int>(threadIdx.x) % kWarpgroup);
  const int index = thread / kWarpSize * 16 + thread % kWarpSize / 4 + 8 * i;
  const int head = index / queries;
  const bool idle = head >= attend.gqa_pack;
  return {index, work.q_begin + consumer * queries + index % queries,
          work.head * attend.gqa_pack + (idle ? 0 : head), idle};
}

// What a thread keeps of its rows through the main loop.
template <class Tile>
struct Limits {
  int low[2], high[2];       // keys that a row attends to, [low, high)
  int clear_from, clear_to;  // keys that all rows of the warpgroup attend to
  int nearest[2];            // key that ALiBi counts from
  float slope[2];            // in units of log2

  __device__ __forceinline__ Limits(const AttendParams& attend, const Work& work, int consumer) {
    const int queries = queries_of(attend);
    const int first = work.q_begin + consumer * queries;
    clear_to = attended_keys(attend, work.sequence, first).end;
    clear_from =
        Tile::Features ? attended_keys(attend, work.sequence, first + queries - 1).begin : 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row row = row_of(attend, work, consumer, i);
      const KeyRange keys = attended_keys(attend, work.sequence, row.query);
      low[i] = keys.begin;
      high[i] = keys.end;
      slope[i] = 0;
      nearest[i] = 0;
      if (Tile::Features && attend.features & ATTN_ALIBI) {
        const float natural = alibi_slope(attend, work.sequence.index, row.head);
        slope[i] = natural * static_cast<float>(kLog2E);
        nearest[i] = nearest_key(work.sequence, row.query, natural);
      }
    }
  }

  // Whether the tile that begins at `key` has a masked one.
  __device__ __forceinline__ bool cut(int key) const {
    return key + Tile::TileK > clear_to || (Tile::Features && key < clear_from);
  }
};

// A score's features. Scores come in as Q K^T and leave in units of log2.
struct ScoreFeatures {
  float scale, cap, two_over_cap;

  __device__ __forceinline__ explicit ScoreFeatures(const AttendParams& attend)
      : scale(attend.scale * static_cast<float>(kLog2E)),
        cap(attend.softcap * static_cast<float>(kLog2E)),
        two_over_cap(attend.softcap != 0 ? 2 / attend.softcap : 0.0f) {}

  // cap tanh(x / cap) = cap (1 - 2 / (1 + e^(2 x / cap))): its error is absolute, which is what a
  // logit asks for. exp2 takes the exponent's log2(e), which x carries.
  __device__ __forceinline__ float apply(float s, float slope, int distance) const {
    float x = s * scale;
    if (cap != 0) x = cap - 2 * cap * reciprocal_fast(1 + exp2_fast(x * two_over_cap));
    if (slope != 0) x -= slope * static_cast<float>(distance < 0 ? -distance : distance);
    return x;
  }
};

// Features of the tile whose first key is `key`.
template <class Tile>
__device__ __forceinline__ void apply_features(float (&s)[Tile::TileK / 2],
                                               const AttendParams& attend,
                                               const Limits<Tile>& limits, int key) {
  if (!Tile::Features) {
    if (attend.scale < 0) {  // the softmax wants the largest score times a positive scale
#pragma unroll
      for (int i = 0; i < Tile::TileK / 2; ++i) s[i] = -s[i];
    }
    return;
  }
  const ScoreFeatures features(attend);
  const int column = key + lane_index() % 4 * 2;
#pragma unroll
  for (int c = 0; c < Tile::TileK / 8; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * c + i];
      x = features.apply(x, limits.slope[i / 2], limits.nearest[i / 2] - column - 8 * c - i % 2);
    }
  }
}

// Masks of the tile whose first key is `key`.
template <class Tile>
__device__ __forceinline__ void mask(float (&s)[Tile::TileK / 2], const Limits<Tile>& limits,
                                     int key) {
  const int column = key + lane_index() % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int low = limits.low[i] - column, high = limits.high[i] - column;
#pragma unroll
    for (int c = 0; c < Tile::TileK / 8; ++c) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& x = s[4 * c + 2 * i + j];
        if (8 * c + j >= high) x = -kInfinity;
        if (Tile::Features && 8 * c + j < low) x = -kInfinity;
      }
    }
  }
}

// The running maximum m and sum of a thread's two rows, over the keys so far:
//   p = exp2(scale (s - m)),  sum = sum of p over this thread's columns
template <class Tile>
struct Softmax {
  static constexpr int Count = Tile::TileK / 2;
  float maximum[2], sum[2];
  float scale;  // to units of log2; 1 where apply_features() has done it

  __device__ __forceinline__ explicit Softmax(const AttendParams& attend)
      : maximum{-kInfinity, -kInfinity},
        sum{0, 0},
        scale(Tile::Features ? 1.0f : fabsf(attend.scale) * static_cast<float>(kLog2E)) {}

  // s becomes p; factor[i] is what row i of O and its sum are to be multiplied with.
  __device__ __forceinline__ void update(float (&s)[Count], float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float m = maximum[i];
#pragma unroll
      for (int c = 0; c < Count / 4; ++c) {
        m = max_fast(m, max_fast(s[4 * c + 2 * i], s[4 * c + 2 * i + 1]));
      }
      m = max_fast(m, shuffle_xor(m, 1));
      m = max_fast(m, shuffle_xor(m, 2));
      // A row without a key so far has m = -inf: exp2(-inf - 0) = 0 throughout.
      const float shift = m == -kInfinity ? 0.0f : m * scale;
      factor[i] = exp2_fast(maximum[i] * scale - shift);
      maximum[i] = m;
      float total = 0;
#pragma unroll
      for (int c = 0; c < Count / 4; ++c) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& x = s[4 * c + 2 * i + j];
          x = exp2_fast(fmaf(x, scale, -shift));
          total += x;
        }
      }
      sum[i] = sum[i] * factor[i] + total;
    }
  }

  // What row i of O is to be multiplied with at the end, and the row's log-sum-exp. Without a key
  // the sum is 0; else a key's p is 1, or something is NaN.
  __device__ __forceinline__ float finish(int i, float& lse) const {
    float total = sum[i];
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    lse = total == 0 ? -kInfinity
                     : (maximum[i] * scale + log2_fast(total)) * static_cast<float>(kLn2);
    return total == 0 ? 0.0f : reciprocal_fast(total);
  }
};

// P in the registers of a wgmma's A: step k takes keys 16 k to 16 k + 15.
template <class Tile>
__device__ __forceinline__ void pack_probabilities(uint32_t (&p)[Tile::TileK / 16][4],
                                                   const float (&s)[Tile::TileK / 2]) {
#pragma unroll
  for (int k = 0; k < Tile::TileK / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[k][i] = Tile::T::pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_SOFTMAX_CUH_

// From Q K^T to the scores that the softmax sees: scale, softcap, ALiBi, bias and masks.
//
// Plain kernels leave S as Q K^T and fold the scale into the softmax's exponent; their one mask is
// each row's interval. With features S is in units of log2 here, element by element, through the
// same functions on the tile and on the exact path.
#ifndef ATTN_CUDA_KERNELS_MMA_SCORES_CUH_
#define ATTN_CUDA_KERNELS_MMA_SCORES_CUH_

#include "mma_tile.cuh"

namespace attn::cuda {

// Offset in elements of (query row, key 0) of a bias or a mask.
__device__ __forceinline__ int64_t map_offset(const ScoreMap& map, bool ranged, const Sequence& s,
                                              const TileRow& row) {
  const FirstColumn first = first_column(map, ranged, s);
  if (first.keys.begin >= first.keys.end) return 0;
  return s.index * map.strides[0] + row.head * map.strides[1] +
         (s.q_row + row.query) * map.strides[2] - first.k0 * map.strides[3];
}

// Addresses may be of keys that do not exist, so they are computed as numbers.
__device__ __forceinline__ const char* byte_address(const void* data, int64_t bytes) {
  return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(data) +
                                       static_cast<uintptr_t>(bytes));
}

template <class Traits>
__device__ __forceinline__ RowInfo row_info(const AttendParams& params, const Tile& tile, int row) {
  RowInfo info{};
  if (row >= tile.rows) return info;
  const Sequence& s = tile.sequence;
  const TileRow r = row_of(tile, row);
  const KeyRange keys = attended_keys(params, s, r.query);
  info.begin = keys.begin;
  info.end = keys.end;
  if constexpr (Traits::kFeatures) {
    if (params.features & ATTN_ALIBI) {
      const float slope = alibi_slope(params, s.index, r.head);
      info.nearest = nearest_key(s, r.query, slope);
      info.slope = static_cast<float>(-static_cast<double>(slope) * kLog2E);
    }
    const int64_t bias_bytes = params.bias_dtype == ATTN_DTYPE_F32 ? 4 : 2;
    info.bias =
        byte_address(params.bias.data,
                     map_offset(params.bias, params.features & ATTN_BIAS_RANGE, s, r) * bias_bytes);
    info.mask = reinterpret_cast<const uint8_t*>(byte_address(
        params.mask.data, map_offset(params.mask, params.features & ATTN_MASK_RANGE, s, r)));
    if (params.block_mask) {
      info.block_mask = params.block_mask + s.index * params.block_mask_strides[0] +
                        r.head * params.block_mask_strides[1] +
                        r.query / params.block_q * params.block_mask_strides[2];
    }
  }
  return info;
}

// ---- one element; `key` lies in the row's interval

template <class T>
__device__ __forceinline__ float bias_at(const AttendParams& params, const RowInfo& row,
                                         int32_t key) {
  const char* bias = row.bias;
  const int64_t column = key * params.bias.strides[3];
  if (params.bias_dtype == ATTN_DTYPE_F32) {
    return *reinterpret_cast<const float*>(byte_address(bias, column * 4));
  }
  using Element = typename T::Element;
  return T::to_float(*reinterpret_cast<const Element*>(
      byte_address(bias, column * static_cast<int64_t>(sizeof(Element)))));
}

// s: scale * Q K^T in units of log2. Returns the score, -inf if a mask forbids the key.
template <class T>
__device__ __forceinline__ float score_of(const AttendParams& params, const RowInfo& row,
                                          const Covered& covered, int32_t key, float s) {
  if (params.softcap != 0.0f) {
    const float cap = params.softcap * static_cast<float>(kLog2E);
    // A tiny cap's inverse is infinite, and infinity * 0 NaN.
    s = cap * tanhf(s * min_of(1.0f / cap, 3.402823466e38f));
  }
  if (row.slope != 0.0f) {
    const float distance = static_cast<float>(key - row.nearest);
    s = fmaf(distance < 0.0f ? -distance : distance, row.slope, s);
  }
  if (key >= covered.bias.begin && key < covered.bias.end) {
    const float bias = bias_at<T>(params, row, key);
    // -inf selects: NaN - inf would be NaN.
    s = bias == -kInfinity ? bias : fmaf(bias, static_cast<float>(kLog2E), s);
  }
  if (key >= covered.mask.begin && key < covered.mask.end) {
    const auto* byte =
        reinterpret_cast<const uint8_t*>(byte_address(row.mask, key * params.mask.strides[3]));
    if (!*byte) s = -kInfinity;
  }
  if (row.block_mask && !row.block_mask[key / params.block_k * params.block_mask_strides[3]]) {
    s = -kInfinity;
  }
  return s;
}

// ---- a tile

// S [kRowBlocks * 16, kTileK] of a warp, as the accumulators of mma.
template <class Traits>
using Scores = float[Traits::kRowBlocks][Traits::kKeyBlocks][4];

// fn(score, row of the tile, key) for each score of the thread.
template <class Traits, class Fn>
__device__ __forceinline__ void for_each_score(Scores<Traits>& s, int32_t first_key, const Fn& fn) {
  const int thread = fresh_thread_index();
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (warp * Traits::kRowBlocks + block) * 16 + half * 8 + lane / 4;
      fn(row, [&](const auto& each) {
#pragma unroll
        for (int n = 0; n < Traits::kKeyBlocks; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            each(s[block][n][half * 2 + e], first_key + n * 8 + lane % 4 * 2 + e);
          }
        }
      });
    }
  }
}

template <class Traits>
__device__ __forceinline__ RowInfo load_row(SharedAddress rows, int row) {
  return load_shared<RowInfo>(rows + row * static_cast<int>(sizeof(RowInfo)));
}

template <class Traits>
__device__ __forceinline__ void scale_scores(Scores<Traits>& s, float scale) {
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int n = 0; n < Traits::kKeyBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[block][n][i] *= scale;
    }
  }
}

// S = -inf outside of each row's interval.
template <class Traits>
__device__ __forceinline__ void mask_intervals(SharedAddress rows, Scores<Traits>& s,
                                               int32_t first_key) {
  for_each_score<Traits>(s, first_key, [&](int row, const auto& each_key) {
    const RowInfo info = load_row<Traits>(rows, row);
    each_key([&](float& score, int32_t key) {
      if (key < info.begin || key >= info.end) score = -kInfinity;
    });
  });
}

template <class Traits>
__device__ __forceinline__ void apply_features(const AttendParams& params, const Covered& covered,
                                               SharedAddress rows, Scores<Traits>& s,
                                               int32_t first_key, float scale) {
  for_each_score<Traits>(s, first_key, [&](int row, const auto& each_key) {
    const RowInfo info = load_row<Traits>(rows, row);
    each_key([&](float& score, int32_t key) {
      const bool attended = key >= info.begin && key < info.end;
      score = attended ? score_of<typename Traits::T>(params, info, covered, key, score * scale)
                       : -kInfinity;
    });
  });
}

// Whether the block mask leaves some of the keys [begin, end) to some of the tile's rows.
__device__ __forceinline__ bool block_mask_attends(const AttendParams& params, const Tile& tile,
                                                   int32_t begin, int32_t end) {
  const int32_t first_query = row_of(tile, 0).query / params.block_q;
  const int32_t last_query = row_of(tile, tile.rows - 1).query / params.block_q;
  end = min_of(end, tile.sequence.seqlen_k);
  for (int32_t h = tile.head; h < tile.head + tile.pack; ++h) {
    const uint8_t* head = params.block_mask + tile.sequence.index * params.block_mask_strides[0] +
                          h * params.block_mask_strides[1];
    for (int32_t q = first_query; q <= last_query; ++q) {
      for (int32_t k = begin / params.block_k; k * int64_t{params.block_k} < end; ++k) {
        if (head[q * params.block_mask_strides[2] + k * params.block_mask_strides[3]]) return true;
      }
    }
  }
  return false;
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_SCORES_CUH_

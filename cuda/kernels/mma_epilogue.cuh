// The epilogue: O = O / l and LSE = m ln 2 + ln l, to where they belong.
#ifndef ATTN_CUDA_KERNELS_MMA_EPILOGUE_CUH_
#define ATTN_CUDA_KERNELS_MMA_EPILOGUE_CUH_

#include "mma_exact.cuh"

namespace attn::cuda {

// O [16 * kRowBlocks, kDim] of a warp as 16-bit numbers through its own rows of Q in shared memory,
// so that each lane stores 16 bytes.
template <class Traits>
__device__ __forceinline__ void store_o_chunks(const AttendParams& params, const Tile& tile,
                                               SharedAddress q, const Accumulator<Traits>& acc) {
  using T = typename Traits::T;
  const int lane = lane_index();
  const int warp_row = static_cast<int>(threadIdx.x) / kWarpSize * Traits::kRowBlocks * 16;
  warp_sync();  // Q has been read
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + block * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
        store_shared(chunk_address<Traits>(q, row, n) + lane % 4 * 4,
                     T::pack(acc.o[block][n][half * 2], acc.o[block][n][half * 2 + 1]));
      }
    }
  }
  warp_sync();
  for (int i = lane; i < Traits::kRowBlocks * 16 * Traits::kChunks; i += kWarpSize) {
    const int row = warp_row + i / Traits::kChunks;
    const int first = i % Traits::kChunks * Traits::kChunkElements;
    if (row >= tile.rows || first >= params.head_dim_v) continue;
    const TileRow r = row_of(tile, row);
    auto* to = element_at<typename T::Element>(params.o, tile.sequence.index, r.head,
                                               tile.sequence.q_row + r.query) +
               first;
    union {
      Quad quad;
      typename T::Element elements[Traits::kChunkElements];
    } value;
    value.quad = load_shared<Quad>(chunk_address<Traits>(q, row, i % Traits::kChunks));
    if (params.head_dim_v - first >= Traits::kChunkElements) {
      *reinterpret_cast<Quad*>(to) = value.quad;
    } else {
#pragma unroll
      for (int e = 0; e < Traits::kChunkElements; ++e) {
        if (e < params.head_dim_v - first) to[e] = value.elements[e];
      }
    }
  }
}

// O of a warp, element by element, to wherever it goes.
template <class Traits>
__device__ __forceinline__ void store_o_elements(const AttendParams& params, const Tile& tile,
                                                 const Accumulator<Traits>& acc) {
  const int lane = lane_index();
  const int warp_row = static_cast<int>(threadIdx.x) / kWarpSize * Traits::kRowBlocks * 16;
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + block * 16 + half * 8 + lane / 4;
      if (row >= tile.rows) continue;
      const RowPlace place = row_place(params, tile, row);
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int x = n * 8 + lane % 4 * 2 + e;
          if (x >= params.head_dim_v) continue;
          store_as(place.dtype, place.data, place.index + x * place.stride,
                   acc.o[block][n][half * 2 + e]);
        }
      }
    }
  }
}

// `acc` has its sums complete. Rows that are not finite are stored too, and then repaired.
template <class Traits>
__device__ __forceinline__ void store_tile(const AttendParams& params, const Tile& tile,
                                           SharedAddress q, SharedAddress rows,
                                           Accumulator<Traits>& acc, float scale) {
  using T = typename Traits::T;
  const int lane = lane_index();
  const int warp_row = static_cast<int>(threadIdx.x) / kWarpSize * Traits::kRowBlocks * 16;
  uint32_t spoiled[Traits::kRowBlocks][2];  // by lane; four lanes share a row
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + block * 16 + half * 8 + lane / 4;
      float zero = acc.l[block][half] * 0.0f;  // NaN where something is not finite
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
        zero = fmaf(acc.o[block][n][half * 2], 0.0f, zero);
        zero = fmaf(acc.o[block][n][half * 2 + 1], 0.0f, zero);
      }
      spoiled[block][half] = ballot(zero != zero);
      if (row >= tile.rows) continue;
      const EndOfRow end =
          end_row(params, tile, row, acc.m[block][half], acc.l[block][half], lane % 4 == 0);
#pragma unroll
      for (int n = 0; n < Traits::kDimBlocks; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& o = acc.o[block][n][half * 2 + e];
          o = end.of(o);
        }
      }
    }
  }
  bool stored = false;
  if constexpr (!kIsF32<T>) {
    if (params.num_chunks == 1 && params.o_dtype == T::kDtype &&
        is_aligned<typename T::Element>(params.o)) {
      store_o_chunks<Traits>(params, tile, q, acc);
      stored = true;
    }
  }
  if (!stored) store_o_elements<Traits>(params, tile, acc);
  warp_sync();  // a row's repair comes after its four lanes' stores
#pragma unroll 1
  for (int i = 0; i < Traits::kRowBlocks * 2; ++i) {
    // Picked by hand: an array with a computed index would lie in local memory.
    uint32_t which = spoiled[0][0];
    if (i == 1) which = spoiled[0][1];
    if (Traits::kRowBlocks == 2 && i == 2) which = spoiled[Traits::kRowBlocks - 1][0];
    if (Traits::kRowBlocks == 2 && i == 3) which = spoiled[Traits::kRowBlocks - 1][1];
    repair_rows<Traits>(params, tile, rows, which, warp_row + i * 8, scale);
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_EPILOGUE_CUH_

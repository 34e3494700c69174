// The mma.sync family's algorithm: a tile of queries against its keys, FlashAttention-2's way.
//
//   for each block of kTileK keys, counted from key 0
//     S = Q K^T                        [kTileQ, kTileK]
//     S = what features and masks make of S
//     m, l, P = online softmax of S
//     O = O + P V                      [kTileQ, kDim]
//   O = O / l,  LSE = m ln 2 + ln l
//
// K and V have a buffer each: K of the next block arrives while P V is computed, V while Q K^T is.
// What a row gets depends on its own keys alone: a block that it does not attend to, and that
// another row of the tile needs, adds 0 to it.
#ifndef ATTN_CUDA_KERNELS_MMA_MAINLOOP_CUH_
#define ATTN_CUDA_KERNELS_MMA_MAINLOOP_CUH_

#include "mma_epilogue.cuh"

namespace attn::cuda {

// S = Q K^T.  Q [kRowBlocks * 16 rows of the warp, kDim], K [kTileK, kDim]
template <class Traits>
__device__ __forceinline__ void multiply_qk(SharedAddress q, SharedAddress k, Scores<Traits>& s) {
  using T = typename Traits::T;
  const int thread = fresh_thread_index();
  const int lane = thread % kWarpSize;
  const int warp_row = thread / kWarpSize * Traits::kRowBlocks * 16;
#pragma unroll
  for (int block = 0; block < Traits::kRowBlocks; ++block) {
#pragma unroll
    for (int n = 0; n < Traits::kKeyBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[block][n][i] = 0.0f;
    }
  }
  // Rows 0-7 and 8-15 of the first half of a step's dims, then of the second half.
  const SharedAddress q_lane = chunk_address<Traits>(q, warp_row + lane % 16, lane / 16);
  // Keys 0-7: first and second half of the dims, then keys 8-15.
  const SharedAddress k_lane = chunk_address<Traits>(k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
  // Not all at once: what nvcc would gather in advance leaves too few registers.
  constexpr int kSteps = Traits::kDim / Traits::kStepDims;
  constexpr int kUnroll = kIsF32<T> ? 1 : 4;
#pragma unroll kUnroll
  for (int step = 0; step < kSteps; ++step) {
    FragmentA<T> a[Traits::kRowBlocks];
    uint32_t raw[4];
#pragma unroll
    for (int block = 0; block < Traits::kRowBlocks; ++block) {
      load_matrices(raw, move_address<Traits>(q_lane, block * 16, step * 2));
      a[block].set(raw);
    }
#pragma unroll
    for (int n = 0; n < Traits::kKeyBlocks; n += 2) {
      load_matrices(raw, move_address<Traits>(k_lane, n * 8, step * 2));
      FragmentB<T> b[2];
      b[0].set(raw[0], raw[1]);
      b[1].set(raw[2], raw[3]);
#pragma unroll
      for (int block = 0; block < Traits::kRowBlocks; ++block) {
        multiply(s[block][n], a[block], b[0]);
        multiply(s[block][n + 1], a[block], b[1]);
      }
    }
  }
}

// O += P V.  P [kRowBlocks * 16, kTileK] in registers, V [kTileK, kDim]
template <class Traits>
__device__ __forceinline__ void multiply_pv(const Scores<Traits>& p, SharedAddress v,
                                            Accumulator<Traits>& acc) {
  using T = typename Traits::T;
  const int lane = fresh_thread_index() % kWarpSize;
  // Keys 0-7 and 8-15 of dims 0-7, then of dims 8-15.
  const SharedAddress v_lane = chunk_address<Traits>(v, lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < Traits::kTileK / 16; ++step) {
    FragmentA<T> a[Traits::kRowBlocks];
#pragma unroll
    for (int block = 0; block < Traits::kRowBlocks; ++block) {
      const float(&x)[4] = p[block][step * 2];
      const float(&y)[4] = p[block][step * 2 + 1];
      const uint32_t raw[4] = {T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(y[0], y[1]),
                               T::pack(y[2], y[3])};
      a[block].set(raw);
    }
#pragma unroll
    for (int n = 0; n < Traits::kDimBlocks; n += 2) {
      uint32_t raw[4];
      load_matrices_transposed(raw, move_address<Traits>(v_lane, step * 16, n));
      FragmentB<T> b[2];
      b[0].set(raw[0], raw[1]);
      b[1].set(raw[2], raw[3]);
#pragma unroll
      for (int block = 0; block < Traits::kRowBlocks; ++block) {
        multiply(acc.o[block][n], a[block], b[0]);
        multiply(acc.o[block][n + 1], a[block], b[1]);
      }
    }
  }
}

// The same in f32. A's columns place and place + 4 are keys 2 place and 2 place + 1, as they lie in
// S; V's rows are taken in the same order.
template <class Traits>
__device__ __forceinline__ void multiply_pv_f32(const Scores<Traits>& p, SharedAddress v,
                                                Accumulator<Traits>& acc) {
  static_assert(Traits::kRowBlocks == 1);
  const int lane = fresh_thread_index() % kWarpSize;
  const int group = lane / 4;
  const SharedAddress in_chunk = group % 4 * 4;
  const SharedAddress even = chunk_address<Traits>(v, lane % 4 * 2, group / 4) + in_chunk;
  const SharedAddress odd = chunk_address<Traits>(v, lane % 4 * 2 + 1, group / 4) + in_chunk;
  FragmentA<F32> a[Traits::kKeyBlocks];
#pragma unroll
  for (int step = 0; step < Traits::kKeyBlocks; ++step) {
    const float(&x)[4] = p[0][step];
    const uint32_t raw[4] = {bits_of(x[0]), bits_of(x[2]), bits_of(x[1]), bits_of(x[3])};
    a[step].set(raw);
  }
#pragma unroll
  for (int n = 0; n < Traits::kDimBlocks; ++n) {
#pragma unroll
    for (int step = 0; step < Traits::kKeyBlocks; ++step) {
      FragmentB<F32> b;
      b.set(load_word_here(move_address<Traits>(even, step * 8, n * 2)),
            load_word_here(move_address<Traits>(odd, step * 8, n * 2)));
      multiply(acc.o[0][n], a[step], b);
    }
  }
}

// The first block of keys from `first` on that the block mask does not leave out.
template <class Traits>
__device__ __forceinline__ int32_t next_block(const AttendParams& params, const Tile& tile,
                                              int32_t first, int32_t end) {
  if constexpr (Traits::kFeatures) {
    if (params.block_mask) {
      while (first < end && !block_mask_attends(params, tile, first, first + Traits::kTileK)) {
        first += Traits::kTileK;
      }
    }
  }
  return first;
}

template <class Traits>
__device__ __forceinline__ void attend_tile(const AttendParams& params, const Tile& tile) {
  const SharedAddress q = shared_base() + Traits::kOffsetQ;
  const SharedAddress k = shared_base() + Traits::kOffsetK;
  const SharedAddress v = shared_base() + Traits::kOffsetV;
  const SharedAddress rows = shared_base() + Traits::kOffsetRows;
  Accumulator<Traits> acc;
  acc.clear();
  int32_t first = next_block<Traits>(
      params, tile, tile.keys.begin / Traits::kTileK * Traits::kTileK, tile.keys.end);
  if (first < tile.keys.end) {
    for (int row = static_cast<int>(threadIdx.x); row < Traits::kTileQ; row += Traits::kThreads) {
      store_shared(rows + row * static_cast<int>(sizeof(RowInfo)),
                   row_info<Traits>(params, tile, row));
    }
    load_q<Traits>(params, tile, q);
    load_keys<Traits, Operand::kK>(params, tile, first, k);
    copy_async_commit();
  }
  while (first < tile.keys.end) {
    Scores<Traits> s;
    copy_async_wait<0>();
    cta_sync();  // K is there for all, and the V before it has been used by all
    load_keys<Traits, Operand::kV>(params, tile, first, v);
    copy_async_commit();

    multiply_qk<Traits>(q, k, s);

    copy_async_wait<0>();
    cta_sync();  // V is there for all, and K has been used by all
    const int32_t next = next_block<Traits>(params, tile, first + Traits::kTileK, tile.keys.end);
    if (next < tile.keys.end) load_keys<Traits, Operand::kK>(params, tile, next, k);
    copy_async_commit();

    if (Traits::kFeatures && tile.scaling.modified) {
      apply_features<Traits>(params, tile.covered, rows, s, first, tile.scaling.scores);
    } else {
      if (tile.scaling.modified) scale_scores<Traits>(s, tile.scaling.scores);
      if (first < tile.all_rows.begin || first + Traits::kTileK > tile.all_rows.end) {
        mask_intervals<Traits>(rows, s, first);
      }
    }
    softmax<Traits>(s, acc, tile.scaling.exponent);
    if constexpr (kIsF32<typename Traits::T>) {
      multiply_pv_f32<Traits>(s, v, acc);
    } else {
      multiply_pv<Traits>(s, v, acc);
    }
    first = next;
  }
  reduce_sums<Traits>(acc);
  store_tile<Traits>(params, tile, q, rows, acc, tile.scaling.scores);
}

// A CTA's tile, the blockIdx.x-th. (A loop over several would have nvcc keep what they share on the
// stack.)
template <class Traits>
__device__ __forceinline__ void attend(const AttendParams& params) {
  const SharedAddress at = shared_base() + Traits::kOffsetTile;
  if (threadIdx.x == 0) {
    const Tile tile = tile_at<Traits>(params, blockIdx.x);
    report(params, tile.sequence.index, tile.sequence.bad);
    store_shared(at, tile);
  }
  cta_sync();
  const Tile& tile = shared_object<Tile>(at);
  const bool split = params.num_chunks > 1;
  if (!split) fill_rows<Traits>(params, tile);
  if (tile.sequence.bad || tile.rows <= 0) return;
  if (split && tile.chunk >= chunks_of(params, tile.sequence)) return;
  attend_tile<Traits>(params, tile);
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_MAINLOOP_CUH_

// wgmma_epilogue.cuh: O and log-sum-exp from a warpgroup's registers to global memory.
#ifndef ATTN_CUDA_KERNELS_WGMMA_EPILOGUE_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_EPILOGUE_CUH_

#include "output.cuh"
#include "wgmma_exact.cuh"

namespace attn::cuda {

template <class Tile>
struct Epilogue {
  using T = typename Tile::T;
  using Element = typename T::Element;
  static constexpr int Count = Tile::HeadDimV / 2;

  const WgmmaParams& params;
  const AttendParams& attend;
  const Work work;
  int consumer;

  __device__ __forceinline__ int q_begin() const {
    return work.q_begin + consumer * queries_of(attend);
  }
  // Rows of this sequence that the outputs have: past a padded length they are written too.
  __device__ __forceinline__ int q_extent() const {
    return attend.q_layout == ATTN_LAYOUT_PACKED ? work.sequence.seqlen_q : attend.seqlen_q;
  }
  __device__ __forceinline__ bool split() const { return attend.num_chunks > 1; }

  __device__ __forceinline__ void store_lse(int query, int head, float lse) const {
    if (split()) {
      attend.partial_lse[partial_row(attend, work.sequence, work.chunk, head, query)] = lse;
    } else {
      cuda::store_lse(attend, work.sequence, head, query, lse);
    }
  }

  __device__ __forceinline__ void store_element(int query, int head, int column, float x) const {
    if (column >= attend.head_dim_v) return;
    if (split()) {
      const int64_t row = partial_row(attend, work.sequence, work.chunk, head, query);
      attend.partial_o[row * attend.head_dim_v + column] = x;
    } else {
      const int64_t row =
          row_index(attend.o, work.sequence.index, head, work.sequence.q_row + query);
      store_as(attend.o_dtype, attend.o.data, row + column * attend.o.strides[3], x);
    }
  }

  // A tile without keys: zeros, or NaN for the rows of a bad request.
  __device__ __forceinline__ void store_nothing() const {
    const int queries = queries_of(attend);
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x) % kWarpgroup / kWarpSize;
         row < queries * attend.gqa_pack; row += kWarpgroup / kWarpSize) {
      const int query = q_begin() + row % queries;
      const int head = work.head * attend.gqa_pack + row / queries;
      if (query >= q_extent()) continue;
      const bool real = query < work.sequence.seqlen_q;
      const bool bad = real && work.state == kBadWork;
      if (!split() || bad) {
#pragma unroll 1
        for (int column = lane_index(); column < attend.head_dim_v; column += kWarpSize) {
          store_element(query, head, column, bad ? quiet_nan() : 0.0f);
        }
      }
      if (lane_index() == 0) {
        const bool sink = real && Tile::Features && !split() && attend.features & ATTN_SINK;
        store_lse(query, head,
                  bad    ? quiet_nan()
                  : sink ? attend.sink[head * attend.sink_stride]
                         : -kInfinity);
      }
    }
  }

  // Element (row, column) of O in shared memory, row of the warpgroup's 64.
  __device__ __forceinline__ SharedAddress shared(uint32_t row, uint32_t column) const {
    return Tile::q(consumer) + column / kBoxColumns * Tile::QBoxBytes + row * kBoxRowBytes +
           ((column % kBoxColumns / 8 ^ row % 8) * 16) + column % 8 * 2;
  }

  // Tells the loader that the warpgroup's part of Q's memory is free.
  __device__ __forceinline__ void release_q() const {
    barrier_arrive(Tile::barrier(Tile::kQEmpty, consumer));
  }

  __device__ __forceinline__ void store(float (&o)[Count], const Softmax<Tile>& softmax) const {
    float lse[2], weight[2];
    uint32_t odd[2];  // four bits for each row of the warp that is not finite
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row row = row_of(attend, work, consumer, i);
      const bool real = !row.idle && row.query < work.sequence.seqlen_q;
      float factor = softmax.finish(i, lse[i]);
      float final_lse = lse[i];
      weight[i] = 1;
      if (Tile::Features && !split() && attend.features & (ATTN_SINK | ATTN_ALIBI)) {
        const FinishedRow finished = finish_row(
            attend, lse[i], row.head, left_out(attend, work.sequence, row.head, row.query));
        weight[i] = finished.weight;
        final_lse = finished.lse;
      }
      if (!real) final_lse = -kInfinity;
      // A row without keys is 0 whatever its tile's V held.
      const bool empty = !real || factor == 0;
      factor *= weight[i];
      float check = 0;  // NaN if anything is not finite
#pragma unroll
      for (int c = 0; c < Count / 4; ++c) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& x = o[4 * c + 2 * i + j];
          x = empty ? 0.0f : x * factor;
          check = fmaf(x, 0.0f, check);
        }
      }
      odd[i] = ballot(check != check);
      if (lane_index() % 4 == 0 && !row.idle && row.query < q_extent()) {
        store_lse(row.query, row.head, final_lse);
      }
    }
    if (params.use_o_map && !split()) {
      store_from_shared(o, odd, lse, weight);
    } else {
      store_from_registers(o, odd, lse, weight);
    }
  }

  // Computes the rows marked in `odd` exactly; write(row, query, head, column, x) takes them.
  template <class Write>
  __device__ __forceinline__ void repair(const uint32_t (&odd)[2], const float (&lse)[2],
                                         const float (&weight)[2], Write write) const {
#pragma unroll 1
    for (int r = 0; r < 16; ++r) {
      const int i = r / 8, lane = r % 8 * 4;
      if (((i ? odd[1] : odd[0]) >> lane & 0xf) == 0) continue;
      const float row_lse = shuffle(i ? lse[1] : lse[0], lane);
      const float row_weight = shuffle(i ? weight[1] : weight[0], lane);
      const int queries = queries_of(attend);
      const int index = static_cast<int>(threadIdx.x) % kWarpgroup / kWarpSize * 16 + r;
      const int query = q_begin() + index % queries;
      const int head = work.head * attend.gqa_pack + index / queries;
      exact_row<Tile>(attend, work, query, head, row_lse, [&](int column, float x) {
        write(index, query, head, column, x * row_weight);
      });
    }
  }

  __device__ __forceinline__ void store_from_registers(const float (&o)[Count],
                                                       const uint32_t (&odd)[2],
                                                       const float (&lse)[2],
                                                       const float (&weight)[2]) const {
    const int column = forget(lane_index()) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Row row = row_of(attend, work, consumer, i);
      const bool is_odd = (odd[i] >> lane_index() / 4 * 4 & 0xf) != 0;
      if (row.idle || row.query >= q_extent() || is_odd) continue;
#pragma unroll
      for (int c = 0; c < Count / 4; ++c) {
        store_element(row.query, row.head, 8 * c + column, o[4 * c + 2 * i]);
        store_element(row.query, row.head, 8 * c + column + 1, o[4 * c + 2 * i + 1]);
      }
    }
    if (odd[0] | odd[1]) {
      repair(odd, lse, weight, [&](int, int query, int head, int column, float x) {
        store_element(query, head, column, x);
      });
    }
    named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);
    if (threadIdx.x % kWarpgroup == 0) release_q();
  }

  __device__ __forceinline__ void store_from_shared(const float (&o)[Count],
                                                    const uint32_t (&odd)[2], const float (&lse)[2],
                                                    const float (&weight)[2]) const {
    const int thread = forget(static_cast<int>(threadIdx.x) % kWarpgroup);
    const int lane = thread % kWarpSize;
    const int queries = queries_of(attend);
    named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);  // nobody reads Q any more
#pragma unroll
    for (int c = 0; c < Tile::HeadDimV / 16; ++c) {
      const int row = thread / kWarpSize * 16 + lane % 16;
      store_matrix_x4(shared(row, 16 * c + lane / 16 * 8), T::pack(o[8 * c], o[8 * c + 1]),
                      T::pack(o[8 * c + 2], o[8 * c + 3]), T::pack(o[8 * c + 4], o[8 * c + 5]),
                      T::pack(o[8 * c + 6], o[8 * c + 7]));
    }
    if (odd[0] | odd[1]) {
      warp_sync();
      repair(odd, lse, weight, [&](int row, int, int, int column, float x) {
        store_shared(shared(row, column), T::from_float(x));
      });
    }
    fence_async_shared();
    named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);
    const bool whole = attend.q_layout != ATTN_LAYOUT_PACKED || q_begin() + queries <= q_extent();
    if (!whole) {
      // A whole tile would overwrite the next sequence.
#pragma unroll 1
      for (int i = thread; i < queries * attend.gqa_pack * (Tile::HeadDimV / 8); i += kWarpgroup) {
        const int column = i % (Tile::HeadDimV / 8) * 8, row = i / (Tile::HeadDimV / 8);
        const int query = q_begin() + row % queries;
        if (query >= q_extent() || column >= attend.head_dim_v) continue;
        Element* to = element_at<Element>(attend.o, 0, work.head * attend.gqa_pack + row / queries,
                                          work.sequence.q_row + query) +
                      column;
        const Quad quad = load_shared<Quad>(shared(row, column));
        if (column + 8 <= attend.head_dim_v) {
          *reinterpret_cast<Quad*>(to) = quad;
        } else {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            if (column + j < attend.head_dim_v) {
              to[j] = static_cast<Element>(quad.word[j / 2] >> j % 2 * 16);
            }
          }
        }
      }
      named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);
    }
    if (thread == 0) {
      if (whole && q_begin() < q_extent()) {
#pragma unroll 1
        for (int box = 0; box < Tile::BoxesV; ++box) {
          tensor_store(&params.o_map, shared(0, box * kBoxColumns), box * kBoxColumns,
                       static_cast<int>(work.sequence.q_row) + q_begin(),
                       work.head * attend.gqa_pack,
                       attend.q_layout == ATTN_LAYOUT_PADDED ? work.sequence.index : 0);
        }
        tensor_store_commit();
        tensor_store_wait_read();
      }
      release_q();
    }
  }
};

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_EPILOGUE_CUH_

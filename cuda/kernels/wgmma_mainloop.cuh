// wgmma_mainloop.cuh: the producer, which loads, and the consumers, which compute.
#ifndef ATTN_CUDA_KERNELS_WGMMA_MAINLOOP_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_MAINLOOP_CUH_

#include "wgmma_softmax.cuh"

namespace attn::cuda {

// ---- the loader: one warp of the producer
// ---------------------------------------------------------------------

// Keys of one box of K and V: the tile's, or what divides both it and a page.
template <class Tile>
__device__ __forceinline__ int box_keys(const AttendParams& attend) {
  if (attend.kv_layout != ATTN_LAYOUT_PAGED) return Tile::TileK;
  int keys = Tile::TileK;
#pragma unroll 1
  for (int rest = attend.page_size; rest != 0;) {
    const int next = keys % rest;
    keys = rest;
    rest = next;
  }
  return keys;
}

template <class Tile>
struct Loader {
  const WgmmaParams& params;
  int kv_box;
  Mailbox<Tile> mailbox;
  Ring<kStages> k_ring, v_ring;
  Ring<1> q_ring;

  // Tile n of K or V [TileK][boxes * 64] into its ring, cut into boxes, the lanes taking turns.
  // Boxes past the sequence's end are left out when they lie in other pages: those pages may not be
  // there.
  __device__ __forceinline__ void load(bool is_v, int n) {
    const AttendParams& attend = params.attend;
    const Ring<kStages> ring = is_v ? v_ring : k_ring;
    const SharedAddress full =
        Tile::barrier(Tile::kKFull, ring.stage + is_v * (Tile::kVFull - Tile::kKFull));
    const SharedAddress empty =
        Tile::barrier(Tile::kKEmpty, ring.stage + is_v * (Tile::kVEmpty - Tile::kKEmpty));
    const SharedAddress to = is_v ? Tile::v(ring.stage) : Tile::k(ring.stage);
    const TensorMap* map = is_v ? &params.v_map : &params.k_map;
    const int boxes = is_v ? Tile::BoxesV : Tile::Boxes;
    const Work work = mailbox.read();
    const int begin = n * Tile::TileK;
    const bool paged = attend.kv_layout == ATTN_LAYOUT_PAGED;
    int pieces = Tile::TileK / kv_box;
    if (paged) pieces = min_of(pieces, (work.sequence.seqlen_k - begin + kv_box - 1) / kv_box);
    barrier_wait(empty, ring.parity ^ 1);
    if (lane_index() == 0) barrier_arrive_expect(full, pieces * boxes * kv_box * kBoxRowBytes);
    warp_sync();
    const int head = work.head * attend.gqa_pack / (attend.heads_q / attend.heads_kv);
#pragma unroll 1
    for (int i = lane_index(); i < pieces * Tile::Boxes; i += kWarpSize) {
      const int box = i % Tile::Boxes;
      if (box >= boxes) continue;
      int row = i / Tile::Boxes * kv_box;
      int outer = attend.kv_layout == ATTN_LAYOUT_PADDED ? work.sequence.index : 0;
      const SharedAddress at = to + box * Tile::KBoxBytes + row * kBoxRowBytes;
      row += begin;
      if (paged) {
        outer = attend.block_table[work.sequence.index * attend.block_table_strides[0] +
                                   row / attend.page_size * attend.block_table_strides[1]];
        row %= attend.page_size;
      }
      tensor_load(at, map, full, box * kBoxColumns, static_cast<int>(work.sequence.k_row) + row,
                  head, outer);
    }
    if (is_v) {
      v_ring.advance();
    } else {
      k_ring.advance();
    }
  }

  // Each consumer's 64 rows [gqa_pack][queries][boxes * 64].
  __device__ __forceinline__ void load_q() {
    const AttendParams& attend = params.attend;
    const int queries = queries_of(attend);
    const Work work = mailbox.read();
#pragma unroll 1
    for (int c = 0; c < Tile::Consumers; ++c) {
      const SharedAddress full = Tile::barrier(Tile::kQFull, c);
      barrier_wait(Tile::barrier(Tile::kQEmpty, c), q_ring.parity ^ 1);
      if (lane_index() == 0) {
        barrier_arrive_expect(full, Tile::Boxes * queries * attend.gqa_pack * kBoxRowBytes);
      }
      warp_sync();
      if (lane_index() < Tile::Boxes) {
        tensor_load(Tile::q(c) + lane_index() * Tile::QBoxBytes, &params.q_map, full,
                    lane_index() * kBoxColumns,
                    static_cast<int>(work.sequence.q_row) + work.q_begin + c * queries,
                    work.head * attend.gqa_pack,
                    attend.q_layout == ATTN_LAYOUT_PADDED ? work.sequence.index : 0);
      }
    }
    q_ring.advance();
  }

  // K runs one tile ahead of V, as the consumers do.
  __device__ __forceinline__ void run() {
#pragma unroll 1
    while (true) {
      mailbox.await();
      const Work work = mailbox.read();
      if (work.state == kNoWork) break;
      const int tiles = work.last - work.first;
      // K and V of the last tile, ... of the first: K in steps 0, 1, 3, 5, ..., V in 2, 4, 6, ...
#pragma unroll 1
      for (int step = 0; step <= 2 * tiles && tiles > 0; ++step) {
        const bool is_v = step > 0 && step % 2 == 0;
        const int n = work.last - (is_v ? step / 2 : 1 + (step + 1) / 2);
        if (n >= work.first) load(is_v, n);
        if (step == 0) load_q();
      }
      mailbox.release();
    }
  }
};

// ---- the consumers: a warpgroup each ------------------------------------------------------------

template <class Tile>
struct Consumer {
  using T = typename Tile::T;
  static constexpr int ScoreCount = Tile::TileK / 2, OutputCount = Tile::HeadDimV / 2;

  const AttendParams& attend;
  int consumer;
  Ring<kStages> k_ring, v_ring;
  Ring<1> q_ring;

  // S [64][TileK] = Q [64][HeadDim] K^T, issued.
  __device__ __forceinline__ void issue_scores(float (&s)[ScoreCount]) {
    const Descriptor q = wgmma_descriptor(Tile::q(consumer), 0);
    const Descriptor k = wgmma_descriptor(Tile::k(k_ring.stage), 0);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::HeadDim / 16; ++step) {
      const int box = step / 4, bytes = step % 4 * 32;
      Wgmma<T, Tile::TileK, Major::K>::ss(s, q + (box * Tile::QBoxBytes + bytes),
                                          k + (box * Tile::KBoxBytes + bytes), step > 0);
    }
    wgmma_commit();
  }

  // O [64][HeadDimV] += P [64][TileK] V [TileK][HeadDimV], issued.
  __device__ __forceinline__ void issue_output(float (&o)[OutputCount],
                                               const uint32_t (&p)[Tile::TileK / 16][4]) {
    const Descriptor v = wgmma_descriptor(Tile::v(v_ring.stage), Tile::KBoxBytes);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::TileK / 16; ++step) {
      Wgmma<T, Tile::HeadDimV, Major::MN>::rs(o, p[step], v + step * 16 * kBoxRowBytes, 1);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void wait_k() {
    barrier_wait(Tile::barrier(Tile::kKFull, k_ring.stage), k_ring.parity);
  }
  __device__ __forceinline__ void wait_v() {
    barrier_wait(Tile::barrier(Tile::kVFull, v_ring.stage), v_ring.parity);
  }
  __device__ __forceinline__ void release_k() {
    if (lane_index() == 0) barrier_arrive(Tile::barrier(Tile::kKEmpty, k_ring.stage));
    k_ring.advance();
  }
  __device__ __forceinline__ void release_v() {
    if (lane_index() == 0) barrier_arrive(Tile::barrier(Tile::kVEmpty, v_ring.stage));
    v_ring.advance();
  }

  // The consumers take turns at issuing, so that one's softmax meets another's matrix products.
  __device__ __forceinline__ void take_turn() {
    if (Tile::TakeTurns) named_barrier_sync(kTurnBarrier + consumer, 2 * kWarpgroup);
  }
  __device__ __forceinline__ void pass_turn() {
    if (Tile::TakeTurns) {
      named_barrier_arrive(kTurnBarrier + (consumer + 1) % Tile::Consumers, 2 * kWarpgroup);
    }
  }

  // The last tile's V beyond the sequence is another's or nobody's: zeros, since 0 * NaN is NaN.
  // Beyond the tensor TMA has filled in zeros.
  __device__ __forceinline__ void clean_tail(const Work& work, int last) {
    const int rows = last * Tile::TileK - work.sequence.seqlen_k;
    const bool to_the_end =
        attend.kv_layout == ATTN_LAYOUT_PADDED && work.sequence.seqlen_k == attend.seqlen_k;
    if (rows <= 0 || to_the_end) return;
    wait_v();
    const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
#pragma unroll 1
    for (int i = thread; i < rows * Tile::BoxesV * 8; i += Tile::Consumers * kWarpgroup) {
      const int row = Tile::TileK - rows + i / 8 % rows;
      store_shared(
          Tile::v(v_ring.stage) + i / 8 / rows * Tile::KBoxBytes + row * kBoxRowBytes + i % 8 * 16,
          Quad{});
    }
    fence_async_shared();
    named_barrier_sync(kTailBarrier, Tile::Consumers * kWarpgroup);
  }

  // O and softmax over the tiles of keys [first, last), of which there is at least one. While the
  // tensor cores multiply P of tile n + 1 by V, the softmax of tile n runs.
  __device__ __forceinline__ void attend_tile(const Mailbox<Tile>& mailbox,
                                              const Limits<Tile>& limits, float (&o)[OutputCount],
                                              Softmax<Tile>& softmax) {
    float s[ScoreCount], factor[2];
    uint32_t p[Tile::TileK / 16][4];
    const SharedAddress scratch = shared_base() + Tile::ScratchOffset;
    const int first = uniform(mailbox.read().first), last = uniform(mailbox.read().last);
    int n = last - 1;

    barrier_wait(Tile::barrier(Tile::kQFull, consumer), q_ring.parity);
    q_ring.advance();
    wait_k();
    issue_scores(s);
    wgmma_wait<0>(s);
    release_k();
    apply_features<Tile>(s, attend, limits, n * Tile::TileK);
    mask<Tile>(s, limits, n * Tile::TileK);
    softmax.update(s, factor);
    pack_probabilities<Tile>(p, s);
    clean_tail(mailbox.read(), last);

#pragma unroll 1
    for (--n; n >= first; --n) {
      wait_k();
      take_turn();
      issue_scores(s);
      wait_v();
      issue_output(o, p);
      pass_turn();
      wgmma_wait<1>(s);
      release_k();
      apply_features<Tile>(s, attend, limits, n * Tile::TileK);
      if (limits.cut(n * Tile::TileK)) mask<Tile>(s, limits, n * Tile::TileK);
      softmax.update(s, factor);
      if (Tile::Pin) pin_before(softmax.sum[0] + softmax.sum[1], scratch);
      wgmma_wait<0>(o);
      release_v();
      pack_probabilities<Tile>(p, s);
#pragma unroll
      for (int i = 0; i < OutputCount; ++i) o[i] *= factor[i / 2 % 2];
    }
    wait_v();
    issue_output(o, p);
    wgmma_wait<0>(o);
    release_v();
  }
};

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_MAINLOOP_CUH_

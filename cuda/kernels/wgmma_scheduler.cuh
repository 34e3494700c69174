// wgmma_scheduler.cuh: which tile a CTA works on next, and what there is to know about it.
#ifndef ATTN_CUDA_KERNELS_WGMMA_SCHEDULER_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_SCHEDULER_CUH_

#include "sequence.cuh"
#include "wgmma_tile.cuh"

namespace attn::cuda {

// One tile of O: rows of one head (or of gqa_pack heads), against one chunk of keys.
struct Work {
  int32_t state;        // WorkState
  int32_t first, last;  // tiles of keys, [first, last)
  int32_t chunk;
  int32_t head;     // in units of gqa_pack heads
  int32_t q_begin;  // the tile's first query within its sequence
  Sequence sequence;
};
enum WorkState { kNoWork, kGoodWork, kBadWork };  // no more tiles; rows to compute; rows of NaN

// A warpgroup's 64 rows: gqa_pack heads of one kv head times this many queries (rounded down; the
// rest of the rows is idle); row = head * queries + query.
__device__ __forceinline__ int queries_of(const AttendParams& attend) {
  return kRows / attend.gqa_pack;
}

// Heads whose K and V are to be in L2 at the same time.
__device__ __forceinline__ int heads_in_l2(const AttendParams& attend) {
  const int64_t bytes = int64_t{2} * (attend.head_dim + attend.head_dim_v) * attend.seqlen_k;
  const int64_t heads = (int64_t{32} << 20) / max_of(bytes, int64_t{1});
  const int per_kv_head = attend.heads_q / attend.heads_kv / attend.gqa_pack;
  return static_cast<int>(clamp_to(heads, int64_t{1}, int64_t{1} << 16)) * per_kv_head;
}

// Tile number `index`. Tiles are numbered so that those of heads that share L2 are neighbours in
// time, and among them long ones come first: with a causal mask those of the last queries.
template <class Tile>
__device__ __forceinline__ Work work_of(const AttendParams& attend, int64_t index) {
  Work w{};
  const int heads = attend.heads_q / attend.gqa_pack;
  const int units = attend.batch * heads;
  const int queries = Tile::Consumers * queries_of(attend);
  const int tiles_q = (attend.seqlen_q + queries - 1) / queries;
  const int parts = tiles_q * attend.num_chunks;
  if (index >= int64_t{units} * parts) return w;
  const int shared = heads_in_l2(attend);
  const int first = static_cast<int>(index / (int64_t{shared} * parts)) * shared;
  const int rest = static_cast<int>(index - int64_t{first} * parts);
  const int unit = first + rest % min_of(shared, units - first);
  const int part = rest / min_of(shared, units - first);
  w.head = unit % heads;
  w.chunk = part % attend.num_chunks;
  w.q_begin = (tiles_q - 1 - part / attend.num_chunks) * queries;
  w.sequence = sequence_at(attend, unit / heads);
  w.state = w.sequence.bad ? kBadWork : kGoodWork;

  // Keys that any row of the tile attends to: the first query's first one to the last query's last.
  const int q_end = min_of(w.q_begin + queries, w.sequence.seqlen_q);
  if (w.state == kBadWork || w.q_begin >= q_end) return w;
  int begin = attended_keys(attend, w.sequence, w.q_begin).begin;
  int end = attended_keys(attend, w.sequence, q_end - 1).end;
  if (attend.num_chunks > 1) {
    begin = max_of(begin, w.chunk * attend.kv_chunk);
    end = static_cast<int>(min_of(int64_t{end}, (int64_t{w.chunk} + 1) * attend.kv_chunk));
  }
  if (begin < end) {
    w.first = begin / Tile::TileK;
    w.last = (end + Tile::TileK - 1) / Tile::TileK;
  }
  return w;
}

// Hands tiles from the scheduler warp to the loader and the consumers through slots of shared
// memory, one tile ahead. Everybody reads a slot again where it needs something, rather than keep
// it in registers through the main loop.
template <class Tile>
struct Mailbox {
  Ring<kStages> ring;

  __device__ __forceinline__ SharedAddress slot() const {
    return shared_base() + Tile::WorkOffset + ring.stage * Tile::WorkWords * 4;
  }

  __device__ __forceinline__ void await() {
    barrier_wait(Tile::barrier(Tile::kWorkFull, ring.stage), ring.parity);
  }
  __device__ __forceinline__ Work read() const {
    uint32_t x[16];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Quad quad = load_shared<Quad>(slot() + 16 * i);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[4 * i + j] = quad.word[j];
    }
    const auto at = [&](int i) { return static_cast<int32_t>(x[i]); };
    Work w{at(0), at(1), at(2), at(3), at(4), at(5), {}};
    w.sequence.index = at(6);
    w.sequence.seqlen_q = at(7);
    w.sequence.seqlen_k = at(8);
    w.sequence.q_row = at(9);
    w.sequence.k_row = at(10);
    w.sequence.diagonal = static_cast<int64_t>(uint64_t{x[12]} | uint64_t{x[13]} << 32);
    return w;
  }
  // After the last read; all lanes call.
  __device__ __forceinline__ void release() {
    warp_sync();
    if (lane_index() == 0) barrier_arrive(Tile::barrier(Tile::kWorkEmpty, ring.stage));
    ring.advance();
  }

  // The scheduler's side, by one lane.
  __device__ __forceinline__ void write(const Work& w) {
    const auto word = [](int64_t x) { return static_cast<uint32_t>(x); };
    const Sequence& s = w.sequence;
    store_shared(slot(), Quad{{word(w.state), word(w.first), word(w.last), word(w.chunk)}});
    store_shared(slot() + 16,
                 Quad{{word(w.head), word(w.q_begin), word(s.index), word(s.seqlen_q)}});
    store_shared(slot() + 32, Quad{{word(s.seqlen_k), word(s.q_row), word(s.k_row), 0}});
    store_shared(slot() + 48, Quad{{word(s.diagonal), word(s.diagonal >> 32), 0, 0}});
    barrier_arrive(Tile::barrier(Tile::kWorkFull, ring.stage));
  }
};

// Whether a page of the tile's keys is none. Lanes share the entries.
__device__ __forceinline__ bool bad_page(const AttendParams& attend, const Work& w, int tile_k) {
  bool bad = false;
  const int end = min_of(w.last * tile_k, w.sequence.seqlen_k);
  for (int key = w.first * tile_k / attend.page_size + lane_index();
       key * int64_t{attend.page_size} < end; key += kWarpSize) {
    const int page = attend.block_table[w.sequence.index * attend.block_table_strides[0] +
                                        key * attend.block_table_strides[1]];
    bad |= page < 0 || page >= attend.num_pages;
  }
  return ballot(bad) != 0;
}

// The scheduler warp: numbers from the counter, or of its own; the tile's facts; into the mailbox.
template <class Tile>
__device__ __forceinline__ void schedule(const WgmmaParams& params) {
  const AttendParams& attend = params.attend;
  Mailbox<Tile> mailbox;
  int64_t next = blockIdx.x;
#pragma unroll 1
  while (true) {
    int64_t index = next;
    next += gridDim.x;
    if (attend.tile_counter) {
      uint32_t ticket = 0;
      if (lane_index() == 0) ticket = take_ticket(attend.tile_counter);
      index = static_cast<uint32_t>(uniform(static_cast<int>(ticket)));
    }
    Work w = work_of<Tile>(attend, index);
    if (attend.kv_layout == ATTN_LAYOUT_PAGED && w.first < w.last &&
        bad_page(attend, w, Tile::TileK)) {
      w.sequence.bad |= ATTN_REQUEST_BAD_PAGE;
      w.state = kBadWork;
      w.last = w.first;
    }
    barrier_wait(Tile::barrier(Tile::kWorkEmpty, mailbox.ring.stage), mailbox.ring.parity ^ 1);
    warp_sync();  // a lane that looked late could find a short tile done, and the next phase begun
    if (lane_index() == 0) {
      report(attend, w.sequence.index, w.sequence.bad);
      mailbox.write(w);
    }
    warp_sync();
    mailbox.ring.advance();
    if (w.state == kNoWork) break;
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_SCHEDULER_CUH_

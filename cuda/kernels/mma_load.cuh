// From global to shared memory: tiles of Q, K and V, padded, packed or paged, with zeros past the
// head size and past the sequence.
//
// The fast way is cp.async of 16 bytes. Where strides or addresses do not allow it, elements are
// collected one by one; both ways are seen by others after the barrier that follows the wait.
#ifndef ATTN_CUDA_KERNELS_MMA_LOAD_CUH_
#define ATTN_CUDA_KERNELS_MMA_LOAD_CUH_

#include "mma_tile.cuh"

namespace attn::cuda {

// The address and all strides are multiples of 16 bytes, and elements of a row lie side by side.
template <class Element>
__device__ __forceinline__ bool is_aligned(const TensorView& t) {
  const int64_t bytes = (t.strides[0] | t.strides[1] | t.strides[2]) * int64_t{sizeof(Element)};
  return t.strides[3] == 1 && bytes % 16 == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

// Chunk `chunk` of a row of `dim` elements. row == nullptr: zeros.
template <class Traits>
__device__ __forceinline__ void load_chunk(SharedAddress to, const typename Traits::Element* row,
                                           int64_t stride, int chunk, int dim, bool aligned) {
  using Element = typename Traits::Element;
  const int first = chunk * Traits::kChunkElements;
  const int count = row ? clamp_to(dim - first, 0, Traits::kChunkElements) : 0;
  if (!Traits::kFeatures || aligned) {
    copy_async(to, count ? row + first : row, count * Traits::kElementBytes);
    return;
  }
  union {
    Quad quad;
    Element elements[Traits::kChunkElements];
  } value;
#pragma unroll
  for (int i = 0; i < Traits::kChunkElements; ++i) {
    value.elements[i] = i < count ? row[(first + i) * stride] : Element{0};
  }
  store_shared(to, value.quad);
}

// Q [kTileQ, kDim]
template <class Traits>
__device__ __forceinline__ void load_q(const AttendParams& params, const Tile& tile,
                                       SharedAddress to) {
  using Element = typename Traits::Element;
  constexpr int kRowsAtOnce = Traits::kThreads / Traits::kChunks;
  const int thread = fresh_thread_index();
  const int chunk = thread % Traits::kChunks;
  const bool aligned = is_aligned<Element>(params.q);
#pragma unroll 1  // registers are dear here, and nothing waits for a copy
  for (int row = thread / Traits::kChunks; row < Traits::kTileQ; row += kRowsAtOnce) {
    const Element* from = nullptr;
    if (row < tile.rows) {
      const TileRow r = row_of(tile, row);
      from = element_at<const Element>(params.q, tile.sequence.index, r.head,
                                       tile.sequence.q_row + r.query);
    }
    load_chunk<Traits>(chunk_address<Traits>(to, row, chunk), from, params.q.strides[3], chunk,
                       params.head_dim, aligned);
  }
}

// Row `key` of K or V of the tile's kv head; nullptr if the block table has no such page.
template <class Element>
__device__ __forceinline__ const Element* key_row(const AttendParams& params,
                                                  const TensorView& tensor, const Tile& tile,
                                                  int32_t key) {
  const Sequence& s = tile.sequence;
  if (params.kv_layout != ATTN_LAYOUT_PAGED) {
    return element_at<const Element>(tensor, s.index, tile.head_kv, s.k_row + key);
  }
  const auto size = static_cast<uint32_t>(params.page_size);
  const uint32_t slot = static_cast<uint32_t>(key) / size;
  const int32_t page = params.block_table[s.index * params.block_table_strides[0] +
                                          slot * params.block_table_strides[1]];
  if (page < 0 || page >= params.num_pages) {
    report(params, s.index, ATTN_REQUEST_BAD_PAGE);
    return nullptr;
  }
  return element_at<const Element>(tensor, page, tile.head_kv,
                                   static_cast<uint32_t>(key) - slot * size);
}

enum class Operand { kK, kV };

// K or V [kTileK, kDim] from key `first` on. Keys past the sequence are 0 and never read: P is 0
// there, but 0 * NaN is NaN. Keys of a bad page are NaN in K, which makes NaN of every row that
// attends to one.
template <class Traits, Operand kOperand>
__device__ __forceinline__ void load_keys(const AttendParams& params, const Tile& tile,
                                          int32_t first, SharedAddress to) {
  using Element = typename Traits::Element;
  constexpr int kRowsAtOnce = Traits::kThreads / Traits::kChunks;
  const TensorView& tensor = kOperand == Operand::kK ? params.k : params.v;
  const int dim = kOperand == Operand::kK ? params.head_dim : params.head_dim_v;
  const int thread = fresh_thread_index();
  const int chunk = thread % Traits::kChunks;
  const bool aligned = is_aligned<Element>(tensor);
#pragma unroll 1  // registers are dear here, and nothing waits for a copy
  for (int row = thread / Traits::kChunks; row < Traits::kTileK; row += kRowsAtOnce) {
    const SharedAddress at = chunk_address<Traits>(to, row, chunk);
    const int32_t key = first + row;
    const Element* from = nullptr;
    if (key < tile.sequence.seqlen_k) {
      from = key_row<Element>(params, tensor, tile, key);
      if (kOperand == Operand::kK && !from) {
        store_shared(at, Quad{{0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu, 0x7fff7fffu}});
        continue;
      }
    }
    load_chunk<Traits>(at, from, tensor.strides[3], chunk, dim, aligned);
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_LOAD_CUH_

// The scheduler of the mma.sync family: which rows of which head a CTA works on, and on which keys.
//
// A tile has kTileQ rows of one sequence and head, or, packed, of the gqa_pack query heads of one
// kv head: row r is then query r / gqa_pack of head r % gqa_pack, so that K and V are read once.
#ifndef ATTN_CUDA_KERNELS_MMA_TILE_CUH_
#define ATTN_CUDA_KERNELS_MMA_TILE_CUH_

#include "mma_traits.cuh"
#include "sequence.cuh"

namespace attn::cuda {

// Lies in shared memory: all threads need it now and then, and registers are dear.
struct Tile {
  Sequence sequence;
  int32_t head;       // the first query head
  int32_t head_kv;
  int32_t pack;
  int32_t first_row;  // counted in rows of the sequence and its heads
  int32_t rows;       // that exist, may be <= 0
  int32_t chunk;      // of keys
  KeyRange keys;      // of the chunk, that some row attends to as far as intervals go
  KeyRange all_rows;  // every row attends to these: blocks inside need no mask of intervals
};
static_assert(sizeof(Tile) <= kTileBytes);

// A row of the tile: its query head and query.
struct TileRow {
  int32_t head;
  int32_t query;
};

__device__ __forceinline__ TileRow row_of(const Tile& tile, int row) {
  const int32_t r = tile.first_row + row;
  if (tile.pack == 1) return {tile.head, r};
  return {tile.head + r % tile.pack, r / tile.pack};
}

// Tiles are numbered so that neighbours share K and V; the last rows, which have the most keys under
// a causal mask, come first.
template <int kTileQ>
__device__ __forceinline__ Tile tile_at(const AttendParams& params, int64_t number) {
  const int32_t tiles = params.tiles_q;
  const int32_t index = tiles - 1 - static_cast<int32_t>(number % tiles);
  int64_t rest = number / tiles;
  Tile tile;
  tile.chunk = static_cast<int32_t>(rest % params.num_chunks);
  rest /= params.num_chunks;
  tile.pack = params.gqa_pack;
  const int32_t group = params.heads_q / params.heads_kv;
  const int32_t units = params.heads_q / tile.pack;
  tile.head = static_cast<int32_t>(rest % units) * tile.pack;
  tile.head_kv = tile.head / group;
  tile.sequence = sequence_at(params, static_cast<int32_t>(rest / units));
  tile.first_row = index * kTileQ;
  tile.rows = min_of(tile.sequence.seqlen_q * tile.pack - tile.first_row, kTileQ);
  const KeyRange first = attended_keys(params, tile.sequence, row_of(tile, 0).query);
  const KeyRange last = attended_keys(params, tile.sequence, row_of(tile, tile.rows - 1).query);
  tile.all_rows = {last.begin, first.end};
  tile.keys = {first.begin, last.end};
  if (params.num_chunks > 1) {
    const int64_t begin = int64_t{tile.chunk} * params.kv_chunk;
    const int64_t end = min_of(int64_t{last.end}, begin + params.kv_chunk);
    tile.keys = {static_cast<int32_t>(max_of(int64_t{first.begin}, min_of(begin, end))),
                 static_cast<int32_t>(end)};
  }
  return tile;
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_TILE_CUH_

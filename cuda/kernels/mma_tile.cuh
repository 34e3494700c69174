// The scheduler of the mma.sync family: which rows of which head a CTA works on, and on which keys.
//
// A tile has kTileQ rows of one sequence and head, or, packed, of the gqa_pack query heads of one
// kv head: row r is then query r / gqa_pack of head r % gqa_pack, so that K and V are read once.
#ifndef ATTN_CUDA_KERNELS_MMA_TILE_CUH_
#define ATTN_CUDA_KERNELS_MMA_TILE_CUH_

#include "mma_traits.cuh"
#include "sequence.cuh"

namespace attn::cuda {

// What turns Q K^T into the softmax's exponents. Features need scores in units of log2, and a scale
// that is not positive would turn the maximum around; else the exponent's own product scales.
struct Scaling {
  bool modified;   // S is scaled, and changed, before the softmax
  float scores;    // scale * log2(e)
  float exponent;  // what the softmax multiplies with
};

template <class Traits>
__device__ __forceinline__ Scaling scaling_of(const AttendParams& params) {
  Scaling scaling;
  scaling.scores = static_cast<float>(static_cast<double>(params.scale) * kLog2E);
  scaling.modified = !(scaling.scores > 0.0f);
  if constexpr (Traits::kFeatures) {
    constexpr attn_features kOfScores = ATTN_BIAS | ATTN_MASK | ATTN_ALIBI | ATTN_BLOCK_MASK;
    scaling.modified |= params.softcap != 0.0f || (params.features & kOfScores) != 0;
  }
  scaling.exponent = scaling.modified ? 1.0f : scaling.scores;
  return scaling;
}

// Keys that a bias or a mask covers, in both cases the same for all rows of a sequence.
struct Covered {
  KeyRange bias;
  KeyRange mask;
};

struct FirstColumn {
  KeyRange keys;
  int64_t k0;
};

// Column c of `map` is key k0 + c.
__device__ __forceinline__ FirstColumn first_column(const ScoreMap& map, bool ranged,
                                                    const Sequence& s) {
  if (!map.data) return {{0, 0}, 0};
  if (!ranged) return {{0, s.seqlen_k}, 0};
  int64_t k0 = map.k0.data ? map.k0.data[s.index * map.k0.stride] : 0;
  k0 = clamp_to(k0, -kMaxPosition, kMaxPosition);  // beyond, it covers no key either way
  const int64_t end = k0 + map.columns;
  const int64_t keys = s.seqlen_k;
  return {{static_cast<int32_t>(clamp_to(k0, int64_t{0}, keys)),
           static_cast<int32_t>(clamp_to(end, int64_t{0}, keys))},
          k0};
}

__device__ __forceinline__ Covered covered_keys(const AttendParams& params, const Sequence& s) {
  return {first_column(params.bias, params.features & ATTN_BIAS_RANGE, s).keys,
          first_column(params.mask, params.features & ATTN_MASK_RANGE, s).keys};
}

// Lies in shared memory: all threads need it now and then, and registers are dear.
struct Tile {
  Sequence sequence;
  int32_t head;  // the first query head
  int32_t head_kv;
  int32_t pack;
  int32_t first_row;  // counted in rows of the sequence and its heads
  int32_t rows;       // that exist, may be <= 0
  int32_t chunk;      // of keys
  KeyRange keys;      // of the chunk, that some row attends to as far as intervals go
  Covered covered;
  Scaling scaling;
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

// Tiles are numbered so that neighbours share K and V; the last rows, which have the most keys
// under a causal mask, come first.
template <class Traits>
__device__ __forceinline__ Tile tile_at(const AttendParams& params, int64_t number) {
  constexpr int kTileQ = Traits::kTileQ;
  const int32_t tiles = params.tiles_q;
  const int32_t index = tiles - 1 - static_cast<int32_t>(number % tiles);
  int64_t rest = number / tiles;
  Tile tile;
  tile.chunk = static_cast<int32_t>(rest % params.num_chunks);
  rest /= params.num_chunks;
  tile.scaling = scaling_of<Traits>(params);
  tile.pack = params.gqa_pack;
  const int32_t group = params.heads_q / params.heads_kv;
  const int32_t units = params.heads_q / tile.pack;
  tile.head = static_cast<int32_t>(rest % units) * tile.pack;
  tile.head_kv = tile.head / group;
  tile.sequence = sequence_at(params, static_cast<int32_t>(rest / units));
  tile.first_row = index * kTileQ;
  tile.rows = min_of(tile.sequence.seqlen_q * tile.pack - tile.first_row, kTileQ);
  if (Traits::kFeatures) tile.covered = covered_keys(params, tile.sequence);
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

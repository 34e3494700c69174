// What flash's host side (run.h) and its kernels (one translation unit for each instruction set)
// say to each other: plain data, and one table of functions.
//
// A unit is the K and V of one (sequence, kv head), packed once and read by every query tile. An
// item is 4 bytes: one f32, or two bf16, with which dims (K) and keys (V) go in pairs; what lacks
// in the last item, or in the last block of them, is 0.
//   K  [key panel][head_dim item][panel]  panel keys side by side; keys past the end are 0 up to
//                                       the next multiple of lanes
//   V  [key block][dv panel][key item][width]  tile_k keys a block (the last one shorter),
//                                       head_dim_v cut into panels of equal width, a multiple of
//                                       lanes and at most panel (the last one narrower)
//   scales [key]                        with bf16: what S, and P, is multiplied by; 0 past the end
//                                       up to the next multiple of lanes, P's of a block too
#ifndef ATTN_FLASH_KERNEL_ARGS_H_
#define ATTN_FLASH_KERNEL_ARGS_H_

#include <stddef.h>
#include <stdint.h>

namespace attn::flash {

constexpr int64_t kMaxTileK = 4096;
// Of a tile that is attended by chunks.
constexpr int64_t kMaxChunkRows = 96;
constexpr int64_t kMaxChunkHeads = 8;  // kv heads

// How numbers are stored in the caller's memory.
enum class Storage : int32_t { kF32, kF16, kBF16, kI8, kF8E4M3 };

// Rows of one head in the caller's memory; strides in elements, any sign.
struct Rows {
  const void* data;  // row 0; with pages: row 0 of page 0
  Storage storage;
  int64_t row_stride;  // from one key or query to the next, within a page
  int64_t dim_stride;
};

// Where rows lie in pages: row j is row j % size of page table[j / size * table_stride].
struct Pages {
  int64_t size;  // 0: no pages
  int64_t stride;
  const int32_t* table;
  int64_t table_stride;
};

// The scales of a row's elements, one for each `block` of them, of which the last one may be
// shorter; where the scales of rows lie is as with the rows themselves. Strides in floats.
struct Scales {
  const float* data;  // of row 0; with pages: of row 0 of page 0; NULL: the type has none
  int64_t row_stride;
  int64_t page_stride;
  int64_t block_stride;
  int64_t block;
  int64_t head_stride;  // from one kv head of a chunk's tile to the next
};

// K or V of a unit in the caller's memory.
struct Keys {
  Rows rows;
  Pages pages;
  Scales scales;
  int64_t dim;          // head_dim for K, head_dim_v for V
  int64_t head_stride;  // from one kv head of a chunk's tile to the next; in elements
};

// Packs keys [key_begin, key_end) of a unit. key_begin is a multiple of tile_k; key_end is one too,
// or the sequence's length.
struct PackArgs {
  Keys keys;
  int64_t key_begin;
  int64_t key_end;
  int64_t tile_k;
  float* packed;         // of the unit, aligned to 64 bytes
  float* scales_packed;  // of the unit, likewise; bf16 only, and for V only if it has scales
  float factor;          // K's packed scales are times this
  uint8_t* nonfinite;    // V only: [key block], set to 1 where V holds NaN or infinities, else 0
};

// Sizes that a worker's scratch memory depends on.
struct TileShape {
  int64_t tile_q;      // query rows, a multiple of micro_rows
  int64_t score_rows;  // rows of S at a time: micro_rows, for chunks tile_q
  int64_t tile_k;      // keys, a multiple of panel
  int64_t head_dim;
  int64_t head_dim_v;
};

// A bias or a boolean mask over the rows of a query tile. Elements outside of its keys are never
// read; the bias is 0 there, and the mask attends.
struct Overlay {
  const void* data;  // of row 0 and key_begin
  Storage storage;   // of a bias; a mask has bytes
  int64_t head_stride;
  int64_t row_stride;
  int64_t key_stride;
  int64_t key_begin;
  int64_t key_end;  // key_begin >= key_end: there is none
};

// Blocks of queries and keys with a byte each: 0 masks the block.
struct BlockMask {
  const uint8_t* data;  // of the block of query 0 and key 0; NULL: there is none
  int64_t head_stride;
  int64_t q_stride;  // from block to block
  int64_t k_stride;
  int64_t block_q;
  int64_t block_k;
  int64_t first_query;  // of the tile, counted within the sequence
};

// ALiBi: a query loses |slope| * |nearest - key|, where nearest is the key closest to its position.
// What all keys of a query lose beyond that is in its LSE alone.
struct Alibi {
  const float* slopes;  // of each head; NULL: no ALiBi
  int64_t head_stride;
  int64_t diagonal;  // the key at query 0's position; any number below 2^62 in magnitude
};

// What happens to the scores between Q K^T and the softmax, beside the interval of each row.
struct Features {
  float softcap;  // 0: none
  Alibi alibi;
  Overlay bias;
  Overlay mask;
  BlockMask block_mask;
};

// Memory that is likely to be wanted soon.
struct Span {
  const void* data;
  int64_t size;  // bytes; 0 for none
};

// One query tile: queries of one head, or all queries of several heads that read the same K and V.
// Row r is query r % queries of head r / queries, both counted within the tile; each head's part of
// a tensor lies head_stride elements after the one before.
struct QueryTile {
  TileShape shape;
  int64_t rows;  // 1 .. tile_q, a multiple of queries
  int64_t queries;
  Rows q;  // [rows, head_dim]
  int64_t q_head_stride;
  // Query i attends to the keys [max(0, i + key_lo), min(seqlen_k, i + key_hi)): causality, windows
  // and lengths all have this form. |key_lo| and |key_hi| stay below 2^62.
  int64_t key_lo;
  int64_t key_hi;
  int64_t seqlen_k;
  float scale;
  const Features* features;  // NULL: none of them
  const float* sinks;        // of each head, a logit beside those of the keys; NULL: none
  int64_t sink_stride;
  void* o;  // [rows, head_dim_v]
  Storage o_storage;
  int64_t o_head_stride;
  int64_t o_row_stride;
  int64_t o_dim_stride;
  float* lse;  // [rows], or NULL
  int64_t lse_head_stride;
  int64_t lse_stride;
  void* scratch;  // scratch_size bytes, aligned to 64
};

// A tile against all keys of a packed unit: O = softmax(scale * Q K^T) V and its LSE.
struct AttendArgs {
  QueryTile tile;
  const float* packed_k;
  const float* packed_v;
  const float* packed_k_scales;  // bf16 only; `scale` is in them
  const float* packed_v_scales;  // NULL: all are 1
  const uint8_t* nonfinite;
  // What the worker is likely to read after this tile, and where this one writes.
  Span next[4];
};

// A tile against keys [key_begin, key_end) where the caller has them. key_begin is a multiple of
// 64; key_end is one too, or the sequence's length. The tile's heads are those of heads_kv kv
// heads.
struct ChunkArgs {
  QueryTile tile;
  int64_t heads_kv;
  Keys k;  // of the first kv head
  Keys v;
  int64_t key_begin;
  int64_t key_end;
  // K of the chunk that the worker is likely to attend to after this one; none if begin >= end.
  Keys next;
  int64_t next_begin;
  int64_t next_end;
  void* partial;  // where the result is kept for `merge`, partial_size bytes, aligned to 64; NULL:
                  // these are all keys, O and LSE are written
};

// The results of a tile's chunks, one after the other, to O and LSE.
struct MergeArgs {
  QueryTile tile;
  const void* partials;
  int64_t num_partials;
};

struct FlashKernels {
  const char* isa;
  int32_t lanes;       // floats in a vector
  int32_t panel;       // keys (K) or dims (V) side by side in a panel; divides 64
  int32_t micro_rows;  // query rows of the register tile
  int32_t item_width;  // elements in an item: 1 f32 or 2 bf16
  int32_t item_block;  // head_dim (K) and keys (V) are padded to whole blocks of so many items
  void (*pack_k)(const PackArgs* args);
  void (*pack_v)(const PackArgs* args);
  size_t (*scratch_size)(const TileShape* shape);  // bytes, a multiple of 64
  void (*attend)(const AttendArgs* args);
  // NULL with products of bf16.
  size_t (*partial_size)(const TileShape* shape, int64_t rows);  // bytes, a multiple of 64
  void (*attend_chunk)(const ChunkArgs* args);
  void (*merge)(const MergeArgs* args);
};

// Only those of the build's architecture exist.
extern const FlashKernels kFlashScalar;
extern const FlashKernels kFlashAvx2;
extern const FlashKernels kFlashAvx512;
extern const FlashKernels kFlashAvx512Bf16;
extern const FlashKernels kFlashAmxBf16;
extern const FlashKernels kFlashNeon;

}  // namespace attn::flash

#endif  // ATTN_FLASH_KERNEL_ARGS_H_

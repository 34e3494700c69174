// What flash's host side (flash.cpp) and its kernels (one translation unit for each instruction
// set) say to each other: plain data, and one table of functions.
//
// A unit is the K and V of one (sequence, kv head), packed once and read by every query tile:
//   K  [key panel][head_dim][panel]     panel keys side by side; keys past the end are 0 up to the
//                                       next multiple of lanes
//   V  [key block][dv panel][key][width]  tile_k keys a block (the last one shorter), head_dim_v
//                                       cut into panels of equal width, a multiple of lanes and
//                                       at most panel (the last one narrower)
#ifndef ATTN_FLASH_KERNEL_ARGS_H_
#define ATTN_FLASH_KERNEL_ARGS_H_

#include <stddef.h>
#include <stdint.h>

namespace attn::flash {

// Rows of one head in the caller's memory; strides in elements, any sign.
struct Rows {
  const void* data;    // row 0
  int64_t row_stride;  // from one key or query to the next
  int64_t dim_stride;
};

// Packs keys [key_begin, key_end) of a unit. key_begin is a multiple of tile_k; key_end is one too,
// or the sequence's length.
struct PackArgs {
  Rows rows;
  int64_t key_begin;
  int64_t key_end;
  int64_t dim;  // head_dim for K, head_dim_v for V
  int64_t tile_k;
  float* packed;       // of the unit, aligned to 64 bytes
  uint8_t* nonfinite;  // V only: [key block], set to 1 where V holds NaN or infinities, else 0
};

// Sizes that a worker's scratch memory depends on.
struct TileShape {
  int64_t tile_q;  // query rows, a multiple of micro_rows
  int64_t tile_k;  // keys, a multiple of panel
  int64_t head_dim;
  int64_t head_dim_v;
};

// Memory that is likely to be wanted soon.
struct Span {
  const void* data;
  int64_t size;  // bytes; 0 for none
};

// One query tile against all keys of a unit: O = softmax(scale * Q K^T) V and its LSE.
struct AttendArgs {
  TileShape shape;
  Rows q;        // [rows, head_dim]
  int64_t rows;  // 1 .. tile_q
  // Row r attends to the keys [max(0, r + key_lo), min(seqlen_k, r + key_hi)): causality, windows
  // and lengths all have this form. |key_lo| and |key_hi| stay below 2^62.
  int64_t key_lo;
  int64_t key_hi;
  int64_t seqlen_k;
  float scale;
  const float* packed_k;
  const float* packed_v;
  const uint8_t* nonfinite;
  float* o;  // [rows, head_dim_v]
  int64_t o_row_stride;
  int64_t o_dim_stride;
  float* lse;  // [rows], or NULL
  int64_t lse_stride;
  // What the worker is likely to read after this tile, and where this one writes.
  Span next[3];
  void* scratch;  // scratch_size bytes, aligned to 64
};

struct FlashKernels {
  const char* isa;
  int32_t lanes;       // floats in a vector
  int32_t panel;       // keys (K) or dims (V) side by side in a panel; divides 64
  int32_t micro_rows;  // query rows of the register tile
  void (*pack_k)(const PackArgs* args);
  void (*pack_v)(const PackArgs* args);
  size_t (*scratch_size)(const TileShape* shape);  // bytes, a multiple of 64
  void (*attend)(const AttendArgs* args);
};

// Only those of the build's architecture exist.
extern const FlashKernels kFlashScalar;
extern const FlashKernels kFlashAvx2;
extern const FlashKernels kFlashAvx512;
extern const FlashKernels kFlashNeon;

}  // namespace attn::flash

#endif  // ATTN_FLASH_KERNEL_ARGS_H_

// params.h: the plain structs that the host side fills and the kernels read. Compiled by g++ (host
// and emulator) and nvcc alike, so: no functions, no types of CUDA's headers, the same layout.
//
// Conventions
//   - Strides are in elements, taken literally; a broadcast dimension has stride 0 here, also where
//     its extent is 1. Every address is data + i0*strides[0] + i1*strides[1] + ... in int64.
//   - Key and query indices within a sequence fit int32: plans refuse max_seqlen_* above
//     kMaxSeqlen. Rows of a packed tensor, pages and positions do not have to.
//   - The host cannot see lengths, offsets and page numbers. A kernel clamps what it reads, makes
//     NaN (O and LSE) of every row that a bad entry would feed, and ORs the reason into
//     status[batch index].
#ifndef ATTN_CUDA_PARAMS_H_
#define ATTN_CUDA_PARAMS_H_

#include <attn/attn.h>

namespace attn::cuda {

constexpr int64_t kMaxSeqlen = int64_t{1} << 30;
constexpr int kMaxMergeParts = 55;  // in one launch, whose parameters take 4 KB at most

// [i0, i1, i2, i3] as in attn_run_args; a rank of 3 leaves strides[3] 0.
struct TensorView {
  void* data;  // byte_offset is in it
  int64_t strides[4];
};

// Element i is data[i * stride]; data is NULL where the tensor is not given.
struct Int32Vector {
  const int32_t* data;
  int64_t stride;
};
struct Int64Vector {
  const int64_t* data;
  int64_t stride;
};

// bias or mask, [b, h, rows, columns]; packed Q: strides[0] is 0 and the row is the packed query
// row. data is NULL where it is not given.
struct ScoreMap {
  const void* data;
  int64_t strides[4];
  // With ATTN_BIAS_RANGE or ATTN_MASK_RANGE: column c is key k0[b] + c (k0.data NULL: 0), and
  // beyond [k0, k0 + columns) a mask attends and a bias is 0. Else column = key.
  Int64Vector k0;
  int64_t columns;
};

// Tiles of K, of V and of work that are under way in the wgmma family.
#ifdef ATTN_CUDA_STAGES  // a variant of ./dev gpu sweep
constexpr int kStages = ATTN_CUDA_STAGES;
#else
constexpr int kStages = 2;
#endif

// One attention, forward.
//   S[i][j] = scale * sum_d Q[i][d] K[j][d], then softcap, ALiBi, bias, masks (see attn.h)
//   O[i] = sum_j softmax(S[i])[j] V[j],  LSE[i] = ln sum_j exp(S[i][j])
// Sequence b, 0 <= b < batch:
//   queries  padded: rows [0, seqlens_q[b] or seqlen_q) of batch entry b
//            packed: rows [cu_seqlens_q[b], cu_seqlens_q[b + 1]), strides[0] of q, o and lse are 0
//   keys     padded and packed likewise; paged: key j is row j % page_size of page
//            block_table[b][j / page_size], and k.strides[0] steps from page to page
//   position of query i: q_start[b] + i; without q_start: (alignment == bottom right ? own seqlen_k
//            - own seqlen_q : 0) + i. Of key j: k_start[b] + j, without k_start: j.
struct AttendParams {
  TensorView q;    // dtype of the kernel
  TensorView k;    // dtype of the kernel
  TensorView v;    // dtype of the kernel
  TensorView o;    // o_dtype
  TensorView lse;  // f32, rank 3; data may be NULL

  attn_features features;  // of the plan, every bit of attn.h
  attn_layout q_layout;
  attn_layout kv_layout;
  attn_alignment alignment;
  attn_dtype o_dtype;     // f32, f16 or bf16
  attn_dtype bias_dtype;  // f32 or q's; 0 without bias
  float scale;
  float softcap;         // 0: none
  int64_t window_left;   // read only with ATTN_WINDOW_LEFT; at most 2^61
  int64_t window_right;  // read only with ATTN_WINDOW_RIGHT

  int32_t batch;
  int32_t heads_q;
  int32_t heads_kv;
  int32_t head_dim;  // real ones; the kernel's class may be larger
  int32_t head_dim_v;
  int32_t seqlen_q;   // padded: the extent; packed: the plan's max_seqlen_q
  int32_t seqlen_k;   // padded: the extent; packed and paged: the plan's max_seqlen_k
  int32_t page_size;  // 0 if not paged
  int64_t total_q;    // packed: rows of q, o and lse; else 0
  int64_t total_k;    // packed: rows of k and v; else 0
  int64_t num_pages;  // paged; else 0

  Int32Vector seqlens_q;
  Int32Vector seqlens_k;
  Int32Vector cu_seqlens_q;  // batch + 1
  Int32Vector cu_seqlens_k;
  const int32_t* block_table;  // [batch, block_table_columns]
  int64_t block_table_strides[2];
  int64_t block_table_columns;
  Int64Vector q_start;
  Int64Vector k_start;

  ScoreMap bias;
  ScoreMap mask;
  const float* alibi_slopes;  // [hq] (strides[0] is 0) or [b, hq]
  int64_t alibi_strides[2];
  const float* sink;  // [hq]
  int64_t sink_stride;
  const uint8_t* block_mask;  // [b, hq, blocks of queries, blocks of keys]
  int64_t block_mask_strides[4];
  int32_t block_q;
  int32_t block_k;

  // Work. A launch is one-dimensional; a kernel loops over tiles blockIdx.x, + gridDim.x, ... <
  // num_tiles, or takes them from *tile_counter. num_tiles = batch * (gqa_pack > 1 ? heads_kv :
  // heads_q) * tiles_q * num_chunks. How a number becomes (b, h, tile, chunk) is the kernel's.
  int32_t gqa_pack;    // query heads that share a tile of rows: 1, or heads_q / heads_kv
  int32_t tiles_q;     // ceil(seqlen_q * gqa_pack / tile_q)
  int32_t num_chunks;  // 1: no split
  int32_t kv_chunk;    // keys in a chunk, a multiple of tile_k, counted from key 0; 0: no split
  int64_t num_tiles;

  // In the workspace; set to 0 before the launch, in the same stream. NULL where the plan has none.
  uint32_t* status;        // [batch] ATTN_REQUEST_* bits, 0 is good
  uint32_t* tile_counter;  // one word, for kernels with KernelInfo::dynamic
  // Split K and V: chunk c of query row r = b * partial_batch_rows + h * partial_head_rows + (row
  // in q) has O at partial_o[(c * partial_chunk_rows + r) * head_dim_v], LSE at
  // partial_lse[c * partial_chunk_rows + r]. A chunk without a key has LSE -inf and leaves its O
  // alone. No chunk has the sink: the kernel that combines applies it, and it alone writes o, lse.
  float* partial_o;
  float* partial_lse;
  int64_t partial_chunk_rows;
  int64_t partial_head_rows;
  int64_t partial_batch_rows;  // 0 if packed
};

// attn_merge: parts in order.
struct MergePart {
  const float* o;
  int64_t o_strides[4];
  const float* lse;
  int64_t lse_strides[3];
};

struct MergeParams {
  int64_t shape[4];   // b, h, s, dv
  TensorView o;       // o_dtype; may be the very view of a part
  TensorView lse;     // f32; data may be NULL; may be the very view of a part's
  const float* sink;  // [h], NULL: none
  int64_t sink_stride;
  attn_dtype o_dtype;
  int32_t count;
  MergePart parts[kMaxMergeParts];
};

// CUtensorMap, opaque here.
struct alignas(64) TensorMap {
  uint64_t words[16];
};

// Parameters of the wgmma family: one __grid_constant__ struct. Maps of rank 4, element strides of
// 1, interleave none, swizzle 128 B, L2 promotion 256 B, out of bounds filled with 0:
//   dims {head_dim, rows, heads, outer}, of the tensor itself, so that boxes clip at head_dim and
//   at the last row; box {128 bytes of columns, KernelInfo::box_rows_*, 1, 1}. rows = seqlen
//   extent, total rows or page_size; outer = batch, 1 or pages. Paged: boxes of k and v have
//   gcd(box_rows_*, page_size) rows, and page_size is a multiple of 8 (others go to the mma
//   family). With gqa_pack > 1, q and o take boxes of {.., box_rows_q / heads, heads, 1}, heads
//   being KernelInfo::box_heads_q.
// o's map is of o's own type and is valid only if use_o_map is not 0: an o of q's dtype, not split,
// whose address and strides TMA takes.
struct WgmmaParams {
  TensorMap q_map;
  TensorMap k_map;
  TensorMap v_map;
  TensorMap o_map;
  AttendParams attend;
  int32_t use_o_map;
};

static_assert(sizeof(MergeParams) <= 4096 && sizeof(WgmmaParams) <= 4096, "kernel parameters");

}  // namespace attn::cuda

#endif  // ATTN_CUDA_PARAMS_H_

// table.h: one row for each kernel in the images: what it serves, how it is launched, what its
// machine code must look like. Plans search it (the first row that serves a problem is taken, so
// the order is the preference; short queries take a smaller tile of queries with the same tile of
// keys), the gates of the tests read it.
#ifndef ATTN_CUDA_KERNELS_TABLE_H_
#define ATTN_CUDA_KERNELS_TABLE_H_

#include "../params.h"

namespace attn::cuda {

enum class Kind : int32_t {
  kAttend,   // AttendParams (mma) or WgmmaParams (wgmma); writes o and lse, or partial_o and
             // partial_lse if num_chunks > 1
  kCombine,  // AttendParams; after a split kAttend: makes o and lse of the partial results
  kMerge,    // MergeParams; attn_merge
};

enum class Family : int32_t { kMma, kWgmma };

// What a kAttend kernel can do beside the plain padded problem. The bits of attn_features, and:
constexpr uint32_t kServesPacked = 1u << 24;  // packed Q, or packed K and V
constexpr uint32_t kServesPaged = 1u << 25;   // paged K and V
constexpr uint32_t kServesSoftcap = 1u << 26;
constexpr uint32_t kServesSplit = 1u << 27;      // num_chunks > 1
constexpr uint32_t kServesUnaligned = 1u << 28;  // any strides, any alignment (else what TMA takes)
constexpr uint32_t kServesOtherO = 1u << 29;     // an o_dtype that is not the kernel's dtype

// One kind of instruction in a kernel's machine code. count < 0: at least -count.
struct InstructionCount {
  const char* opcode;  // as nvdisasm prints it, matched as a prefix: "HGMMA.64x128x16.F32.BF16"
  int32_t count;
};

// A box has rows of all gqa_pack heads, box_rows_q / gqa_pack of each, rounded down.
constexpr int32_t kAllPackedHeads = -1;

struct KernelInfo {
  const char* symbol;  // "attn_mma_bf16_d128_features"
  const char* module;  // the .cu file's name without ".cu": "attend_mma"
  Kind kind;
  Family family;
  attn_dtype dtype;    // of q, k and v; kCombine and kMerge: 0, any
  int32_t head_dim;    // the largest that it serves; 0: any
  int32_t head_dim_v;  // likewise
  uint32_t serves;     // attn_features | kServes*
  // Launch.
  int32_t tile_q;  // rows of queries in a tile (times heads, if packed); kMerge, kCombine: rows
  int32_t tile_k;
  int32_t threads;
  int32_t shared_bytes;  // dynamic shared memory; 0: none
  int32_t ctas_per_sm;   // persistent: CTAs for each multiprocessor; 0: one CTA for each tile
  bool dynamic;          // takes tiles from *tile_counter
  bool packs_gqa;        // takes gqa_pack = heads_q / heads_kv; else 1
  // Boxes of the tensor maps; wgmma only.
  int32_t box_rows_q;
  int32_t box_heads_q;  // heads of a box with gqa_pack > 1, or kAllPackedHeads
  int32_t box_rows_k;
  int32_t box_rows_v;
  int32_t box_rows_o;
  // Which devices: compute capability, 10 * major + minor. Code of an sm_90a image runs on 9.0
  // only.
  int32_t min_sm;
  // Gates, binding for the pinned nvcc.
  int32_t max_registers;             // of the sm_90a image, as --dump-resource-usage reports
  InstructionCount instructions[4];  // of the sm_90a image; unused ones have a NULL opcode
};

}  // namespace attn::cuda

#ifdef ATTN_CUDA_TABLE  // the tests of the host side bring a table of their own
#include ATTN_CUDA_TABLE
#else
#include "mma_table.h"    // kMmaKernels
#include "wgmma_table.h"  // kWgmmaKernels
#endif

#endif  // ATTN_CUDA_KERNELS_TABLE_H_

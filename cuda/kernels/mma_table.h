// mma_table.h: the rows of the mma.sync family. Included by table.h.
namespace attn::cuda {

// What rows of intervals and the plain 16-byte loads cover.
constexpr uint32_t kMmaPlain = ATTN_CAUSAL | ATTN_WINDOW_LEFT | ATTN_WINDOW_RIGHT | ATTN_SEQLENS_Q |
                               ATTN_SEQLENS_K | ATTN_Q_START | ATTN_K_START | ATTN_SINK |
                               kServesPacked | kServesPaged | kServesSplit | kServesOtherO;
constexpr uint32_t kMmaAll = kMmaPlain | ATTN_BIAS | ATTN_BIAS_RANGE | ATTN_MASK | ATTN_MASK_RANGE |
                             ATTN_ALIBI | ATTN_BLOCK_MASK | kServesSoftcap | kServesUnaligned;

// ROW(symbol, module, dtype, head size, serves, tile_q, tile_k, warps, element bytes, most
// registers) Shared memory as in MmaTraits: Q, K and V, 40 bytes for each row of Q, 128 for the
// tile.
#define ATTN_ROW(symbol, module, dtype, dim, serves, tile_q, tile_k, warps, bytes, registers)  \
  {                                                                                            \
    symbol, module, Kind::kAttend, Family::kMma, dtype, dim, dim, serves, tile_q, tile_k,      \
        (warps)*32, (tile_q + 2 * tile_k) * dim *bytes + 40 * tile_q + 128, /*ctas_per_sm*/ 0, \
        /*dynamic*/ false, /*packs_gqa*/ true, 0, 1, 0, 0, 0, /*min_sm*/ 80, registers, {      \
      { "HMMA", -1 }                                                                           \
    }                                                                                          \
  }
// clang-format off
#define ATTN_ROWS_16BIT(name, dtype)                                                                     \
  ATTN_ROW("attn_mma_" name "_d64_q128", "attend_mma_" name, dtype, 64, kMmaPlain, 128, 112, 4, 2, 255), \
  ATTN_ROW("attn_mma_" name "_d64_q64", "attend_mma_" name, dtype, 64, kMmaPlain, 64, 112, 4, 2, 168),   \
  ATTN_ROW("attn_mma_" name "_d64_q128_features", "attend_mma_" name, dtype, 64, kMmaAll, 128, 112, 8, 2, 255), \
  ATTN_ROW("attn_mma_" name "_d64_q64_features", "attend_mma_" name, dtype, 64, kMmaAll, 64, 112, 4, 2, 255),   \
  ATTN_ROW("attn_mma_" name "_d128_q128", "attend_mma_" name, dtype, 128, kMmaPlain, 128, 64, 4, 2, 255),       \
  ATTN_ROW("attn_mma_" name "_d128_q64", "attend_mma_" name, dtype, 128, kMmaPlain, 64, 64, 4, 2, 168),         \
  ATTN_ROW("attn_mma_" name "_d128_q128_features", "attend_mma_" name, dtype, 128, kMmaAll, 128, 64, 8, 2, 255),\
  ATTN_ROW("attn_mma_" name "_d128_q64_features", "attend_mma_" name, dtype, 128, kMmaAll, 64, 64, 4, 2, 255),  \
  ATTN_ROW("attn_mma_" name "_d256_q128", "attend_mma_" name, dtype, 256, kMmaPlain, 128, 64, 8, 2, 255),       \
  ATTN_ROW("attn_mma_" name "_d256_q64", "attend_mma_" name, dtype, 256, kMmaPlain, 64, 64, 4, 2, 255),         \
  ATTN_ROW("attn_mma_" name "_d256_q64_features", "attend_mma_" name, dtype, 256, kMmaAll, 64, 64, 4, 2, 255)
// clang-format on

inline constexpr KernelInfo kMmaKernels[] = {
    ATTN_ROWS_16BIT("f16", ATTN_DTYPE_F16),
    ATTN_ROWS_16BIT("bf16", ATTN_DTYPE_BF16),
    ATTN_ROW("attn_mma_f32_d64", "attend_mma_f32", ATTN_DTYPE_F32, 64, kMmaAll, 64, 32, 4, 4, 255),
    ATTN_ROW("attn_mma_f32_d128", "attend_mma_f32", ATTN_DTYPE_F32, 128, kMmaAll, 64, 32, 4, 4,
             255),
    ATTN_ROW("attn_mma_f32_d256", "attend_mma_f32_d256", ATTN_DTYPE_F32, 256, kMmaAll, 64, 16, 4, 4,
             255),
    {"attn_combine",
     "merge",
     Kind::kCombine,
     Family::kMma,
     0,
     0,
     0,
     0,
     /*tile_q*/ 4,
     0,
     /*threads*/ 128,
     0,
     0,
     false,
     false,
     0,
     1,
     0,
     0,
     0,
     /*min_sm*/ 80,
     /*max_registers*/ 128,
     {}},
    {"attn_merge_parts",
     "merge",
     Kind::kMerge,
     Family::kMma,
     0,
     0,
     0,
     0,
     /*tile_q*/ 4,
     0,
     /*threads*/ 128,
     0,
     0,
     false,
     false,
     0,
     1,
     0,
     0,
     0,
     /*min_sm*/ 80,
     /*max_registers*/ 128,
     {}},
};
#undef ATTN_ROWS_16BIT
#undef ATTN_ROW

}  // namespace attn::cuda

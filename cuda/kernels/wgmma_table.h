// wgmma_table.h: the rows of the wgmma family. Included by table.h. Shapes as in wgmma_entries.cuh,
// shared memory as in wgmma_tile.cuh (test_wgmma compares).
namespace attn::cuda {

constexpr uint32_t kWgmmaPlain = ATTN_CAUSAL | ATTN_WINDOW_RIGHT | ATTN_SEQLENS_Q | ATTN_SEQLENS_K |
                                 ATTN_Q_START | ATTN_K_START | kServesPacked | kServesPaged |
                                 kServesSplit | kServesOtherO;
constexpr uint32_t kWgmmaFull = kWgmmaPlain & ~(ATTN_CAUSAL | ATTN_WINDOW_RIGHT | kServesSplit);
constexpr uint32_t kWgmmaFeatures =
    kWgmmaPlain | ATTN_WINDOW_LEFT | ATTN_ALIBI | ATTN_SINK | kServesSoftcap;

// Each product appears twice in the code: S before and in the loop, O in it and after it.
constexpr KernelInfo wgmma_row(const char* symbol, const char* module, attn_dtype dtype,
                               int32_t head_dim, int32_t head_dim_v, int32_t tile_k,
                               int32_t consumers, uint32_t serves, const char* scores,
                               const char* output) {
  KernelInfo row{};
  row.symbol = symbol;
  row.module = module;
  row.kind = Kind::kAttend;
  row.family = Family::kWgmma;
  row.dtype = dtype;
  row.head_dim = head_dim;
  row.head_dim_v = head_dim_v;
  row.serves = serves;
  row.tile_q = 64 * consumers;
  row.tile_k = tile_k;
  row.threads = 128 * (consumers + 1);
  const int32_t boxes = (head_dim + 63) / 64, boxes_v = (head_dim_v + 63) / 64;
  const int32_t tiles = boxes * 64 * consumers * 128 + kStages * (boxes + boxes_v) * tile_k * 128;
  const int32_t barriers = (2 * consumers + 6 * kStages) * 8;
  row.shared_bytes = tiles + (barriers + 15) / 16 * 16 + kStages * 64 + 16;
  row.ctas_per_sm = 1;
  row.dynamic = true;
  row.packs_gqa = true;
  row.box_rows_q = row.box_rows_o = 64;
  row.box_heads_q = kAllPackedHeads;
  row.box_rows_k = row.box_rows_v = tile_k;
  row.min_sm = 90;
  row.max_registers = consumers == 2 ? 168 : 128;
  if (tile_k == head_dim_v) {
    row.instructions[0] = {scores, (head_dim + tile_k) / 8};
  } else {
    row.instructions[0] = {scores, head_dim / 8};
    row.instructions[1] = {output, tile_k / 8};
  }
  return row;
}

#define ATTN_WGMMA_ROW(t, dtype, name, d, dv, k, consumers, serves)                             \
  wgmma_row("attn_wgmma_" #t "_" #name, "attend_wgmma_" #t, dtype, d, dv, k, consumers, serves, \
            "HGMMA.64x" #k "x16.F32", "HGMMA.64x" #dv "x16.F32"),
#ifdef ATTN_CUDA_SWEEP
#define ATTN_WGMMA_ROWS(t, dtype)                                                      \
  ATTN_WGMMA_ROW(t, dtype, d64_plain, 64, 64, ATTN_CUDA_SWEEP_D64, 3, kWgmmaPlain)     \
  ATTN_WGMMA_ROW(t, dtype, d128_plain, 128, 128, ATTN_CUDA_SWEEP_D128, 2, kWgmmaPlain) \
  ATTN_WGMMA_ROW(t, dtype, d256_plain, 256, 256, ATTN_CUDA_SWEEP_D256, 2, kWgmmaPlain)
#else
#define ATTN_WGMMA_ROWS(t, dtype)                                                \
  ATTN_WGMMA_ROW(t, dtype, d64_plain, 64, 64, 128, 3, kWgmmaPlain)               \
  ATTN_WGMMA_ROW(t, dtype, d64_features, 64, 64, 112, 3, kWgmmaFeatures)         \
  ATTN_WGMMA_ROW(t, dtype, d96_plain, 96, 96, 96, 3, kWgmmaPlain)                \
  ATTN_WGMMA_ROW(t, dtype, d96_features, 96, 96, 80, 3, kWgmmaFeatures)          \
  ATTN_WGMMA_ROW(t, dtype, d128_full, 128, 128, 176, 2, kWgmmaFull)              \
  ATTN_WGMMA_ROW(t, dtype, d128_plain, 128, 128, 128, 2, kWgmmaPlain)            \
  ATTN_WGMMA_ROW(t, dtype, d128_features, 128, 128, 128, 2, kWgmmaFeatures)      \
  ATTN_WGMMA_ROW(t, dtype, d192_v128_plain, 192, 128, 128, 2, kWgmmaPlain)       \
  ATTN_WGMMA_ROW(t, dtype, d192_v128_features, 192, 128, 128, 2, kWgmmaFeatures) \
  ATTN_WGMMA_ROW(t, dtype, d192_plain, 192, 192, 112, 2, kWgmmaPlain)            \
  ATTN_WGMMA_ROW(t, dtype, d192_features, 192, 192, 96, 2, kWgmmaFeatures)       \
  ATTN_WGMMA_ROW(t, dtype, d256_plain, 256, 256, 80, 2, kWgmmaPlain)             \
  ATTN_WGMMA_ROW(t, dtype, d256_features, 256, 256, 64, 2, kWgmmaFeatures)
#endif

inline constexpr KernelInfo kWgmmaKernels[] = {ATTN_WGMMA_ROWS(f16, ATTN_DTYPE_F16)
                                                   ATTN_WGMMA_ROWS(bf16, ATTN_DTYPE_BF16)};

#undef ATTN_WGMMA_ROW
#undef ATTN_WGMMA_ROWS

}  // namespace attn::cuda

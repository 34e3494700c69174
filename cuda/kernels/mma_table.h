// mma_table.h: the rows of the mma.sync family. Included by table.h.
namespace attn::cuda {

inline constexpr KernelInfo kMmaKernels[] = {
    {"attn_placeholder_attend", "placeholder", Kind::kAttend, Family::kMma, ATTN_DTYPE_F16, 256, 256,
     ATTN_CAUSAL, /*tile_q*/ 64, /*tile_k*/ 64, /*threads*/ 128, /*shared*/ 0, /*ctas_per_sm*/ 0,
     /*dynamic*/ false, /*packs_gqa*/ false, 0, 1, 0, 0, 0, /*min_sm*/ 80,
     /*max_registers*/ 64, {}},
    {"attn_placeholder_merge", "placeholder", Kind::kMerge, Family::kMma, 0, 0, 0, 0,
     /*tile_q*/ 4, 0, /*threads*/ 128, 0, 0, false, false,
     0, 1, 0, 0, 0, /*min_sm*/ 80, /*max_registers*/ 64, {}},
};

}  // namespace attn::cuda

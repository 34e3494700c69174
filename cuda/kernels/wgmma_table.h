// wgmma_table.h: the rows of the wgmma family. Included by table.h.
namespace attn::cuda {

inline constexpr KernelInfo kWgmmaKernels[] = {
    {},  // until the first kernel is there; a row without a symbol serves nothing
};

}  // namespace attn::cuda

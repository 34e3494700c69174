// The wgmma kernels, compiled for the emulator.
#include "wgmma_launch.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "../kernels/attend_wgmma_bf16.cu"
#include "../kernels/attend_wgmma_f16.cu"

namespace attn_test {
namespace {

using attn::cuda::AttendParams;
using attn::cuda::TensorMap;
using attn::cuda::TensorView;
using attn::cuda::WgmmaParams;
using attn::emulator::TensorDescription;

#define ATTN_KERNEL(name, type, d, dv, tile_k, consumers, features)                    \
  {#name,     attn::cuda::type::kDtype,                                                \
   d,         dv,                                                                      \
   consumers, tile_k,                                                                  \
   attn::cuda::Tile<attn::cuda::type, d, dv, tile_k, consumers, features>::SharedBytes, \
   features,  name},
const WgmmaKernel kKernels[] = {ATTN_WGMMA_KERNELS(ATTN_KERNEL, f16, F16)
                                 ATTN_WGMMA_KERNELS(ATTN_KERNEL, bf16, BF16)};
#undef ATTN_KERNEL

TensorMap map_of(const TensorView& view, int dim, int64_t rows, int64_t heads, int64_t outer,
                 int box_rows, int box_heads) {
  TensorDescription map{};
  map.data = static_cast<char*>(view.data);
  for (int i = 0; i < 3; ++i) map.strides[i] = view.strides[2 - i] * 2;
  const int64_t dims[] = {dim, rows, heads, outer};
  const int box[] = {64, box_rows, box_heads, 1};
  for (int i = 0; i < 4; ++i) {
    map.dims[i] = static_cast<int32_t>(dims[i]);
    map.box[i] = box[i];
    if (i > 0 && dims[i] == 1) map.strides[i - 1] = 16;
  }
  TensorMap words{};
  std::memcpy(&words, &map, sizeof(map));
  return words;
}

}  // namespace

const WgmmaKernel& wgmma_kernel(attn_dtype dtype, int head_dim, int head_dim_v, bool features,
                                bool full) {
  for (const WgmmaKernel& kernel : kKernels) {
    if (kernel.dtype == dtype && kernel.head_dim >= head_dim && kernel.head_dim_v >= head_dim_v &&
        kernel.features == features && full == (std::strstr(kernel.name, "full") != nullptr)) {
      return kernel;
    }
  }
  std::abort();
}

std::string run_wgmma(const WgmmaKernel& kernel, const AttendParams& attend,
                      const WgmmaLaunch& launch) {
  WgmmaParams params{};
  AttendParams& a = params.attend;
  a = attend;
  if (a.gqa_pack == 0) a.gqa_pack = 1;
  if (a.num_chunks == 0) a.num_chunks = 1;
  uint32_t counter = 0;
  a.tile_counter = launch.dynamic ? &counter : nullptr;
  const int queries = 64 / a.gqa_pack;
  const bool packed_q = a.q_layout == ATTN_LAYOUT_PACKED;
  const int64_t rows_q = packed_q ? a.total_q : a.seqlen_q, outer_q = packed_q ? 1 : a.batch;
  params.q_map = map_of(a.q, a.head_dim, rows_q, a.heads_q, outer_q, queries, a.gqa_pack);
  params.use_o_map = launch.use_o_map && a.o_dtype == kernel.dtype && a.num_chunks == 1;
  if (params.use_o_map) {
    params.o_map = map_of(a.o, a.head_dim_v, rows_q, a.heads_q, outer_q, queries, a.gqa_pack);
  }
  int64_t rows_k = a.seqlen_k, outer_k = a.batch;
  int box_k = kernel.tile_k;
  if (a.kv_layout == ATTN_LAYOUT_PACKED) rows_k = a.total_k, outer_k = 1;
  if (a.kv_layout == ATTN_LAYOUT_PAGED) {
    rows_k = a.page_size, outer_k = a.num_pages;
    box_k = std::gcd(box_k, a.page_size);
  }
  params.k_map = map_of(a.k, a.head_dim, rows_k, a.heads_kv, outer_k, box_k, 1);
  params.v_map = map_of(a.v, a.head_dim_v, rows_k, a.heads_kv, outer_k, box_k, 1);
  const attn::emulator::Launch grid{
      .grid = {static_cast<unsigned>(launch.ctas)},
      .block = {static_cast<unsigned>((kernel.consumers + 1) * 128)},
      .shared_bytes = static_cast<uint32_t>(kernel.shared_bytes),
      .seed = launch.seed};
  return attn::emulator::run(grid, [&] { kernel.entry(params); });
}

}  // namespace attn_test

// The wgmma kernels, compiled for the emulator.
#include "wgmma_launch.h"

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "../kernels/merge.cu"
#include "../kernels/table.h"
#include "../kernels/wgmma_entries.cuh"

#ifdef ATTN_TEST_FEW_KERNELS  // for planted mistakes: what builds fast
#define ATTN_TEST_KERNELS(X)                                   \
  X(attn_wgmma_bf16_d64_plain, BF16, 64, 64, 128, 3, false)    \
  X(attn_wgmma_bf16_d128_plain, BF16, 128, 128, 128, 2, false) \
  X(attn_wgmma_bf16_d128_features, BF16, 128, 128, 128, 2, true)
#else
#define ATTN_TEST_KERNELS(X) ATTN_WGMMA_KERNELS(X, f16, F16) ATTN_WGMMA_KERNELS(X, bf16, BF16)
#endif
ATTN_TEST_KERNELS(ATTN_ENTRY)

namespace attn_test {
namespace {

using attn::cuda::AttendParams;
using attn::cuda::TensorMap;
using attn::cuda::TensorView;
using attn::cuda::WgmmaParams;
using attn::emulator::TensorDescription;

#define ATTN_KERNEL(name, type, d, dv, tile_k, consumers, features)                     \
  {#name,                                                                               \
   attn::cuda::type::kDtype,                                                            \
   d,                                                                                   \
   dv,                                                                                  \
   consumers,                                                                           \
   tile_k,                                                                              \
   attn::cuda::Tile<attn::cuda::type, d, dv, tile_k, consumers, features>::SharedBytes, \
   features,                                                                            \
   name},
const WgmmaKernel kKernels[] = {ATTN_TEST_KERNELS(ATTN_KERNEL)};
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

const WgmmaKernel* wgmma_kernel(attn_dtype dtype, int head_dim, int head_dim_v, bool features,
                                bool full) {
  for (const WgmmaKernel& kernel : kKernels) {
    if (kernel.dtype == dtype && kernel.head_dim >= head_dim && kernel.head_dim_v >= head_dim_v &&
        kernel.features == features && full == (std::strstr(kernel.name, "full") != nullptr)) {
      return &kernel;
    }
  }
  return nullptr;
}

std::string table_difference() {
  for (const WgmmaKernel& kernel : kKernels) {
    const attn::cuda::KernelInfo* row = nullptr;
    for (const auto& candidate : attn::cuda::kWgmmaKernels) {
      if (std::strcmp(candidate.symbol, kernel.name) == 0) row = &candidate;
    }
    if (!row) return std::string(kernel.name) + " is not in the table";
    if (row->dtype != kernel.dtype || row->head_dim != kernel.head_dim ||
        row->head_dim_v != kernel.head_dim_v || row->tile_q != 64 * kernel.consumers ||
        row->tile_k != kernel.tile_k || row->threads != 128 * (kernel.consumers + 1) ||
        row->shared_bytes != kernel.shared_bytes) {
      return std::string(kernel.name) + " has another shape in the table";
    }
  }
  return "";
}

std::string numbering_difference() {
  using Tile = attn::cuda::Tile<attn::cuda::BF16, 128, 128, 128, 2, false>;
  AttendParams a{};
  a.batch = 3, a.heads_q = 10, a.heads_kv = 5, a.gqa_pack = 1, a.num_chunks = 2;
  a.head_dim = a.head_dim_v = 128;
  a.seqlen_q = 1000, a.seqlen_k = 20000, a.kv_chunk = 12800;  // three heads share L2
  a.features = ATTN_CAUSAL;
  std::vector<int> seen(3 * 10 * 8 * 2);
  int first_of_group = 0, longest = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(seen.size()) + 5; ++i) {
    const attn::cuda::Work w = attn::cuda::work_of<Tile>(a, i);
    if ((w.state == attn::cuda::kNoWork) != (i >= static_cast<int64_t>(seen.size()))) {
      return "tiles end at the wrong number";
    }
    if (w.state == attn::cuda::kNoWork) continue;
    const int unit = w.sequence.index * 10 + w.head, tile = w.q_begin / 128;
    ++seen[static_cast<size_t>((unit * 8 + tile) * 2 + w.chunk)];
    if (unit / 6 != first_of_group) first_of_group = unit / 6, longest = 7;
    if (i == 0) longest = 7;
    if (tile > longest) return "a long tile comes after a short one";
    longest = tile;
    if (unit / 6 * 6 * 16 > i) return "heads that do not share L2 are mixed";
  }
  for (int n : seen) {
    if (n != 1) return "a tile has " + std::to_string(n) + " numbers";
  }
  return "";
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
  static const std::vector<uint16_t> not_numbers(256, 0xffff);
  if (!launch.exact) a.q = {const_cast<uint16_t*>(not_numbers.data()), {0, 0, 0, 1}};
  const attn::emulator::Launch grid{.grid = {static_cast<unsigned>(launch.ctas)},
                                    .block = {static_cast<unsigned>((kernel.consumers + 1) * 128)},
                                    .shared_bytes = static_cast<uint32_t>(kernel.shared_bytes),
                                    .seed = launch.seed};
  const std::string error = attn::emulator::run(grid, [&] { kernel.entry(params); });
  if (!error.empty() || a.num_chunks == 1) return error;
  const attn::emulator::Launch combining{.grid = {5}, .block = {128}, .seed = launch.seed};
  return attn::emulator::run(combining, [&] { attn_combine(a); });
}

}  // namespace attn_test

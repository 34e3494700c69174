// The mma.sync family on the emulator, against float64.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>

#include "../emulator/emulator.h"
#include "attention.h"
#include "check.h"
#include "mma_kernels.h"

namespace {

using attn::cuda::KernelInfo;
using attn::cuda::Kind;
using attn_test::Case;
using attn_test::Layout;

// Launches the kernel as the host would, and the combining one after a split.
std::string launch(const KernelInfo& kernel, attn_test::Problem& problem, uint64_t seed) {
  auto& p = problem.params;
  const int chunk = problem.what.kv_chunk;
  p.num_chunks = chunk ? (p.seqlen_k + chunk - 1) / chunk : 1;
  p.kv_chunk = chunk;
  if (p.num_chunks > 1) problem.make_partials(p.num_chunks);
  p.tiles_q = (p.seqlen_q * p.gqa_pack + kernel.tile_q - 1) / kernel.tile_q;
  p.num_tiles = int64_t{p.batch} * (p.heads_q / p.gqa_pack) * p.tiles_q * p.num_chunks;
  problem.clear_outputs();
  attn::emulator::Launch grid;
  grid.grid.x = static_cast<unsigned>(p.num_tiles);
  grid.block.x = static_cast<unsigned>(kernel.threads);
  grid.shared_bytes = static_cast<uint32_t>(kernel.shared_bytes);
  grid.seed = seed;
  const auto attend = attn_test::attend_kernel(kernel.symbol);
  if (!attend) return std::string("no kernel ") + kernel.symbol;
  std::string error = run(grid, [&] { attend(p); });
  if (!error.empty() || p.num_chunks == 1) return error;
  grid.grid.x = 5;
  grid.block.x = 128;
  grid.shared_bytes = 0;
  const auto combine = attn_test::attend_kernel("attn_combine");
  return run(grid, [&] { combine(p); });
}

// Planted mistakes are looked for with a few of the kernels.
#ifdef ATTN_TEST_FEW_KERNELS
constexpr bool kAllKernels = false;
#else
constexpr bool kAllKernels = true;
#endif

bool serves(const KernelInfo& kernel, const Case& c) {
  if (!kAllKernels && !attn_test::attend_kernel(kernel.symbol)) return false;
  if (kernel.kind != Kind::kAttend || kernel.dtype != c.dtype) return false;
  const int dim = std::max(c.head_dim, c.head_dim_v);
  if (dim > kernel.head_dim || (kernel.head_dim > 64 && dim <= kernel.head_dim / 2)) return false;
  uint32_t needs = 0;
  if (c.bias_dtype) needs |= ATTN_BIAS;
  if (c.mask) needs |= ATTN_MASK;
  if (c.alibi) needs |= ATTN_ALIBI;
  if (c.block_q) needs |= ATTN_BLOCK_MASK;
  if (c.softcap != 0) needs |= attn::cuda::kServesSoftcap;
  const int bytes = c.dtype == ATTN_DTYPE_F32 ? 4 : 2;
  if (c.row_gap || c.dim_stride != 1 || c.head_dim * bytes % 16 || c.head_dim_v * bytes % 16) {
    needs |= attn::cuda::kServesUnaligned;
  }
  return (kernel.serves & needs) == needs;
}

std::set<std::string> served;

void check(attn_test::Results& results, const Case& c) {
  bool any = false;
  for (const KernelInfo& kernel : attn::cuda::kMmaKernels) any |= serves(kernel, c);
  if (!any && !kAllKernels) return;
  attn_test::Problem problem(c);
  const attn_test::Expected expected = problem.expected();
  for (const KernelInfo& kernel : attn::cuda::kMmaKernels) {
    if (!serves(kernel, c)) continue;
    served.insert(kernel.symbol);
    attn::emulator::exact_rows = 0;
    std::string difference = launch(kernel, problem, c.seed);
    // What is poisoned and read too early is NaN, and the exact path would put it right.
    const bool spoiled = !c.nan_keys.empty() || c.nan_unseen || c.bad_page_of >= 0;
    if (difference.empty() && !spoiled && attn::emulator::exact_rows != 0) {
      difference = std::to_string(attn::emulator::exact_rows) + " rows took the exact path";
    }
    if (difference.empty()) difference = problem.difference(expected);
    for (int b = 0; b < problem.params.batch && difference.empty(); ++b) {
      const uint32_t right = c.bad_page_of == b                  ? ATTN_REQUEST_BAD_PAGE
                             : c.is_spoiled(b) || c.is_orphan(b) ? c.bad_bit
                                                                 : 0;
      if (problem.status(b) != right) difference = "status of " + std::to_string(b);
    }
    results.check(c.name + " on " + kernel.symbol, difference);
  }
  if (!any) results.check(c.name, "no kernel serves it");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const char* name, auto change) {
    Case c;
    c.name = name;
    c.seed = all.size() + 1;
    change(c);
    all.push_back(c);
  };
  // Every head size class in every type, tails in every direction.
  for (const attn_dtype dtype : {ATTN_DTYPE_BF16, ATTN_DTYPE_F16, ATTN_DTYPE_F32}) {
    for (const int dim : {64, 128, 256}) {
      add("full", [&](Case& c) {
        c.dtype = dtype, c.head_dim = dim, c.seqlens_q = {70}, c.seqlens_k = {133};
      });
      add("causal", [&](Case& c) {
        c.dtype = dtype, c.head_dim = dim, c.causal = true, c.seqlens_q = {131},
        c.seqlens_k = {150};
      });
    }
  }
  for (const int dim : {1, 8, 40, 72, 96, 100, 192, 255}) {
    add("odd head size", [&](Case& c) {
      c.dtype = dim % 16 ? ATTN_DTYPE_F16 : ATTN_DTYPE_BF16;
      c.head_dim = dim, c.head_dim_v = dim == 192 ? 128 : dim == 40 ? 64 : 0;
      c.seqlens_q = {33}, c.seqlens_k = {65};
    });
  }
  add("f32 odd head size", [](Case& c) {
    c.dtype = ATTN_DTYPE_F32, c.head_dim = 33, c.head_dim_v = 70, c.seqlens_q = {20};
  });
  add("top-left causal, more queries than keys",
      [](Case& c) { c.causal = c.top_left = true, c.seqlens_q = {150}, c.seqlens_k = {80}; });
  add("bottom-right causal, rows without keys",
      [](Case& c) { c.causal = true, c.seqlens_q = {150}, c.seqlens_k = {20}; });
  add("grouped heads", [](Case& c) {
    c.heads_q = 6, c.heads_kv = 2, c.head_dim = 128, c.seqlens_q = {17, 17}, c.seqlens_k = {90, 90};
  });
  add("packed rows of grouped heads", [](Case& c) {
    c.heads_q = 6, c.heads_kv = 2, c.seqlens_q = {29, 29}, c.seqlens_k = {150, 150};
    c.pack = c.causal = c.sink = true;
  });
  add("one query, packed heads", [](Case& c) {
    c.heads_q = 8, c.heads_kv = 2, c.head_dim = 128, c.seqlens_q = {1}, c.seqlens_k = {200};
    c.pack = c.causal = true, c.alibi = 1;
  });
  add("window", [](Case& c) {
    c.window_left = 20, c.window_right = 7, c.seqlens_q = {140}, c.seqlens_k = {300};
  });
  add("window beyond all keys", [](Case& c) {
    c.window_left = 5, c.seqlens_q = {40}, c.seqlens_k = {30}, c.q_start = {100};
  });
  add("starts", [](Case& c) {
    c.causal = true, c.seqlens_q = {60, 60}, c.seqlens_k = {140, 140};
    c.q_start = {1000000000000, -30}, c.k_start = {999999999950, -80};
  });
  add("lengths", [](Case& c) {
    c.q_layout = c.k_layout = Layout::kLengths, c.causal = true;
    c.seqlens_q = {130, 1, 0, 60}, c.seqlens_k = {150, 0, 70, 64};
  });
  add("lengths with sink", [](Case& c) {
    c.q_layout = c.k_layout = Layout::kLengths, c.sink = true;
    c.seqlens_q = {30, 10}, c.seqlens_k = {0, 113};
  });
  add("packed", [](Case& c) {
    c.q_layout = c.k_layout = Layout::kPacked, c.causal = true;
    c.seqlens_q = {5, 0, 129, 40}, c.seqlens_k = {64, 10, 130, 0};
  });
  add("packed q, padded k", [](Case& c) {
    c.q_layout = Layout::kPacked, c.k_layout = Layout::kLengths, c.dtype = ATTN_DTYPE_F16;
    c.seqlens_q = {5, 64, 33}, c.seqlens_k = {64, 113, 1}, c.head_dim = 128;
  });
  for (const int page : {1, 16, 48}) {
    add("paged", [&](Case& c) {
      c.q_layout = Layout::kPacked, c.k_layout = Layout::kPaged, c.page_size = page;
      c.seqlens_q = {1, 40, 3}, c.seqlens_k = {130, 47, 0}, c.causal = true;
    });
  }
  add("a bad page", [](Case& c) {
    c.k_layout = Layout::kPaged, c.page_size = 16, c.seqlens_q = {90, 90}, c.seqlens_k = {120, 120};
    c.causal = true, c.bad_page_of = 1, c.bad_page = 5;
  });
  for (const auto bit : {ATTN_REQUEST_BAD_SEQLEN_Q, ATTN_REQUEST_BAD_SEQLEN_K}) {
    for (const int length : {-1, 51}) {
      add("a bad length", [&](Case& c) {
        c.k_layout = c.q_layout = Layout::kLengths, c.seqlens_q = {30, 40}, c.seqlens_k = {40, 50};
        c.bad_bit = bit, c.bad_value = length, c.spoiled = {0};
      });
    }
  }
  // An offset before all rows, one beyond them and one out of order: the sequences around it have
  // no rows of their own.
  const struct {
    int entry;
    int64_t value;
    std::vector<int> spoiled, orphans, spoiled_by_keys;
  } offsets[] = {{1, -5, {0}, {1}, {0, 1}},
                 {1, 2000000000, {0, 2}, {1}, {0, 1, 2}},
                 {2, 20, {0}, {1, 2}, {0, 1, 2}}};
  for (const auto& offset : offsets) {
    const auto packed = [&](Case& c) {
      c.q_layout = c.k_layout = Layout::kPacked, c.causal = true;
      c.seqlens_q = {40, 40, 40, 7}, c.seqlens_k = {50, 50, 50, 9};
      c.bad_entry = offset.entry, c.bad_value = offset.value;
    };
    add("a bad offset of queries", [&](Case& c) {
      packed(c), c.bad_bit = ATTN_REQUEST_BAD_SEQLEN_Q;
      c.spoiled = offset.spoiled, c.orphans = offset.orphans;
    });
    add("a bad offset of keys", [&](Case& c) {
      packed(c), c.bad_bit = ATTN_REQUEST_BAD_SEQLEN_K, c.spoiled = offset.spoiled_by_keys;
    });
  }
  for (const int64_t start : {INT64_MIN, INT64_MAX}) {
    add("a bad position", [&](Case& c) {
      c.seqlens_q = c.seqlens_k = {40, 40}, c.q_start = {0, 0}, c.causal = true;
      c.bad_bit = ATTN_REQUEST_BAD_POSITION, c.bad_value = start, c.spoiled = {0};
    });
  }
  add("softcap", [](Case& c) { c.softcap = 3, c.causal = true, c.magnitude = 4; });
  add("softcap f32", [](Case& c) { c.softcap = 20, c.dtype = ATTN_DTYPE_F32, c.magnitude = 8; });
  add("negative scale", [](Case& c) { c.scale = -0.3f, c.causal = true; });
  add("large scores", [](Case& c) { c.magnitude = 60, c.dtype = ATTN_DTYPE_F16; });
  for (const int rank : {1, 2}) {
    add("alibi", [&](Case& c) {
      c.alibi = rank, c.causal = rank == 1, c.seqlens_q = {60, 60}, c.seqlens_k = {150, 150};
    });
  }
  add("alibi, far from all keys", [](Case& c) {
    c.alibi = 1, c.sink = true, c.dtype = ATTN_DTYPE_F32, c.seqlens_q = {20}, c.seqlens_k = {100};
    c.q_start = {100000};
  });
  add("alibi, far from all keys, no sink", [](Case& c) {
    c.alibi = 1, c.dtype = ATTN_DTYPE_F32, c.seqlens_q = {20}, c.seqlens_k = {100};
    c.q_start = {1000000};
  });
  add("NaN in K behind a bias of -inf", [](Case& c) {
    c.bias_dtype = ATTN_DTYPE_F32, c.bias_has_inf = c.nan_k = true, c.nan_keys = {60},
    c.heads_q = 1;
  });
  add("bias", [](Case& c) { c.bias_dtype = ATTN_DTYPE_F32, c.bias_has_inf = true; });
  add("bias in the type of q", [](Case& c) {
    c.bias_dtype = c.dtype = ATTN_DTYPE_F16, c.q_layout = Layout::kPacked,
    c.k_layout = Layout::kPacked;
    c.seqlens_q = {20, 70}, c.seqlens_k = {70, 120};
  });
  add("bias over a range", [](Case& c) {
    c.bias_dtype = ATTN_DTYPE_F32, c.overlay_k0 = 30, c.overlay_n = 50, c.softcap = 5, c.alibi = 1;
  });
  add("mask", [](Case& c) { c.mask = c.causal = c.sink = true; });
  add("mask over a range that begins before the keys", [](Case& c) {
    c.mask = true, c.overlay_k0 = -10, c.overlay_n = 60, c.dtype = ATTN_DTYPE_F32;
  });
  add("block mask",
      [](Case& c) { c.block_q = 20, c.block_k = 33, c.seqlens_q = {150}, c.seqlens_k = {300}; });
  // Every tile of keys has queries, first and last ones of their tile, that alone need it.
  add("block mask of a diagonal", [](Case& c) {
    c.block_q = 20, c.block_k = 33, c.block_diagonal = true;
    c.seqlens_q = {150}, c.seqlens_k = {300};
  });
  add("block mask of one element, packed heads", [](Case& c) {
    c.block_q = 1, c.block_k = 1, c.pack = true, c.heads_q = 4, c.seqlens_q = {20};
  });
  for (const bool causal : {false, true}) {
    add("unaligned", [&](Case& c) {
      c.row_gap = 3, c.causal = causal, c.head_dim = 50, c.o_dtype = ATTN_DTYPE_F32;
    });
    add("strided dims", [&](Case& c) { c.dim_stride = 2, c.causal = causal, c.head_dim = 128; });
  }
  add("unaligned f32", [](Case& c) {
    c.row_gap = 1, c.dim_stride = 3, c.dtype = ATTN_DTYPE_F32,
    c.q_layout = c.k_layout = Layout::kPacked;
    c.o_dtype = ATTN_DTYPE_BF16;
  });
  add("f32 O, no LSE", [](Case& c) { c.o_dtype = ATTN_DTYPE_F32, c.lse = false; });
  // NaN and infinities that nobody is to see, and some that a few rows are to see.
  for (const attn_dtype dtype : {ATTN_DTYPE_BF16, ATTN_DTYPE_F32}) {
    add("unseen NaN", [&](Case& c) {
      c.nan_unseen = c.causal = c.top_left = true, c.dtype = dtype, c.seqlens_q = {100},
      c.seqlens_k = {180};
      c.heads_q = 1;
    });
    add("NaN that the last rows see", [&](Case& c) {
      c.nan_keys = {120, 149}, c.causal = true, c.dtype = dtype, c.heads_q = 1;
    });
  }
  add("unseen NaN behind features", [](Case& c) {
    c.nan_keys = {3, 50, 100}, c.mask = true, c.bias_dtype = ATTN_DTYPE_F32, c.softcap = 4,
    c.alibi = 1;
    c.block_q = 16, c.block_k = 16, c.window_left = 60, c.heads_q = 1, c.seqlens_q = {70};
  });
  add("NaN in K", [](Case& c) { c.nan_keys = {60}, c.nan_k = c.causal = true, c.heads_q = 1; });
  // Split K and V.
  for (const bool features : {false, true}) {
    add("split", [&](Case& c) {
      c.kv_chunk = 224, c.causal = c.sink = true, c.seqlens_q = {40, 40}, c.seqlens_k = {500, 500};
      c.alibi = features;
    });
  }
  add("split, uneven lengths", [](Case& c) {
    c.kv_chunk = 128, c.head_dim = 128, c.q_layout = Layout::kPacked, c.k_layout = Layout::kPaged;
    c.seqlens_q = {1, 3, 2, 1}, c.seqlens_k = {300, 128, 0, 129}, c.heads_q = 4, c.pack = true;
  });
  add("split, padded queries, windows", [](Case& c) {
    c.kv_chunk = 112, c.q_layout = c.k_layout = Layout::kLengths, c.window_left = 30;
    c.seqlens_q = {70, 5, 0}, c.seqlens_k = {300, 112, 40}, c.nan_keys = {250}, c.heads_q = 1;
  });
  add("split f32", [](Case& c) {
    c.kv_chunk = 64, c.dtype = ATTN_DTYPE_F32, c.seqlens_q = {10}, c.seqlens_k = {200}, c.alibi = 1;
    c.sink = true, c.q_start = {50000};
  });
  add("split with a bad length", [](Case& c) {
    c.kv_chunk = 112, c.k_layout = Layout::kLengths, c.seqlens_q = {3, 3}, c.seqlens_k = {200, 150};
    c.bad_bit = ATTN_REQUEST_BAD_SEQLEN_K, c.bad_entry = 1, c.bad_value = 201, c.spoiled = {1};
  });
  return all;
}

// attn_merge of random parts, in place too; `most` of them in a launch, the others on top of it.
std::string merge_parts(bool in_place, bool sink, int most) {
  constexpr int kParts = 5, kHeads = 2, kRows = 5, kDim = 40;
  attn::emulator::Random random(5);
  const auto number = [&] { return static_cast<float>(random.below(2001)) / 1000 - 1; };
  std::vector<std::vector<float>> o(kParts, std::vector<float>(kHeads * kRows * kDim));
  std::vector<std::vector<float>> lse(kParts, std::vector<float>(kHeads * kRows));
  std::vector<float> sinks = {0.5f, -1.0f};
  for (auto& part : o)
    for (float& x : part) x = number();
  for (auto& part : lse)
    for (float& x : part) x = 10 * number();
  for (int p = 0; p < kParts; ++p)
    lse[static_cast<size_t>(p)][3] = -INFINITY;  // a row without a key
  lse[1][4] = -INFINITY;
  for (int x = 0; x < kDim; ++x) o[1][4 * kDim + static_cast<size_t>(x)] = NAN;
  std::vector<double> right_o(kHeads * kRows * kDim), right_lse(kHeads * kRows);
  for (size_t row = 0; row < kHeads * kRows; ++row) {
    double sum = sink ? std::exp(static_cast<double>(sinks[row / kRows])) : 0;
    for (const auto& part : lse) sum += std::exp(static_cast<double>(part[row]));
    right_lse[row] = std::log(sum);
    for (size_t p = 0; p < kParts; ++p) {
      if (lse[p][row] == -INFINITY) continue;
      for (size_t x = 0; x < kDim; ++x)
        right_o[row * kDim + x] += std::exp(static_cast<double>(lse[p][row])) / sum *
                                   static_cast<double>(o[p][row * kDim + x]);
    }
  }
  std::vector<float> out(kHeads * kRows * kDim, NAN), out_lse(kHeads * kRows, NAN);
  attn::cuda::MergeParams params{};
  const int64_t shape[4] = {1, kHeads, kRows, kDim};
  std::memcpy(params.shape, shape, sizeof(shape));
  params.o = {in_place ? o[1].data() : out.data(), {kHeads * kRows * kDim, kRows * kDim, kDim, 1}};
  params.lse = {in_place ? lse[1].data() : out_lse.data(), {kHeads * kRows, kRows, 1, 0}};
  params.o_dtype = ATTN_DTYPE_F32;
  params.sink_stride = 1;
  attn::emulator::Launch grid;
  grid.grid.x = 2;
  grid.block.x = 128;
  const auto add = [&](float* part_o, float* part_lse) {
    params.parts[params.count++] = {part_o,
                                    {kHeads * kRows * kDim, kRows * kDim, kDim, 1},
                                    part_lse,
                                    {kHeads * kRows, kRows, 1}};
  };
  std::string error;
  for (const size_t p : {1, 0, 2, 3, 4}) {  // in place, part 1
    if (params.count == most) {
      error += run(grid, [&] { attn_test::merge_kernel()(params); });
      params.count = 0;
      add(static_cast<float*>(params.o.data), static_cast<float*>(params.lse.data));
    }
    add(o[p].data(), lse[p].data());
  }
  params.sink = sink ? sinks.data() : nullptr;
  error += run(grid, [&] { attn_test::merge_kernel()(params); });
  if (!error.empty()) return error;
  const auto* got_o = static_cast<const float*>(params.o.data);
  const auto* got_lse = static_cast<const float*>(params.lse.data);
  for (size_t i = 0; i < right_o.size(); ++i) {
    if (!(std::fabs(got_o[i] - right_o[i]) <= 1e-6)) return "O[" + std::to_string(i) + "]";
  }
  for (size_t i = 0; i < right_lse.size(); ++i) {
    if (!(got_lse[i] == right_lse[i] || std::fabs(got_lse[i] - right_lse[i]) <= 1e-5)) {
      return "LSE[" + std::to_string(i) + "]";
    }
  }
  return "";
}

// A sequence has the same bits alone, beside others, in every layout, with the rows of its heads in
// one tile or not, and in each of these kernels, whose tiles of keys are the same. The first
// sequence of each case has the same numbers, since these are drawn in the order of the sequences.
std::string bits_difference(const std::vector<const char*>& symbols, int kv_chunk) {
  Case alone;
  alone.name = "alone";
  alone.heads_q = 4, alone.heads_kv = 2;
  alone.seqlens_q = {70}, alone.seqlens_k = {300};
  alone.causal = true, alone.window_left = 260, alone.kv_chunk = kv_chunk;
  std::vector<Case> variants = {alone};
  const auto add = [&](const char* name, auto change) {
    variants.push_back(alone);
    variants.back().name = name;
    change(variants.back());
  };
  const auto three = [](Case& c) { c.seqlens_q = {70, 9, 131}, c.seqlens_k = {300, 70, 500}; };
  add("packed heads", [](Case& c) { c.pack = true; });
  add("lengths", [&](Case& c) { three(c), c.q_layout = c.k_layout = Layout::kLengths; });
  add("packed", [&](Case& c) { three(c), c.q_layout = c.k_layout = Layout::kPacked; });
  for (const int page : {7, 64}) {
    add("paged", [&](Case& c) {
      three(c), c.q_layout = Layout::kLengths, c.k_layout = Layout::kPaged, c.page_size = page;
    });
  }
  add("packed Q, paged K, packed heads", [&](Case& c) {
    three(c), c.q_layout = Layout::kPacked, c.k_layout = Layout::kPaged, c.pack = true;
  });
  std::vector<double> expected;
  for (const char* symbol : symbols) {
    const KernelInfo* kernel = nullptr;
    for (const KernelInfo& row : attn::cuda::kMmaKernels) {
      if (std::strcmp(row.symbol, symbol) == 0 && attn_test::attend_kernel(symbol)) kernel = &row;
    }
    if (!kernel && kAllKernels) return std::string("no kernel ") + symbol;
    if (!kernel) continue;
    for (Case& c : variants) {
      c.dtype = kernel->dtype;
      attn_test::Problem problem(c);
      const std::string error = launch(*kernel, problem, c.seed);
      if (!error.empty()) return error;
      const std::vector<double> actual = problem.results(0);
      if (expected.empty()) expected = actual;
      for (size_t i = 0; i < expected.size(); ++i) {
        if (actual.size() != expected.size() || !(actual[i] == expected[i])) {
          return std::string(symbol) + ", " + c.name + ": other bits at " + std::to_string(i);
        }
      }
    }
  }
  return "";
}

// Sequences and heads that are more than 2^31 elements apart give the same bits.
std::string far_apart(const char* symbol) {
  const KernelInfo* kernel = nullptr;
  for (const KernelInfo& row : attn::cuda::kMmaKernels) {
    if (std::strcmp(row.symbol, symbol) == 0 && attn_test::attend_kernel(symbol)) kernel = &row;
  }
  if (!kernel) return kAllKernels ? std::string("no kernel ") + symbol : "";
  Case c;
  c.dtype = kernel->dtype, c.heads_q = c.heads_kv = 2, c.causal = true;
  c.seqlens_q = {30, 30}, c.seqlens_k = {70, 70};
  c.nan_keys = {69};  // the exact path, too
  attn_test::Problem near(c), far(c);
  // Address space, of which few pages are touched.
  constexpr int64_t kFar = (int64_t{1} << 31) + 64, kBytes = 3 * kFar * 4 + (1 << 20);
  const auto move = [&](attn::cuda::TensorView& view, int64_t rows, int64_t element) {
    const attn::cuda::TensorView from = view;
    auto* base = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    view.data = base;
    view.strides[0] = 2 * kFar, view.strides[1] = kFar;
    for (int part = 0; part < 4; ++part) {
      const int64_t at = part / 2 * from.strides[0] + part % 2 * from.strides[1];
      std::memcpy(base + part * kFar * element, static_cast<const char*>(from.data) + at * element,
                  static_cast<size_t>(rows * from.strides[2] * element));
    }
  };
  const int size = c.dtype == ATTN_DTYPE_F32 ? 4 : 2;
  move(far.params.q, 30, size), move(far.params.k, 70, size), move(far.params.v, 70, size);
  move(far.params.o, 30, size), move(far.params.lse, 30, 4);
  for (attn_test::Problem* problem : {&near, &far}) {
    const std::string error = launch(*kernel, *problem, 1);
    if (!error.empty()) return error;
  }
  const auto differ = [](const attn::cuda::TensorView& a, const attn::cuda::TensorView& b, int part,
                         int64_t element) {
    const auto at = [&](const attn::cuda::TensorView& view) {
      const int64_t index = part / 2 * view.strides[0] + part % 2 * view.strides[1];
      return static_cast<const char*>(view.data) + index * element;
    };
    return std::memcmp(at(a), at(b), static_cast<size_t>(30 * a.strides[2] * element)) != 0;
  };
  for (int part = 0; part < 4; ++part) {
    if (differ(near.params.o, far.params.o, part, size)) return "other bits of O";
    if (differ(near.params.lse, far.params.lse, part, 4)) return "other bits of LSE";
  }
  return "";
}

}  // namespace

// With an argument: only cases whose name contains it.
int main(int argc, char** argv) {
  attn_test::Results results;
  const std::string only = argc > 1 ? argv[1] : "";
  for (const Case& c : cases()) {
    if (c.name.find(only) != std::string::npos) check(results, c);
  }
  if (std::string("bits").find(only) != std::string::npos) {
    const std::vector<std::vector<const char*>> groups = {
        {"attn_mma_bf16_d64_q128", "attn_mma_bf16_d64_q64"},
        {"attn_mma_bf16_d64_q128_features", "attn_mma_bf16_d64_q64_features"},
        {"attn_mma_f16_d128_q128", "attn_mma_f16_d128_q64"},
        {"attn_mma_f32_d64"}};
    for (const auto& group : groups) {
      for (const int kv_chunk : {0, 224}) results.check("bits", bits_difference(group, kv_chunk));
    }
  }
  if (std::string("far apart").find(only) != std::string::npos) {
    for (const char* symbol : {"attn_mma_bf16_d64_q128", "attn_mma_f32_d64"}) {
      results.check(std::string("far apart on ") + symbol, far_apart(symbol));
    }
  }
  if (std::string("merge").find(only) != std::string::npos) {
    for (const bool in_place : {false, true}) {
      for (const bool sink : {false, true}) {
        for (const int most : {2, 5}) results.check("merge", merge_parts(in_place, sink, most));
      }
    }
  }
  if (only.empty() && kAllKernels) {
    for (const KernelInfo& kernel : attn::cuda::kMmaKernels) {
      if (kernel.kind == Kind::kAttend && !served.count(kernel.symbol))
        results.check(kernel.symbol, "never ran");
    }
  }
  return results.report();
}

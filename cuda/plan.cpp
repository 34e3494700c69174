// plan.cpp: choosing kernels from the table, in words, and carving the workspace.
#include "plan.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <numeric>

#include "error.h"
#include "images.h"
#include "tensor.h"

namespace attn::cuda {
namespace {

// Why a family does not serve a problem: the words of the kernel that came closest.
struct Refusal {
  int32_t depth;
  char words[160];
};

// Asks one row of the table. Checks run from the coarse to the fine; `refusal` keeps the finest.
class RowChecker {
 public:
  RowChecker(const attn_plan_config& problem, const Device& device, const KernelInfo& kernel,
             Refusal* refusal)
      : p_(problem), device_(device), k_(kernel), refusal_(*refusal) {}

  bool serves() {
    if (!k_.symbol || k_.kind != Kind::kAttend) return false;
    char why[sizeof(Refusal::words)];
    if (!fits_device(k_, device_, why, sizeof(why))) return no(1, "%s", why);
    if (k_.dtype != p_.q_dtype) return no(2, "does not take %s", dtype_name(p_.q_dtype));
    if (p_.head_dim > k_.head_dim || p_.head_dim_v > k_.head_dim_v) {
      return no(3, "takes head sizes up to %d, values %d; these are %lld, %lld", k_.head_dim,
                k_.head_dim_v, static_cast<long long>(p_.head_dim),
                static_cast<long long>(p_.head_dim_v));
    }
    return features() && tiles();
  }

 private:
  [[gnu::format(printf, 3, 4)]] bool no(int32_t depth, const char* format, ...) {
    if (depth < refusal_.depth) return false;
    refusal_.depth = depth;
    va_list args;
    va_start(args, format);
    std::vsnprintf(refusal_.words, sizeof(refusal_.words), format, args);
    va_end(args);
    return false;
  }

  bool features() {
    const struct {
      uint32_t bit;
      const char* name;
    } names[] = {{ATTN_CAUSAL, "causal masks"},
                 {ATTN_WINDOW_LEFT, "windows"},
                 {ATTN_WINDOW_RIGHT, "windows"},
                 {ATTN_SEQLENS_Q, "seqlens_q"},
                 {ATTN_SEQLENS_K, "seqlens_k"},
                 {ATTN_Q_START, "q_start"},
                 {ATTN_K_START, "k_start"},
                 {ATTN_BIAS, "bias"},
                 {ATTN_BIAS_RANGE, "ATTN_BIAS_RANGE"},
                 {ATTN_MASK, "boolean masks"},
                 {ATTN_MASK_RANGE, "ATTN_MASK_RANGE"},
                 {ATTN_ALIBI, "ALiBi"},
                 {ATTN_SINK, "sinks"},
                 {ATTN_BLOCK_MASK, "block masks"},
                 {kServesPacked, "packed layouts"},
                 {kServesPaged, "paged K and V"},
                 {kServesSoftcap, "softcap"},
                 {kServesSplit, "splits of K and V (kv_chunk)"},
                 {kServesOtherO, "an o_dtype other than q_dtype"}};
    uint32_t wanted = p_.features;
    if (p_.q_layout == ATTN_LAYOUT_PACKED || p_.kv_layout == ATTN_LAYOUT_PACKED) {
      wanted |= kServesPacked;
    }
    if (p_.kv_layout == ATTN_LAYOUT_PAGED) wanted |= kServesPaged;
    if (p_.softcap > 0) wanted |= kServesSoftcap;
    if (p_.kv_chunk > 0) wanted |= kServesSplit;
    if (p_.o_dtype != p_.q_dtype) wanted |= kServesOtherO;
    for (const auto& [bit, name] : names) {
      if (wanted & ~k_.serves & bit) return no(4, "does not do %s", name);
    }
    if ((wanted & kServesPaged) && k_.family == Family::kWgmma) {
      for (const int32_t rows : {k_.box_rows_k, k_.box_rows_v}) {
        const int32_t page = p_.page_size;
        if (std::gcd(page, rows) % 8 != 0) {
          return no(4, "takes pages of a multiple of 8 keys; page_size is %d", page);
        }
      }
    }
    return true;
  }

  bool tiles() {
    if (p_.tile_k != 0 && p_.tile_k != k_.tile_k) {
      return no(5, "has a tile_k of %d; %lld is asked for", k_.tile_k,
                static_cast<long long>(p_.tile_k));
    }
    if (p_.kv_chunk % k_.tile_k != 0) {
      return no(5, "splits K and V in multiples of %d keys; kv_chunk is %lld", k_.tile_k,
                static_cast<long long>(p_.kv_chunk));
    }
    return true;
  }

  const attn_plan_config& p_;
  const Device& device_;
  const KernelInfo& k_;
  Refusal& refusal_;
};

// Whether a tile of a row's has room for all rows of queries that share their keys.
bool holds_all_queries(const KernelInfo& row, const attn_plan_config& p) {
  return p.max_seqlen_q * gqa_pack_of(row, p) <= row.tile_q;
}

// The first row of a family that serves the problem; `also` are further bits that it must have.
// Rather a later one with a smaller tile of queries that still holds them all, if its tile of keys
// is the same, and so are the results: short queries would leave most of a large tile idle.
template <size_t n>
const KernelInfo* find_row(const KernelInfo (&rows)[n], const attn_plan_config& problem,
                           const Device& device, uint32_t also, Refusal* refusal) {
  const KernelInfo* best = nullptr;
  for (const KernelInfo& row : rows) {
    if ((row.serves & also) != also) continue;
    if (best && (row.tile_q >= best->tile_q || row.tile_k != best->tile_k ||
                 row.head_dim != best->head_dim || row.head_dim_v != best->head_dim_v ||
                 !holds_all_queries(row, problem))) {
      continue;
    }
    if (RowChecker(problem, device, row, refusal).serves()) best = &row;
  }
  return best;
}

// What no kernel of either family does.
attn_status check_problem(const attn_plan_config& p, attn_error* error) {
  const struct {
    const char* field;
    attn_dtype dtype;
  } kv[] = {{"k_dtype", p.k_dtype}, {"v_dtype", p.v_dtype}};
  for (const auto& [field, dtype] : kv) {
    if (dtype == p.q_dtype) continue;
    return fail(error, ATTN_ERROR_UNSUPPORTED, "%s is %s and q_dtype %s; must be the same here",
                field, dtype_name(dtype), dtype_name(p.q_dtype));
  }
  const struct {
    const char* field;
    int64_t value;
    int64_t most;
  } bounds[] = {{"max_seqlen_q", p.max_seqlen_q, kMaxSeqlen},
                {"max_seqlen_k", p.max_seqlen_k, kMaxSeqlen},
                {"max_batch", p.max_batch, INT32_MAX / 2}};
  for (const auto& [field, value, most] : bounds) {
    if (value <= most) continue;
    return fail(error, ATTN_ERROR_UNSUPPORTED, "%s is %lld; allowed here: up to %lld", field,
                static_cast<long long>(value), static_cast<long long>(most));
  }
  return ATTN_OK;
}

attn_status choose(const attn_plan_config& p, PlanState* state, attn_error* error) {
  const Device& device = *state->device;
  Refusal wgmma{0, "is not in this build"}, mma{0, "is not in this build"};
  const KernelInfo* row = find_row(kWgmmaKernels, p, device, 0, &wgmma);
  const bool is_wgmma = row != nullptr;
  if (!row) row = find_row(kMmaKernels, p, device, 0, &mma);
  if (!row) {
    return fail(error, ATTN_ERROR_UNSUPPORTED, "wgmma family: %s; mma.sync family: %s", wgmma.words,
                mma.words);
  }
  state->attend.info = row;
  if (!(row->serves & kServesUnaligned)) {
    state->unaligned.info = find_row(kMmaKernels, p, device, kServesUnaligned, &mma);
  }
  const Image* image = find_image(row->module, device.sm);
  const int length =
      std::snprintf(state->words, sizeof(state->words), "%s (%s)", row->symbol, image->target);
  char* const end = state->words + length;
  const size_t left = sizeof(state->words) - static_cast<size_t>(length);
  if (!is_wgmma) {
    std::snprintf(end, left, "; the wgmma family %s", wgmma.words);
  } else if (state->unaligned.info) {
    std::snprintf(end, left, "; %s where an address or stride is no multiple of 16 bytes",
                  state->unaligned.info->symbol);
  }
  if (p.kv_chunk == 0) return ATTN_OK;
  for (const KernelInfo& candidate : kMmaKernels) {
    if (!candidate.symbol || candidate.kind != Kind::kCombine) continue;
    if (candidate.head_dim_v != 0 && p.head_dim_v > candidate.head_dim_v) continue;
    if (!fits_device(candidate, device, nullptr, 0)) continue;
    state->combine.info = &candidate;
    return ATTN_OK;
  }
  return fail(error, ATTN_ERROR_UNSUPPORTED,
              "kv_chunk is %lld; this build has no kernel that "
              "combines the parts",
              static_cast<long long>(p.kv_chunk));
}

attn_status load(PlanState* state, attn_error* error) {
  const CurrentContext current(*state->device, error);
  ATTN_TRY(current.status());
  for (Kernel* kernel : {&state->attend, &state->unaligned, &state->combine}) {
    if (!kernel->info) continue;
    ATTN_TRY(load_kernel(state->device, *kernel->info, &kernel->function, error));
  }
  return ATTN_OK;
}

constexpr size_t align_up(size_t size) {
  return (size + ATTN_WORKSPACE_ALIGNMENT - 1) / ATTN_WORKSPACE_ALIGNMENT *
         ATTN_WORKSPACE_ALIGNMENT;
}

// Sets the offsets and returns the size in *size.
attn_status carve_workspace(const attn_plan_config& p, PlanState* state, size_t* size,
                            attn_error* error) {
  constexpr attn_features kSeenByDeviceAlone =
      ATTN_SEQLENS_Q | ATTN_SEQLENS_K | ATTN_Q_START | ATTN_K_START;
  if ((p.features & kSeenByDeviceAlone) || p.q_layout != ATTN_LAYOUT_PADDED ||
      p.kv_layout != ATTN_LAYOUT_PADDED) {
    state->status_count = p.max_batch;
  }
  state->has_counter =
      state->attend.info->dynamic || (state->unaligned.info && state->unaligned.info->dynamic);
  state->clear_words = state->status_count + (state->has_counter ? 1 : 0);
  *size = align_up(static_cast<size_t>(state->clear_words) * sizeof(uint32_t));
  if (!state->combine.info) return ATTN_OK;
  const int64_t chunks = (p.max_seqlen_k + p.kv_chunk - 1) / p.kv_chunk;
  const bool packed = p.q_layout == ATTN_LAYOUT_PACKED;
  int64_t rows, floats, bytes;
  if (__builtin_mul_overflow(packed ? p.max_total_q : p.max_batch * p.max_seqlen_q, p.heads_q,
                             &rows) ||
      __builtin_mul_overflow(rows, chunks, &rows) ||
      __builtin_mul_overflow(rows, p.head_dim_v + 1, &floats) ||
      __builtin_mul_overflow(floats, int64_t{sizeof(float)}, &bytes) || bytes > INT64_MAX / 2) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "the partial results of kv_chunk %lld would take more than 2^62 bytes",
                static_cast<long long>(p.kv_chunk));
  }
  state->partial_lse_offset = *size;
  state->partial_o_offset =
      align_up(state->partial_lse_offset + static_cast<size_t>(rows) * sizeof(float));
  *size =
      align_up(state->partial_o_offset + static_cast<size_t>(rows * p.head_dim_v) * sizeof(float));
  return ATTN_OK;
}

attn_status fill_plan(const attn_plan_config& problem, attn_backend_plan* plan, attn_error* error) {
  PlanState* state = static_cast<PlanState*>(plan->state);
  ATTN_TRY(check_problem(problem, error));
  ATTN_TRY(acquire_device(problem.device_id, &state->device, error));
  ATTN_TRY(choose(problem, state, error));
  ATTN_TRY(carve_workspace(problem, state, &plan->workspace_size, error));
  ATTN_TRY(load(state, error));
  plan->tile_q = state->attend.info->tile_q;
  plan->tile_k = state->attend.info->tile_k;
  plan->kv_chunk = problem.kv_chunk;
  plan->request_status_count = state->status_count;
  plan->kernel = state->words;
  return ATTN_OK;
}

}  // namespace

int32_t gqa_pack_of(const KernelInfo& kernel, const attn_plan_config& p) {
  const int64_t group = p.heads_q / p.heads_kv;
  const bool fits =
      group <= kernel.tile_q && (kernel.family != Family::kWgmma || group <= kernel.box_rows_q);
  return kernel.packs_gqa && fits ? static_cast<int32_t>(group) : 1;
}

attn_status create_plan(const attn_host* host, const attn_plan_config* problem,
                        attn_backend_plan* plan, attn_error* error) {
  void* memory = host->allocate(host, sizeof(PlanState), alignof(PlanState));
  if (!memory) return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for a CUDA plan");
  plan->state = new (memory) PlanState{};
  const attn_status status = fill_plan(*problem, plan, error);
  if (status != ATTN_OK) destroy_plan(host, plan);
  return status;
}

void destroy_plan(const attn_host* host, attn_backend_plan* plan) {
  PlanState* state = static_cast<PlanState*>(plan->state);
  release_device(state->device);
  host->deallocate(host, state, sizeof(PlanState), alignof(PlanState));
  plan->state = nullptr;
}

}  // namespace attn::cuda

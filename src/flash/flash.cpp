// The flash backend: what it serves, which kernels and tiles, where things lie in the workspace.
//
// Workspace: [workers] scratch | [workers] Stream | [kMaxUnits] PackedUnit or ChunkedUnit |
//            packed K and V, or the results of chunks
#include "flash.h"

#include <numeric>

#include "../error.h"
#include "../merge/merge.h"
#include "run.h"

namespace attn {
namespace flash {
namespace {

constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kTileKMultiple = 64;            // a multiple of every panel
constexpr int64_t kMaxSeqlen = int64_t{1} << 40;  // keeps all sizes far from overflow
constexpr int64_t kTileQ = 96;
constexpr int64_t kMinTileQ = 24;
constexpr int64_t kTasksPerWorker = 16;  // so many that an uneven share costs little
constexpr int64_t kTileK = 512;
constexpr int64_t kBlockFloats = int64_t{128} << 10;  // of K and V in a key block: stays in L2
constexpr int64_t kChunkFloats = int64_t{256} << 10;  // of K and V in a chunk
constexpr int64_t kMinChunk = 512;  // keys: beside fewer, results of many rows would be large
constexpr int64_t kMaxChunk = 2048;

// The kernels that take every problem.
const FlashKernels* kernels_for(attn_isa isa) {
  switch (isa) {
    case ATTN_ISA_SCALAR:
      return &kFlashScalar;
#if defined(__x86_64__)
    case ATTN_ISA_AVX2:
      return &kFlashAvx2;
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
    case ATTN_ISA_AMX_BF16:
      return &kFlashAvx512;
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
      return &kFlashNeon;
#endif
    default:
      return nullptr;
  }
}

// bf16 holds the type's elements without rounding.
[[maybe_unused]] bool fits_bf16(attn_dtype dtype) {
  return dtype == ATTN_DTYPE_BF16 || dtype == ATTN_DTYPE_I8 || dtype == ATTN_DTYPE_F8E4M3;
}

// The kernels whose products are of bf16, where they may serve the problem; else NULL.
const FlashKernels* bf16_kernels_for([[maybe_unused]] attn_isa isa,
                                     [[maybe_unused]] const attn_plan_config& problem) {
#if defined(__x86_64__)
  if (problem.q_dtype == ATTN_DTYPE_BF16 && fits_bf16(problem.k_dtype) &&
      fits_bf16(problem.v_dtype)) {
    if (isa == ATTN_ISA_AVX512_BF16) return &kFlashAvx512Bf16;
    if (isa == ATTN_ISA_AMX_BF16) return &kFlashAmxBf16;
  }
#endif
  return nullptr;
}

// Those of a run's tiles. Scales of blocks within a row cannot be put off until after the products.
const FlashKernels& tile_kernels_for(attn_isa isa, const attn_plan_config& problem,
                                     const attn_run_args& args) {
  const auto in_blocks = [](const attn_tensor* scale) {
    return scale && scale->rank == 4 && scale->shape[3] > 1;
  };
  const FlashKernels* bf16 = bf16_kernels_for(isa, problem);
  return bf16 && !in_blocks(args.k_scale) && !in_blocks(args.v_scale) ? *bf16 : *kernels_for(isa);
}

// Whether the plan has sequences whose K and V are packed.
bool packs(const attn_plan_config& problem) { return problem.max_seqlen_q > kShortQueries; }

// tile_kernels: those that pack, and compute tiles.
Workspace lay_out(const FlashKernels& kernels, const FlashKernels& tile_kernels,
                  const attn_host& host, const attn_plan_config& problem,
                  const attn_backend_plan& plan) {
  const TileShape tile = tile_shape(tile_kernels, problem, plan);
  const TileShape chunk = chunk_shape(kernels, problem, plan);
  const int64_t unit_size =
      packs(problem) ? packed_size(tile_kernels, problem, plan, problem.max_seqlen_k) : 0;
  const int64_t workers = host.concurrency;
  int64_t units;
  if (__builtin_mul_overflow(problem.max_batch, problem.heads_kv, &units)) units = kMaxUnits;
  units = std::clamp<int64_t>(units, 1, std::max(workers, kMaxUnits));

  Workspace w{};
  w.unit_size = unit_size;
  w.scratch_size = kernels.scratch_size(&chunk);
  if (packs(problem)) w.scratch_size = std::max(w.scratch_size, tile_kernels.scratch_size(&tile));
  w.streams_offset = w.scratch_size * static_cast<size_t>(workers);
  w.units_offset = w.streams_offset;
  size_t record = kChunkedUnitSize;
  if (packs(problem)) {
    w.units_offset += static_cast<size_t>(workers) * kStreamSize;
    record = std::max(record, kPackedUnitSize);
  }
  w.packed_offset =
      w.units_offset +
      static_cast<size_t>(round_up(std::min(units, kMaxUnits) * static_cast<int64_t>(record), 64));
  w.packed_size = static_cast<size_t>(
      std::max(std::min(std::min(units, workers) * unit_size, std::max(kPackedCapacity, unit_size)),
               partials_size(kernels, problem, plan, units)));
  w.size = w.packed_offset + w.packed_size;
  return w;
}

attn_status run_plan(const attn_host* host, const attn_plan_config* problem,
                     const attn_backend_plan* plan, const attn_run_args* args,
                     const attn_run_shape* shape, attn_error* error) {
  const FlashKernels& kernels = *kernels_for(plan->isa);
  const FlashKernels& tile_kernels = tile_kernels_for(plan->isa, *problem, *args);
  const Run run{*host,
                *problem,
                *args,
                *shape,
                kernels,
                tile_kernels,
                *plan,
                tile_shape(tile_kernels, *problem, *plan),
                chunk_shape(kernels, *problem, *plan),
                lay_out(kernels, tile_kernels, *host, *problem, *plan),
                problem->heads_q / problem->heads_kv,
                shape->batch * problem->heads_kv};
  if (packs(*problem)) ATTN_TRY(prefill(run, error));
  return decode(run, error);
}

// ---- a plan

attn_status probe(const attn_host* host, attn_error* error) {
  if (kernels_for(host->isa)) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNAVAILABLE, "flash has no kernels for instruction set %d",
              static_cast<int>(host->isa));
}

attn_status check_head_dim(const char* field, int64_t value, attn_error* error) {
  if (value <= kMaxHeadDim) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNSUPPORTED, "%s is %lld; flash serves 1 to %lld", field,
              static_cast<long long>(value), static_cast<long long>(kMaxHeadDim));
}

// The bits of a result depend on tile_k, so it must depend on nothing but head sizes here.
int64_t choose_tile_k(const attn_plan_config& problem) {
  const int64_t fits = kBlockFloats / (problem.head_dim + problem.head_dim_v);
  return std::clamp(fits / kTileKMultiple * kTileKMultiple, kTileKMultiple, kTileK);
}

// So is kv_chunk. Long enough for what a chunk costs beside its keys, short enough for several in a
// few thousand keys.
int64_t choose_kv_chunk(const attn_plan_config& problem) {
  const int64_t fits = kChunkFloats / (problem.head_dim + problem.head_dim_v);
  return std::clamp(fits / kTileKMultiple * kTileKMultiple, kMinChunk, kMaxChunk);
}

int64_t choose_tile_q(const attn_host& host, const attn_plan_config& problem, int64_t micro_rows) {
  const double heads =
      static_cast<double>(problem.max_batch) * static_cast<double>(problem.heads_q);
  const double enough = host.concurrency > 1 ? host.concurrency * kTasksPerWorker : 0;
  int64_t tile_q = std::min(kTileQ, problem.max_seqlen_q);
  while (tile_q > kMinTileQ &&
         heads * static_cast<double>(ceil_div(problem.max_seqlen_q, tile_q)) < enough) {
    tile_q /= 2;
  }
  return round_up(tile_q, micro_rows);
}

attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                        attn_backend_plan* plan, attn_error* error) {
  ATTN_TRY(probe(host, error));
  ATTN_TRY(check_head_dim("head_dim", problem->head_dim, error));
  ATTN_TRY(check_head_dim("head_dim_v", problem->head_dim_v, error));
  if (problem->max_seqlen_q > kMaxSeqlen || problem->max_seqlen_k > kMaxSeqlen) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "max_seqlen_q is %lld and max_seqlen_k %lld; flash serves up to %lld",
                static_cast<long long>(problem->max_seqlen_q),
                static_cast<long long>(problem->max_seqlen_k), static_cast<long long>(kMaxSeqlen));
  }
  if (problem->tile_k % kTileKMultiple != 0 || problem->tile_k > kMaxTileK) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "tile_k is %lld; flash serves multiples of %lld up to %lld",
                static_cast<long long>(problem->tile_k), static_cast<long long>(kTileKMultiple),
                static_cast<long long>(kMaxTileK));
  }
  if (problem->kv_chunk % kTileKMultiple != 0 || problem->kv_chunk > kMaxSeqlen) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "kv_chunk is %lld; flash serves multiples of %lld up to %lld",
                static_cast<long long>(problem->kv_chunk), static_cast<long long>(kTileKMultiple),
                static_cast<long long>(kMaxSeqlen));
  }
  const FlashKernels& kernels = *kernels_for(host->isa);
  plan->isa = host->isa;
  const FlashKernels* bf16 = bf16_kernels_for(host->isa, *problem);
  const int64_t micro_rows =  // of either kernels
      std::lcm(kernels.micro_rows, bf16 ? bf16->micro_rows : kernels.micro_rows);
  plan->tile_q = choose_tile_q(*host, *problem, micro_rows);
  plan->tile_k = problem->tile_k ? problem->tile_k : choose_tile_k(*problem);
  plan->kv_chunk = problem->kv_chunk ? problem->kv_chunk : choose_kv_chunk(*problem);
  plan->workspace_size = lay_out(kernels, kernels, *host, *problem, *plan).size;
  if (bf16) {
    const size_t size = lay_out(kernels, *bf16, *host, *problem, *plan).size;
    plan->workspace_size = std::max(plan->workspace_size, size);
  }
  return ATTN_OK;
}

void plan_destroy(const attn_host*, const attn_plan_config*, attn_backend_plan*) {}

}  // namespace
}  // namespace flash

const attn_backend kFlashBackend = {
    sizeof(attn_backend),
    ATTN_BACKEND_ABI,
    "flash",
    "tiled, with online softmax; every feature, layout and type, head sizes up to 1024",
    ATTN_DEVICE_CPU,
    0,
    flash::probe,
    flash::plan_create,
    flash::plan_destroy,
    flash::run_plan,
    merge_cpu,
};

}  // namespace attn

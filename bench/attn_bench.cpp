// attn_bench.cpp: the library's own rows and the machine's limits, as Google Benchmark rows.
//
//   attn_bench [--threads=N] [--limit=NAME] [Google Benchmark's own options]
//
// Rows: limit_fma_f32_{isa}_{N}t         f32 multiply-adds in registers
//       limit_fma_bf16_{isa}_{N}t        the same of pairs of bf16, where the library uses them
//       limit_read_{N}t                  reading 1 GiB
//       limit_read_{4k|8k}_blocks_{N}t   the same in blocks in a random order, as pages lie
//       prefill_{type}[_h{H}]_d{D}_s{S}_{full|causal}[_{feature}]_{N}t[_{isa}]/{who}
//       block_{type}_h{HQ}_{HKV}_d{D}_q{Q}_s{S}_causal[_tree]_{N}t/{who}
//       decode_{type}_h{HQ}_{HKV}_d{D}_s{S}[_{feature}]_{N}t/{who}
// each with one thread and with N (--threads, by default the CPUs that the process may use), all
// but the plain prefill rows with one thread. A suffix says that the instruction set is forced:
// avx2, and amx_bf16 where products are of bf16.
// Who: standard, flash, or tuned: flash with what attn_plan_autotune found.
// Features: softcap, bias (f32), biasbf16, mask, alibi, page16, window511 (left 511, right 0),
// packed64 (64 sequences, see packed_length), i8 (K and V, with a scale for each token and head);
// tree: the last Q keys are the queries' own, and a mask over them says which each attends to. A
// row that the library cannot serve is an error row with the library's words. With --limit, rows
// measure that limit between their runs and tell its mean in the counter `limit`. The context of
// the JSON output names the library's version and the instruction set.
#include <attn/attn.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "limits.h"

namespace {

constexpr int64_t kHeadDims[] = {64, 128};
constexpr int64_t kSeqlens[] = {512, 1024, 2048, 4096};
constexpr attn_dtype kTypes[] = {ATTN_DTYPE_F32, ATTN_DTYPE_BF16, ATTN_DTYPE_F16};
constexpr const char* kBackends[] = {"standard", "flash"};
constexpr int64_t kTuningNs = 300'000'000;

// Of the packed rows: 50 to 743, 396.5 in the mean.
constexpr int64_t kPackedSequences = 64;
constexpr int64_t packed_length(int64_t sequence) { return 50 + sequence * 29 % 64 * 11; }

struct ContextDeleter {
  void operator()(attn_context* context) const { attn_context_destroy(context); }
};
using Context = std::unique_ptr<attn_context, ContextDeleter>;

struct PlanDeleter {
  void operator()(attn_plan* plan) const { attn_plan_destroy(plan); }
};
using Plan = std::unique_ptr<attn_plan, PlanDeleter>;

bench::Memory make_memory(size_t bytes) {
  const size_t size =
      (bytes + ATTN_WORKSPACE_ALIGNMENT - 1) / ATTN_WORKSPACE_ALIGNMENT * ATTN_WORKSPACE_ALIGNMENT;
  bench::Memory memory(std::aligned_alloc(ATTN_WORKSPACE_ALIGNMENT, std::max<size_t>(size, 1)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

void check(attn_status status, const attn_error& error) {
  if (status != ATTN_OK) throw std::runtime_error(error.message);
}

Context make_context(int threads, attn_isa isa) {
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.num_threads = threads;
  config.isa = isa;
  attn_context* context = nullptr;
  attn_error error{};
  check(attn_context_create(&config, &context, &error), error);
  return Context(context);
}

struct Row {
  attn_dtype dtype;
  int64_t heads_q;
  int64_t heads_kv;
  int64_t head_dim;
  int64_t seqlen_q;
  int64_t seqlen_k;
  bool causal;
  std::string feature;  // "": none
  int threads;
  attn_isa isa;  // AUTO, or the forced one
  const char* who;

  bool is_decode() const { return seqlen_q == 1; }
  bool is_paged() const { return feature == "page16"; }
  bool is_packed() const { return feature == "packed64"; }
  bool is_tuned() const { return std::strcmp(who, "tuned") == 0; }
  const char* backend() const { return is_tuned() ? "flash" : who; }
  attn_dtype kv_dtype() const { return feature == "i8" ? ATTN_DTYPE_I8 : dtype; }
  // The type of a bias or a mask; INVALID: there is none.
  attn_dtype score_map() const {
    if (feature == "bias") return ATTN_DTYPE_F32;
    if (feature == "biasbf16") return ATTN_DTYPE_BF16;
    return feature == "mask" || feature == "tree" ? ATTN_DTYPE_U8 : ATTN_DTYPE_INVALID;
  }

  // Rows of all sequences: packed ones have lengths of their own.
  int64_t total() const {
    if (!is_packed()) return seqlen_q;
    int64_t sum = 0;
    for (int64_t i = 0; i < kPackedSequences; ++i) sum += packed_length(i);
    return sum;
  }

  // Pairs of a query and a key. Causal rows count half of all, blocks what each query attends to.
  double pairs() const {
    const double q = static_cast<double>(seqlen_q), k = static_cast<double>(seqlen_k);
    if (feature == "window511") return 512 * q - 512.0 * 511 / 2;
    if (is_packed()) {
      double sum = 0;
      for (int64_t i = 0; i < kPackedSequences; ++i) {
        sum += static_cast<double>(packed_length(i) * packed_length(i));
      }
      return sum;
    }
    if (seqlen_q < seqlen_k && causal) return q * k - q * (q - 1) / 2;
    return q * k / (causal ? 2 : 1);
  }
  // Two products of 2 * head_dim operations for each pair and head.
  double flops() const { return 4.0 * heads_q * head_dim * pairs(); }
  // Of K and V: what a decode step has to read.
  double kv_bytes() const {
    return 2.0 * heads_kv * seqlen_k * head_dim * attn_dtype_size(kv_dtype());
  }
};

// Fills with repeated normal numbers (i8: times 40); the period is a prime, so that no two rows are
// the same.
void fill(void* data, attn_dtype dtype, int64_t n) {
  static const std::vector<float> normals = [] {
    std::vector<float> list(65521);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::generate(list.begin(), list.end(), [&] { return normal(random); });
    return list;
  }();
  size_t at = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float x = normals[at];
    at = at + 1 == normals.size() ? 0 : at + 1;
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    switch (dtype) {
      case ATTN_DTYPE_BF16:  // cut off instead of rounded, here and below
        static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits >> 16);
        break;
      case ATTN_DTYPE_F16: {
        const uint32_t magnitude = bits & 0x7fffffff;
        const uint32_t half = magnitude < (113u << 23) ? 0 : (magnitude - (112u << 23)) >> 13;
        static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>((bits >> 16 & 0x8000) | half);
        break;
      }
      case ATTN_DTYPE_I8:
        static_cast<int8_t*>(data)[i] = static_cast<int8_t>(std::clamp(40 * x, -127.0f, 127.0f));
        break;
      case ATTN_DTYPE_U8:  // a mask that forbids one key of 44
        static_cast<uint8_t*>(data)[i] = x < 2;
        break;
      default:
        static_cast<float*>(data)[i] = x;
    }
  }
}

// A tensor with memory of its own.
class Tensor {
 public:
  // With `huge`, its pages are those of the read limit's buffer.
  void make(attn_dtype dtype, std::initializer_list<int64_t> shape, bool huge = false) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    const size_t bytes = static_cast<size_t>(n) * attn_dtype_size(dtype);
    memory_ = huge ? bench::make_huge_memory(bytes) : make_memory(bytes);
    attn_tensor_init(&view_, memory_.get(), dtype, static_cast<int32_t>(shape.size()),
                     shape.begin());
    fill(memory_.get(), dtype, n);
  }
  template <class T>
  T* data() {
    return static_cast<T*>(memory_.get());
  }
  const attn_tensor* view() const { return &view_; }

 private:
  bench::Memory memory_;
  attn_tensor view_;
};

// A plan with everything that its runs need, ready to be run.
class Attention {
 public:
  explicit Attention(const Row& row) : row_(row), context_(make_context(row.threads, row.isa)) {
    make_plan(0, 0);
    q_.make(row.dtype, {1, row.heads_q, row.total(), row.head_dim});
    o_.make(row.dtype, {1, row.heads_q, row.total(), row.head_dim});
    // Decode steps take turns over so much memory that no cache serves them.
    constexpr double kRotated = 512.0 * (1 << 20);
    kv_.resize(row.is_decode() ? static_cast<size_t>(std::ceil(kRotated / row.kv_bytes())) : 1);
    for (KeysAndValues& kv : kv_) make_kv(&kv);
    if (row.is_paged()) make_block_table();
    if (row.is_packed()) make_cu_seqlens();
    if (row.score_map() != ATTN_DTYPE_INVALID) {
      const int64_t columns = row.feature == "tree" ? row.seqlen_q : row.seqlen_k;
      score_map_.make(row.score_map(), {1, 1, row.seqlen_q, columns});
    }
    if (row.feature == "tree") make_tree();
    if (row.feature == "alibi") {
      slopes_.make(ATTN_DTYPE_F32, {row.heads_q});
      std::fill_n(slopes_.data<float>(), row.heads_q, 0.01f);
    }
    if (row.is_tuned()) tune();
    run();  // starts the threads, and touches every page
  }

  void run() {
    const attn_run_args args = next_args();
    attn_error error{};
    check(attn_run(plan_.get(), &args, &error), error);
  }

  size_t workspace_size() const { return workspace_size_; }

 private:
  static constexpr int32_t kPageSize = 16;

  struct KeysAndValues {
    Tensor k, v, k_scale, v_scale;
  };

  attn_run_args next_args() {
    const KeysAndValues& kv = kv_[turn_++ % kv_.size()];
    attn_run_args args = ATTN_RUN_ARGS_INIT;
    args.q = q_.view();
    args.k = kv.k.view();
    args.v = kv.v.view();
    args.o = o_.view();
    if (row_.kv_dtype() == ATTN_DTYPE_I8) {
      args.k_scale = kv.k_scale.view();
      args.v_scale = kv.v_scale.view();
    }
    if (row_.is_paged()) {
      args.block_table = block_table_.view();
      args.seqlens_k = seqlens_k_.view();
    }
    if (row_.is_packed()) args.cu_seqlens_q = args.cu_seqlens_k = cu_seqlens_.view();
    if (row_.score_map() == ATTN_DTYPE_U8) {
      args.mask = score_map_.view();
    } else if (row_.score_map() != ATTN_DTYPE_INVALID) {
      args.bias = score_map_.view();
    }
    if (row_.feature == "tree") args.mask_k0 = mask_k0_.view();
    if (row_.feature == "alibi") args.alibi_slopes = slopes_.view();
    args.workspace = workspace_.get();
    args.workspace_size = workspace_size_;
    return args;
  }

  void tune() {
    const attn_run_args args = next_args();
    attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
    attn_error error{};
    check(attn_plan_autotune(plan_.get(), &args, kTuningNs, &info, &error), error);
    make_plan(info.tile_k, info.kv_chunk);
  }

  void make_plan(int64_t tile_k, int64_t kv_chunk) {
    attn_error error{};
    attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
    if (row_.causal) config.features |= ATTN_CAUSAL;
    if (row_.feature == "softcap") config.softcap = 30;
    if (row_.score_map() == ATTN_DTYPE_U8) {
      config.features |= ATTN_MASK;
    } else if (row_.score_map() != ATTN_DTYPE_INVALID) {
      config.features |= ATTN_BIAS;
      config.bias_dtype = row_.score_map();
    }
    if (row_.feature == "tree") config.features |= ATTN_MASK_RANGE;
    if (row_.is_packed()) {
      config.q_layout = config.kv_layout = ATTN_LAYOUT_PACKED;
      config.max_batch = kPackedSequences;
      config.max_total_q = config.max_total_k = row_.total();
    }
    if (row_.feature == "alibi") config.features |= ATTN_ALIBI;
    if (row_.feature == "window511") {
      config.features |= ATTN_WINDOW_LEFT | ATTN_WINDOW_RIGHT;
      config.window_left = 511;
    }
    if (row_.is_paged()) {
      config.kv_layout = ATTN_LAYOUT_PAGED;
      config.page_size = kPageSize;
    }
    config.q_dtype = row_.dtype;
    config.k_dtype = row_.kv_dtype();
    config.heads_q = row_.heads_q;
    config.heads_kv = row_.heads_kv;
    config.head_dim = row_.head_dim;
    config.max_seqlen_q = row_.seqlen_q;  // packed ones are all shorter
    config.max_seqlen_k = row_.seqlen_k;
    config.backend = row_.backend();
    config.tile_k = tile_k;
    config.kv_chunk = kv_chunk;
    attn_plan* plan = nullptr;
    check(attn_plan_create(context_.get(), &config, &plan, &error), error);
    plan_.reset(plan);
    check(attn_plan_workspace_size(plan, &workspace_size_, &error), error);
    workspace_ = make_memory(workspace_size_);
  }

  void make_kv(KeysAndValues* kv) {
    const int64_t outer = row_.is_paged() ? row_.seqlen_k / kPageSize : 1;
    const int64_t rows = row_.is_paged()    ? kPageSize
                         : row_.is_packed() ? row_.total()
                                            : row_.seqlen_k;
    for (Tensor* tensor : {&kv->k, &kv->v}) {
      tensor->make(row_.kv_dtype(), {outer, row_.heads_kv, rows, row_.head_dim}, row_.is_decode());
    }
    if (row_.kv_dtype() != ATTN_DTYPE_I8) return;
    for (Tensor* tensor : {&kv->k_scale, &kv->v_scale}) {
      tensor->make(ATTN_DTYPE_F32, {outer, row_.heads_kv, rows});
      std::fill_n(tensor->data<float>(), outer * row_.heads_kv * rows, 1.0f / 40);
    }
  }

  void make_block_table() {
    const int64_t pages = row_.seqlen_k / kPageSize;
    block_table_.make(ATTN_DTYPE_I32, {1, pages});
    int32_t* table = block_table_.data<int32_t>();
    std::iota(table, table + pages, 0);
    std::shuffle(table, table + pages, std::mt19937(1));
    seqlens_k_.make(ATTN_DTYPE_I32, {1});
    *seqlens_k_.data<int32_t>() = static_cast<int32_t>(row_.seqlen_k);
  }

  void make_cu_seqlens() {
    cu_seqlens_.make(ATTN_DTYPE_I32, {kPackedSequences + 1});
    int32_t* offsets = cu_seqlens_.data<int32_t>();
    offsets[0] = 0;
    for (int64_t i = 0; i < kPackedSequences; ++i) {
      offsets[i + 1] = offsets[i] + static_cast<int32_t>(packed_length(i));
    }
  }

  // Query i is a child of query (i - 1) / 2, and attends to itself and its ancestors.
  void make_tree() {
    uint8_t* mask = score_map_.data<uint8_t>();
    std::fill_n(mask, row_.seqlen_q * row_.seqlen_q, uint8_t{0});
    for (int64_t i = 0; i < row_.seqlen_q; ++i) {
      for (int64_t node = i;; node = (node - 1) / 2) {
        mask[i * row_.seqlen_q + node] = 1;
        if (node == 0) break;
      }
    }
    mask_k0_.make(ATTN_DTYPE_I64, {1});
    *mask_k0_.data<int64_t>() = row_.seqlen_k - row_.seqlen_q;
  }

  Row row_;
  Context context_;
  Plan plan_;
  size_t workspace_size_ = 0;
  bench::Memory workspace_;
  Tensor q_, o_;
  std::vector<KeysAndValues> kv_;
  Tensor block_table_, seqlens_k_, cu_seqlens_, score_map_, mask_k0_, slopes_;
  size_t turn_ = 0;
};

using Clock = std::chrono::steady_clock;

// The limits by name: functions that measure once and return FLOP/s or bytes/s.
std::map<std::string, std::function<double()>>& limits() {
  static std::map<std::string, std::function<double()>> map;
  return map;
}

// The limit that rows measure between their runs, "" for none: the clock of a busy core is another
// one than that of a core that just woke up.
std::string interleaved_limit;

class Interleaved {
 public:
  Interleaved() {
    if (!interleaved_limit.empty()) measure_ = limits().at(interleaved_limit);
  }

  // To be called after each run. Measures for up to a third of the time that runs take.
  void ran(double seconds) {
    run_seconds_ += seconds;
    if (!measure_ || run_seconds_ < 3 * limit_seconds_) return;
    const Clock::time_point start = Clock::now();
    rates_ += measure_();
    ++count_;
    limit_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  }

  double mean() const { return count_ ? rates_ / count_ : 0; }

 private:
  std::function<double()> measure_;
  double run_seconds_ = 0, limit_seconds_ = 0, rates_ = 0;
  int count_ = 0;
};

void register_row(const std::string& name, const Row& row) {
  // Google Benchmark calls a row's function several times while it looks for the number of
  // iterations. What the row needs is made in the first call, and freed when the next row's is.
  static std::string ready_name;
  static std::unique_ptr<Attention> ready;
  benchmark::RegisterBenchmark(
      name.c_str(),
      [name, row](benchmark::State& state) {
        Interleaved limit;
        try {
          if (ready_name != name) {
            ready.reset();
            ready_name.clear();
            ready = std::make_unique<Attention>(row);
            ready_name = name;
          }
          for (auto _ : state) {
            const Clock::time_point start = Clock::now();
            ready->run();
            const std::chrono::duration<double> took = Clock::now() - start;
            state.SetIterationTime(took.count());
            limit.ran(took.count());
          }
        } catch (const std::exception& error) {
          state.SkipWithError(error.what());
          return;
        }
        state.counters["limit"] = limit.mean();
        state.counters["heads"] = static_cast<double>(row.heads_q);
        state.counters["flops"] = row.flops();
        state.counters["kv_bytes"] = row.kv_bytes();
        state.counters["workspace"] = static_cast<double>(ready->workspace_size());
        state.counters["flops_per_second"] =
            benchmark::Counter(row.flops(), benchmark::Counter::kIsIterationInvariantRate);
      })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

// Batch 1. Heads are chosen so that rows take about as long as one another, and so that every
// thread has the same share of them.
Row prefill_row(attn_dtype dtype, int64_t head_dim, int64_t seqlen, bool causal,
                const std::string& feature, int threads, attn_isa isa, const char* who) {
  const int64_t heads = threads * std::max<int64_t>(1, 4096 / seqlen);
  return {dtype, heads, heads, head_dim, seqlen, seqlen, causal, feature, threads, isa, who};
}

std::string prefill_name(attn_dtype dtype, int64_t head_dim, int64_t seqlen, bool causal,
                         const std::string& feature, int threads) {
  return std::string("prefill_") + attn_dtype_name(dtype) + "_d" + std::to_string(head_dim) + "_s" +
         std::to_string(seqlen) + (causal ? "_causal" : "_full") +
         (feature.empty() ? "" : "_" + feature) + "_" + std::to_string(threads) + "t";
}

// A limit as a row of its own: `work` in all in each call of `measure`, which returns seconds.
void register_limit(const std::string& name, const char* unit, double work, double min_time,
                    const std::function<double()>& measure) {
  limits()[name] = [work, measure] { return work / measure(); };
  benchmark::RegisterBenchmark(name.c_str(),
                               [unit, work, measure](benchmark::State& state) {
                                 for (auto _ : state) state.SetIterationTime(measure());
                                 state.counters[unit] = benchmark::Counter(
                                     work, benchmark::Counter::kIsIterationInvariantRate);
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(min_time);
}

void register_limits(const std::vector<attn_isa_info>& isas, const attn_context_info& machine,
                     int threads) {
  const std::string suffix = "_" + std::to_string(threads) + "t";
  constexpr int64_t kSteps = 1 << 20;  // some milliseconds, beside which a thread's start is none
  for (const attn_isa_info& info : isas) {
    const attn_isa isa = info.isa;
    const double work = bench::fma_flops_per_step(isa) * kSteps * threads;
    if (work == 0) continue;
    register_limit("limit_fma_f32_" + std::string(info.name) + suffix, "flops_per_second", work,
                   0.02, [isa, threads] {
                     return bench::seconds_on_threads(threads,
                                                      [isa](int) { bench::run_fma(isa, kSteps); });
                   });
  }
  for (const attn_isa_info& info : isas) {
    const attn_isa isa = info.isa;
    if (isa != machine.isa && isa != ATTN_ISA_AMX_BF16) continue;
    const int64_t steps = isa == ATTN_ISA_AMX_BF16 ? kSteps / 8 : kSteps;  // of 16 cycles
    const double work = bench::bf16_flops_per_step(isa) * static_cast<double>(steps) * threads;
    if (work == 0) continue;
    register_limit("limit_fma_bf16_" + std::string(info.name) + suffix, "flops_per_second", work,
                   0.02, [isa, steps, threads] {
                     return bench::seconds_on_threads(
                         threads, [isa, steps](int) { bench::run_bf16(isa, steps); });
                   });
  }
  // Each thread's part of 1 GiB by read(buffer, thread).
  const auto register_read = [&](const char* name, auto read) {
    constexpr size_t kBytes = size_t{1} << 30;
    register_limit(name + suffix, "bytes_per_second", kBytes, 0.2, [threads, read] {
      static const bench::ReadBuffer buffer(kBytes);
      return bench::seconds_on_threads(
          threads, [&](int thread) { benchmark::DoNotOptimize(read(buffer, thread)); });
    });
  };
  register_read("limit_read", [threads](const bench::ReadBuffer& buffer, int thread) {
    return buffer.read(thread, threads);
  });
  for (const size_t block : {4096, 8192}) {
    register_read(block == 4096 ? "limit_read_4k_blocks" : "limit_read_8k_blocks",
                  [threads, block](const bench::ReadBuffer& buffer, int thread) {
                    return buffer.read_blocks(block, thread, threads);
                  });
  }
}

// The machine's instruction sets as the library sees them, by name; for one of which the process
// must ask, it has asked.
std::vector<attn_isa_info> available_isas(const attn_context* context) {
  std::vector<attn_isa_info> available;
  for (int32_t i = 0; i < attn_context_isa_count(context); ++i) {
    attn_isa_info info = ATTN_ISA_INFO_INIT;
    attn_error error{};
    check(attn_context_get_isa(context, i, &info, &error), error);
    if (!info.available) continue;
    make_context(1, info.isa);
    available.push_back(info);
  }
  return available;
}

// Instruction sets other than the machine's own that rows of this type are measured with too.
std::vector<attn_isa_info> forced_isas(const std::vector<attn_isa_info>& isas, attn_isa own,
                                       attn_dtype dtype) {
  std::vector<attn_isa_info> forced;
  for (const attn_isa_info& info : isas) {
    const bool amx = info.isa == ATTN_ISA_AMX_BF16 && dtype == ATTN_DTYPE_BF16;
    if (info.isa != own && (info.isa == ATTN_ISA_AVX2 || amx)) forced.push_back(info);
  }
  return forced;
}

// What a feature costs: each beside the plain row of the same length, but for the window's.
void register_features(const std::vector<attn_isa_info>& isas, attn_isa own) {
  constexpr const char* kFeatures[] = {"softcap", "bias",     "biasbf16", "mask",     "alibi",
                                       "page16",  "packed64", "i8",       "window511"};
  for (attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_BF16}) {
    for (int64_t head_dim : kHeadDims) {
      for (const std::string feature : kFeatures) {
        if (feature == "biasbf16" && dtype != ATTN_DTYPE_BF16) continue;
        const bool window = feature == "window511";
        for (int64_t seqlen : {1024, 4096, 16384}) {
          if (window != (seqlen == 16384)) continue;
          if (feature == "packed64" && seqlen != 4096) continue;
          const std::string name = prefill_name(dtype, head_dim, seqlen, false, feature, 1);
          const auto add = [&](const std::string& suffix, attn_isa isa, const char* who) {
            register_row(name + suffix + "/" + who,
                         prefill_row(dtype, head_dim, seqlen, false, feature, 1, isa, who));
          };
          // Scores of 1 GiB a head are nothing to compare with.
          if (!window) add("", ATTN_ISA_AUTO, "standard");
          add("", ATTN_ISA_AUTO, "flash");
          for (const attn_isa_info& forced : forced_isas(isas, own, dtype)) {
            add("_" + std::string(forced.name), forced.isa, "flash");
          }
        }
      }
    }
  }
}

// 32 queries over long K and V: what speculative decoding checks at a time.
void register_blocks() {
  for (attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_BF16}) {
    for (const std::string feature : {"", "tree"}) {
      const std::string name = std::string("block_") + attn_dtype_name(dtype) +
                               "_h32_8_d128_q32_s4096_causal" +
                               (feature.empty() ? "" : "_" + feature) + "_1t";
      for (const char* backend : kBackends) {
        register_row(name + "/" + backend,
                     {dtype, 32, 8, 128, 32, 4096, true, feature, 1, ATTN_ISA_AUTO, backend});
      }
    }
  }
}

// Short sequences in the 12 heads of a small encoder.
void register_small() {
  for (int64_t head_dim : {32, 64}) {
    for (int64_t seqlen : {128, 256}) {
      for (const char* backend : kBackends) {
        register_row("prefill_f32_h12_d" + std::to_string(head_dim) + "_s" +
                         std::to_string(seqlen) + "_full_1t/" + backend,
                     {ATTN_DTYPE_F32, 12, 12, head_dim, seqlen, seqlen, false, "", 1, ATTN_ISA_AUTO,
                      backend});
      }
    }
  }
}

// One query over long K and V: 32 heads over 8, and over 32 where i8 is compared with bf16.
void register_decode() {
  struct Decode {
    attn_dtype dtype;
    int64_t heads_kv;
    const char* feature;
  };
  constexpr Decode kDecodes[] = {{ATTN_DTYPE_F32, 8, ""},        {ATTN_DTYPE_BF16, 8, ""},
                                 {ATTN_DTYPE_F16, 8, ""},        {ATTN_DTYPE_F32, 8, "page16"},
                                 {ATTN_DTYPE_BF16, 8, "page16"}, {ATTN_DTYPE_BF16, 32, ""},
                                 {ATTN_DTYPE_BF16, 32, "i8"}};
  for (const Decode& decode : kDecodes) {
    for (int64_t seqlen : {4096, 32768}) {
      const std::string feature = decode.feature;
      const std::string name = std::string("decode_") + attn_dtype_name(decode.dtype) + "_h32_" +
                               std::to_string(decode.heads_kv) + "_d128_s" +
                               std::to_string(seqlen) + (feature.empty() ? "" : "_" + feature) +
                               "_1t";
      for (const char* who : {"standard", "flash", "tuned"}) {
        register_row(name + "/" + who, {decode.dtype, 32, decode.heads_kv, 128, 1, seqlen, false,
                                        feature, 1, ATTN_ISA_AUTO, who});
      }
    }
  }
}

void register_rows(int threads) {
  const Context context = make_context(threads, ATTN_ISA_AUTO);
  attn_context_info machine = ATTN_CONTEXT_INFO_INIT;
  attn_error error{};
  check(attn_context_get_info(context.get(), &machine, &error), error);
  benchmark::AddCustomContext("attn_version", attn_version_string());
  benchmark::AddCustomContext("isa", machine.isa_name);

  std::vector<int> thread_counts = {1};
  if (threads > 1) thread_counts.push_back(threads);
  const std::vector<attn_isa_info> isas = available_isas(context.get());
  for (int n : thread_counts) register_limits(isas, machine, n);

  for (attn_dtype dtype : kTypes) {
    for (int64_t head_dim : kHeadDims) {
      for (int64_t seqlen : kSeqlens) {
        for (bool causal : {false, true}) {
          for (int n : thread_counts) {
            const std::string name = prefill_name(dtype, head_dim, seqlen, causal, "", n);
            const auto add = [&](const std::string& suffix, attn_isa isa, const char* who) {
              register_row(name + suffix + "/" + who,
                           prefill_row(dtype, head_dim, seqlen, causal, "", n, isa, who));
            };
            for (const char* backend : kBackends) add("", ATTN_ISA_AUTO, backend);
            if (n == 1) add("", ATTN_ISA_AUTO, "tuned");
            for (const attn_isa_info& forced : forced_isas(isas, machine.isa, dtype)) {
              add("_" + std::string(forced.name), forced.isa, "flash");
            }
          }
        }
      }
    }
  }
  register_small();
  register_features(isas, machine.isa);
  register_blocks();
  register_decode();
}

// Takes --NAME=VALUE out of the arguments; "" if it is not there.
std::string take_option(const char* name, int* argc, char** argv) {
  const std::string flag = std::string("--") + name + "=";
  std::string value;
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    if (std::strncmp(argv[i], flag.c_str(), flag.size()) == 0) {
      value = argv[i] + flag.size();
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  argv[kept] = nullptr;
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string threads_text = take_option("threads", &argc, argv);
  int threads = std::atoi(threads_text.c_str());
  if (!threads_text.empty() && (threads < 1 || threads > 1024)) {
    std::fprintf(stderr, "attn_bench: --threads is 1 to 1024\n");
    return 2;
  }
  interleaved_limit = take_option("limit", &argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  try {
    if (threads == 0) {
      const Context context = make_context(0, ATTN_ISA_AUTO);
      attn_context_info info = ATTN_CONTEXT_INFO_INIT;
      attn_error error{};
      check(attn_context_get_info(context.get(), &info, &error), error);
      threads = info.concurrency;
    }
    register_rows(threads);
    if (!interleaved_limit.empty() && !limits().count(interleaved_limit)) {
      throw std::runtime_error("--limit: there is no " + interleaved_limit);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attn_bench: %s\n", error.what());
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

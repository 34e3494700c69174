// attn_bench.cpp: the library's own rows and the machine's limits, as Google Benchmark rows.
//
//   attn_bench [--threads=N] [Google Benchmark's own options]
//
// Rows: limit_fma_f32_{isa}_{N}t         f32 multiply-adds in registers
//       limit_read_{N}t                  reading 1 GiB
//       prefill_f32_d{D}_s{S}_{full|causal}_{N}t[_avx2]/{standard|flash}
// each with one thread and with N (--threads, by default the CPUs that the process may use). A
// suffix says that the instruction set is forced. A row that the library cannot serve is an error
// row with the library's words. The context of the JSON output names the library's version and
// the instruction set.
#include <attn/attn.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "limits.h"

namespace {

constexpr int64_t kHeadDims[] = {64, 128};
constexpr int64_t kSeqlens[] = {512, 1024, 2048, 4096};

struct ContextDeleter {
  void operator()(attn_context* context) const { attn_context_destroy(context); }
};
using Context = std::unique_ptr<attn_context, ContextDeleter>;

struct PlanDeleter {
  void operator()(attn_plan* plan) const { attn_plan_destroy(plan); }
};
using Plan = std::unique_ptr<attn_plan, PlanDeleter>;

struct FreeDeleter {
  void operator()(void* pointer) const { std::free(pointer); }
};
template <class T>
using Buffer = std::unique_ptr<T[], FreeDeleter>;

template <class T>
Buffer<T> make_buffer(size_t n) {
  const size_t bytes = (n * sizeof(T) + ATTN_WORKSPACE_ALIGNMENT - 1) / ATTN_WORKSPACE_ALIGNMENT *
                       ATTN_WORKSPACE_ALIGNMENT;
  void* data = std::aligned_alloc(ATTN_WORKSPACE_ALIGNMENT, std::max<size_t>(bytes, 1));
  if (!data) throw std::bad_alloc();
  return Buffer<T>(static_cast<T*>(data));
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

struct PrefillRow {
  int64_t head_dim;
  int64_t seqlen;  // of queries and keys
  bool causal;
  int threads;
  attn_isa isa;  // AUTO, or the forced one
  const char* backend;

  // Batch 1. Heads are chosen so that rows take about as long as one another, and so that every
  // thread has the same share of them.
  int64_t heads() const { return threads * std::max<int64_t>(1, 4096 / seqlen); }

  // Two products of 2 * seqlen^2 * head_dim operations a head; causal rows count half of that.
  double flops() const { return 4.0 * heads() * seqlen * seqlen * head_dim / (causal ? 2 : 1); }
};

// A plan with everything that its runs need, ready to be run.
class Prefill {
 public:
  explicit Prefill(const PrefillRow& row) : context_(make_context(row.threads, row.isa)) {
    attn_error error{};
    attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
    config.features = row.causal ? ATTN_CAUSAL : 0;
    config.q_dtype = ATTN_DTYPE_F32;
    config.heads_q = row.heads();
    config.head_dim = row.head_dim;
    config.max_seqlen_q = config.max_seqlen_k = row.seqlen;
    config.backend = row.backend;
    attn_plan* plan = nullptr;
    check(attn_plan_create(context_.get(), &config, &plan, &error), error);
    plan_.reset(plan);
    check(attn_plan_workspace_size(plan, &workspace_size_, &error), error);
    workspace_ = make_buffer<std::byte>(workspace_size_);

    const int64_t shape[] = {1, row.heads(), row.seqlen, row.head_dim};
    const size_t n = shape[1] * shape[2] * shape[3];
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (int i = 0; i < 4; ++i) {
      data_[i] = make_buffer<float>(n);
      std::generate_n(data_[i].get(), n, [&] { return normal(random); });
      attn_tensor_init(&tensors_[i], data_[i].get(), ATTN_DTYPE_F32, 4, shape);
    }
    run();  // starts the threads, and touches every page
  }

  void run() {
    attn_run_args args = ATTN_RUN_ARGS_INIT;
    args.q = &tensors_[0];
    args.k = &tensors_[1];
    args.v = &tensors_[2];
    args.o = &tensors_[3];
    args.workspace = workspace_.get();
    args.workspace_size = workspace_size_;
    attn_error error{};
    check(attn_run(plan_.get(), &args, &error), error);
  }

  size_t workspace_size() const { return workspace_size_; }

 private:
  Context context_;
  Plan plan_;
  size_t workspace_size_ = 0;
  Buffer<std::byte> workspace_;
  Buffer<float> data_[4];  // q, k, v, o
  attn_tensor tensors_[4];
};

void register_prefill(const std::string& name, const PrefillRow& row) {
  // Google Benchmark calls a row's function several times while it looks for the number of
  // iterations. What the row needs is made in the first call, and freed when the next row's is.
  static std::string ready_name;
  static std::unique_ptr<Prefill> ready;
  benchmark::RegisterBenchmark(name.c_str(),
                               [name, row](benchmark::State& state) {
                                 try {
                                   if (ready_name != name) {
                                     ready.reset();
                                     ready_name.clear();
                                     ready = std::make_unique<Prefill>(row);
                                     ready_name = name;
                                   }
                                   for (auto _ : state) ready->run();
                                 } catch (const std::exception& error) {
                                   state.SkipWithError(error.what());
                                   return;
                                 }
                                 state.counters["heads"] = static_cast<double>(row.heads());
                                 state.counters["flops"] = row.flops();
                                 state.counters["workspace"] =
                                     static_cast<double>(ready->workspace_size());
                                 state.counters["flops_per_second"] = benchmark::Counter(
                                     row.flops(), benchmark::Counter::kIsIterationInvariantRate);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void register_fma_limit(attn_isa isa, const std::string& isa_name, int threads) {
  const std::string name = "limit_fma_f32_" + isa_name + "_" + std::to_string(threads) + "t";
  benchmark::RegisterBenchmark(
      name.c_str(),
      [isa, threads](benchmark::State& state) {
        constexpr int64_t kSteps =
            1 << 21;  // some milliseconds, beside which a thread's start is none
        for (auto _ : state) {
          state.SetIterationTime(
              bench::seconds_on_threads(threads, [isa](int) { bench::run_fma(isa, kSteps); }));
        }
        state.counters["flops_per_second"] =
            benchmark::Counter(bench::fma_flops_per_step(isa) * kSteps * threads,
                               benchmark::Counter::kIsIterationInvariantRate);
      })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.02);
}

void register_read_limit(int threads) {
  const std::string name = "limit_read_" + std::to_string(threads) + "t";
  benchmark::RegisterBenchmark(
      name.c_str(),
      [threads](benchmark::State& state) {
        static const bench::ReadBuffer buffer(size_t{1} << 30);
        for (auto _ : state) {
          state.SetIterationTime(bench::seconds_on_threads(threads, [threads](int thread) {
            benchmark::DoNotOptimize(buffer.read(thread, threads));
          }));
        }
        state.counters["bytes_per_second"] = benchmark::Counter(
            static_cast<double>(buffer.size()), benchmark::Counter::kIsIterationInvariantRate);
      })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.2);
}

// The machine's instruction sets as the library sees them, by name.
std::vector<attn_isa_info> available_isas(const attn_context* context) {
  std::vector<attn_isa_info> available;
  for (int32_t i = 0; i < attn_context_isa_count(context); ++i) {
    attn_isa_info info = ATTN_ISA_INFO_INIT;
    attn_error error{};
    check(attn_context_get_isa(context, i, &info, &error), error);
    if (info.available) available.push_back(info);
  }
  return available;
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
  for (const attn_isa_info& isa : isas) {
    if (bench::fma_flops_per_step(isa.isa) == 0) continue;
    for (int n : thread_counts) register_fma_limit(isa.isa, isa.name, n);
  }
  for (int n : thread_counts) register_read_limit(n);

  const bool force_avx2 = machine.isa != ATTN_ISA_AVX2 &&
                          std::any_of(isas.begin(), isas.end(),
                                      [](const auto& isa) { return isa.isa == ATTN_ISA_AVX2; });
  for (int64_t head_dim : kHeadDims) {
    for (int64_t seqlen : kSeqlens) {
      for (bool causal : {false, true}) {
        for (int n : thread_counts) {
          const std::string name = "prefill_f32_d" + std::to_string(head_dim) + "_s" +
                                   std::to_string(seqlen) + (causal ? "_causal_" : "_full_") +
                                   std::to_string(n) + "t";
          for (const char* backend : {"standard", "flash"}) {
            register_prefill(name + "/" + backend,
                             {head_dim, seqlen, causal, n, ATTN_ISA_AUTO, backend});
          }
          if (force_avx2) {
            register_prefill(name + "_avx2/flash",
                             {head_dim, seqlen, causal, n, ATTN_ISA_AVX2, "flash"});
          }
        }
      }
    }
  }
}

// Takes --threads=N out of the arguments. 0: not given; -1: not a number of threads.
int take_threads(int* argc, char** argv) {
  constexpr char kFlag[] = "--threads=";
  int threads = 0, kept = 1;
  for (int i = 1; i < *argc; ++i) {
    if (std::strncmp(argv[i], kFlag, sizeof(kFlag) - 1) == 0) {
      const int n = std::atoi(argv[i] + sizeof(kFlag) - 1);
      threads = n >= 1 && n <= 1024 ? n : -1;
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  argv[kept] = nullptr;
  return threads;
}

}  // namespace

int main(int argc, char** argv) {
  int threads = take_threads(&argc, argv);
  if (threads < 0) {
    std::fprintf(stderr, "attn_bench: --threads is 1 to 1024\n");
    return 2;
  }
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
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attn_bench: %s\n", error.what());
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

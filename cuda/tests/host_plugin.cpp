// host_plugin.cpp: the plugin's host side through the public C interface, on a fake driver: what is
// chosen, what is launched, in which order the driver is called, and that every failure has a
// status, words and no leak.
#include <attn/attn.h>
#include <attn/backend.h>
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "expect.h"
#include "fake_libcuda.h"
#include "kernels/table.h"

namespace attn_test {
namespace {

using attn::cuda::AttendParams;
using attn::cuda::MergeParams;
using attn::cuda::WgmmaParams;

fake_cuda& fake() { return *fake_cuda_state(); }

// A context on a fresh machine.
attn_context* new_context() {
  attn_context* context = nullptr;
  CHECK_OK(attn_context_create(nullptr, &context, nullptr));
  return context;
}

std::string cuda_reason(const attn_context* context) {
  for (int32_t i = 0; i < attn_context_backend_count(context); ++i) {
    attn_backend_info info = ATTN_BACKEND_INFO_INIT;
    CHECK_OK(attn_context_get_backend(context, i, &info, nullptr));
    if (std::strcmp(info.name, "cuda") == 0) return info.reason;
  }
  CHECK(false, "cuda is not listed");
  return "";
}

// Everything that was taken from the driver was given back, and it was never misused.
void check_clean(const char* what) {
  for (int32_t device = 0; device < FAKE_DEVICES; ++device) {
    CHECK(fake().retained[device] == 0, "%s: context of device %d", what, device);
  }
  CHECK(fake().modules == 0, "%s: %d modules", what, fake().modules);
  CHECK(fake().pushed == 0, "%s: %d contexts pushed", what, fake().pushed);
  CHECK(fake().violation[0] == '\0', "%s: %s", what, fake().violation);
}

// One padded problem with its memory, which the fake driver takes for a device's.
struct Problem {
  attn_plan_config config;
  attn_run_args args;
  attn_tensor q, k, v, o, lse, bias, seqlens_k;
  int32_t device;

  static constexpr int64_t kBatch = 2, kHeads = 4, kHeadsKv = 2, kSeqlen = 200, kDim = 64;
  alignas(128) static char memory[1 << 22];

  explicit Problem(attn_dtype dtype = ATTN_DTYPE_F16, int32_t device_id = 0) : device(device_id) {
    config = ATTN_PLAN_CONFIG_INIT;
    config.q_dtype = dtype;
    config.device_type = ATTN_DEVICE_CUDA;
    config.device_id = device;
    config.heads_q = kHeads;
    config.heads_kv = kHeadsKv;
    config.head_dim = kDim;
    config.max_batch = kBatch;
    config.max_seqlen_q = config.max_seqlen_k = kSeqlen;
    args = ATTN_RUN_ARGS_INIT;
    const int64_t wide[] = {kBatch, kHeads, kSeqlen, kDim},
                  narrow[] = {kBatch, kHeadsKv, kSeqlen, kDim};
    place(&q, 0, dtype, 4, wide);
    place(&k, 1, dtype, 4, narrow);
    place(&v, 2, dtype, 4, narrow);
    place(&o, 3, dtype, 4, wide);
    place(&lse, 4, ATTN_DTYPE_F32, 3, wide);
    const int64_t square[] = {1, 1, kSeqlen, kSeqlen}, batch[] = {kBatch};
    place(&bias, 5, ATTN_DTYPE_F32, 4, square);
    place(&seqlens_k, 6, ATTN_DTYPE_I32, 1, batch);
    args.q = &q;
    args.k = &k;
    args.v = &v;
    args.o = &o;
    fake().ranges[fake().range_count++] = {memory, sizeof memory, 2, device, 0};
    fake().param_bytes = sizeof(AttendParams);
  }
  Problem(const Problem&) = delete;

  void place(attn_tensor* t, int slot, attn_dtype dtype, int32_t rank, const int64_t* shape) {
    attn_tensor_init(t, memory + slot * (1 << 18), dtype, rank, shape);
    t->device_type = ATTN_DEVICE_CUDA;
    t->device_id = device;
  }

  attn_plan* plan(attn_context* context) {
    attn_plan* result = nullptr;
    if (!CHECK_OK(attn_plan_create(context, &config, &result, nullptr))) return nullptr;
    CHECK_OK(attn_plan_workspace_size(result, &args.workspace_size, nullptr));
    args.workspace = memory + 7 * (1 << 18);
    return result;
  }

  // A plan, one run, and what was launched; all destroyed.
  void run_once() {
    attn_context* context = new_context();
    if (attn_plan* p = plan(context)) {
      CHECK_OK(attn_run(p, &args, nullptr));
      attn_plan_destroy(p);
    }
    attn_context_destroy(context);
    check_clean("run");
  }
};
char Problem::memory[1 << 22];

attn_plan_info info_of(const attn_plan* plan) {
  attn_plan_info info = ATTN_PLAN_INFO_INIT;
  CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
  return info;
}

std::vector<std::string> calls() { return {fake().calls, fake().calls + fake().call_count}; }

template <typename Params>
Params launched(int32_t i) {
  Params params;
  std::memcpy(&params, fake().launches[i].params, sizeof params);
  return params;
}

// ---- listing
// -------------------------------------------------------------------------------------

void listing_touches_no_device() {
  fake_cuda_reset();
  attn_context* context = new_context();
  CHECK(cuda_reason(context).empty(), "%s", cuda_reason(context).c_str());
  CHECK(fake().call_count == 0 && fake().inits == 0, "%d calls", fake().call_count);
  attn_context_destroy(context);
}

void drivers_that_are_refused() {
  const struct {
    int32_t version;
    const char* missing;
    std::vector<const char*> words;
  } cases[] = {{12040, nullptr, {"too old", "CUDA 12.4", "CUDA 13.0", "580"}},
               {13000, "cuTensorMapEncodeTiled", {"cuTensorMapEncodeTiled", "13.0"}},
               {13010, "cuLaunchKernel", {"cuLaunchKernel", "13.1"}}};
  for (const auto& c : cases) {
    fake_cuda_reset();
    fake().driver_version = c.version;
    fake().missing = c.missing;
    attn_context* context = new_context();
    const std::string reason = cuda_reason(context);
    for (const char* word : c.words) {
      CHECK(reason.find(word) != std::string::npos, "'%s' in: %s", word, reason.c_str());
    }
    Problem problem;
    attn_plan* plan = nullptr;
    attn_error error{};
    const attn_status status = attn_plan_create(context, &problem.config, &plan, &error);
    check_failure("plan", status, error, {ATTN_ERROR_UNSUPPORTED});
    CHECK(fake().call_count == 0);
    attn_context_destroy(context);
  }
}

// ---- plans
// ---------------------------------------------------------------------------------------

void order_of_calls() {
  fake_cuda_reset();
  Problem problem;
  attn_context* context = new_context();
  attn_plan* plan = problem.plan(context);
  const auto at = [](const char* name) {
    const auto all = calls();
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i] == name) return static_cast<int>(i);
    }
    return -1;
  };
  const char* order[] = {"cuInit",
                         "cuDeviceGetCount",
                         "cuDevicePrimaryCtxRetain",
                         "cuCtxPushCurrent",
                         "cuModuleLoadDataEx",
                         "cuModuleGetFunction",
                         "cuFuncGetAttribute",
                         "cuCtxPopCurrent"};
  for (size_t i = 1; i < std::size(order); ++i) {
    CHECK(at(order[i - 1]) >= 0 && at(order[i - 1]) < at(order[i]), "%s before %s", order[i - 1],
          order[i]);
  }
  CHECK(fake().retained[0] == 1 && fake().pushed == 0);
  // A second plan finds the device open and the modules loaded.
  const int32_t modules = fake().modules;
  attn_plan* second = problem.plan(context);
  CHECK(fake().modules == modules && fake().retained[0] == 1);
  attn_plan_destroy(plan);
  CHECK(fake().modules == modules && fake().retained[0] == 1);
  attn_plan_destroy(second);
  check_clean("after the last plan");
  attn_context_destroy(context);
}

struct Choice {
  const char* what;
  std::function<void(Problem&)> change;
  const char* kernel;  // "": refused
  const char* words;   // in the plan's words, or in the refusal
};

void choices() {
  const Choice all[] = {
      {"plain", [](Problem&) {}, "fake_wgmma_f16", "fake_mma_f16 where an address"},
      {"f32", [](Problem& p) { p.config.q_dtype = ATTN_DTYPE_F32; }, "fake_mma_f32",
       "wgmma family does not take f32"},
      {"bias", [](Problem& p) { p.config.features |= ATTN_BIAS; }, "fake_mma_f16",
       "wgmma family does not do bias"},
      {"softcap", [](Problem& p) { p.config.softcap = 30; }, "fake_mma_f16", "softcap"},
      {"f32 o", [](Problem& p) { p.config.o_dtype = ATTN_DTYPE_F32; }, "fake_mma_f16", "o_dtype"},
      {"wide", [](Problem& p) { p.config.head_dim = 160; }, "fake_mma_f16_small", "up to 128"},
      {"too wide", [](Problem& p) { p.config.head_dim = 300; }, "", "300"},
      {"bf16", [](Problem& p) { p.config.q_dtype = ATTN_DTYPE_BF16; }, "", "bf16"},
      {"mixed", [](Problem& p) { p.config.k_dtype = ATTN_DTYPE_F32; }, "", "k_dtype"},
      {"tile_k", [](Problem& p) { p.config.tile_k = 32; }, "fake_mma_f16_small", "tile_k of 128"},
      {"no tile_k", [](Problem& p) { p.config.tile_k = 48; }, "", "48"},
      // Two query heads share a tile of 16 rows.
      {"short queries",
       [](Problem& p) {
         p.config.features |= ATTN_BIAS;
         p.config.max_seqlen_q = 8;
       },
       "fake_mma_f16_short", "wgmma family does not do bias"},
      {"not so short queries",
       [](Problem& p) {
         p.config.features |= ATTN_BIAS;
         p.config.max_seqlen_q = 9;
       },
       "fake_mma_f16", ""},
      {"short queries, unaligned", [](Problem& p) { p.config.max_seqlen_q = 1; }, "fake_wgmma_f16",
       "fake_mma_f16_short where an address"},
      {"short queries, another tile_k",
       [](Problem& p) {
         p.config.tile_k = 32;
         p.config.max_seqlen_q = 1;
       },
       "fake_mma_f16_small", ""},
      {"short queries, split",
       [](Problem& p) {
         p.config.kv_chunk = 128;
         p.config.max_seqlen_q = 1;
       },
       "fake_mma_f16_short", ""},
      {"kv_chunk", [](Problem& p) { p.config.kv_chunk = 128; }, "fake_mma_f16", "kv_chunk"},
      {"odd kv_chunk", [](Problem& p) { p.config.kv_chunk = 100; }, "", "100"},
      {"f32 block mask",
       [](Problem& p) {
         p.config.q_dtype = ATTN_DTYPE_F32;
         p.config.features |= ATTN_BLOCK_MASK;
         p.config.block_q = p.config.block_k = 16;
       },
       "", "block masks"},
      {"pages of 16",
       [](Problem& p) {
         p.config.kv_layout = ATTN_LAYOUT_PAGED;
         p.config.page_size = 16;
       },
       "fake_wgmma_f16", ""},
      {"pages of 12",
       [](Problem& p) {
         p.config.kv_layout = ATTN_LAYOUT_PAGED;
         p.config.page_size = 12;
       },
       "fake_mma_f16", "multiple of 8"},
      {"long", [](Problem& p) { p.config.max_seqlen_k = int64_t{1} << 31; }, "", "max_seqlen_k"},
      {"Ampere",
       [](Problem&) {
         fake().sm[0] = 80;
         fake().shared_optin = 163 * 1024;
       },
       "fake_mma_f16", "no code for compute capability 8.0"},
      {"99 KB",
       [](Problem&) {
         fake().sm[0] = 89;
         fake().shared_optin = 99 * 1024;
       },
       "fake_mma_f16_small", "8.9"},
      {"later",
       [](Problem&) {
         fake().sm[0] = 120;
         fake().shared_optin = 99 * 1024;
       },
       "fake_mma_f16_small", "compute_80"},
      {"Turing", [](Problem&) { fake().sm[0] = 75; }, "", "7.5"},
  };
  for (const Choice& c : all) {
    fake_cuda_reset();
    Problem problem;
    c.change(problem);
    attn_context* context = new_context();
    attn_plan* plan = nullptr;
    attn_error error{};
    problem.config.backend = "cuda";
    const attn_status status = attn_plan_create(context, &problem.config, &plan, &error);
    if (!*c.kernel) {
      check_failure(c.what, status, error, {ATTN_ERROR_UNSUPPORTED});
      CHECK(std::strstr(error.message, c.words) != nullptr, "%s: %s", c.what, error.message);
    } else if (CHECK(status == ATTN_OK, "%s: %s", c.what, error.message)) {
      const std::string kernel = info_of(plan).kernel;
      CHECK(kernel.rfind(c.kernel + std::string(" ("), 0) == 0, "%s: %s", c.what, kernel.c_str());
      CHECK(kernel.find(c.words) != std::string::npos, "%s: %s", c.what, kernel.c_str());
    }
    attn_plan_destroy(plan);
    check_clean(c.what);
    attn_context_destroy(context);
  }
}

void devices_that_are_not_there() {
  const struct {
    int32_t count, id;
    attn_status status;
    const char* word;
  } cases[] = {{2, 2, ATTN_ERROR_INVALID_ARGUMENT, "device_id"},
               {2, 9999, ATTN_ERROR_INVALID_ARGUMENT, "device_id"},
               {0, 0, ATTN_ERROR_UNAVAILABLE, "device_id"}};
  for (const auto& c : cases) {
    fake_cuda_reset();
    fake().device_count = c.count;
    Problem problem;
    problem.config.device_id = c.id;
    problem.config.backend = "cuda";
    attn_context* context = new_context();
    attn_plan* plan = nullptr;
    attn_error error{};
    const attn_status status = attn_plan_create(context, &problem.config, &plan, &error);
    check_failure("device", status, error, {c.status});
    CHECK(mentions(error.message, c.word), "%s", error.message);
    attn_context_destroy(context);
    check_clean("device");
  }
}

// Every call of a plan's creation, failing in turn.
void plans_that_fail() {
  std::vector<std::string> good;
  {
    fake_cuda_reset();
    Problem problem;
    attn_context* context = new_context();
    attn_plan* plan = problem.plan(context);
    good = calls();
    attn_plan_destroy(plan);
    attn_context_destroy(context);
  }
  int tried = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    const std::string& name = good[i];
    if (name == "cuCtxPopCurrent") continue;  // gives back; nothing can be done about it
    int32_t before = 0;
    for (size_t j = 0; j < i; ++j) before += good[j] == name;
    for (const int32_t code : {2, 200, 719}) {
      fake_cuda_reset();
      Problem problem;
      fake().fail_call = name.c_str();
      fake().fail_after = before;
      fake().fail_result = code;
      attn_context* context = new_context();
      attn_plan* plan = nullptr;
      attn_error error{};
      problem.config.backend = "cuda";
      const attn_status status = attn_plan_create(context, &problem.config, &plan, &error);
      ++tried;
      const attn_status expected = name == "cuInit" ? ATTN_ERROR_UNAVAILABLE
                                   : code == 2      ? ATTN_ERROR_OUT_OF_MEMORY
                                                    : ATTN_ERROR_DEVICE;
      check_failure(name.c_str(), status, error, {expected});
      CHECK(std::strstr(error.message, "CUDA_ERROR_") != nullptr, "%s", error.message);
      CHECK(plan == nullptr);
      check_clean(name.c_str());
      attn_context_destroy(context);
      check_clean(name.c_str());
    }
  }
  CHECK(tried >= 3 * 12, "%d failures", tried);
}

// ---- runs
// ----------------------------------------------------------------------------------------

void launches_of_the_mma_family() {
  fake_cuda_reset();
  Problem problem;
  problem.config.features = ATTN_BIAS | ATTN_SEQLENS_K | ATTN_CAUSAL;
  problem.config.scale = 0.5f;
  problem.args.bias = &problem.bias;
  problem.args.seqlens_k = &problem.seqlens_k;
  problem.args.lse = &problem.lse;
  problem.args.stream = fake_cuda_stream(0, 1);
  std::memset(Problem::memory + 7 * (1 << 18), 0xff, 64);
  problem.run_once();
  if (!CHECK(fake().launch_count == 1, "%d launches", fake().launch_count)) return;
  const fake_launch& launch = fake().launches[0];
  CHECK(std::strcmp(launch.symbol, "fake_mma_f16") == 0, "%s", launch.symbol);
  CHECK(launch.stream == problem.args.stream && launch.device == 0);
  CHECK(launch.grid[0] == 2 * 4 * 4, "%u blocks", launch.grid[0]);  // batch, heads, tiles of 64
  CHECK(launch.block[0] == 128 && launch.shared_bytes == 160 * 1024);
  const AttendParams p = launched<AttendParams>(0);
  CHECK(p.q.data == problem.q.data && p.o.data == problem.o.data && p.lse.data == problem.lse.data);
  CHECK(p.q.strides[0] == 4 * 200 * 64 && p.q.strides[1] == 200 * 64 && p.q.strides[2] == 64 &&
        p.q.strides[3] == 1);
  CHECK(p.batch == 2 && p.heads_q == 4 && p.heads_kv == 2 && p.head_dim == 64 &&
        p.head_dim_v == 64 && p.seqlen_q == 200 && p.seqlen_k == 200);
  CHECK(p.features == (ATTN_BIAS | ATTN_SEQLENS_K | ATTN_CAUSAL) && p.scale == 0.5f);
  CHECK(p.bias.data == problem.bias.data && p.bias.strides[0] == 0 && p.bias.strides[1] == 0 &&
        p.bias.strides[2] == 200 && p.bias.strides[3] == 1 && p.bias.columns == 200);
  CHECK(p.bias_dtype == ATTN_DTYPE_F32 && p.o_dtype == ATTN_DTYPE_F16);
  CHECK(p.seqlens_k.data == problem.seqlens_k.data && p.seqlens_k.stride == 1);
  CHECK(p.num_tiles == 32 && p.tiles_q == 4 && p.num_chunks == 1 && p.gqa_pack == 1);
  // The workspace arrives undefined: its status words are cleared first, in the same stream.
  CHECK(p.status == problem.args.workspace && !p.tile_counter);
  CHECK(fake().cleared == problem.args.workspace && fake().cleared_bytes == 2 * 4);
  CHECK(fake().cleared_stream == problem.args.stream);
  CHECK(p.status[0] == 0 && p.status[1] == 0);
}

void launches_of_the_wgmma_family() {
  fake_cuda_reset();
  Problem problem;
  fake().param_bytes = sizeof(WgmmaParams);
  fake().multiprocessors = 3;
  problem.run_once();
  if (!CHECK(fake().launch_count == 1, "%d launches", fake().launch_count)) return;
  const fake_launch& launch = fake().launches[0];
  CHECK(std::strcmp(launch.symbol, "fake_wgmma_f16") == 0, "%s", launch.symbol);
  CHECK(launch.grid[0] == 3 && launch.block[0] == 384, "%u blocks", launch.grid[0]);
  const WgmmaParams p = launched<WgmmaParams>(0);
  CHECK(p.attend.gqa_pack == 2 && p.attend.tiles_q == 4 && p.attend.num_tiles == 2 * 2 * 4);
  // The counter of tiles is cleared before the launch.
  CHECK(p.attend.tile_counter == problem.args.workspace && !p.attend.status);
  CHECK(fake().cleared == problem.args.workspace && fake().cleared_bytes == 4);
  CHECK(p.use_o_map == 1);
  if (!CHECK(fake().map_count == 4, "%d maps", fake().map_count)) return;
  const fake_map& q = fake().maps[0];
  CHECK(q.address == problem.q.data && q.rank == 4 && q.type == 6 && q.swizzle == 3);
  const uint64_t dims[] = {64, 200, 4, 2};
  const uint64_t strides[] = {64 * 2, 200 * 64 * 2, 4 * 200 * 64 * 2};
  CHECK(std::memcmp(q.dims, dims, sizeof dims) == 0);
  CHECK(std::memcmp(q.strides, strides, sizeof strides) == 0);
  CHECK(q.box[0] == 64 && q.box[1] == 64 && q.box[2] == 1 && q.box[3] == 1);
  CHECK(fake().maps[1].address == problem.k.data && fake().maps[1].box[1] == 128);
  CHECK(fake().maps[1].dims[2] == 2);
}

void unaligned_runs() {
  const struct {
    const char* what;
    std::function<void(Problem&)> change;
  } cases[] = {{"address", [](Problem& p) { p.q.byte_offset = 2; }},
               {"row stride", [](Problem& p) { p.k.strides[2] = 65; }},
               {"column stride",
                [](Problem& p) {
                  p.v.strides[3] = 2;
                  p.v.strides[2] = 128;
                }},
               {"broadcast", [](Problem& p) { p.k.strides[1] = 0; }},
               {"backwards", [](Problem& p) {
                  p.k.byte_offset = 200 * 64 * 2 * 2;
                  p.k.strides[2] = -64;
                }}};
  for (const auto& c : cases) {
    fake_cuda_reset();
    Problem problem;
    c.change(problem);
    problem.run_once();
    CHECK(fake().launch_count == 1 && fake().map_count == 0, "%s", c.what);
    CHECK(std::strcmp(fake().launches[0].symbol, "fake_mma_f16") == 0, "%s: %s", c.what,
          fake().launches[0].symbol);
  }
}

void splits() {
  fake_cuda_reset();
  Problem problem;
  problem.config.kv_chunk = 128;
  problem.config.max_seqlen_k = 500;  // the run has fewer: 2 chunks of 4
  problem.run_once();
  if (!CHECK(fake().launch_count == 2, "%d launches", fake().launch_count)) return;
  CHECK(std::strcmp(fake().launches[1].symbol, "fake_combine") == 0);
  CHECK(fake().launches[1].grid[0] == 2 * 4 * 200 / 8, "%u", fake().launches[1].grid[0]);
  const AttendParams p = launched<AttendParams>(0);
  CHECK(p.num_chunks == 2 && p.kv_chunk == 128 && p.num_tiles == 2 * 4 * 4 * 2);
  CHECK(p.partial_head_rows == 200 && p.partial_batch_rows == 800 && p.partial_chunk_rows == 1600);
  const char* begin = static_cast<const char*>(problem.args.workspace);
  const char* lse = reinterpret_cast<const char*>(p.partial_lse);
  const char* o = reinterpret_cast<const char*>(p.partial_o);
  CHECK(lse >= begin && o >= lse + 4 * 1600 * 4);
  CHECK(o + 4 * 1600 * 64 * 4 <= begin + problem.args.workspace_size);
}

void nothing_to_do() {
  fake_cuda_reset();
  Problem problem;
  problem.q.shape[0] = problem.k.shape[0] = problem.v.shape[0] = problem.o.shape[0] = 0;
  problem.run_once();
  CHECK(fake().launch_count == 0);
}

// The very first run of a plan, inside a capture.
void captures() {
  for (const bool trusted : {false, true}) {
    fake_cuda_reset();
    Problem problem;
    if (trusted) problem.config.flags = ATTN_PLAN_TRUST_POINTERS;
    problem.args.stream = fake_cuda_stream(0, 1);
    attn_context* context = new_context();
    attn_plan* plan = problem.plan(context);
    fake().capturing = 1;
    fake().call_count = 0;
    CHECK_OK(attn_run(plan, &problem.args, nullptr));
    fake().capturing = 0;
    CHECK(fake().launch_count == 1);
    int asked = 0;
    for (const std::string& call : calls()) {
      asked += call == "cuPointerGetAttributes" || call == "cuStreamGetCtx";
    }
    CHECK((asked == 0) == trusted, "%d questions", asked);
    attn_plan_destroy(plan);
    attn_context_destroy(context);
    check_clean("capture");
  }
}

// Runs of one plan that are under way at once share nothing that is written to.
void distinct_workspaces() {
  fake_cuda_reset();
  Problem problem;
  problem.config.kv_chunk = 128;
  problem.config.features = ATTN_SEQLENS_K;
  problem.args.seqlens_k = &problem.seqlens_k;
  attn_context* context = new_context();
  attn_plan* plan = problem.plan(context);
  const size_t size = problem.args.workspace_size;
  std::vector<char> own(2 * size + 64);
  fake().ranges[fake().range_count++] = {own.data(), own.size(), 2, 0, 0};
  char* begin = own.data() + (64 - reinterpret_cast<uintptr_t>(own.data()) % 64) % 64;
  for (int32_t i = 0; i < 2; ++i, begin += size) {
    problem.args.workspace = begin;
    CHECK_OK(attn_run(plan, &problem.args, nullptr));
    const AttendParams p = launched<AttendParams>(2 * i);
    for (const void* pointer :
         {static_cast<const void*>(p.status), static_cast<const void*>(p.partial_o),
          static_cast<const void*>(p.partial_lse)}) {
      CHECK(pointer >= begin && pointer < begin + size);
    }
    CHECK(fake().cleared == begin);
  }
  attn_plan_destroy(plan);
  attn_context_destroy(context);
  check_clean("workspaces");
}

#if !defined(__SANITIZE_ADDRESS__)  // which brings a malloc of its own
// Counted by malloc_counter.c of abi_tests, which CTest preloads.
void runs_allocate_nothing() {
  using Counter = long (*)();
  const auto requests = reinterpret_cast<Counter>(dlsym(RTLD_DEFAULT, "malloc_counter_requests"));
  if (!CHECK(requests != nullptr, "malloc_counter is not preloaded")) return;
  for (const bool is_wgmma : {false, true}) {
    for (const bool trusted : {false, true}) {
      fake_cuda_reset();
      Problem problem;
      if (!is_wgmma) problem.config.kv_chunk = 128;
      if (trusted) problem.config.flags = ATTN_PLAN_TRUST_POINTERS;
      attn_context* context = new_context();
      attn_plan* plan = problem.plan(context);
      attn_error error{};
      const long before = requests();
      attn_status status = attn_run(plan, &problem.args, &error);
      if (status == ATTN_OK) status = attn_run(plan, &problem.args, &error);
      problem.args.workspace_size = 0;
      const attn_status refused = attn_run(plan, &problem.args, &error);
      const long after = requests();
      CHECK_OK(status);
      CHECK(refused == ATTN_ERROR_WORKSPACE && after == before, "%ld requests", after - before);
      attn_plan_destroy(plan);
      attn_context_destroy(context);
    }
  }
}
#endif

// Strides beyond 2^31 elements, and tensors of more, keep all their bits.
void large_tensors() {
  const int64_t far = (int64_t{1} << 33) + 64;
  for (const bool is_wgmma : {false, true}) {
    fake_cuda_reset();
    Problem problem;
    problem.config.flags = ATTN_PLAN_TRUST_POINTERS;  // such memory is not there
    if (!is_wgmma) problem.config.softcap = 30;
    problem.q.strides[0] = problem.k.strides[0] = problem.v.strides[0] = far;
    problem.o.strides[0] = far;
    problem.o.byte_offset = 4 * far;  // behind the others
    problem.k.strides[1] = far / 2;
    fake().param_bytes = is_wgmma ? sizeof(WgmmaParams) : sizeof(AttendParams);
    problem.run_once();
    const AttendParams p = is_wgmma ? launched<WgmmaParams>(0).attend : launched<AttendParams>(0);
    CHECK(p.q.strides[0] == far && p.o.strides[0] == far && p.k.strides[1] == far / 2);
    if (is_wgmma) {
      CHECK(fake().maps[0].strides[2] == static_cast<uint64_t>(2 * far));
      CHECK(fake().maps[1].strides[1] == static_cast<uint64_t>(far));
    }
  }
}

// More CTAs than a grid has: the persistent kernels need no more, the others refuse.
void more_tiles_than_a_grid() {
  for (const bool is_wgmma : {false, true}) {
    fake_cuda_reset();
    Problem problem;
    constexpr int64_t kMany = int64_t{1} << 28;
    problem.config.flags = ATTN_PLAN_TRUST_POINTERS;
    if (!is_wgmma) problem.config.softcap = 30;
    problem.config.max_batch = kMany;
    for (attn_tensor* t : {&problem.q, &problem.k, &problem.v, &problem.o}) t->shape[0] = kMany;
    problem.o.byte_offset = int64_t{1} << 45;
    attn_context* context = new_context();
    attn_plan* plan = problem.plan(context);
    attn_error error{};
    const attn_status status = attn_run(plan, &problem.args, &error);
    if (is_wgmma) {
      CHECK(status == ATTN_OK && fake().launches[0].grid[0] == 132, "%s", error.message);
    } else {
      check_failure("tiles", status, error, {ATTN_ERROR_UNSUPPORTED});
      CHECK(mentions(error.message, "batch") && fake().launch_count == 0, "%s", error.message);
    }
    attn_plan_destroy(plan);
    attn_context_destroy(context);
    check_clean("tiles");
  }
}

// A plugin that reads more of attn_host than its library has.
void libraries_that_are_older() {
  void* module = dlopen((std::string(std::getenv("ATTN_BACKEND_DIR")) + "/libattn_cuda.so").c_str(),
                        RTLD_NOW | RTLD_LOCAL);
  if (!CHECK(module != nullptr, "%s", dlerror())) return;
  const auto entry = reinterpret_cast<const attn_backend* (*)()>(dlsym(module, "attn_backend_v1"));
  attn_host host{};
  host.struct_size = sizeof host - 8;
  attn_error error{};
  CHECK(entry()->probe(&host, &error) == ATTN_ERROR_UNAVAILABLE);
  CHECK(mentions(error.message, "older") && std::strstr(error.message, attn_version_string()), "%s",
        error.message);
  dlclose(module);
}

void pointers() {
  static char elsewhere[1 << 18];
  const struct {
    const char* what;
    fake_range range;
    int32_t pageable;
    const char* words;  // "": accepted
  } cases[] = {{"malloc", {elsewhere, 0, 0, 0, 0}, 0, "cannot reach"},
               {"malloc, reachable", {elsewhere, 0, 0, 0, 0}, 1, ""},
               {"another device", {elsewhere, sizeof elsewhere, 2, 1, 0}, 0, "CUDA device 1"},
               {"managed", {elsewhere, sizeof elsewhere, 2, 1, 1}, 0, ""},
               {"pinned", {elsewhere, sizeof elsewhere, 1, 0, 0}, 0, ""},
               {"only its beginning", {elsewhere, 4096, 2, 0, 0}, 0, "cannot reach"}};
  for (const auto& c : cases) {
    for (const bool is_output : {false, true}) {
      fake_cuda_reset();
      fake().pageable = c.pageable;
      Problem problem;
      fake().ranges[fake().range_count++] = c.range;
      (is_output ? problem.o : problem.k).data = elsewhere;
      attn_context* context = new_context();
      attn_plan* plan = problem.plan(context);
      attn_error error{};
      const attn_status status = attn_run(plan, &problem.args, &error);
      if (*c.words) {
        check_failure(c.what, status, error, {ATTN_ERROR_INVALID_ARGUMENT});
        CHECK(std::strstr(error.message, c.words) != nullptr, "%s: %s", c.what, error.message);
        CHECK(mentions(error.message, is_output ? "o" : "k"), "%s: %s", c.what, error.message);
        CHECK(fake().launch_count == 0 && !fake().cleared, "%s", c.what);
      } else {
        CHECK(status == ATTN_OK, "%s: %s", c.what, error.message);
      }
      attn_plan_destroy(plan);
      attn_context_destroy(context);
      check_clean(c.what);
    }
  }
}

void streams() {
  fake_cuda_reset();
  fake().sm[0] = fake().sm[1] = 90;
  Problem problem;
  attn_context* context = new_context();
  attn_plan* plan = problem.plan(context);
  void* const good[] = {nullptr, reinterpret_cast<void*>(uintptr_t{1}),
                        reinterpret_cast<void*>(uintptr_t{2}), fake_cuda_stream(0, 1),
                        fake_cuda_stream(0, 1)};
  for (void* stream : good) {
    problem.args.stream = stream;
    const int32_t launch = fake().launch_count;
    CHECK_OK(attn_run(plan, &problem.args, nullptr));
    CHECK(fake().launch_count == launch + 1 && fake().launches[launch].stream == stream);
  }
  for (void* stream : {fake_cuda_stream(0, 0), fake_cuda_stream(1, 1)}) {
    problem.args.stream = stream;
    const int32_t launch = fake().launch_count;
    attn_error error{};
    const attn_status status = attn_run(plan, &problem.args, &error);
    check_failure("stream", status, error, {ATTN_ERROR_INVALID_ARGUMENT});
    CHECK(mentions(error.message, "stream"), "%s", error.message);
    CHECK(fake().launch_count == launch);
  }
  attn_plan_destroy(plan);
  attn_context_destroy(context);
  check_clean("streams");
}

// Every call of a run, failing in turn.
void runs_that_fail() {
  for (const char* name : {"cuCtxPushCurrent", "cuPointerGetAttributes", "cuStreamGetCtx",
                           "cuTensorMapEncodeTiled", "cuMemsetD32Async", "cuLaunchKernel"}) {
    for (const int32_t code : {2, 719}) {
      fake_cuda_reset();
      Problem problem;
      problem.args.stream = fake_cuda_stream(0, 1);
      attn_context* context = new_context();
      attn_plan* plan = problem.plan(context);
      fake().fail_call = name;
      fake().fail_result = code;
      attn_error error{};
      const attn_status status = attn_run(plan, &problem.args, &error);
      check_failure(name, status, error,
                    {code == 2 ? ATTN_ERROR_OUT_OF_MEMORY : ATTN_ERROR_DEVICE});
      CHECK(std::strstr(error.message, name) != nullptr, "%s", error.message);
      fake().fail_call = nullptr;
      CHECK(fake().pushed == 0);
      CHECK_OK(attn_run(plan, &problem.args, nullptr));  // nothing is broken for good
      attn_plan_destroy(plan);
      attn_context_destroy(context);
      check_clean(name);
    }
  }
}

void two_devices() {
  fake_cuda_reset();
  attn_context* context = new_context();
  Problem first(ATTN_DTYPE_F16, 0);
  attn_plan* plan_0 = first.plan(context);
  CHECK(fake().retained[0] == 1 && fake().retained[1] == 0);
  CHECK_OK(attn_run(plan_0, &first.args, nullptr));
  fake().range_count = 0;
  Problem second(ATTN_DTYPE_F16, 1);
  attn_plan* plan_1 = second.plan(context);
  CHECK(fake().retained[0] == 1 && fake().retained[1] == 1);
  CHECK_OK(attn_run(plan_1, &second.args, nullptr));
  CHECK(fake().launches[0].device == 0 && fake().launches[1].device == 1);
  attn_plan_destroy(plan_0);
  CHECK(fake().retained[0] == 0 && fake().retained[1] == 1);
  attn_plan_destroy(plan_1);
  attn_context_destroy(context);
  check_clean("two devices");
}

// What a forked child does must fail in words and leave the parent's device alone.
void forks() {
  fake_cuda_reset();
  Problem problem;
  attn_context* context = new_context();
  attn_plan* plan = problem.plan(context);
  const pid_t child = fork();
  if (child == 0) {
    const int32_t before = fake().call_count;
    attn_error error{};
    bool good = attn_run(plan, &problem.args, &error) == ATTN_ERROR_DEVICE &&
                std::strstr(error.message, "fork") != nullptr;
    attn_plan* another = nullptr;
    problem.config.backend = "cuda";
    good = good &&
           attn_plan_create(context, &problem.config, &another, &error) == ATTN_ERROR_DEVICE &&
           std::strstr(error.message, "fork") != nullptr;
    attn_plan_destroy(plan);
    good = good && fake().call_count == before;
    _exit(good ? 0 : 1);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
  CHECK_OK(attn_run(plan, &problem.args, nullptr));
  attn_plan_destroy(plan);
  attn_context_destroy(context);
  check_clean("fork");
}

// ---- merging
// -------------------------------------------------------------------------------------

void merges() {
  fake_cuda_reset();
  Problem memory;  // for its device memory
  fake().param_bytes = sizeof(MergeParams);
  const int64_t shape[] = {1, 2, 10, 64};
  attn_tensor parts[2], lses[2], o;
  for (int i = 0; i < 2; ++i) {
    memory.place(&parts[i], i, ATTN_DTYPE_F32, 4, shape);
    memory.place(&lses[i], 2 + i, ATTN_DTYPE_F32, 3, shape);
  }
  memory.place(&o, 5, ATTN_DTYPE_F16, 4, shape);
  std::vector<const attn_tensor*> o_parts = {&parts[0], &parts[1]},
                                  lse_parts = {&lses[0], &lses[1]};
  attn_merge_args args = ATTN_MERGE_ARGS_INIT;
  args.count = 2;
  args.o_parts = o_parts.data();
  args.lse_parts = lse_parts.data();
  args.o = &o;
  args.stream = fake_cuda_stream(0, 1);
  attn_context* context = new_context();
  CHECK_OK(attn_merge(context, &args, nullptr));
  if (CHECK(fake().launch_count == 1, "%d launches", fake().launch_count)) {
    CHECK(std::strcmp(fake().launches[0].symbol, "fake_merge") == 0);
    CHECK(fake().launches[0].grid[0] == 5 && fake().launches[0].stream == args.stream);
    const MergeParams p = launched<MergeParams>(0);
    CHECK(p.count == 2 && p.o_dtype == ATTN_DTYPE_F16 && p.o.data == o.data && !p.lse.data);
    CHECK(p.parts[1].o == parts[1].data && p.parts[1].lse == lses[1].data);
    CHECK(p.parts[1].o_strides[1] == 640 && p.parts[1].lse_strides[1] == 10);
  }
  // A second one opens nothing.
  fake().call_count = 0;
  fake().capturing = 1;
  CHECK_OK(attn_merge(context, &args, nullptr));
  fake().capturing = 0;

  attn_context_destroy(context);  // unloads the plugin, which gives the device back
  check_clean("merge");
}

// More parts than a launch's parameters hold are merged on top of what there is so far, in order; a
// part that is an output's own view comes first, and the sink last.
void merges_of_many() {
  constexpr int kMany = 130, kInPlace = 100, kMost = attn::cuda::kMaxMergeParts;
  fake_cuda_reset();
  Problem memory;
  fake().param_bytes = sizeof(MergeParams);
  const int64_t shape[] = {1, 2, 2, 8}, heads[] = {2};
  std::vector<attn_tensor> o(kMany), lse(kMany);
  std::vector<const attn_tensor*> o_parts, lse_parts;
  for (size_t i = 0; i < kMany; ++i) {
    memory.place(&o[i], 0, ATTN_DTYPE_F32, 4, shape);
    memory.place(&lse[i], 1, ATTN_DTYPE_F32, 3, shape);
    o[i].byte_offset = i * 1024;
    lse[i].byte_offset = i * 64;
    o_parts.push_back(&o[i]);
    lse_parts.push_back(&lse[i]);
  }
  attn_tensor sink, half, apart;
  memory.place(&sink, 2, ATTN_DTYPE_F32, 1, heads);
  memory.place(&half, 3, ATTN_DTYPE_F16, 4, shape);
  memory.place(&apart, 4, ATTN_DTYPE_F32, 4, shape);
  attn_merge_args args = ATTN_MERGE_ARGS_INIT;
  args.count = kMany;
  args.o_parts = o_parts.data();
  args.lse_parts = lse_parts.data();
  args.o = &apart;
  args.lse = &lse[kInPlace];
  args.sink = &sink;
  args.stream = fake_cuda_stream(0, 1);
  attn_context* context = new_context();
  CHECK_OK(attn_merge(context, &args, nullptr));
  std::vector<int> seen;
  CHECK(fake().launch_count == 3, "%d launches", fake().launch_count);
  for (int32_t l = 0; l < fake().launch_count; ++l) {
    const MergeParams p = launched<MergeParams>(l);
    CHECK(p.count <= kMost && p.o.data == apart.data && (p.sink != nullptr) == (l == 2));
    for (int i = 0; i < p.count; ++i) {
      const auto at = reinterpret_cast<const char*>(p.parts[i].o) - static_cast<char*>(o[0].data);
      const auto at_lse =
          reinterpret_cast<const char*>(p.parts[i].lse) - static_cast<char*>(lse[0].data);
      if (l > 0 && i == 0) {  // what there is so far
        CHECK(p.parts[0].o == p.o.data && p.parts[0].lse == p.lse.data);
        CHECK(p.parts[0].o_strides[1] == p.o.strides[1]);
        continue;
      }
      seen.push_back(static_cast<int>(at / 1024));
      CHECK(at_lse == 64 * seen.back());
    }
  }
  std::vector<int> expected = {kInPlace};
  for (int i = 0; i < kMany; ++i) {
    if (i != kInPlace) expected.push_back(i);
  }
  CHECK(seen == expected);

  // Without an f32 o and lse there is no place for what there is so far; few parts need none.
  for (const bool is_half : {false, true}) {
    args.o = is_half ? &half : &apart;
    args.lse = is_half ? &lse[kInPlace] : nullptr;
    args.count = kMost;
    CHECK_OK(attn_merge(context, &args, nullptr));
    args.count = kMost + 1;
    attn_error error{};
    const attn_status status = attn_merge(context, &args, &error);
    check_failure("many parts", status, error, {ATTN_ERROR_UNSUPPORTED});
    CHECK(mentions(error.message, "count") && mentions(error.message, "lse"), "%s", error.message);
  }
  attn_context_destroy(context);
  check_clean("merge of many");
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
    TEST(listing_touches_no_device),
    TEST(drivers_that_are_refused),
    TEST(order_of_calls),
    TEST(choices),
    TEST(devices_that_are_not_there),
    TEST(plans_that_fail),
    TEST(launches_of_the_mma_family),
    TEST(launches_of_the_wgmma_family),
    TEST(unaligned_runs),
    TEST(splits),
    TEST(nothing_to_do),
    TEST(captures),
    TEST(distinct_workspaces),
#if !defined(__SANITIZE_ADDRESS__)
    TEST(runs_allocate_nothing),
#endif
    TEST(large_tensors),
    TEST(more_tiles_than_a_grid),
    TEST(libraries_that_are_older),
    TEST(pointers),
    TEST(streams),
    TEST(runs_that_fail),
    TEST(two_devices),
    TEST(forks),
    TEST(merges),
    TEST(merges_of_many)
  };
  return run_tests("cuda host side", argc, argv, tests);
}

// host_installed.cpp: the installed plugin with its real kernels on the fake driver: whatever a
// plan takes is in an image, is loaded before it is launched, and fits the device.
#include <attn/attn.h>

#include <cstring>
#include <string>

#include "fake_libcuda.h"
#include "harness.h"

namespace attn_test {
namespace {

alignas(128) char memory[1 << 24];

struct Gpu {
  const char* name;
  int32_t sm;
  int32_t shared_optin;
};
constexpr Gpu kGpus[] = {{"A100", 80, 163 * 1024},
                         {"RTX 4090", 89, 99 * 1024},
                         {"H200", 90, 227 * 1024},
                         {"B200", 100, 227 * 1024},
                         {"RTX 5090", 120, 99 * 1024}};

attn_tensor device_tensor(int slot, attn_dtype dtype, int64_t heads, int64_t seqlen, int64_t dim) {
  const int64_t shape[] = {2, heads, seqlen, dim};
  attn_tensor t;
  attn_tensor_init(&t, memory + slot * (1 << 21), dtype, 4, shape);
  t.device_type = ATTN_DEVICE_CUDA;
  return t;
}

// Plans and runs one problem; counts what was refused and what ran.
void one(attn_context* context, const Gpu& gpu, attn_dtype dtype, int64_t dim,
         attn_features features, int64_t kv_chunk) {
  fake_cuda& fake = *fake_cuda_state();
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.device_type = ATTN_DEVICE_CUDA;
  config.q_dtype = dtype;
  config.heads_q = 4;
  config.heads_kv = 2;
  config.head_dim = dim;
  config.max_batch = 2;
  config.max_seqlen_q = config.max_seqlen_k = 300;
  config.features = features;
  config.kv_chunk = kv_chunk;
  config.backend = "cuda";
  attn_plan* plan = nullptr;
  attn_error error{};
  const attn_status status = attn_plan_create(context, &config, &plan, &error);
  if (status == ATTN_ERROR_UNSUPPORTED) {
    count(std::string("refused on ") + gpu.name);
    return;
  }
  if (!CHECK(status == ATTN_OK, "%s, dtype %d, head size %d: %s", gpu.name, dtype,
             static_cast<int>(dim), error.message)) {
    return;
  }
  const attn_tensor q = device_tensor(0, dtype, 4, 300, dim),
                    k = device_tensor(1, dtype, 2, 300, dim);
  const attn_tensor v = device_tensor(2, dtype, 2, 300, dim),
                    o = device_tensor(3, dtype, 4, 300, dim);
  attn_run_args args = ATTN_RUN_ARGS_INIT;
  args.q = &q;
  args.k = &k;
  args.v = &v;
  args.o = &o;
  CHECK_OK(attn_plan_workspace_size(plan, &args.workspace_size, nullptr));
  args.workspace = memory + 4 * (1 << 21);
  CHECK(args.workspace_size <= sizeof memory - 4 * (1 << 21), "%zu", args.workspace_size);
  fake.launch_count = 0;
  fake.capturing = 1;
  CHECK_OK(attn_run(plan, &args, nullptr));
  fake.capturing = 0;
  CHECK(fake.launch_count >= 1);
  CHECK(static_cast<int32_t>(fake.launches[0].shared_bytes) <= gpu.shared_optin);
  count(std::string("launched on ") + gpu.name);
  attn_plan_destroy(plan);
}

void every_device() {
  const attn_dtype dtypes[] = {ATTN_DTYPE_F32, ATTN_DTYPE_F16, ATTN_DTYPE_BF16};
  for (const Gpu& gpu : kGpus) {
    fake_cuda_reset();
    fake_cuda& fake = *fake_cuda_state();
    fake.sm[0] = gpu.sm;
    fake.shared_optin = gpu.shared_optin;
    fake.ranges[fake.range_count++] = {memory, sizeof memory, 2, 0, 0};
    attn_context* context = nullptr;
    CHECK_OK(attn_context_create(nullptr, &context, nullptr));
    for (const attn_dtype dtype : dtypes) {
      for (const int64_t dim : {8, 64, 72, 96, 128, 192, 256}) {
        for (const attn_features features : {0, static_cast<int>(ATTN_CAUSAL)}) {
          one(context, gpu, dtype, dim, features, 0);
        }
        one(context, gpu, dtype, dim, 0, 256);
      }
    }
    attn_context_destroy(context);
    CHECK(fake.violation[0] == '\0', "%s: %s", gpu.name, fake.violation);
    CHECK(fake.modules == 0 && fake.retained[0] == 0 && fake.pushed == 0, "%s", gpu.name);
    CHECK(counted(std::string("launched on ") + gpu.name) > 0, "%s", gpu.name);
  }
}

// One query: a tile of 64 rows where there is one, whatever else the problem has.
void short_queries() {
  for (const bool features : {false, true}) {
    for (const int64_t dim : {64, 128, 256}) {
      fake_cuda_reset();
      fake_cuda_state()->sm[0] = 80;
      fake_cuda_state()->shared_optin = 163 * 1024;
      attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
      config.device_type = ATTN_DEVICE_CUDA;
      config.q_dtype = ATTN_DTYPE_BF16;
      config.heads_q = 32;
      config.heads_kv = 8;
      config.head_dim = dim;
      config.max_batch = 2;
      config.max_seqlen_q = 1;
      config.max_seqlen_k = 4096;
      config.softcap = features ? 30 : 0;
      config.backend = "cuda";
      attn_context* context = nullptr;
      attn_plan* plan = nullptr;
      CHECK_OK(attn_context_create(nullptr, &context, nullptr));
      if (CHECK_OK(attn_plan_create(context, &config, &plan, nullptr))) {
        attn_plan_info info = ATTN_PLAN_INFO_INIT;
        CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
        const std::string expected = "attn_mma_bf16_d" + std::to_string(dim) + "_q64" +
                                     (features ? "_features" : "") + " (sm_80)";
        CHECK(std::string(info.kernel).rfind(expected, 0) == 0, "%s", info.kernel);
      }
      attn_plan_destroy(plan);
      attn_context_destroy(context);
    }
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {TEST(every_device), TEST(short_queries)};
  return run_tests("installed plugin", argc, argv, tests);
}

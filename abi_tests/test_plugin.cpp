// test_plugin.cpp: backends that are shared libraries of their own: found in the directory that
// the context names, listed with a reason where they cannot be used, forced by name.
#include <cstring>
#include <string>
#include <vector>

#include "expect.h"
#include "harness.h"

namespace attn_test {
namespace {

attn_context* context_with_plugins() {
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.backend_dir = ATTN_TEST_PLUGIN_DIR;
  attn_context* context = nullptr;
  CHECK_OK(attn_context_create(&config, &context, nullptr));
  return context;
}

std::vector<attn_backend_info> backends(const attn_context* context) {
  std::vector<attn_backend_info> all;
  for (int32_t i = 0; i < attn_context_backend_count(context); ++i) {
    attn_backend_info info = ATTN_BACKEND_INFO_INIT;
    CHECK_OK(attn_context_get_backend(context, i, &info, nullptr));
    all.push_back(info);
  }
  return all;
}

// flash first, standard last, the plugins by name between them.
void listing() {
  attn_context* context = context_with_plugins();
  const struct {
    const char* name;
    const char* reason;  // a part of it; "" for an available one
  } expected[] = {{"flash", ""},
                  {"future", "99"},
                  {"hollow", "attn_backend_v1"},
                  {"lonely", "no such device in this machine"},
                  {"newer", "made for libattn 9.8.7; this is libattn 0."},
                  {"older", "made for libattn 0.0.5; this is libattn 0."},
                  {"text", "libattn_text.so"},
                  {"three", ""},
                  {"cuda", "libattn_cuda.so"},
                  {"standard", ""}};
  const auto found = backends(context);
  if (CHECK(found.size() == std::size(expected), "%zu backends", found.size())) {
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK(std::strcmp(found[i].name, expected[i].name) == 0, "%s at %zu", found[i].name, i);
      CHECK(std::strstr(found[i].reason, expected[i].reason) != nullptr, "%s: %s", found[i].name,
            found[i].reason);
      CHECK((found[i].available != 0) == (*expected[i].reason == '\0'), "%s", found[i].name);
      CHECK((found[i].available != 0) == (*found[i].reason == '\0'), "%s", found[i].name);
    }
  }
  attn_context_destroy(context);
}

attn_plan_config problem(const char* backend, int64_t head_dim_v) {
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = 2;
  config.head_dim = 16;
  config.head_dim_v = head_dim_v;
  config.max_seqlen_q = config.max_seqlen_k = 4;
  config.backend = backend;
  return config;
}

void forced() {
  attn_context* context = context_with_plugins();
  attn_plan_config config = problem("three", 3);
  attn_plan* plan = nullptr;
  if (CHECK_OK(attn_plan_create(context, &config, &plan, nullptr))) {
    attn_plan_info info = ATTN_PLAN_INFO_INIT;
    CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
    CHECK(std::strcmp(info.backend, "three") == 0, "%s", info.backend);
    CHECK(info.workspace_size == 128 && info.tile_k == 5 && info.tile_q == 0);
    attn_context_destroy(context);  // the plan keeps the plugin loaded
    context = nullptr;

    alignas(64) char workspace[128];
    float q[2 * 4 * 16] = {}, k[2 * 4 * 16] = {}, v[2 * 4 * 3] = {}, o[2 * 4 * 3] = {};
    const int64_t wide[] = {1, 2, 4, 16}, narrow[] = {1, 2, 4, 3};
    attn_tensor tensors[4];
    attn_tensor_init(&tensors[0], q, ATTN_DTYPE_F32, 4, wide);
    attn_tensor_init(&tensors[1], k, ATTN_DTYPE_F32, 4, wide);
    attn_tensor_init(&tensors[2], v, ATTN_DTYPE_F32, 4, narrow);
    attn_tensor_init(&tensors[3], o, ATTN_DTYPE_F32, 4, narrow);
    attn_run_args args = ATTN_RUN_ARGS_INIT;
    args.q = &tensors[0];
    args.k = &tensors[1];
    args.v = &tensors[2];
    args.o = &tensors[3];
    args.workspace = workspace;
    args.workspace_size = sizeof workspace;
    CHECK_OK(attn_run(plan, &args, nullptr));
    for (const float x : o) CHECK(x == 0.25f, "%g", static_cast<double>(x));
  }
  attn_plan_destroy(plan);
  attn_context_destroy(context);
}

void refused() {
  attn_context* context = context_with_plugins();
  const struct {
    const char* backend;
    attn_status status;
    const char* word;
  } cases[] = {{"three", ATTN_ERROR_UNSUPPORTED, "head_dim_v"},
               {"lonely", ATTN_ERROR_UNAVAILABLE, "device"},
               {"hollow", ATTN_ERROR_UNAVAILABLE, "attn_backend_v1"},
               {"cuda", ATTN_ERROR_UNAVAILABLE, "libattn_cuda"},
               {"nobody", ATTN_ERROR_INVALID_ARGUMENT, "three"}};
  for (const auto& c : cases) {
    const attn_plan_config config = problem(c.backend, 4);
    attn_plan* plan = nullptr;
    attn_error error = {ATTN_OK, ""};
    const attn_status status = attn_plan_create(context, &config, &plan, &error);
    check_failure(c.backend, status, error, {c.status}, {c.word}, "");
    CHECK(plan == nullptr, "%s", c.backend);
  }
  attn_context_destroy(context);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {TEST(listing), TEST(forced), TEST(refused)};
  return run_tests("plugin", argc, argv, tests);
}

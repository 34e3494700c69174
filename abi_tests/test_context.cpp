// test_context.cpp: contexts: every field's bad values, forced instruction sets, introspection, and
// the errors of merging.
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "compare.h"
#include "expect.h"
#include "host.h"

namespace attn_test {
namespace {

constexpr attn_status kInvalid = ATTN_ERROR_INVALID_ARGUMENT;

void expect_refused(const char* what, const attn_context_config& config,
                    const std::initializer_list<attn_status>& statuses,
                    const std::initializer_list<const char*>& fields,
                    const std::string& held = "") {
  attn_error error = {ATTN_OK, ""};
  attn_context* const untouched = reinterpret_cast<attn_context*>(&error);
  attn_context* context = untouched;
  const attn_status status = attn_context_create(&config, &context, &error);
  check_failure(what, status, error, statuses, fields, held);
  if (status == ATTN_OK) {
    attn_context_destroy(context);
  } else {
    CHECK(context == untouched, "%s: the context was set on failure", what);
  }
}

// The first test: whatever the process asks for it has for good.
void units_to_ask_for() {
#if defined(__linux__) && defined(__x86_64__)
  attn_context* probe = context_with_threads(ATTN_ISA_AUTO, 1);
  attn_isa_info isa = ATTN_ISA_INFO_INIT;
  for (int32_t i = 0; i < attn_context_isa_count(probe) && isa.isa != ATTN_ISA_AMX_BF16; i++) {
    CHECK_OK(attn_context_get_isa(probe, i, &isa, nullptr));
  }
  attn_context_destroy(probe);
  if (!isa.available) {
    std::printf("amx_bf16 is not here: %s\n", isa.reason);
    return;
  }
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.isa = ATTN_ISA_AMX_BF16;
  static char memory[4096];  // too small for what a signal handler finds on it then
  stack_t before, small = {};
  small.ss_sp = memory;
  small.ss_size = sizeof memory;
  CHECK(sigaltstack(&small, &before) == 0);
  expect_refused("a small stack", config, {ATTN_ERROR_UNAVAILABLE}, {"isa"}, "signal handlers");
  CHECK(sigaltstack(&before, nullptr) == 0);
  attn_context_destroy(context_with_threads(ATTN_ISA_AMX_BF16, 1));

  // What the process may use now is not chosen for all that.
  attn_context* context = context_with_threads(ATTN_ISA_AUTO, 1);
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  CHECK_OK(attn_context_get_info(context, &info, nullptr));
  if (!std::getenv("ATTN_FORCE_ISA")) {
    CHECK(info.isa != ATTN_ISA_AMX_BF16);
    attn_plan_config problem = ATTN_PLAN_CONFIG_INIT;
    problem.q_dtype = ATTN_DTYPE_BF16;
    problem.heads_q = problem.head_dim = problem.max_seqlen_q = problem.max_seqlen_k = 16;
    attn_plan* plan = nullptr;
    CHECK_OK(attn_plan_create(context, &problem, &plan, nullptr));
    std::vector<char> text(attn_plan_describe(plan, nullptr, 0) + 1);
    attn_plan_describe(plan, text.data(), text.size());
    CHECK(std::strstr(text.data(), "not amx_bf16"), "%s", text.data());
    attn_plan_destroy(plan);
  }
  attn_context_destroy(context);
#endif
}

void bad_fields() {
  const attn_context_config good = ATTN_CONTEXT_CONFIG_INIT;
  attn_context_config config = good;
  for (const int32_t threads : {-1, 1025, INT32_MIN, INT32_MAX}) {
    config = good;
    config.num_threads = threads;
    expect_refused("num_threads", config, {kInvalid}, {"num_threads"}, std::to_string(threads));
  }
  for (const attn_isa isa : {-1, 7, 1000}) {
    config = good;
    config.isa = isa;
    expect_refused("isa", config, {kInvalid}, {"isa"}, std::to_string(isa));
  }
  config = good;
  config.reserved = 1;
  expect_refused("reserved", config, {kInvalid}, {"reserved"}, "1");
  for (const char* directory : {"plugins", "./plugins", "../lib", ""}) {
    config = good;
    config.backend_dir = directory;
    expect_refused("backend_dir", config, {kInvalid}, {"backend_dir"});
  }

  SerialExecutor serial{false, 1};
  attn_executor executor = serial.executor();
  config = good;
  config.executor = &executor;
  config.num_threads = 2;
  expect_refused("executor and num_threads", config, {kInvalid}, {"num_threads", "executor"});
  config.num_threads = 0;
  for (const int32_t concurrency : {-1, 1025, INT32_MIN}) {
    executor.concurrency = concurrency;
    expect_refused("concurrency", config, {kInvalid}, {"concurrency"}, std::to_string(concurrency));
  }
  executor = serial.executor();
  executor.parallel_for = nullptr;
  expect_refused("parallel_for", config, {kInvalid}, {"parallel_for"});

  CountingAllocator counter;
  attn_allocator allocator = counter.allocator();
  config = good;
  config.allocator = &allocator;
  allocator.allocate = nullptr;
  expect_refused("allocate", config, {kInvalid}, {"allocate"});
  allocator = counter.allocator();
  allocator.deallocate = nullptr;
  expect_refused("deallocate", config, {kInvalid}, {"deallocate"});
  allocator = counter.allocator();
  allocator.reserved = 7;
  expect_refused("allocator.reserved", config, {kInvalid}, {"reserved"}, "7");

  attn_error error = {ATTN_OK, ""};
  check_failure("no context", attn_context_create(&good, nullptr, &error), error, {kInvalid},
                {"context"});
}

// An executor that says 0 workers has one.
void zero_means_one() {
  SerialExecutor serial{false, 1};
  attn_executor executor = serial.executor();
  executor.concurrency = 0;
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.executor = &executor;
  attn_context* context = make_context(config);
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  CHECK_OK(attn_context_get_info(context, &info, nullptr));
  CHECK(info.concurrency == 1);
  attn_context_destroy(context);
}

// Every instruction set in the list can be forced if it is there, and says why if it is not.
void instruction_sets() {
  attn_context* context = nullptr;
  CHECK_OK(attn_context_create(nullptr, &context, nullptr));
  std::set<attn_isa> seen;
  attn_context_info best = ATTN_CONTEXT_INFO_INIT;
  CHECK_OK(attn_context_get_info(context, &best, nullptr));
  const int32_t number = attn_context_isa_count(context);
  for (int32_t i = 0; i < number; i++) {
    attn_isa_info isa = ATTN_ISA_INFO_INIT;
    CHECK_OK(attn_context_get_isa(context, i, &isa, nullptr));
    CHECK(seen.insert(isa.isa).second && isa.isa > 0, "isa %d twice", isa.isa);
    CHECK((*isa.reason == '\0') == (isa.available != 0), "%s: \"%s\"", isa.name, isa.reason);
    if (isa.isa == ATTN_ISA_SCALAR) CHECK(isa.available);
    attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
    config.isa = isa.isa;
    if (isa.available) {
      attn_context* forced = make_context(config);
      attn_context_info info = ATTN_CONTEXT_INFO_INIT;
      CHECK_OK(attn_context_get_info(forced, &info, nullptr));
      CHECK(info.isa == isa.isa && std::strcmp(info.isa_name, isa.name) == 0, "%s", info.isa_name);
      attn_context_destroy(forced);
    } else {
      CHECK(best.isa != isa.isa);
      expect_refused(isa.name, config, {ATTN_ERROR_UNAVAILABLE}, {"isa"});
      attn_error error = {ATTN_OK, ""};
      attn_context* none = nullptr;
      CHECK(attn_context_create(&config, &none, &error) != ATTN_OK);
      CHECK(mentions(error.message, isa.name) && std::strstr(error.message, isa.reason),
            "\"%s\" lacks the reason \"%s\"", error.message, isa.reason);
    }
    // By the environment; the config's own choice comes first.
    setenv("ATTN_FORCE_ISA", isa.name, 1);
    attn_context* by_environment = nullptr;
    attn_error error = {ATTN_OK, ""};
    const attn_status status = attn_context_create(nullptr, &by_environment, &error);
    if (isa.available) {
      attn_context_info info = ATTN_CONTEXT_INFO_INIT;
      CHECK(status == ATTN_OK, "%s", error.message);
      CHECK_OK(attn_context_get_info(by_environment, &info, nullptr));
      CHECK(info.isa == isa.isa, "ATTN_FORCE_ISA=%s gives %s", isa.name, info.isa_name);
    } else {
      check_failure(isa.name, status, error, {ATTN_ERROR_UNAVAILABLE}, {"ATTN_FORCE_ISA"});
    }
    attn_context_destroy(by_environment);
    config.isa = ATTN_ISA_SCALAR;
    attn_context* by_config = make_context(config);
    attn_context_info info = ATTN_CONTEXT_INFO_INIT;
    CHECK_OK(attn_context_get_info(by_config, &info, nullptr));
    CHECK(info.isa == ATTN_ISA_SCALAR);
    attn_context_destroy(by_config);
    unsetenv("ATTN_FORCE_ISA");
  }
  CHECK(seen == (std::set<attn_isa>{1, 2, 3, 4, 5, 6}), "%zu instruction sets", seen.size());
  for (const char* value : {"sse9", "AVX512,", " "}) {
    setenv("ATTN_FORCE_ISA", value, 1);
    attn_context* none = nullptr;
    attn_error error = {ATTN_OK, ""};
    check_failure(value, attn_context_create(nullptr, &none, &error), error,
                  {kInvalid, ATTN_ERROR_UNAVAILABLE}, {"ATTN_FORCE_ISA"});
  }
  setenv("ATTN_FORCE_ISA", "", 1);  // as good as not set
  attn_context* again = nullptr;
  CHECK_OK(attn_context_create(nullptr, &again, nullptr));
  attn_context_destroy(again);
  unsetenv("ATTN_FORCE_ISA");
  attn_context_destroy(context);
}

void introspection() {
  attn_context* context = targets().at(0).context;
  attn_error error = {ATTN_OK, ""};
  attn_isa_info isa = ATTN_ISA_INFO_INIT;
  attn_backend_info backend = ATTN_BACKEND_INFO_INIT;
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  for (const int32_t index : {-1, attn_context_isa_count(context), INT32_MAX, INT32_MIN}) {
    check_failure("isa", attn_context_get_isa(context, index, &isa, &error), error, {kInvalid},
                  {"index"}, std::to_string(index));
  }
  for (const int32_t index : {-1, attn_context_backend_count(context), INT32_MAX, INT32_MIN}) {
    check_failure("backend", attn_context_get_backend(context, index, &backend, &error), error,
                  {kInvalid}, {"index"}, std::to_string(index));
  }
  check_failure("no context", attn_context_get_isa(nullptr, 0, &isa, &error), error, {kInvalid},
                {"context"});
  check_failure("no context", attn_context_get_backend(nullptr, 0, &backend, &error), error,
                {kInvalid}, {"context"});
  check_failure("no context", attn_context_get_info(nullptr, &info, &error), error, {kInvalid},
                {"context"});
  CHECK(attn_context_isa_count(nullptr) == 0 && attn_context_backend_count(nullptr) == 0);

  std::set<std::string> names;
  for (int32_t i = 0; i < attn_context_backend_count(context); i++) {
    CHECK_OK(attn_context_get_backend(context, i, &backend, nullptr));
    names.insert(backend.name);
    CHECK((*backend.reason == '\0') == (backend.available != 0), "%s: \"%s\"", backend.name,
          backend.reason);
    if (backend.available) {
      CHECK(*backend.description != '\0', "%s has no description", backend.name);
    }
  }
  CHECK(names.count("standard") && names.count("flash"));
  CHECK_OK(attn_context_get_info(context, &info, nullptr));
  CHECK(info.backend_dir && (*info.backend_dir == '\0' || *info.backend_dir == '/'));
}

// snprintf's way: the length whatever the size, a closing NUL, nothing beyond.
void description_of_a_plan() {
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = config.head_dim = config.max_seqlen_q = config.max_seqlen_k = 16;
  config.features = ATTN_BIAS;
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(targets().at(0).context, &config, &plan, nullptr));
  const size_t length = attn_plan_describe(plan, nullptr, 0);
  CHECK(length > 20);
  std::vector<char> text(length + 10, '#');
  CHECK(attn_plan_describe(plan, text.data(), text.size()) == length);
  CHECK(std::strlen(text.data()) == length && text[length + 1] == '#');
  CHECK(std::strstr(text.data(), "standard") && std::strstr(text.data(), "flash"), "%s",
        text.data());
  attn_plan_info info = ATTN_PLAN_INFO_INIT;
  CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
  const std::string words(text.data());
  for (const std::string& word : {std::to_string(info.workspace_size) + " bytes",
                                  std::to_string(info.standard_workspace_size) + " bytes",
                                  "tile_k             " + std::to_string(info.tile_k) + ", default",
                                  std::string(info.isa_name), std::string("not standard")}) {
    CHECK(words.find(word) != std::string::npos, "\"%s\" is not in %s", word.c_str(), text.data());
  }
  for (const size_t size : {size_t{1}, size_t{2}, length / 2, length}) {
    std::vector<char> cut(length + 10, '#');
    CHECK(attn_plan_describe(plan, cut.data(), size) == length);
    CHECK(std::strlen(cut.data()) == size - 1 && cut[size] == '#', "of %zu bytes", size);
    CHECK(std::memcmp(cut.data(), text.data(), size - 1) == 0);
  }
  attn_plan_destroy(plan);
}

struct MergeCase {
  const char* name;
  void (*spoil)(attn_merge_args& args, attn_tensor& o_part, attn_tensor& lse_part, attn_tensor& o,
                attn_tensor& lse, attn_tensor& sink);
  std::initializer_list<const char*> fields;
};
#define SPOIL_MERGE(statement)                                              \
  []([[maybe_unused]] attn_merge_args& a, [[maybe_unused]] attn_tensor& op, \
     [[maybe_unused]] attn_tensor& lp, [[maybe_unused]] attn_tensor& o,     \
     [[maybe_unused]] attn_tensor& l, [[maybe_unused]] attn_tensor& s) { statement; }

void merge_errors() {
  static const attn_tensor* const kNone[] = {nullptr, nullptr};
  static float elsewhere[64];
  const MergeCase cases[] = {
      {"count 0", SPOIL_MERGE(a.count = 0), {"count"}},
      {"count -1", SPOIL_MERGE(a.count = -1), {"count"}},
      {"no o_parts", SPOIL_MERGE(a.o_parts = nullptr), {"o_parts"}},
      {"no lse_parts", SPOIL_MERGE(a.lse_parts = nullptr), {"lse_parts"}},
      {"a NULL part", SPOIL_MERGE(a.o_parts = kNone), {"o_parts[0]", "o_parts"}},
      {"a NULL lse part", SPOIL_MERGE(a.lse_parts = kNone), {"lse_parts[0]", "lse_parts"}},
      {"no o", SPOIL_MERGE(a.o = nullptr), {"o"}},
      {"a stream", SPOIL_MERGE(a.stream = &a), {"stream"}},
      {"part of f16", SPOIL_MERGE(op.dtype = ATTN_DTYPE_F16), {"o_parts[1]", "o_parts"}},
      {"part of rank 3", SPOIL_MERGE(op.rank = 3), {"o_parts[1]", "o_parts"}},
      {"part without data", SPOIL_MERGE(op.data = nullptr), {"o_parts[1]", "o_parts"}},
      {"part of another batch", SPOIL_MERGE(op.shape[0] = 1), {"o_parts[1]", "o_parts"}},
      {"part of other heads", SPOIL_MERGE(op.shape[1] = 4), {"o_parts[1]", "o_parts"}},
      {"part of other rows", SPOIL_MERGE(op.shape[2] = 1), {"o_parts[1]", "o_parts"}},
      {"part of another dim", SPOIL_MERGE(op.shape[3] = 1), {"o_parts[1]", "o_parts"}},
      {"part with reserved", SPOIL_MERGE(op.reserved[1] = 1), {"o_parts[1]", "o_parts"}},
      {"part on a device", SPOIL_MERGE(op.device_type = 2), {"o_parts[1]", "o_parts"}},
      {"lse part of f16", SPOIL_MERGE(lp.dtype = ATTN_DTYPE_F16), {"lse_parts[1]", "lse_parts"}},
      {"lse part of rank 4", SPOIL_MERGE(lp.rank = 4), {"lse_parts[1]", "lse_parts"}},
      {"lse part of other rows", SPOIL_MERGE(lp.shape[2] = 3), {"lse_parts[1]", "lse_parts"}},
      {"o of i32", SPOIL_MERGE(o.dtype = ATTN_DTYPE_I32), {"o"}},
      {"o of rank 3", SPOIL_MERGE(o.rank = 3), {"o"}},
      {"o with stride 0", SPOIL_MERGE(o.strides[2] = 0), {"o"}},
      {"o without data", SPOIL_MERGE(o.data = nullptr), {"o"}},
      {"lse of f16", SPOIL_MERGE(l.dtype = ATTN_DTYPE_F16), {"lse"}},
      {"lse with stride 0", SPOIL_MERGE(l.strides[0] = 0), {"lse"}},
      {"lse of other rows", SPOIL_MERGE(l.shape[2] = 1), {"lse"}},
      {"sink of other heads", SPOIL_MERGE(s.shape[0] = 3), {"sink"}},
      {"sink of rank 2", SPOIL_MERGE(s.rank = 2), {"sink"}},
      {"sink of f16", SPOIL_MERGE(s.dtype = ATTN_DTYPE_F16), {"sink"}},
      {"o over a part, but not its view",
       SPOIL_MERGE(op.data = elsewhere; o.data = elsewhere + 2),
       {"o"}},
      {"lse over a part of o", SPOIL_MERGE(l.data = op.data), {"lse"}},
      {"o over lse", SPOIL_MERGE(o.data = l.data), {"o", "lse"}},
  };
  for (const MergeCase& test : cases) {
    float o_values[2][24] = {}, lse_values[2][12] = {}, sink_values[2] = {};
    float o_out[24], lse_out[12];
    std::memset(o_out, 0xff, sizeof o_out);
    std::memset(lse_out, 0xff, sizeof lse_out);
    const int64_t shape[] = {2, 2, 2, 3}, heads[] = {2};
    attn_tensor o_parts[2], lse_parts[2], o, lse, sink;
    for (int part = 0; part < 2; part++) {
      attn_tensor_init(&o_parts[part], o_values[part], ATTN_DTYPE_F32, 4, shape);
      attn_tensor_init(&lse_parts[part], lse_values[part], ATTN_DTYPE_F32, 3, shape);
    }
    attn_tensor_init(&o, o_out, ATTN_DTYPE_F32, 4, shape);
    attn_tensor_init(&lse, lse_out, ATTN_DTYPE_F32, 3, shape);
    attn_tensor_init(&sink, sink_values, ATTN_DTYPE_F32, 1, heads);
    const attn_tensor *o_list[] = {&o_parts[0], &o_parts[1]},
                      *lse_list[] = {&lse_parts[0], &lse_parts[1]};
    attn_merge_args args = ATTN_MERGE_ARGS_INIT;
    args.count = 2;
    args.o_parts = o_list;
    args.lse_parts = lse_list;
    args.o = &o;
    args.lse = &lse;
    args.sink = &sink;
    test.spoil(args, o_parts[1], lse_parts[1], o, lse, sink);
    attn_error error = {ATTN_OK, ""};
    const attn_status status = attn_merge(targets().at(0).context, &args, &error);
    check_failure(test.name, status, error, {kInvalid}, test.fields);
    for (const float x : o_out) CHECK(std::isnan(x) || status == ATTN_OK, "%s", test.name);
    for (const float x : lse_out) CHECK(std::isnan(x) || status == ATTN_OK, "%s", test.name);
  }
  attn_error error = {ATTN_OK, ""};
  attn_merge_args args = ATTN_MERGE_ARGS_INIT;
  check_failure("no context", attn_merge(nullptr, &args, &error), error, {kInvalid}, {"context"});
  check_failure("no args", attn_merge(targets().at(0).context, nullptr, &error), error, {kInvalid},
                {"args", "attn_merge_args"});
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(units_to_ask_for), TEST(bad_fields),    TEST(zero_means_one),
      TEST(instruction_sets), TEST(introspection), TEST(description_of_a_plan),
      TEST(merge_errors),
  };
  return run_tests("context", argc, argv, tests);
}

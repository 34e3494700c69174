// test_autotune.cpp: attn_plan_autotune finds the fastest values, writes nothing of the caller's,
// and says what is wrong with its arguments.
#include <dlfcn.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "compare.h"
#include "expect.h"
#include "host.h"
#include "placement.h"
#include "reference.h"

namespace attn_test {
namespace {

constexpr attn_status kInvalid = ATTN_ERROR_INVALID_ARGUMENT;
constexpr int64_t kMs = 1000000;

attn_context* context_with_tunable() {
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.backend_dir = ATTN_TEST_PLUGIN_DIR;
  return make_context(config);
}

Problem long_problem() {
  Problem p;
  p.name = "long";
  p.heads_q = 2;
  p.head_dim = p.head_dim_v = 16;
  p.seqlens_q = {40};
  p.seqlens_k = {20000};
  return p;
}

// A plan with the tensors of a run.
struct Subject {
  Subject(attn_context* context, const Problem& wanted,
          attn_plan_config (*change)(attn_plan_config))
      : problem(wanted), data(make_data(problem)), placement(problem, data) {
    const attn_plan_config config = change(placement.config());
    CHECK_OK(attn_plan_create(context, &config, &plan, nullptr));
  }
  ~Subject() { attn_plan_destroy(plan); }
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  // Nothing of the caller's was written.
  void check_untouched(const char* what) {
    const std::string damage = placement.damage();
    CHECK(damage.empty(), "%s: %s", what, damage.c_str());
    const Outcome outcome = placement.outcome(ATTN_OK, attn_error{});
    for (const double x : outcome.o) CHECK(std::isnan(x), "%s: o was written", what);
    for (const double x : outcome.lse) CHECK(std::isnan(x), "%s: lse was written", what);
  }

  Problem problem;
  Data data;
  Placement placement;
  attn_plan* plan = nullptr;
};

// Values whose times are known: the fastest ones are found, in a field that is left open only.
void finds_the_fastest() {
  attn_context* context = context_with_tunable();
  const struct {
    const char* name;
    attn_plan_config (*change)(attn_plan_config);
    int64_t tile_k, kv_chunk;
    bool faster;
    int32_t measured;  // 0: any
  } cases[] = {
      {"both are open",
       [](attn_plan_config c) {
         c.backend = "tunable";
         return c;
       },
       128, 4096, true, 0},
      {"tile_k is given",
       [](attn_plan_config c) {
         c.backend = "tunable";
         c.tile_k = 256;
         return c;
       },
       256, 4096, true, 0},
      {"kv_chunk is given",
       [](attn_plan_config c) {
         c.backend = "tunable";
         c.kv_chunk = 512;
         return c;
       },
       128, 512, true, 0},
      {"both are given",
       [](attn_plan_config c) {
         c.backend = "tunable";
         c.tile_k = 1024;
         c.kv_chunk = 2048;
         return c;
       },
       1024, 2048, false, 1},
  };
  for (const auto& c : cases) {
    Subject subject(context, long_problem(), c.change);
    attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
    CHECK_OK(
        attn_plan_autotune(subject.plan, &subject.placement.args(), 4000 * kMs, &info, nullptr));
    CHECK(info.tile_k == c.tile_k && info.kv_chunk == c.kv_chunk, "%s: tile_k %d, kv_chunk %d",
          c.name, static_cast<int>(info.tile_k), static_cast<int>(info.kv_chunk));
    CHECK(info.default_ns > 0 && info.tuned_ns > 0);
    CHECK(c.faster ? info.tuned_ns < info.default_ns * 0.99 : info.tuned_ns == info.default_ns,
          "%s: %d ns instead of %d", c.name, static_cast<int>(info.tuned_ns),
          static_cast<int>(info.default_ns));
    CHECK(c.measured ? info.measured == c.measured : info.measured > 4, "%s: %d values", c.name,
          info.measured);
    subject.check_untouched(c.name);
  }
  attn_context_destroy(context);
}

// A run that fails ends it, with the run's own words and no plan left over.
void a_run_that_fails() {
  attn_context* context = context_with_tunable();
  void* library =
      dlopen(ATTN_TEST_PLUGIN_DIR "/libattn_tunable.so", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (!CHECK(library, "%s", dlerror())) return;
  const auto plans = reinterpret_cast<int (*)()>(dlsym(library, "attn_tunable_plans"));
  CHECK(plans() == 0, "%d plans are left over", plans());
  {
    Subject subject(context, long_problem(), [](attn_plan_config c) {
      c.backend = "tunable";
      c.scale = 2;
      return c;
    });
    attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
    const attn_autotune_info before = info;
    attn_error error;
    check_failure("a lost device",
                  attn_plan_autotune(subject.plan, &subject.placement.args(), kMs, &info, &error),
                  error, {ATTN_ERROR_DEVICE}, {"scale"});
    CHECK(std::memcmp(&info, &before, sizeof info) == 0, "info was written");
    CHECK(plans() == 1, "%d plans", plans());
  }
  CHECK(plans() == 0, "%d plans are left over", plans());
  dlclose(library);
  attn_context_destroy(context);
}

// On every backend: what is found can be put into a plan, which computes the right thing.
void found_values_serve() {
  Random random(11);
  for (const Target& target : targets()) {
    for (int i = 0; i < 4; ++i) {
      const Problem problem = random_problem(random);
      const Data data = make_data(problem);
      Placement placement(problem, data);
      attn_plan_config config = placement.config();
      config.backend = target.backend.c_str();
      attn_plan* plan = nullptr;
      if (attn_plan_create(target.context, &config, &plan, nullptr) != ATTN_OK) continue;
      attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
      CHECK_OK(attn_plan_autotune(plan, &placement.args(), 20 * kMs, &info, nullptr));
      attn_plan_destroy(plan);
      CHECK(info.measured >= 1 && info.default_ns >= info.tuned_ns && info.tuned_ns > 0);
      CHECK((info.tile_k > 0) == (target.backend == "flash"), "%s: tile_k %d",
            target.label().c_str(), static_cast<int>(info.tile_k));
      CHECK(placement.damage().empty(), "%s", placement.damage().c_str());

      config.tile_k = info.tile_k;
      config.kv_chunk = info.kv_chunk;
      if (!CHECK_OK(attn_plan_create(target.context, &config, &plan, nullptr))) continue;
      attn_plan_info chosen = ATTN_PLAN_INFO_INIT;
      CHECK_OK(attn_plan_get_info(plan, &chosen, nullptr));
      CHECK(chosen.tile_k == info.tile_k && chosen.kv_chunk == info.kv_chunk);
      attn_plan_destroy(plan);
      Problem tuned = problem;
      tuned.tile_k = info.tile_k;
      Placement run(tuned, data);
      const Outcome outcome = execute(target.context, target.backend.c_str(), tuned, run, nullptr);
      CHECK(outcome.status == ATTN_OK, "%s", outcome.error.message);
      const std::string wrong = difference(tuned, run, reference(tuned, data));
      CHECK(wrong.empty(), "%s: %s: %s", target.label().c_str(), describe(tuned).c_str(),
            wrong.c_str());
      count("tuned runs");
    }
  }
  CHECK(counted("tuned runs") >= 8);
}

// However small the budget, the plan's own values are measured; it is overrun by little.
void budgets() {
  attn_context* context = context_with_tunable();
  Subject subject(context, long_problem(), [](attn_plan_config c) {
    c.backend = "tunable";
    return c;
  });
  attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
  CHECK_OK(attn_plan_autotune(subject.plan, &subject.placement.args(), 1, &info, nullptr));
  CHECK(info.measured >= 1 && info.tile_k == 512 && info.kv_chunk == 1024, "%d values, tile_k %d",
        info.measured, static_cast<int>(info.tile_k));
  CHECK(info.default_ns == info.tuned_ns && info.default_ns > 0);

  const auto start = std::chrono::steady_clock::now();
  CHECK_OK(attn_plan_autotune(subject.plan, &subject.placement.args(), 100 * kMs, &info, nullptr));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK(took.count() > 0.05 && took.count() < 2, "%g s", took.count());
  attn_context_destroy(context);
}

void bad_arguments() {
  Problem problem = long_problem();
  problem.seqlens_k = {100};
  problem.mask.present = true;
  Subject subject(targets()[0].context, problem, [](attn_plan_config c) { return c; });
  const attn_run_args args = subject.placement.args();
  attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
  const attn_autotune_info before = info;
  attn_error error;
  const auto expect = [&](const char* what, attn_status status, const char* field,
                          const std::string& held = "") {
    check_failure(what, status, error, {kInvalid}, {field}, held);
    CHECK(std::memcmp(&info, &before, sizeof info) == 0, "%s: info was written", what);
    subject.check_untouched(what);
  };
  expect("no plan", attn_plan_autotune(nullptr, &args, kMs, &info, &error), "plan");
  expect("no args", attn_plan_autotune(subject.plan, nullptr, kMs, &info, &error), "attn_run_args");
  expect("no info", attn_plan_autotune(subject.plan, &args, kMs, nullptr, &error),
         "attn_autotune_info");
  expect("no budget", attn_plan_autotune(subject.plan, &args, 0, &info, &error), "budget_ns", "0");
  expect("budget < 0", attn_plan_autotune(subject.plan, &args, -7, &info, &error), "budget_ns",
         "-7");
  attn_run_args bad = args;
  bad.mask = nullptr;
  expect("no mask", attn_plan_autotune(subject.plan, &bad, kMs, &info, &error), "mask");
  bad = args;
  bad.o = args.q;
  expect("o is q", attn_plan_autotune(subject.plan, &bad, kMs, &info, &error), "o");
  attn_autotune_info wrong = info;
  wrong.struct_size = 3;
  check_failure("struct_size", attn_plan_autotune(subject.plan, &args, kMs, &wrong, &error), error,
                {kInvalid}, {"struct_size"}, "3");

  // An older program's struct, and a newer one's.
  struct Newer {
    attn_autotune_info info;
    int64_t more;
  } newer = {ATTN_AUTOTUNE_INFO_INIT, 77};
  newer.info.struct_size = offsetof(attn_autotune_info, tuned_ns);
  newer.info.tuned_ns = 5;
  CHECK_OK(attn_plan_autotune(subject.plan, &args, kMs, &newer.info, nullptr));
  CHECK(newer.info.default_ns > 0 && newer.info.tuned_ns == 5 && newer.more == 77);
  newer.info.struct_size = sizeof newer;
  CHECK_OK(attn_plan_autotune(subject.plan, &args, kMs, &newer.info, nullptr));
  CHECK(newer.info.struct_size == sizeof newer && newer.info.tuned_ns > 5 && newer.more == 0);
}

// Memory is the context's allocator's, and all of it comes back, also where there is none.
void memory() {
  CountingAllocator counter;
  const attn_allocator allocator = counter.allocator();
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.allocator = &allocator;
  attn_context* context = make_context(config);
  {
    Problem problem = long_problem();
    problem.seqlens_k = {1000};
    Subject subject(context, problem, [](attn_plan_config c) { return c; });
    CHECK_OK(attn_context_warmup(context, nullptr));
    const int64_t live = counter.live;
    const int64_t requests = counter.requests;
    attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
    CHECK_OK(attn_plan_autotune(subject.plan, &subject.placement.args(), 50 * kMs, &info, nullptr));
    CHECK(counter.live == live && counter.requests > requests);
    const int64_t needed = counter.requests - requests;
    for (int64_t i = 0; i < 3; ++i) {  // o, lse, the first workspace
      counter.fail_at = counter.requests + i;
      attn_error error;
      check_failure("no memory",
                    attn_plan_autotune(subject.plan, &subject.placement.args(), kMs, &info, &error),
                    error, {ATTN_ERROR_OUT_OF_MEMORY}, {"o", "lse", "workspace"});
      counter.fail_at = -1;
      CHECK(counter.live == live, "request %d of %d", static_cast<int>(i),
            static_cast<int>(needed));
    }
    subject.check_untouched("no memory");
  }
  attn_context_destroy(context);
  CHECK(counter.live == 0 && counter.mistakes == 0);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {TEST(finds_the_fastest), TEST(a_run_that_fails), TEST(found_values_serve),
                        TEST(budgets),           TEST(bad_arguments),    TEST(memory)};
  return run_tests("autotune", argc, argv, tests);
}

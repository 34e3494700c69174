// test_threads.cpp: the life of threads: the pool, fork, many callers, executors that fail.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "compare.h"
#include "host.h"

namespace attn_test {
namespace {

Problem problem_for_threads() {
  Problem p;
  p.name = "threads";
  p.seed = 6;
  p.heads_q = 4;
  p.heads_kv = 2;
  p.seqlens_q = {60, 20};
  p.seqlens_k = {130, 90};
  p.q_rows = p.k_rows = Rows::kPacked;
  p.head_dim = p.head_dim_v = 32;
  p.causal = true;
  return p;
}

int threads_of_process() {
  int number = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    number += entry.is_directory();
  }
  return number;
}

attn_plan* make_plan(attn_context* context, const char* backend, Placement& placement) {
  attn_plan_config config = placement.config();
  config.backend = backend;
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(context, &config, &plan, nullptr));
  return plan;
}

struct Workspace {
  explicit Workspace(const attn_plan* plan) {
    CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
    memory = std::make_unique<GuardedBuffer>(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
  }
  void give_to(attn_run_args& args) {
    args.workspace = memory->data();
    args.workspace_size = size;
  }
  size_t size = 0;
  std::unique_ptr<GuardedBuffer> memory;
};

// No thread before the first run, the caller is one of them, and they end with the last user.
void pool_starts_late_and_ends() {
  std::thread([] {}).join();  // ThreadSanitizer starts a thread of its own beside the first one
  const int before = threads_of_process();
  attn_context* context = context_with_threads(ATTN_ISA_AUTO, 4);
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  Placement placement(p, data);
  attn_plan* plan = make_plan(context, nullptr, placement);
  CHECK(threads_of_process() == before, "threads before the first run");
  CHECK_OK(attn_context_warmup(context, nullptr));
  const int warm = threads_of_process();
  CHECK(warm == before + 3 || warm == before + 4, "%d threads for a concurrency of 4",
        warm - before);
  CHECK_OK(attn_context_warmup(context, nullptr));
  CHECK(threads_of_process() == warm, "a second warm-up started more threads");
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  CHECK_OK(attn_context_get_info(context, &info, nullptr));
  CHECK(info.concurrency == 4);
  attn_context_destroy(context);
  Workspace workspace(plan);
  workspace.give_to(placement.args());
  CHECK_OK(attn_run(plan, &placement.args(), nullptr));
  CHECK(difference(p, placement, reference(p, data)).empty());
  attn_plan_destroy(plan);
  // A joined thread leaves /proc a moment later.
  for (int i = 0; i < 100 && threads_of_process() != before; i++) usleep(10000);
  CHECK(threads_of_process() == before, "%d threads are left", threads_of_process() - before);
}

void many_contexts() {
  const int before = threads_of_process();
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  for (int i = 0; i < 50; i++) {
    attn_context* context = context_with_threads(ATTN_ISA_AUTO, 1 + i % 5);
    CHECK(execute(context, nullptr, p, data).status == ATTN_OK);
    attn_context_destroy(context);
  }
  for (int i = 0; i < 100 && threads_of_process() != before; i++) usleep(10000);
  CHECK(threads_of_process() == before);
}

// One plan, many callers at the same time, each with its own outputs and workspace.
void one_plan_many_callers() {
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  for (const Target& target : targets()) {
    const Outcome base = execute(target.context, target.backend.c_str(), p, data);
    Placement shared(p, data);
    attn_plan* plan = make_plan(target.context, target.backend.c_str(), shared);
    if (!plan) continue;
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 6; caller++) {
      callers.emplace_back([&] {
        Placement placement(p, data);
        Workspace workspace(plan);
        workspace.give_to(placement.args());
        for (int i = 0; i < 20; i++) {
          const attn_status status = attn_run(plan, &placement.args(), nullptr);
          if (!same_bits(base, placement.outcome(status, {}))) wrong++;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0, "%s: %d runs with other bits", target.label().c_str(), wrong.load());
    attn_plan_destroy(plan);
  }
}

// The first run of a context from several threads at once, and attn_attention's own context.
void first_runs_at_once() {
  Problem p = problem_for_threads();
  p.q_rows = p.k_rows = Rows::kPadded;
  p.seqlens_q = {33};
  p.seqlens_k = {50};
  p.lse = false;
  const Data data = make_data(p);
  const Expected expected = reference(p, data);
  attn_context* context = context_with_threads(ATTN_ISA_AUTO, 3);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; caller++) {
    callers.emplace_back([&] {
      Placement placement(p, data);
      execute(context, nullptr, p, placement, nullptr);
      CHECK(difference(p, placement, expected).empty());
      Placement hurried(p, data);
      const attn_run_args& args = hurried.args();
      CHECK_OK(attn_attention(args.q, args.k, args.v, args.o, ATTN_CAUSAL, nullptr));
      CHECK(difference(p, hurried, expected).empty());
    });
  }
  for (std::thread& caller : callers) caller.join();
  attn_context_destroy(context);
}

void last_error_is_the_threads_own() {
  attn_tensor tensor = {};
  CHECK(attn_attention(nullptr, &tensor, &tensor, &tensor, 0, nullptr) != ATTN_OK);
  const std::string here = attn_last_error();
  CHECK(!here.empty());
  std::thread([] { CHECK(std::strcmp(attn_last_error(), "") == 0); }).join();
  std::thread([] {
    attn_context* context = nullptr;
    attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
    config.num_threads = -1;
    CHECK(attn_context_create(&config, &context, nullptr) != ATTN_OK);
    CHECK(std::strstr(attn_last_error(), "num_threads") != nullptr);
  }).join();
  CHECK(here == attn_last_error());
}

// A child after fork() has no pool; its runs make one, with the same bits.
void fork_after_the_pool_started() {
  if (kThreadSanitizer) skip_test("ThreadSanitizer does not follow a fork with threads");
  if (kEmulated) skip_test("qemu-user does not follow a fork with threads");
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  for (const Target& target : targets()) {
    attn_context* context = context_with_threads(target.isa, 3);
    const Outcome base = execute(context, target.backend.c_str(), p, data);
    CHECK(base.status == ATTN_OK);
    Placement placement(p, data);
    attn_plan* plan = make_plan(context, target.backend.c_str(), placement);
    Workspace workspace(plan);
    workspace.give_to(placement.args());
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);
      int wrong = 0;
      for (int i = 0; i < 3; i++) {
        const attn_status status = attn_run(plan, &placement.args(), nullptr);
        wrong += !same_bits(base, placement.outcome(status, {}));
      }
      wrong += threads_of_process() < 3;
      // A grandchild, of a child with a pool of its own.
      const pid_t grandchild = fork();
      if (grandchild == 0) {
        alarm(30);
        const attn_status status = attn_run(plan, &placement.args(), nullptr);
        _exit(same_bits(base, placement.outcome(status, {})) ? 0 : 1);
      }
      int status = 1;
      waitpid(grandchild, &status, 0);
      wrong += status != 0;
      attn_plan_destroy(plan);
      attn_context_destroy(context);
      _exit(wrong);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child ended with %#x",
          target.label().c_str(), status);
    CHECK_OK(attn_run(plan, &placement.args(), nullptr));  // the parent still runs
    attn_plan_destroy(plan);
    attn_context_destroy(context);
  }
}

// An executor that cannot: its failure comes out as a status.
void executor_that_fails() {
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  attn_executor executor = ATTN_EXECUTOR_INIT;
  executor.concurrency = 2;
  executor.parallel_for = [](void*, int64_t, attn_task_fn, void*) -> int32_t { return 7; };
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.executor = &executor;
  attn_context* context = make_context(config);
  for (const char* backend : {"standard", "flash"}) {
    const Outcome outcome = execute(context, backend, p, data);
    CHECK(outcome.status == ATTN_ERROR_EXECUTOR, "%s: %s", backend,
          attn_status_name(outcome.status));
    CHECK(std::strstr(outcome.error.message, "executor") ||
              std::strstr(outcome.error.message, "parallel_for"),
          "%s", outcome.error.message);
  }
  attn_context_destroy(context);
}

// What the executor sees: every task once, within the concurrency that it declared.
void executor_is_copied() {
  const Problem p = problem_for_threads();
  const Data data = make_data(p);
  SerialExecutor serial{true, 2};
  attn_context* context = nullptr;
  {
    auto executor = std::make_unique<attn_executor>(serial.executor());
    attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
    config.executor = executor.get();
    context = make_context(config);
    std::memset(executor.get(), 0xcc, sizeof *executor);
  }
  attn_context_info info = ATTN_CONTEXT_INFO_INIT;
  CHECK_OK(attn_context_get_info(context, &info, nullptr));
  CHECK(info.concurrency == 2);
  const int before = threads_of_process();
  Placement placement(p, data);
  const Outcome outcome = execute(context, nullptr, p, placement, nullptr);
  CHECK(outcome.status == ATTN_OK, "%s", outcome.error.message);
  CHECK(difference(p, placement, reference(p, data)).empty());
  CHECK(threads_of_process() == before, "a context with an executor started threads");
  CHECK(serial.loops > 0);
  attn_context_destroy(context);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(pool_starts_late_and_ends),     TEST(many_contexts),
      TEST(one_plan_many_callers),         TEST(first_runs_at_once),
      TEST(last_error_is_the_threads_own), TEST(fork_after_the_pool_started),
      TEST(executor_that_fails),           TEST(executor_is_copied),
  };
  return run_tests("threads", argc, argv, tests);
}

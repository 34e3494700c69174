// test_no_malloc.cpp: a warm run does not reach malloc, on any thread: counted by malloc_counter.c,
// which CTest preloads.
#include <dlfcn.h>

#include <cstdlib>

#include "compare.h"
#include "host.h"

namespace attn_test {
namespace {

using Counter = long (*)();

Counter counter() {
  return reinterpret_cast<Counter>(dlsym(RTLD_DEFAULT, "malloc_counter_requests"));
}

void counter_counts() {
  if (!counter()) skip_test("malloc_counter is not preloaded (sanitizers do not allow it)");
  const long before = counter()();
  void* volatile block = std::malloc(10);
  std::free(block);
  CHECK(counter()() == before + 1);
}

void warm_runs() {
  if (!counter()) skip_test("malloc_counter is not preloaded (sanitizers do not allow it)");
  for (const Target& target : targets()) {
    attn_context* context = context_with_threads(target.isa, 3);
    CHECK_OK(attn_context_warmup(context, nullptr));
    Problem p;
    p.heads_q = 4;
    p.seqlens_q = {70, 20};
    p.seqlens_k = {130, 90};
    p.q_rows = p.k_rows = Rows::kPacked;
    p.causal = true;
    const Data data = make_data(p);
    Placement placement(p, data);
    attn_plan_config config = placement.config();
    config.backend = target.backend.c_str();
    attn_plan* plan = nullptr;
    if (!CHECK_OK(attn_plan_create(context, &config, &plan, nullptr))) continue;
    size_t size = 0;
    CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
    GuardedBuffer workspace(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
    placement.args().workspace = workspace.data();
    placement.args().workspace_size = size;
    const long before = counter()();
    attn_status status = ATTN_OK;
    for (int i = 0; i < 20 && status == ATTN_OK; i++) {
      status = attn_run(plan, &placement.args(), nullptr);
    }
    const long after = counter()();
    CHECK_OK(status);
    CHECK(after == before, "%s: %ld requests in 20 warm runs", target.label().c_str(),
          after - before);
    // Nor does a refusal.
    attn_run_args bad = placement.args();
    bad.workspace = nullptr;
    const long before_failure = counter()();
    status = attn_run(plan, &bad, nullptr);
    CHECK(status == ATTN_ERROR_WORKSPACE && counter()() == before_failure);
    attn_plan_destroy(plan);
    attn_context_destroy(context);
    count(target.label());
  }
}

// With an allocator of the host's, the library's own calls do not reach malloc either.
void host_allocator_is_used() {
  if (!counter()) skip_test("malloc_counter is not preloaded (sanitizers do not allow it)");
  alignas(64) static char arena[1 << 20];
  static size_t used;
  attn_allocator allocator = ATTN_ALLOCATOR_INIT;
  allocator.allocate = [](void*, size_t size, size_t alignment) -> void* {
    used = (used + alignment - 1) / alignment * alignment;
    void* block = arena + used;
    used += size;
    return used <= sizeof arena ? block : nullptr;
  };
  allocator.deallocate = [](void*, void*, size_t, size_t) {};
  SerialExecutor serial{false, 1};
  const attn_executor executor = serial.executor();
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.allocator = &allocator;
  config.executor = &executor;
  config.backend_dir = "/nonexistent";
  attn_context* context = nullptr;
  const long before = counter()();
  const attn_status status = attn_context_create(&config, &context, nullptr);
  const long after = counter()();
  CHECK_OK(status);
  CHECK(after == before, "%ld requests past the host's allocator", after - before);
  CHECK(used > 0);
  attn_context_destroy(context);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {TEST(counter_counts), TEST(warm_runs), TEST(host_allocator_is_used)};
  return run_tests("no_malloc", argc, argv, tests);
}

// test_memory.cpp: what the library asks of the host's allocator, and what it does when refused.
#include <cstring>

#include "compare.h"
#include "host.h"

namespace attn_test {
namespace {

Problem problem_for_memory() {
  Problem p;
  p.seed = 3;
  p.heads_q = 4;
  p.heads_kv = 2;
  p.seqlens_q = {70, 20};
  p.seqlens_k = {130, 90};
  p.q_rows = p.k_rows = Rows::kPacked;
  p.head_dim = p.head_dim_v = 32;
  p.causal = true;
  return p;
}

attn_context_config with_allocator(const attn_allocator& allocator, attn_isa isa) {
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.allocator = &allocator;
  config.isa = isa;
  config.num_threads = 3;
  return config;
}

// One plan with its workspace, run over and over.
struct Running {
  Problem problem = problem_for_memory();
  Data data = make_data(problem);
  Placement placement{problem, data};
  attn_plan* plan = nullptr;
  std::unique_ptr<GuardedBuffer> workspace;

  attn_status start(attn_context* context, const std::string& backend) {
    attn_plan_config config = placement.config();
    config.backend = backend.c_str();
    const attn_status status = attn_plan_create(context, &config, &plan, nullptr);
    if (status != ATTN_OK) return status;
    size_t size = 0;
    CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
    workspace = std::make_unique<GuardedBuffer>(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
    placement.args().workspace = workspace->data();
    placement.args().workspace_size = size;
    return ATTN_OK;
  }
  attn_status run() { return attn_run(plan, &placement.args(), nullptr); }
};

void nothing_in_a_warm_run() {
  for (const Target& target : targets()) {
    CountingAllocator counter;
    const attn_allocator allocator = counter.allocator();
    attn_context* context = make_context(with_allocator(allocator, target.isa));
    CHECK_OK(attn_context_warmup(context, nullptr));
    Running running;
    if (!CHECK_OK(running.start(context, target.backend))) continue;
    const int64_t requests = counter.requests, live = counter.live;
    CHECK(requests > 0, "the allocator was never asked");
    for (int i = 0; i < 3; i++) CHECK_OK(running.run());
    CHECK(counter.requests == requests, "%s: %lld requests in warm runs", target.label().c_str(),
          static_cast<long long>(counter.requests - requests));
    CHECK(counter.live == live);
    // The same without a warm-up, from the second run on.
    attn_context* cold = make_context(with_allocator(allocator, target.isa));
    Running other;
    if (!CHECK_OK(other.start(cold, target.backend))) continue;
    CHECK_OK(other.run());
    const int64_t after_first = counter.requests;
    CHECK_OK(other.run());
    CHECK(counter.requests == after_first, "%s", target.label().c_str());
    attn_plan_destroy(running.plan);
    attn_plan_destroy(other.plan);
    attn_context_destroy(context);
    attn_context_destroy(cold);
    CHECK(counter.live == 0 && counter.live_bytes == 0, "%s: %lld blocks leaked",
          target.label().c_str(), static_cast<long long>(counter.live));
    CHECK(counter.mistakes == 0, "%lld blocks came back with another size or alignment",
          static_cast<long long>(counter.mistakes));
    count(target.label());
  }
}

// The workspace is what a run works in: no run may need a byte more than it says, and the planned
// size does not depend on the batch.
void workspace_sizes() {
  for (const Target& target : targets()) {
    size_t sizes[3] = {};
    for (size_t i = 0; i < 3; i++) {
      attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
      config.q_dtype = ATTN_DTYPE_F32;
      config.heads_q = 8;
      config.heads_kv = 8;
      config.head_dim = 64;
      config.max_seqlen_q = config.max_seqlen_k = i == 2 ? 4096 : 1024;
      config.max_batch = i == 1 ? 64 : 1;
      config.backend = target.backend.c_str();
      attn_plan* plan = nullptr;
      if (!CHECK_OK(attn_plan_create(target.context, &config, &plan, nullptr))) continue;
      CHECK_OK(attn_plan_workspace_size(plan, &sizes[i], nullptr));
      attn_plan_info info = ATTN_PLAN_INFO_INIT;
      CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
      CHECK(info.workspace_size == sizes[i]);
      if (target.backend == "standard") CHECK(info.standard_workspace_size == sizes[i]);
      if (target.backend == "flash" && i == 2) {
        CHECK(info.standard_workspace_size > 10 * sizes[i]);
      }
      attn_plan_destroy(plan);
    }
    // Standard: 3 heads of scores; flash: 16 MiB of packed K and V, and 3 tiles.
    if (target.backend == "standard") {
      CHECK(sizes[0] >= 3 * 1024 * 1024 * 4u && sizes[0] < 3 * 1024 * 1024 * 8u, "%zu", sizes[0]);
      CHECK(sizes[2] > 10 * sizes[0], "%zu and %zu", sizes[0], sizes[2]);
    } else if (target.backend == "flash") {
      CHECK(sizes[0] < (size_t{20} << 20), "%zu", sizes[0]);
      CHECK(sizes[1] <= (size_t{20} << 20), "%zu for a batch of 64", sizes[1]);
      CHECK(sizes[2] <= (size_t{20} << 20), "%zu", sizes[2]);
    }
  }
}

// A host out of memory at any request: a status, nothing leaked, nothing set.
void refused_at_every_request() {
  for (const Target& target : targets()) {
    int failures_seen = 0;
    bool finished = false;
    for (int64_t fail_at = 0; fail_at < 200 && !finished; fail_at++) {
      CountingAllocator counter;
      counter.fail_at = fail_at;
      const attn_allocator allocator = counter.allocator();
      const attn_context_config config = with_allocator(allocator, target.isa);
      attn_context* const untouched = reinterpret_cast<attn_context*>(&counter);
      attn_context* context = untouched;
      attn_error error = {ATTN_OK, ""};
      attn_status status = attn_context_create(&config, &context, &error);
      Running running;
      if (status != ATTN_OK) {
        CHECK(context == untouched, "the context was set on failure");
      } else {
        attn_plan* const no_plan = reinterpret_cast<attn_plan*>(&counter);
        running.plan = no_plan;
        status = running.start(context, target.backend);
        if (status != ATTN_OK) {
          CHECK(running.plan == no_plan, "the plan was set on failure");
        } else {
          status = attn_run(running.plan, &running.placement.args(), &error);
          if (status != ATTN_OK) {
            CHECK(std::isnan(running.placement.o(0, 0, 0, 0)), "o was written");
            // With memory again, the same plan runs.
            counter.fail_at = -1;
            CHECK_OK(running.run());
          } else {
            finished = true;
          }
          attn_plan_destroy(running.plan);
        }
        attn_context_destroy(context);
      }
      if (status != ATTN_OK) {
        failures_seen++;
        CHECK(status == ATTN_ERROR_OUT_OF_MEMORY, "request %lld: %s",
              static_cast<long long>(fail_at), attn_status_name(status));
        CHECK(*attn_last_error() != '\0');
      }
      CHECK(counter.live == 0, "request %lld leaked %lld blocks", static_cast<long long>(fail_at),
            static_cast<long long>(counter.live));
    }
    CHECK(finished && failures_seen > 0, "%s: %d failures", target.label().c_str(), failures_seen);
  }
}

// Contexts and plans in any order of destruction give everything back.
void orders_of_destruction() {
  CountingAllocator counter;
  const attn_allocator allocator = counter.allocator();
  for (int order = 0; order < 2; order++) {
    attn_context* context = make_context(with_allocator(allocator, ATTN_ISA_AUTO));
    Running a, b;
    CHECK_OK(a.start(context, "standard"));
    CHECK_OK(b.start(context, "standard"));
    CHECK_OK(a.run());
    if (order == 0) attn_context_destroy(context);
    attn_plan_destroy(a.plan);
    CHECK_OK(b.run());
    attn_plan_destroy(b.plan);
    if (order == 1) attn_context_destroy(context);
    CHECK(counter.live == 0, "%lld blocks", static_cast<long long>(counter.live));
  }
  attn_context_destroy(nullptr);
  attn_plan_destroy(nullptr);
}

void ran_on_everything() {
  for (const Target& target : targets()) CHECK(counted(target.label()) == 1);
  CHECK(!targets().empty());
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(nothing_in_a_warm_run), TEST(workspace_sizes),   TEST(refused_at_every_request),
      TEST(orders_of_destruction), TEST(ran_on_everything),
  };
  return run_tests("memory", argc, argv, tests);
}

// executor.cpp: attention on the host's own threads.
//
// A host that has a thread pool lends it to the library by one function, parallel_for. Here the
// pool is the plainest one: it starts its threads for each loop. The results must have the bits
// that one thread gives; the program checks that.
#include <algorithm>
#include <atomic>
#include <attn/attn.hpp>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

struct Pool {
  int32_t threads;
  std::atomic<int> loops{0};

  // Runs fn(arg, task, worker) for each task in [0, n), on whichever worker is free.
  void parallel_for(int64_t n, attn_task_fn fn, void* arg) {
    ++loops;
    std::atomic<int64_t> next{0};
    const auto work = [&](int32_t worker) {
      for (int64_t task; (task = next++) < n;) fn(arg, task, worker);
    };
    std::vector<std::thread> others;
    for (int32_t worker = 1; worker < threads; ++worker) others.emplace_back(work, worker);
    work(0);
    for (std::thread& other : others) other.join();
  }
};

// The C function that the library calls. Not zero: the tasks did not run; nothing is thrown.
int32_t parallel_for(void* user, int64_t n, attn_task_fn fn, void* arg) {
  try {
    static_cast<Pool*>(user)->parallel_for(n, fn, arg);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

void attend(const attn::Context& context, std::vector<float>& q, std::vector<float>& o) {
  constexpr int64_t kHeads = 8, kSeqlen = 256, kDim = 32;
  attn::PlanConfig config;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = kHeads;
  config.head_dim = kDim;
  config.max_seqlen_q = config.max_seqlen_k = kSeqlen;
  const attn::Plan plan(context, config);
  const attn::Workspace workspace(plan.workspace_size());
  o.resize(q.size());
  const attn::Tensor tq(q.data(), {1, kHeads, kSeqlen, kDim}),
      to(o.data(), {1, kHeads, kSeqlen, kDim});
  attn::RunArgs args;
  args.q = args.k = args.v = &tq;
  args.o = &to;
  args.set_workspace(workspace);
  plan.run(args);
}

void run_example() {
  Pool pool{3};
  attn::ContextConfig config;
  attn_executor executor = ATTN_EXECUTOR_INIT;
  executor.concurrency = pool.threads;
  executor.user = &pool;
  executor.parallel_for = parallel_for;
  config.executor = &executor;  // copied; the pool must outlive the context and its plans
  const attn::Context hosted(config);

  config.executor = nullptr;
  config.num_threads = 1;
  const attn::Context single(config);

  std::vector<float> q(8 * 256 * 32), with_pool, with_one;
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(i % 37) / 37 - 0.5f;
  attend(hosted, q, with_pool);
  attend(single, q, with_one);
  if (with_pool != with_one) throw std::runtime_error("the threads changed the result");
  std::printf("%d workers of the host: the same bits as one thread\n", hosted.info().concurrency);
  if (pool.loops == 0) throw std::runtime_error("the pool was not asked");
}

}  // namespace

int main() {
  try {
    run_example();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

// The built-in executor: a small pool of threads.
//
// A job is open while its caller works on it. Idle workers look at a generation number, spinning
// for a while and then sleeping. One that sees a new generation enters the job if it is still open,
// takes tasks off a common counter until there are none, and leaves; one that comes late finds the
// job closed and goes back to waiting, so that no caller ever waits for a worker to wake up.
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "error.h"

namespace attn {

class ThreadPool {
 public:
  ThreadPool(int concurrency, const attn_allocator& allocator)
      : allocator_(allocator), num_threads_(concurrency - 1) {}

  // Frees a pool made by create_thread_pool.
  static void destroy(ThreadPool* pool);

  attn_status start(attn_error* error);
  attn_status run(int64_t n, attn_task_fn fn, void* arg, attn_error* error);
  size_t byte_size() const { return byte_size(num_threads_ + 1); }
  static size_t byte_size(int concurrency) {
    return sizeof(ThreadPool) + static_cast<size_t>(concurrency) * sizeof(Worker);
  }

 private:
  struct Worker {
    ThreadPool* pool;
    int index;
    pthread_t thread;
  };

  static constexpr uint32_t kOpen = 1u << 31;  // in presence_: workers may enter
  static constexpr int kSpins = 2000;          // some ten microseconds before a worker sleeps

  static void* thread_main(void* worker);
  static void pause();
  Worker* workers() { return reinterpret_cast<Worker*>(this + 1); }
  bool start_threads();
  void stop_threads(int count);
  void work(int index);
  uint32_t wait_for_generation(uint32_t seen);
  void take_tasks(int index);

  attn_allocator allocator_;
  int num_threads_;

  // The process whose threads run: 0 for none yet, -pid while that process starts them.
  std::atomic<pid_t> owner_{0};

  pthread_mutex_t turn_;  // held by the caller whose job it is
  pthread_mutex_t sleep_mutex_;
  pthread_cond_t wake_;
  std::atomic<uint32_t> generation_;
  std::atomic<int> sleepers_;
  std::atomic<bool> stop_;

  std::atomic<uint32_t> presence_;  // kOpen + workers inside of the job
  attn_task_fn fn_ = nullptr;
  void* arg_ = nullptr;
  int64_t n_ = 0;
  alignas(64) std::atomic<int64_t> next_;
};

ThreadPool* create_thread_pool(int concurrency, const attn_allocator& allocator) {
  void* memory =
      allocator.allocate(allocator.user, ThreadPool::byte_size(concurrency), alignof(ThreadPool));
  return memory ? new (memory) ThreadPool(concurrency, allocator) : nullptr;
}

void destroy_thread_pool(ThreadPool* pool) { ThreadPool::destroy(pool); }

attn_status start_thread_pool(ThreadPool* pool, attn_error* error) { return pool->start(error); }

attn_status thread_pool_for(ThreadPool* pool, int64_t n, attn_task_fn fn, void* arg,
                            attn_error* error) {
  return pool->run(n, fn, arg, error);
}

void ThreadPool::destroy(ThreadPool* pool) {
  if (!pool) return;
  if (pool->owner_.load() == getpid()) {
    pool->stop_threads(pool->num_threads_);
    pthread_cond_destroy(&pool->wake_);
    pthread_mutex_destroy(&pool->sleep_mutex_);
    pthread_mutex_destroy(&pool->turn_);
  }
  const attn_allocator allocator = pool->allocator_;
  const size_t size = pool->byte_size();
  pool->~ThreadPool();
  allocator.deallocate(allocator.user, pool, size, alignof(ThreadPool));
}

attn_status ThreadPool::start(attn_error* error) {
  const pid_t self = getpid();
  for (;;) {
    pid_t owner = owner_.load(std::memory_order_acquire);
    if (owner == self) return ATTN_OK;
    if (owner == -self) {  // another thread is at it
      sched_yield();
      continue;
    }
    if (!owner_.compare_exchange_strong(owner, -self)) continue;
    const bool started = start_threads();
    owner_.store(started ? self : 0, std::memory_order_release);
    if (!started) {
      return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "the system refused to start %d threads",
                  num_threads_);
    }
  }
}

bool ThreadPool::start_threads() {
  // After a fork these hold whatever state the parent's threads left: make them anew.
  turn_ = PTHREAD_MUTEX_INITIALIZER;
  sleep_mutex_ = PTHREAD_MUTEX_INITIALIZER;
  wake_ = PTHREAD_COND_INITIALIZER;
  generation_.store(0);
  sleepers_.store(0);
  stop_.store(false);
  presence_.store(0);

  // The workers take no signals: those belong to the host's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int count = 0;
  for (; count < num_threads_; ++count) {
    Worker& worker = workers()[count];
    worker = Worker{this, count + 1, {}};
    if (pthread_create(&worker.thread, nullptr, thread_main, &worker) != 0) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (count == num_threads_) return true;
  stop_threads(count);
  return false;
}

void ThreadPool::stop_threads(int count) {
  pthread_mutex_lock(&sleep_mutex_);
  stop_.store(true);
  generation_.fetch_add(1);
  pthread_cond_broadcast(&wake_);
  pthread_mutex_unlock(&sleep_mutex_);
  for (int i = 0; i < count; ++i) pthread_join(workers()[i].thread, nullptr);
}

void* ThreadPool::thread_main(void* argument) {
  Worker* worker = static_cast<Worker*>(argument);
  worker->pool->work(worker->index);
  return nullptr;
}

void ThreadPool::work(int index) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_for_generation(seen);
    if (stop_.load()) return;
    if (presence_.fetch_add(1, std::memory_order_acquire) & kOpen) take_tasks(index);
    presence_.fetch_sub(1, std::memory_order_release);
  }
}

uint32_t ThreadPool::wait_for_generation(uint32_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    const uint32_t now = generation_.load(std::memory_order_acquire);
    if (now != seen) return now;
    pause();
  }
  pthread_mutex_lock(&sleep_mutex_);
  // Announced before the last look, as run() publishes before it looks for sleepers: one of the two
  // sees the other.
  sleepers_.fetch_add(1);
  while (generation_.load() == seen) pthread_cond_wait(&wake_, &sleep_mutex_);
  sleepers_.fetch_sub(1);
  const uint32_t now = generation_.load();
  pthread_mutex_unlock(&sleep_mutex_);
  return now;
}

void ThreadPool::take_tasks(int index) {
  for (;;) {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= n_) return;
    fn_(arg_, task, index);
  }
}

attn_status ThreadPool::run(int64_t n, attn_task_fn fn, void* arg, attn_error* error) {
  if (n <= 1 || num_threads_ == 0) {
    for (int64_t task = 0; task < n; ++task) fn(arg, task, 0);
    return ATTN_OK;
  }
  ATTN_TRY(start(error));
  pthread_mutex_lock(&turn_);
  fn_ = fn;
  arg_ = arg;
  n_ = n;
  next_.store(0, std::memory_order_relaxed);
  presence_.fetch_or(kOpen, std::memory_order_release);
  generation_.fetch_add(1);
  if (sleepers_.load() > 0) {
    pthread_mutex_lock(&sleep_mutex_);
    pthread_cond_broadcast(&wake_);
    pthread_mutex_unlock(&sleep_mutex_);
  }
  take_tasks(0);
  presence_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; presence_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      sched_yield();  // a worker that is still at its last task may need this very CPU
    }
  }
  pthread_mutex_unlock(&turn_);
  return ATTN_OK;
}

void ThreadPool::pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace attn

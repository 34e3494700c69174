// The built-in executor: a small pool of threads. The only file of the library that knows threads;
// a build without it (ATTN_NO_THREADS) runs everything on the caller's.
#ifndef ATTN_SRC_POOL_H_
#define ATTN_SRC_POOL_H_

#include <attn/attn.h>

namespace attn {

class ThreadPool;

// A pool of `concurrency` workers, the calling thread being one of them. Starts no threads yet.
// NULL if memory is short.
ThreadPool* create_thread_pool(int concurrency, const attn_allocator& allocator);

// Ends the threads and frees the pool.
void destroy_thread_pool(ThreadPool* pool);

// Starts the threads if they do not run, also in a child process after fork(), which inherits none.
attn_status start_thread_pool(ThreadPool* pool, attn_error* error);

// Runs fn(arg, task, worker) for each task in [0, n), starting the threads if need be. Concurrent
// calls take turns.
attn_status thread_pool_for(ThreadPool* pool, int64_t n, attn_task_fn fn, void* arg,
                            attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_POOL_H_

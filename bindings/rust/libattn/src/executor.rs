//! Executors: the host's own threads for the library's tasks.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use attn_sys as sys;

/// Threads that run the tasks of a parallel loop, instead of the library's own.
///
/// One thread that runs them in a loop is a correct executor:
///
/// ```
/// use attn::{Context, Executor, Incomplete, Tasks};
///
/// struct Here;
///
/// // SAFETY: each task runs once, before the return, and one at a time as worker 0.
/// unsafe impl Executor for Here {
///     fn concurrency(&self) -> usize {
///         1
///     }
///     fn parallel_for(&self, tasks: Tasks<'_>) -> Result<(), Incomplete> {
///         for task in 0..tasks.count() {
///             // SAFETY: as above.
///             unsafe { tasks.run(task, 0) };
///         }
///         Ok(())
///     }
/// }
///
/// let context = Context::builder().executor(Here).build()?;
/// assert_eq!(context.info().concurrency, 1);
/// # Ok::<(), attn::Error>(())
/// ```
///
/// # Safety
/// - `concurrency` is always the same, 1 to 1024.
/// - When `parallel_for` returns, or panics, no task is running and none will; if it returns `Ok`,
///   each has run once.
/// - Two tasks that run at the same time have different workers.
pub unsafe trait Executor: Send + Sync + 'static {
    /// Workers.
    fn concurrency(&self) -> usize;

    /// Runs each task once, in any order and on any threads, and returns after the last one. May
    /// be called from several threads at once. Tasks never wait for one another.
    ///
    /// # Errors
    /// [`Incomplete`] if it could not run them all; the run then fails with
    /// [`Error::Executor`](crate::Error::Executor), as it does after a panic.
    fn parallel_for(&self, tasks: Tasks<'_>) -> Result<(), Incomplete>;
}

/// Not all tasks have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete;

/// The tasks of one parallel loop.
#[derive(Clone, Copy, Debug)]
pub struct Tasks<'a> {
    count: usize,
    function: unsafe extern "C" fn(*mut c_void, i64, i32),
    arg: *mut c_void,
    call: PhantomData<&'a ()>,
}

// SAFETY: the library's tasks may run on any thread.
unsafe impl Send for Tasks<'_> {}
// SAFETY: the same.
unsafe impl Sync for Tasks<'_> {}

impl Tasks<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs one.
    ///
    /// # Safety
    /// `task` is less than `count` and has not run before; `worker` is less than the executor's
    /// concurrency, and no other task of this loop runs as this worker at the moment.
    pub unsafe fn run(&self, task: usize, worker: usize) {
        // SAFETY: as the caller promises. Both numbers came from i64 and i32.
        unsafe { (self.function)(self.arg, task as i64, worker as i32) }
    }
}

pub(crate) unsafe extern "C" fn parallel_for(
    user: *mut c_void,
    n: i64,
    function: sys::attn_task_fn,
    arg: *mut c_void,
) -> i32 {
    // SAFETY: it is what the context was created with, and lives as long as that.
    let executor = unsafe { &*user.cast::<Box<dyn Executor>>() };
    let (Some(function), Ok(count)) = (function, usize::try_from(n)) else {
        return 1;
    };
    let tasks = Tasks { count, function, arg, call: PhantomData };
    match catch_unwind(AssertUnwindSafe(|| executor.parallel_for(tasks))) {
        Ok(Ok(())) => 0,
        Ok(Err(Incomplete)) | Err(_) => 1,
    }
}

#[cfg(feature = "rayon")]
pub use with_rayon::RayonExecutor;

#[cfg(feature = "rayon")]
mod with_rayon {
    use std::sync::Arc;

    use rayon::ThreadPool;
    use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

    use super::{Executor, Incomplete, Tasks};

    /// Runs the library's tasks on a rayon thread pool. Needs the feature `rayon`.
    ///
    /// ```
    /// use attn::{Context, RayonExecutor};
    ///
    /// let context = Context::builder().executor(RayonExecutor::global()).build()?;
    /// assert_eq!(context.info().concurrency, rayon::current_num_threads());
    /// # Ok::<(), attn::Error>(())
    /// ```
    #[derive(Debug)]
    pub struct RayonExecutor {
        pool: Option<Arc<ThreadPool>>,
        concurrency: usize,
    }

    impl RayonExecutor {
        /// The global pool; within another pool's thread, that pool, which may not have more
        /// threads than the global one.
        pub fn global() -> RayonExecutor {
            RayonExecutor { pool: None, concurrency: rayon::current_num_threads() }
        }

        /// A pool of the caller's.
        pub fn new(pool: Arc<ThreadPool>) -> RayonExecutor {
            let concurrency = pool.current_num_threads();
            RayonExecutor { pool: Some(pool), concurrency }
        }
    }

    // SAFETY: for_each runs each index once and returns after the last; a thread of the pool runs
    // one task at a time, since tasks never call rayon, and its index is less than the number of
    // threads, which is checked where it might be another pool's.
    unsafe impl Executor for RayonExecutor {
        fn concurrency(&self) -> usize {
            self.concurrency
        }

        fn parallel_for(&self, tasks: Tasks<'_>) -> Result<(), Incomplete> {
            let run_all = || {
                if rayon::current_num_threads() > self.concurrency {
                    return Err(Incomplete);
                }
                (0..tasks.count()).into_par_iter().with_max_len(1).for_each(|task| {
                    let worker = rayon::current_thread_index().expect("a thread of the pool");
                    // SAFETY: see above.
                    unsafe { tasks.run(task, worker) };
                });
                Ok(())
            };
            match &self.pool {
                Some(pool) => pool.install(run_all),
                None => run_all(),
            }
        }
    }
}

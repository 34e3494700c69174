//! Contexts: the host's allocator, threads and log; merging.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use attn::{
    Context, Error, Executor, Incomplete, Isa, LogLevel, MergeArgs, Plan, Result, RunArgs, Tasks,
    Tensor, TensorMut,
};

#[test]
fn what_a_context_tells() {
    let context = Context::builder().num_threads(3).isa(Isa::Scalar).build().unwrap();
    let info = context.info();
    assert_eq!((info.isa, info.isa_name, info.concurrency), (Isa::Scalar, "scalar", 3));
    assert!(info.backend_dir.is_absolute());
    let isas = context.isas();
    assert!(isas.iter().any(|isa| isa.isa == Isa::Scalar && isa.available));
    assert!(isas.iter().all(|isa| isa.available == isa.reason.is_empty()));
    let backends = context.backends();
    assert!(backends.iter().any(|backend| backend.name == "flash" && backend.available));
    assert!(backends.iter().all(|backend| backend.available == backend.reason.is_empty()));
    assert!(format!("{context:?}").contains("Scalar"));
    context.warmup().unwrap();
    assert_eq!(attn::version().split('.').count(), 3);
}

/// One head of 64 queries and keys of 16, by such a context.
fn run(context: &Context) -> Result<Vec<f32>> {
    let plan =
        Plan::builder().heads_q(4).head_dim(16).max_seqlen_q(64).max_seqlen_k(64).build(context)?;
    let q: Vec<f32> = (0..4 * 64 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut o = vec![0.0; q.len()];
    {
        let q = Tensor::new(&q, &[1, 4, 64, 16])?;
        let mut o = TensorMut::new(&mut o, &[1, 4, 64, 16])?;
        plan.run(&mut RunArgs::new(&q, &q, &q, &mut o), &mut plan.new_workspace()?)?;
    }
    Ok(o)
}

/// Runs tasks on threads of its own, or fails as it is told.
struct Threads {
    calls: Arc<AtomicUsize>,
    failure: Option<fn() -> std::result::Result<(), Incomplete>>,
}

// SAFETY: each task is taken once, worker by worker, and the scope ends after the last.
unsafe impl Executor for Threads {
    fn concurrency(&self) -> usize {
        3
    }

    fn parallel_for(&self, tasks: Tasks<'_>) -> std::result::Result<(), Incomplete> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = self.failure {
            return failure();
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let next = &next;
                scope.spawn(move || {
                    loop {
                        let task = next.fetch_add(1, Ordering::Relaxed);
                        if task >= tasks.count() {
                            break;
                        }
                        // SAFETY: see above.
                        unsafe { tasks.run(task, worker) };
                    }
                });
            }
        });
        Ok(())
    }
}

#[test]
fn executor() {
    let calls = Arc::new(AtomicUsize::new(0));
    let threads = Threads { calls: calls.clone(), failure: None };
    let context = Context::builder().executor(threads).build().unwrap();
    assert_eq!(context.info().concurrency, 3);
    let expected = run(&Context::builder().num_threads(1).build().unwrap()).unwrap();
    assert_eq!(run(&context).unwrap(), expected);
    assert!(calls.load(Ordering::Relaxed) > 0);
    let both = Threads { calls, failure: None };
    let both = Context::builder().executor(both).num_threads(2).build();
    assert!(matches!(both, Err(Error::InvalidArgument(words)) if words.contains("num_threads")));
}

#[test]
fn executor_that_fails() {
    for failure in [|| Err(Incomplete), || panic!("on purpose")] {
        let threads = Threads { calls: Arc::default(), failure: Some(failure) };
        let context = Context::builder().executor(threads).build().unwrap();
        assert!(matches!(run(&context), Err(Error::Executor(_))));
    }
}

#[cfg(feature = "rayon")]
#[test]
fn rayon_executor() {
    use attn::RayonExecutor;
    let expected = run(&Context::builder().num_threads(1).build().unwrap()).unwrap();
    let pool =
        |threads| Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let own = pool(3);
    let context = Context::builder().executor(RayonExecutor::new(own.clone())).build().unwrap();
    assert_eq!(context.info().concurrency, 3);
    assert_eq!(run(&context).unwrap(), expected);
    assert_eq!(own.install(|| run(&context)).unwrap(), expected);
    assert_eq!(pool(5).install(|| run(&context)).unwrap(), expected);

    let global = Context::builder().executor(RayonExecutor::global()).build().unwrap();
    assert_eq!(run(&global).unwrap(), expected);
    assert_eq!(pool(1).install(|| run(&global)).unwrap(), expected);
    let larger = pool(rayon::current_num_threads() + 1);
    assert!(matches!(larger.install(|| run(&global)), Err(Error::Executor(_))));
}

/// Counts what is still out.
struct Counting {
    bytes: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

// SAFETY: System's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.bytes.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        self.most.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.bytes.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn allocator() {
    let (bytes, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = Counting { bytes: bytes.clone(), most: most.clone() };
    let context = Context::builder().allocator(counting).num_threads(2).build().unwrap();
    run(&context).unwrap();
    assert!(most.load(Ordering::Relaxed) > 0);
    drop(context);
    assert_eq!(bytes.load(Ordering::Relaxed), 0);

    struct Nothing;
    // SAFETY: there is none.
    unsafe impl GlobalAlloc for Nothing {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            std::ptr::null_mut()
        }
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }
    let refused = Context::builder().allocator(Nothing).build();
    assert!(matches!(refused, Err(Error::OutOfMemory(_))));
}

#[test]
fn log() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let context = Context::builder()
        .log(move |level, message| kept.lock().unwrap().push((level, message.to_owned())))
        .build()
        .unwrap();
    let expected = run(&context).unwrap();
    assert!(lines.lock().unwrap().iter().all(|(_, message)| !message.is_empty()));
    assert!(LogLevel::Debug < LogLevel::Warning);
    let panics = Context::builder().log(|_, _| panic!("on purpose")).build().unwrap();
    assert_eq!(run(&panics).unwrap(), expected);
}

/// Means of values 1 and 4, the second with twice the weight.
#[test]
fn merge() {
    let context = Context::new().unwrap();
    let (mut o0, mut lse0, o1, lse1) = ([1.0f32; 4], [0.0f32; 2], [4.0f32; 4], [2f32.ln(); 2]);
    let (o_shape, lse_shape) = ([1, 2, 1, 2], [1, 2, 1]);
    let o1 = Tensor::new(&o1, &o_shape).unwrap();
    let lse1 = Tensor::new(&lse1, &lse_shape).unwrap();
    let close = |x: &[f32], y: f32| x.iter().all(|x| (x - y).abs() < 1e-6);

    let (mut o, mut lse, sink) = ([0.0f32; 4], [0.0f32; 2], [3f32.ln(); 2]);
    {
        let (o0, lse0) =
            (Tensor::new(&o0, &o_shape).unwrap(), Tensor::new(&lse0, &lse_shape).unwrap());
        let mut o = TensorMut::new(&mut o, &o_shape).unwrap();
        let mut lse = TensorMut::new(&mut lse, &lse_shape).unwrap();
        let sink = Tensor::new(&sink, &[2]).unwrap();
        let parts = vec![(&o0, &lse0), (&o1, &lse1)];
        context.merge(&mut MergeArgs::new(parts.clone(), &mut o).lse(&mut lse)).unwrap();
        context.merge(&mut MergeArgs::new(parts, &mut o).lse(&mut lse).sink(&sink)).unwrap();
        let none = context.merge(&mut MergeArgs::new([], &mut o));
        assert!(matches!(none, Err(Error::InvalidArgument(words)) if words.contains("count")));
        let wrong = context.merge(&mut MergeArgs::new([(&o0, &o1)], &mut o));
        assert!(matches!(wrong, Err(Error::InvalidArgument(words)) if words.contains("lse_parts")));
    }
    assert!(close(&o, 9.0 / 6.0) && close(&lse, 6f32.ln()), "{o:?} {lse:?}");

    let mut first = TensorMut::new(&mut o0, &o_shape).unwrap();
    let mut first_lse = TensorMut::new(&mut lse0, &lse_shape).unwrap();
    let mut args = MergeArgs::in_place(&mut first, &mut first_lse, [(&o1, &lse1)]);
    context.merge(&mut args).unwrap();
    assert_eq!(first.as_tensor().shape(), [1, 2, 1, 2]);
    assert!(close(&o0, 3.0) && close(&lse0, 3f32.ln()), "{o0:?} {lse0:?}");
}

#[test]
fn they_go_from_thread_to_thread() {
    fn check<T: Send + Sync>() {}
    check::<Context>();
    check::<Plan>();
    check::<Tensor<'_>>();
    check::<TensorMut<'_>>();
    check::<RunArgs<'_>>();
    check::<MergeArgs<'_>>();
    check::<attn::Workspace<'_>>();
    check::<Error>();
}

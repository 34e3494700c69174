//! What a run from Rust costs over the call from C: `cargo bench --bench overhead`.
//!
//! Both run the same plan on the same tensors, in turns; the line printed is JSON, in nanoseconds
//! and in allocations a run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use attn::{Context, Plan, RunArgs, Tensor, TensorMut, sys};

const SEQLEN: usize = 16;
const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const ROUNDS: usize = 2001;
const RUNS: u32 = 20; // of each kind in a round

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: System's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

fn main() -> attn::Result<()> {
    let context = Context::builder().num_threads(1).build()?;
    let plan = Plan::builder()
        .heads_q(HEADS)
        .head_dim(HEAD_DIM)
        .max_seqlen_q(SEQLEN)
        .max_seqlen_k(SEQLEN)
        .build(&context)?;
    // The same memory for both, since where it lies matters more than who asks.
    let mut workspace = plan.new_workspace()?;
    let shape = [1, HEADS, SEQLEN, HEAD_DIM];
    let memory = vec![0.5f32; HEADS * SEQLEN * HEAD_DIM];
    let mut o = memory.clone();
    let q = Tensor::new(&memory, &shape)?;
    let o_raw = *TensorMut::new(&mut o, &shape)?.as_raw();
    let args = sys::attn_run_args {
        struct_size: size_of::<sys::attn_run_args>() as u32,
        q: q.as_raw(),
        k: q.as_raw(),
        v: q.as_raw(),
        o: &o_raw,
        workspace: workspace.as_mut_ptr(),
        workspace_size: plan.workspace_size(),
        ..Default::default()
    };
    let c_run = || {
        // SAFETY: tensors and workspace are alive, and nobody else's at the moment.
        let status =
            unsafe { sys::attn_run(plan.handle(), black_box(&args), std::ptr::null_mut()) };
        assert_eq!(status, 0);
    };
    let mut rounds = Vec::new();
    {
        let (q, k, v) = (q, q, q);
        let mut o = TensorMut::new(&mut o, &shape)?;
        let mut args = RunArgs::new(&q, &k, &v, &mut o);
        rounds.push(compare(c_run, || plan.run(black_box(&mut args), &mut workspace).unwrap()));
    }
    // And with all that leads to a run: the views of the slices.
    let mut with_views = || {
        let q = Tensor::new(black_box(&memory), &shape).unwrap();
        let k = Tensor::new(black_box(&memory), &shape).unwrap();
        let v = Tensor::new(black_box(&memory), &shape).unwrap();
        let mut o = TensorMut::new(black_box(&mut o), &shape).unwrap();
        plan.run(&mut RunArgs::new(&q, &k, &v, &mut o), &mut workspace).unwrap();
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..RUNS {
        with_views();
    }
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / f64::from(RUNS);
    rounds.push(compare(c_run, with_views));
    let [(c, run), (_, with_views)] = rounds[..] else { unreachable!() };
    println!(
        r#"{{"language": "rust", "c_ns": {c:.1}, "overhead_ns": {run:.1}, "with_views_ns": {with_views:.1}, "allocations": {allocations}}}"#
    );
    Ok(())
}

/// Nanoseconds of a run from C, and how many more one from Rust takes: medians of rounds.
fn compare(c_run: impl Fn(), mut rust_run: impl FnMut()) -> (f64, f64) {
    let (mut from_c, mut differences) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = time(&c_run);
        let rust = time(&mut rust_run);
        let after = time(&c_run);
        from_c.push((before + after) / 2.0);
        differences.push(rust - (before + after) / 2.0);
    }
    (median(from_c), median(differences))
}

/// Nanoseconds a run.
fn time(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..RUNS {
        run();
    }
    start.elapsed().as_nanos() as f64 / f64::from(RUNS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

//! A run allocates nothing: not by Rust's allocator, not by the one that the library was given.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use attn::{Context, Plan, RunArgs, Tensor, TensorMut};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: System's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
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

#[test]
fn a_run_allocates_nothing() {
    let context = Context::builder().num_threads(2).allocator(Counting).build().unwrap();
    let plan = Plan::builder()
        .heads_q(4)
        .head_dim(64)
        .max_seqlen_q(16)
        .max_seqlen_k(64)
        .causal(true)
        .seqlens_k()
        .build(&context)
        .unwrap();
    let mut workspace = plan.new_workspace().unwrap();
    context.warmup().unwrap();
    let (q, k) = (vec![0.5f32; 4 * 16 * 64], vec![0.5f32; 4 * 64 * 64]);
    let (mut o, mut lse) = (vec![0.0f32; 4 * 16 * 64], vec![0.0f32; 4 * 16]);
    let mut step = |seqlen_k: i32| {
        // All that a step of a decoding loop makes anew.
        let seqlens_k = [seqlen_k];
        let q = Tensor::new(&q, &[1, 4, 16, 64]).unwrap();
        let k = Tensor::new(&k, &[1, 4, 64, 64]).unwrap();
        let seqlens_k = Tensor::new(&seqlens_k, &[1]).unwrap();
        let mut o = TensorMut::new(&mut o, &[1, 4, 16, 64]).unwrap();
        let mut lse = TensorMut::new(&mut lse, &[1, 4, 16]).unwrap();
        let mut args = RunArgs::new(&q, &k, &k, &mut o).lse(&mut lse).seqlens_k(&seqlens_k);
        plan.run(&mut args, &mut workspace).unwrap();
    };
    step(16); // the harness may still be at work in the background: nothing is counted yet
    let before = CALLS.load(Ordering::Relaxed);
    for seqlen_k in 16..64 {
        step(seqlen_k);
    }
    assert_eq!(CALLS.load(Ordering::Relaxed) - before, 0);
    drop(vec![0u8; 7]);
    assert!(CALLS.load(Ordering::Relaxed) > before, "the counter counts");
}

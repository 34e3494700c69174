//! Plans and runs: what they tell, and every bad value.

use std::mem::MaybeUninit;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use attn::{
    Context, Dtype, Error, Isa, Plan, PlanBuilder, Result, RunArgs, Tensor, TensorMut, Workspace,
};

fn context() -> Context {
    Context::builder().num_threads(2).build().unwrap()
}

/// 4 heads over 2, up to 6 queries and 11 keys of 8.
fn builder() -> PlanBuilder {
    Plan::builder().heads_q(4).heads_kv(2).head_dim(8).max_seqlen_q(6).max_seqlen_k(11)
}

fn words<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::InvalidArgument(words)) => words.into(),
        other => panic!("not refused as an invalid argument: {other:?}"),
    }
}

#[test]
fn what_a_plan_tells() {
    let context = context();
    let plan = builder().build(&context).unwrap();
    let info = plan.info();
    assert_eq!(info.backend, "flash");
    assert_eq!(info.isa, context.info().isa);
    assert_eq!(info.isa_name, context.info().isa_name);
    assert_eq!(info.workspace_size, plan.workspace_size());
    assert!(info.tile_k > 0);
    assert!(plan.refusals().iter().any(|(name, words)| *name == "standard" && !words.is_empty()));
    assert!(!plan.refusals().iter().any(|(name, _)| *name == "flash"));
    assert!(plan.to_string().contains("flash"), "{plan}");
    assert!(format!("{plan:?}").contains("workspace_size"));
    assert_eq!(builder().backend("standard").build(&context).unwrap().info().backend, "standard");
}

#[test]
fn bad_plans() {
    let context = context();
    let refused = |plan: PlanBuilder| words(plan.build(&context));
    assert!(refused(Plan::builder()).contains("heads_q"));
    assert!(refused(builder().heads_kv(3)).contains("heads_kv"));
    assert_eq!(refused(builder().head_dim_v(0)), "head_dim_v: 0 must be at least 1");
    assert!(refused(builder().head_dim(usize::MAX)).contains("head_dim"));
    assert!(refused(builder().max_batch(usize::MAX / 2)).contains("max_batch"));
    assert_eq!(refused(builder().scale(0.0)), "scale: 0 must be another number");
    assert!(refused(builder().scale(f32::NAN)).contains("scale"));
    assert_eq!(refused(builder().softcap(0.0)), "softcap: 0 must be greater than 0");
    assert!(refused(builder().softcap(-1.0)).contains("softcap"));
    assert!(refused(builder().paged(0)).contains("page_size"));
    assert!(refused(builder().paged(1 << 40)).contains("page_size"));
    assert!(refused(builder().block_mask(4, 0)).contains("block_k"));
    assert!(refused(builder().dtype(Dtype::I32)).contains("q_dtype"));
    assert!(refused(builder().o_dtype(Dtype::I8)).contains("o_dtype"));
    assert!(refused(builder().bias(Dtype::U8)).contains("bias_dtype"));
    assert!(refused(builder().packed_q().seqlens_q()).contains("SEQLENS_Q"));
    assert!(refused(builder().backend("nonsense")).contains("nonsense"));
    assert!(refused(builder().backend("a\0b")).contains("NUL"));
    // The first of several is told.
    assert!(refused(builder().scale(0.0).softcap(0.0)).contains("scale"));
    let unsupported = builder().backend("flash").tile_k(3).build(&context);
    assert!(matches!(unsupported, Err(Error::Unsupported(words)) if words.contains("tile_k")));
    let elsewhere = builder().device(attn::sys::ATTN_DEVICE_CUDA as i32, 0).build(&context);
    assert!(
        matches!(elsewhere, Err(Error::Unavailable(_) | Error::Unsupported(_))),
        "{elsewhere:?}"
    );
}

#[test]
fn bad_contexts() {
    let none = Context::builder().num_threads(0).build();
    assert_eq!(words(none), "num_threads: 0 must be 1 to 1024");
    assert!(words(Context::builder().num_threads(1 << 40).build()).contains("num_threads"));
    assert!(words(Context::builder().backend_dir("relative").build()).contains("backend_dir"));
    assert!(words(Context::builder().backend_dir("/a\0b").build()).contains("NUL"));
    assert!(words(Context::builder().isa(Isa::Other(77)).build()).contains("isa"));
    let absent = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx2 };
    assert!(matches!(Context::builder().isa(absent).build(), Err(Error::Unavailable(_))));
}

#[test]
fn bad_views() {
    let data = [0.0f32; 24];
    assert!(words(Tensor::new(&data, &[2, 3, 5])).contains("as many elements as the slice, 24"));
    assert!(words(Tensor::new(&data, &[usize::MAX, 2])).contains("shape"));
    assert!(words(Tensor::new(&data, &[24, 1, 1, 1, 1, 1, 1])).contains("at most 6"));
    let strided = |offset, shape: &[usize], strides: &[isize]| {
        words(Tensor::strided(&data, offset, shape, strides))
    };
    assert!(strided(0, &[4, 6], &[6]).contains("as many as the dimensions, 2"));
    assert!(strided(0, &[4, 6], &[7, 1]).contains("to 26, which must be within the slice of 24"));
    assert!(strided(0, &[4, 6], &[-6, 1]).contains("from element -18"));
    assert!(strided(1, &[4, 6], &[6, 1]).contains("to 24"));
    assert!(strided(24, &[1], &[1]).contains("to 24"));
    assert!(strided(0, &[1 << 62; 6], &[isize::MAX; 6]).contains("strides"));
    assert!(strided(0, &[1 << 62; 6], &[isize::MIN; 6]).contains("strides"));
    assert!(strided(usize::MAX, &[2], &[1]).contains("strides"));
    // At the edges.
    Tensor::strided(&data, 18, &[4, 6], &[-6, 1]).unwrap();
    Tensor::strided(&data, 23, &[100], &[0]).unwrap();
    Tensor::strided(&data[..0], 5, &[0, 7], &[100, -3]).unwrap();
    Tensor::new(&data[..0], &[0, 1 << 62, 1 << 62]).unwrap();
    assert_eq!(Tensor::new(&data, &[4, 6]).unwrap().strides(), [6, 1]);
    assert!(format!("{:?}", Tensor::new(&data, &[4, 6]).unwrap()).contains("f32"));
}

/// Runs with such tensors; the words of the refusal.
fn refused_run(
    plan: &PlanBuilder,
    q: &Tensor<'_>,
    k: &Tensor<'_>,
    o: &mut TensorMut<'_>,
    change: impl for<'a> FnOnce(RunArgs<'a>) -> RunArgs<'a>,
) -> String {
    let plan = plan.clone().build(&context()).unwrap();
    let mut args = change(RunArgs::new(q, k, k, o));
    words(plan.run(&mut args, &mut plan.new_workspace().unwrap()))
}

#[test]
fn bad_runs() {
    let (q, k, mut o) = ([0.5f32; 192], [0.5f32; 176], [7.0f32; 192]);
    let q_view = Tensor::new(&q, &[1, 4, 6, 8]).unwrap();
    let k_view = Tensor::new(&k, &[1, 2, 11, 8]).unwrap();
    let plan = builder();

    // Shapes.
    let flat = Tensor::new(&q, &[4, 6, 8]).unwrap();
    let mut o_view = TensorMut::new(&mut o, &[1, 4, 6, 8]).unwrap();
    assert!(refused_run(&plan, &flat, &k_view, &mut o_view, |args| args).contains("q.rank"));
    let turned = Tensor::new(&q, &[1, 6, 4, 8]).unwrap();
    assert!(refused_run(&plan, &turned, &k_view, &mut o_view, |args| args).contains("heads_q"));
    let smaller = plan.clone().max_seqlen_k(10);
    assert!(refused_run(&smaller, &q_view, &k_view, &mut o_view, |a| a).contains("max_seqlen_k"));

    // Types.
    let bytes = [0i8; 192];
    let bytes = Tensor::new(&bytes, &[1, 4, 6, 8]).unwrap();
    assert!(refused_run(&plan, &bytes, &k_view, &mut o_view, |args| args).contains("q.dtype"));

    // Tensors that the plan does not have, and the other way round.
    let seqlens = [11i64];
    let seqlens = Tensor::new(&seqlens, &[1]).unwrap();
    let named = |text: String| assert!(text.contains("seqlens_k"), "{text}");
    let lengths = plan.clone().seqlens_k();
    let plan_built = plan.clone().build(&context()).unwrap();
    let mut workspace = plan_built.new_workspace().unwrap();
    let mut args = RunArgs::new(&q_view, &k_view, &k_view, &mut o_view).seqlens_k(&seqlens);
    named(words(plan_built.run(&mut args, &mut workspace)));
    named(refused_run(&lengths, &q_view, &k_view, &mut o_view, |args| args));
    let lengths = lengths.build(&context()).unwrap();
    let mut args = RunArgs::new(&q_view, &k_view, &k_view, &mut o_view).seqlens_k(&seqlens);
    named(words(lengths.run(&mut args, &mut lengths.new_workspace().unwrap()))); // i64
    let seqlens = [12i32];
    let seqlens = Tensor::new(&seqlens, &[1]).unwrap();
    let mut args = RunArgs::new(&q_view, &k_view, &k_view, &mut o_view).seqlens_k(&seqlens);
    named(words(lengths.run(&mut args, &mut lengths.new_workspace().unwrap()))); // too long

    // A device's tensor.
    let mut raw = *q_view.as_raw();
    raw.device_type = attn::sys::ATTN_DEVICE_CUDA as i32;
    // SAFETY: it is memory still.
    let elsewhere = unsafe { Tensor::from_raw(raw) };
    let text = refused_run(&plan, &elsewhere, &k_view, &mut o_view, |args| args);
    assert!(text.starts_with("q is on device (type 2"), "{text}");

    // Strides of an output that overlap.
    assert!(o.iter().all(|&x| x == 7.0), "outputs are untouched");
    let mut folded = TensorMut::strided(&mut o, 0, &[1, 4, 6, 8], &[0, 8, 8, 1]).unwrap();
    let text = refused_run(&plan, &q_view, &k_view, &mut folded, |args| args);
    assert!(text.contains("o.strides"), "{text}");
    assert!(o.iter().all(|&x| x == 7.0), "outputs are untouched");
}

#[test]
fn bad_workspaces() {
    let (q, k, mut o) = ([0.5f32; 192], [0.5f32; 176], [7.0f32; 192]);
    let q = Tensor::new(&q, &[1, 4, 6, 8]).unwrap();
    let k = Tensor::new(&k, &[1, 2, 11, 8]).unwrap();
    let mut o = TensorMut::new(&mut o, &[1, 4, 6, 8]).unwrap();
    let plan = builder().build(&context()).unwrap();
    let mut args = RunArgs::new(&q, &k, &k, &mut o);
    let size = plan.workspace_size();
    assert!(size > 0);
    let mut memory = vec![MaybeUninit::new(0xffu8); size + 128];
    let start = memory.as_ptr().align_offset(64);
    for (offset, length) in [(start, size - 1), (start + 1, size), (start, 0)] {
        let mut workspace = Workspace::borrowed(&mut memory[offset..offset + length]);
        let result = plan.run(&mut args, &mut workspace);
        assert!(matches!(result, Err(Error::Workspace(_))), "{result:?}");
    }
    let mut workspace = Workspace::borrowed(&mut memory[start..start + size]);
    plan.run(&mut args, &mut workspace).unwrap();
    let enormous = Workspace::new(isize::MAX as usize);
    assert!(matches!(enormous, Err(Error::OutOfMemory(_))));
    Workspace::new(0).unwrap();
}

#[test]
fn autotune() {
    let (q, mut o) = ([0.5f32; 4 * 6 * 8], [7.0f32; 4 * 6 * 8]);
    let q = Tensor::new(&q, &[1, 4, 6, 8]).unwrap();
    let mut o_view = TensorMut::new(&mut o, &[1, 4, 6, 8]).unwrap();
    let problem = builder().heads_kv(4);
    let plan = problem.clone().build(&context()).unwrap();
    let args = RunArgs::new(&q, &q, &q, &mut o_view);
    let tuned = plan.autotune(&args, Duration::from_millis(5)).unwrap();
    assert!(tuned.measured >= 1 && tuned.tuned_time <= tuned.default_time, "{tuned:?}");
    let tile_k = tuned.tile_k.unwrap();
    let plan_of_it = problem.tile_k(tile_k).build(&context()).unwrap();
    assert_eq!(plan_of_it.info().tile_k, tile_k as i64);
    assert!(words(plan.autotune(&args, Duration::ZERO)).contains("budget_ns"));
    let mask = Tensor::new(&[true], &[1, 1, 1, 1]).unwrap();
    let args = args.mask(&mask);
    assert!(words(plan.autotune(&args, Duration::from_millis(1))).contains("mask"));
    assert!(o.iter().all(|&x| x == 7.0), "outputs are untouched");
}

/// A plan is freed by the last of the threads that run it, after its context.
#[test]
fn the_last_user_ends_the_plan() {
    for _ in 0..50 {
        let context = Context::builder().num_threads(2).build().unwrap();
        let plan = Arc::new(builder().build(&context).unwrap());
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (plan, start) = (Arc::clone(&plan), &start);
                scope.spawn(move || {
                    let (q, k, mut o) = ([0.5f32; 192], [0.5f32; 176], [7.0f32; 192]);
                    let q = Tensor::new(&q, &[1, 4, 6, 8]).unwrap();
                    let k = Tensor::new(&k, &[1, 2, 11, 8]).unwrap();
                    let mut view = TensorMut::new(&mut o, &[1, 4, 6, 8]).unwrap();
                    let mut workspace = plan.new_workspace().unwrap();
                    start.wait();
                    plan.run(&mut RunArgs::new(&q, &k, &k, &mut view), &mut workspace).unwrap();
                    drop(plan);
                    assert!(o.iter().all(|&x| (x - 0.5).abs() < 1e-6), "{o:?}");
                });
            }
            start.wait();
            drop((plan, context));
        });
    }
}

#[test]
fn many_threads_run_one_plan() {
    let context = context();
    let plan = builder().causal(true).build(&context).unwrap();
    drop(context); // plans keep what they need
    let results: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let run = || {
            let mut last = Vec::new();
            let mut workspace = plan.new_workspace().unwrap();
            for _ in 0..50 {
                let q: Vec<f32> = (0..192).map(|i| (i as f32 * 0.37).sin()).collect();
                let k: Vec<f32> = (0..176).map(|i| (i as f32 * 0.61).cos()).collect();
                let mut o = vec![0.0; 192];
                let q = Tensor::new(&q, &[1, 4, 6, 8]).unwrap();
                let k = Tensor::new(&k, &[1, 2, 11, 8]).unwrap();
                let mut o_view = TensorMut::new(&mut o, &[1, 4, 6, 8]).unwrap();
                plan.run(&mut RunArgs::new(&q, &k, &k, &mut o_view), &mut workspace).unwrap();
                last = o;
            }
            last
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results[0].iter().any(|&x| x != 0.0));
    assert!(results.iter().all(|result| *result == results[0]));
}

//! Runs: the tensors of one.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use attn_sys as sys;

use crate::{Tensor, TensorMut, Workspace, struct_size};

/// Everything that one run reads and writes, borrowed: b = batch, hq = heads_q, hkv = heads_kv,
/// sq and sk = extents of seqlen, d = head_dim, dv = head_dim_v.
///
/// The plan's features and layouts say which tensors must be there; all others must not.
///
/// ```
/// use attn::{Context, Plan, RunArgs, Tensor, TensorMut};
///
/// let plan = Plan::builder()
///     .heads_q(1).head_dim(2).max_seqlen_q(1).max_seqlen_k(3).seqlens_k()
///     .build(&Context::new()?)?;
/// let q = [0.0f32; 2];
/// let k = [0.0f32; 6];
/// let v = [1.0f32, 2.0, 3.0, 4.0, f32::NAN, f32::NAN];
/// let (mut o, mut lse) = ([0.0f32; 2], [0.0f32; 1]);
///
/// let seqlens_k = [2i32];
/// let q = Tensor::new(&q, &[1, 1, 1, 2])?;
/// let k = Tensor::new(&k, &[1, 1, 3, 2])?;
/// let v = Tensor::new(&v, &[1, 1, 3, 2])?;
/// let seqlens_k = Tensor::new(&seqlens_k, &[1])?;
/// let mut o_view = TensorMut::new(&mut o, &[1, 1, 1, 2])?;
/// let mut lse_view = TensorMut::new(&mut lse, &[1, 1, 1])?;
/// let mut args =
///     RunArgs::new(&q, &k, &v, &mut o_view).lse(&mut lse_view).seqlens_k(&seqlens_k);
/// plan.run(&mut args, &mut plan.new_workspace()?)?;
/// assert_eq!(o, [2.0, 3.0]); // the mean of two values, and what is past the length never matters
/// assert!((lse[0] - 2f32.ln()).abs() < 1e-6);
/// # Ok::<(), attn::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct RunArgs<'a> {
    raw: sys::attn_run_args,
    tensors: PhantomData<(&'a Tensor<'a>, &'a mut [u8])>,
}

// SAFETY: it borrows tensors and workspaces, which are Send and Sync.
unsafe impl Send for RunArgs<'_> {}
// SAFETY: the same; a run takes a `&mut RunArgs`.
unsafe impl Sync for RunArgs<'_> {}

/// No tensors at all.
// SAFETY: it holds numbers and raw pointers alone.
const NONE: sys::attn_run_args = unsafe { MaybeUninit::zeroed().assume_init() };

macro_rules! inputs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name(mut self, $name: &'a Tensor<'_>) -> Self {
            self.raw.$name = &$name.raw;
            self
        }
    )*};
}

impl<'a> RunArgs<'a> {
    /// Padded: q `[b, hq, sq, d]`, k `[b, hkv, sk, d]`, v `[b, hkv, sk, dv]`, o `[b, hq, sq, dv]`.
    /// Packed: q `[1, hq, total_q, d]`, o likewise; k `[1, hkv, total_k, d]`, v likewise.
    /// Paged: k `[pages, hkv, page_size, d]`, v likewise.
    ///
    /// Rows of o and lse past a padded query's length are set to 0 and -inf; packed rows that
    /// belong to no sequence are left alone.
    #[inline]
    pub fn new(
        q: &'a Tensor<'_>,
        k: &'a Tensor<'_>,
        v: &'a Tensor<'_>,
        o: &'a mut TensorMut<'_>,
    ) -> RunArgs<'a> {
        let raw = sys::attn_run_args {
            struct_size: struct_size::<sys::attn_run_args>(),
            q: &q.raw,
            k: &k.raw,
            v: &v.raw,
            o: &o.raw,
            ..NONE
        };
        RunArgs { raw, tensors: PhantomData }
    }

    /// Written: f32 `[b, hq, sq]` or packed `[1, hq, total_q]`, the natural log of the softmax's
    /// denominator, the sink included. Any run may have it.
    #[inline]
    pub fn lse(mut self, lse: &'a mut TensorMut<'_>) -> Self {
        self.raw.lse = &lse.raw;
        self
    }

    inputs! {
        /// Lengths: i32 `[b]`, each from 0 to sq.
        seqlens_q,
        /// Lengths: i32 `[b]`, each from 0 to sk.
        seqlens_k,
        /// Packed Q: i32 `[b + 1]`, sequence i has the rows from `cu[i]` up to `cu[i + 1]`.
        cu_seqlens_q,
        /// Packed K and V: i32 `[b + 1]`.
        cu_seqlens_k,
        /// Paged K and V: i32 `[b, n]`, the page of key j is `table[b][j / page_size]`.
        block_table,
        /// Position of query 0 of each sequence: i64 `[b]`.
        q_start,
        /// Position of key 0 of each sequence: i64 `[b]`.
        k_start,
        /// Added to the scores, -inf masks: `[b, hq, sq, n]` or packed `[1, hq, total_q, n]`, of
        /// the plan's type. Any dimension may be 1, or of stride 0, to broadcast; column = key within
        /// its sequence.
        bias,
        /// The bias's column c is key k0 + c: i64 `[b]` or `[1]`. By default 0.
        bias_k0,
        /// u8 or bool, shaped as a bias: what is not 0 attends.
        mask,
        /// The mask's column c is key k0 + c: i64 `[b]` or `[1]`. By default 0.
        mask_k0,
        /// f32 `[hq]` or `[b, hq]`.
        alibi_slopes,
        /// f32 `[hq]`: a logit that adds exp(sink) to each row's denominator.
        sink,
        /// u8 or bool `[b, hq, ceil(max sq / block_q), ceil(max sk / block_k)]`: 0 masks the block.
        block_mask,
        /// f32 scales of an i8 or f8e4m3 K, finite and > 0: `[b, hkv, sk]`, or `[b, hkv, sk, n]`
        /// with n that divides d; paged and packed like K. The first three may broadcast.
        k_scale,
        /// The same of V.
        v_scale,
    }

    /// The device's stream or queue.
    ///
    /// # Safety
    /// It is one of the plan's device, and lives as long as the run's work in it. What the run
    /// reads and writes stays borrowed until that work is done.
    pub unsafe fn stream(mut self, stream: *mut c_void) -> Self {
        self.raw.stream = stream;
        self
    }

    pub(crate) fn as_raw(&self) -> &sys::attn_run_args {
        &self.raw
    }

    #[inline]
    pub(crate) fn with_workspace(
        &mut self,
        workspace: &mut Workspace<'_>,
    ) -> *const sys::attn_run_args {
        self.raw.workspace = workspace.as_mut_ptr();
        self.raw.workspace_size = workspace.size();
        ptr::from_ref(&self.raw)
    }
}

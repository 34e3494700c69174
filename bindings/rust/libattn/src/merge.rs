//! Merging: results over disjoint keys become the result over all of them.

use std::marker::PhantomData;
use std::ptr;

use attn_sys as sys;

use crate::{Tensor, TensorMut, struct_size};

/// Partial results of the same queries over disjoint sets of keys, to be combined:
///
/// LSE = ln(sum_p exp(LSE_p)), O = sum_p exp(LSE_p - LSE) O_p, summed in the order given. What
/// ring attention, shared prefixes and split K/V are built on.
///
/// ```
/// use attn::{Context, MergeArgs, Tensor, TensorMut};
///
/// // One query, one head, one element: values 1 and 4, the second of twice the weight.
/// let (o0, lse0, o1, lse1) = ([1.0f32], [0.0f32], [4.0f32], [2f32.ln()]);
/// let (o0, lse0) = (Tensor::new(&o0, &[1, 1, 1, 1])?, Tensor::new(&lse0, &[1, 1, 1])?);
/// let (o1, lse1) = (Tensor::new(&o1, &[1, 1, 1, 1])?, Tensor::new(&lse1, &[1, 1, 1])?);
/// let mut o = [0.0f32];
/// let mut o_view = TensorMut::new(&mut o, &[1, 1, 1, 1])?;
/// let mut args = MergeArgs::new([(&o0, &lse0), (&o1, &lse1)], &mut o_view);
/// Context::new()?.merge(&mut args)?;
/// assert!((o[0] - 3.0).abs() < 1e-6);
/// # Ok::<(), attn::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct MergeArgs<'a> {
    o_parts: Vec<*const sys::attn_tensor>,
    lse_parts: Vec<*const sys::attn_tensor>,
    o: *const sys::attn_tensor,
    lse: *const sys::attn_tensor,
    sink: *const sys::attn_tensor,
    tensors: PhantomData<(&'a Tensor<'a>, &'a mut [u8])>,
}

// SAFETY: it borrows tensors, which are Send and Sync.
unsafe impl Send for MergeArgs<'_> {}
// SAFETY: the same; merging takes a `&mut MergeArgs`.
unsafe impl Sync for MergeArgs<'_> {}

impl<'a> MergeArgs<'a> {
    /// Parts, at least one, as (o, lse): f32 `[b, h, s, dv]` and f32 `[b, h, s]`. Written: o, f32,
    /// f16 or bf16 `[b, h, s, dv]`.
    pub fn new<'b: 'a>(
        parts: impl IntoIterator<Item = (&'a Tensor<'b>, &'a Tensor<'b>)>,
        o: &'a mut TensorMut<'_>,
    ) -> MergeArgs<'a> {
        let (o_parts, lse_parts) = pointers(parts);
        MergeArgs {
            o_parts,
            lse_parts,
            o: &o.raw,
            lse: ptr::null(),
            sink: ptr::null(),
            tensors: PhantomData,
        }
    }

    /// The same with `o` and `lse` as the first part, which the result replaces.
    pub fn in_place<'b: 'a>(
        o: &'a mut TensorMut<'_>,
        lse: &'a mut TensorMut<'_>,
        parts: impl IntoIterator<Item = (&'a Tensor<'b>, &'a Tensor<'b>)>,
    ) -> MergeArgs<'a> {
        let (mut o_parts, mut lse_parts) = pointers(parts);
        let (o, lse) = (ptr::from_ref(&o.raw), ptr::from_ref(&lse.raw));
        o_parts.insert(0, o);
        lse_parts.insert(0, lse);
        MergeArgs { o_parts, lse_parts, o, lse, sink: ptr::null(), tensors: PhantomData }
    }

    /// Written: f32 `[b, h, s]`.
    pub fn lse(mut self, lse: &'a mut TensorMut<'_>) -> Self {
        self.lse = &lse.raw;
        self
    }

    /// f32 `[h]`, applied once; then no part may have had it.
    pub fn sink(mut self, sink: &'a Tensor<'_>) -> Self {
        self.sink = &sink.raw;
        self
    }

    pub(crate) fn raw(&mut self) -> sys::attn_merge_args {
        sys::attn_merge_args {
            struct_size: struct_size::<sys::attn_merge_args>(),
            count: i32::try_from(self.o_parts.len()).unwrap_or(-1), // which is refused
            o_parts: self.o_parts.as_ptr(),
            lse_parts: self.lse_parts.as_ptr(),
            o: self.o,
            lse: self.lse,
            sink: self.sink,
            stream: ptr::null_mut(),
        }
    }
}

type Pointers = Vec<*const sys::attn_tensor>;

fn pointers<'a, 'b: 'a>(
    parts: impl IntoIterator<Item = (&'a Tensor<'b>, &'a Tensor<'b>)>,
) -> (Pointers, Pointers) {
    parts.into_iter().map(|(o, lse)| (ptr::from_ref(&o.raw), ptr::from_ref(&lse.raw))).unzip()
}

//! Tensors: views of the caller's memory.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use attn_sys as sys;

use crate::{Element, Error, OutputElement, Result};

/// The largest rank of a tensor.
pub const MAX_RANK: usize = sys::ATTN_MAX_RANK as usize;

/// A view of memory that a run reads.
///
/// It borrows the slice for as long as it lives. Which shape a tensor must have says the method
/// that takes it.
///
/// ```
/// use attn::Tensor;
///
/// let memory = [0.0f32; 2 * 3 * 4];
/// let rows = Tensor::new(&memory, &[1, 2, 3, 4])?;
/// // The same memory as [batch, seqlen, heads, dim], turned into [batch, heads, seqlen, dim].
/// let turned = Tensor::strided(&memory, 0, &[1, 2, 3, 4], &[24, 4, 8, 1])?;
/// assert_eq!(rows.shape(), turned.shape());
/// # Ok::<(), attn::Error>(())
/// ```
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Tensor<'a> {
    pub(crate) raw: sys::attn_tensor,
    memory: PhantomData<&'a [u8]>,
}

/// A view of memory that a run writes; no two elements of it may share memory.
#[repr(transparent)]
pub struct TensorMut<'a> {
    pub(crate) raw: sys::attn_tensor,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: they are borrowed slices of plain numbers.
unsafe impl Send for Tensor<'_> {}
// SAFETY: the same.
unsafe impl Sync for Tensor<'_> {}
// SAFETY: the same; writing takes a `&mut TensorMut`.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: the same.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> Tensor<'a> {
    /// Row-major memory: the whole slice.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the shape has more than [`MAX_RANK`] dimensions, or another
    /// number of elements than the slice.
    #[inline]
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Tensor<'a>> {
        let raw = contiguous(data.as_ptr(), data.len(), shape)?;
        Ok(Tensor { raw, memory: PhantomData })
    }

    /// Memory with strides, in elements, which may be 0 or negative; element (0, 0, ...) is
    /// `data[offset]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are more than [`MAX_RANK`] dimensions, not as many
    /// strides, or an element would lie outside of the slice.
    #[inline]
    pub fn strided<T: Element>(
        data: &'a [T],
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<Tensor<'a>> {
        let raw = strided(data.as_ptr(), data.len(), offset, shape, strides)?;
        Ok(Tensor { raw, memory: PhantomData })
    }

    /// A tensor as the C interface has it: memory of a device, for example.
    ///
    /// # Safety
    /// What it describes is memory that may be read for `'a`, and that nobody writes to; on a device,
    /// until the work of each run that has it is done.
    pub unsafe fn from_raw(raw: sys::attn_tensor) -> Tensor<'a> {
        Tensor { raw, memory: PhantomData }
    }
}

impl<'a> TensorMut<'a> {
    /// Row-major memory: the whole slice.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    #[inline]
    pub fn new<T: OutputElement>(data: &'a mut [T], shape: &[usize]) -> Result<TensorMut<'a>> {
        let raw = contiguous(data.as_mut_ptr(), data.len(), shape)?;
        Ok(TensorMut { raw, memory: PhantomData })
    }

    /// Memory with strides, in elements; element (0, 0, ...) is `data[offset]`. A run refuses
    /// strides that make elements overlap.
    ///
    /// # Errors
    /// As [`Tensor::strided`].
    #[inline]
    pub fn strided<T: OutputElement>(
        data: &'a mut [T],
        offset: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<TensorMut<'a>> {
        let raw = strided(data.as_mut_ptr(), data.len(), offset, shape, strides)?;
        Ok(TensorMut { raw, memory: PhantomData })
    }

    /// The same memory to be read, once it is written.
    pub fn as_tensor(&self) -> Tensor<'_> {
        Tensor { raw: self.raw, memory: PhantomData }
    }

    /// A tensor as the C interface has it: memory of a device, for example.
    ///
    /// # Safety
    /// What it describes is memory that may be written for `'a`, and that nobody else uses; on a
    /// device, until the work of each run that has it is done.
    pub unsafe fn from_raw(raw: sys::attn_tensor) -> TensorMut<'a> {
        TensorMut { raw, memory: PhantomData }
    }
}

macro_rules! accessors {
    ($type:ident) => {
        impl $type<'_> {
            /// Extents of the dimensions.
            pub fn shape(&self) -> &[i64] {
                &self.raw.shape[..rank(&self.raw)]
            }

            /// Strides of the dimensions, in elements.
            pub fn strides(&self) -> &[i64] {
                &self.raw.strides[..rank(&self.raw)]
            }

            /// The tensor as the C interface has it.
            pub fn as_raw(&self) -> &sys::attn_tensor {
                &self.raw
            }
        }

        impl fmt::Debug for $type<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("dtype", &dtype_name(&self.raw))
                    .field("shape", &self.shape())
                    .field("strides", &self.strides())
                    .finish()
            }
        }
    };
}
accessors!(Tensor);
accessors!(TensorMut);

fn rank(raw: &sys::attn_tensor) -> usize {
    usize::try_from(raw.rank).unwrap_or(0).min(MAX_RANK)
}

fn dtype_name(raw: &sys::attn_tensor) -> &'static str {
    // SAFETY: the name has static storage.
    unsafe { crate::text(sys::attn_dtype_name(raw.dtype)) }
}

// The constructors are inlined, so that a view made for one call costs next to nothing.

#[inline]
fn contiguous<T: Element>(data: *const T, len: usize, shape: &[usize]) -> Result<sys::attn_tensor> {
    let count = shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent));
    if count != Some(len) || shape.len() > MAX_RANK {
        return Err(not_the_slice(shape, len));
    }
    let mut raw = described(data, shape);
    let mut stride = 1i64;
    for d in (0..shape.len()).rev() {
        raw.strides[d] = stride;
        // Too large a number only if there are no elements.
        stride = stride.saturating_mul(raw.shape[d].max(1));
    }
    Ok(raw)
}

#[cold]
fn not_the_slice(shape: &[usize], len: usize) -> Error {
    if shape.len() > MAX_RANK {
        return too_many_dimensions(shape);
    }
    Error::invalid(format!("shape: {shape:?} must have as many elements as the slice, {len}"))
}

#[cold]
fn too_many_dimensions(shape: &[usize]) -> Error {
    Error::invalid(format!("shape: {shape:?} must have at most {MAX_RANK} dimensions"))
}

#[inline]
fn strided<T: Element>(
    data: *const T,
    len: usize,
    offset: usize,
    shape: &[usize],
    strides: &[isize],
) -> Result<sys::attn_tensor> {
    if shape.len() > MAX_RANK {
        return Err(too_many_dimensions(shape));
    }
    if strides.len() != shape.len() {
        return Err(Error::invalid(format!(
            "strides: {strides:?} must be as many as the dimensions, {}",
            shape.len()
        )));
    }
    let mut raw = described(data, shape);
    let (mut lowest, mut highest) = (offset as i128, offset as i128);
    for d in 0..shape.len() {
        raw.strides[d] = strides[d] as i64;
        let reach = (shape[d] as i128 - 1) * strides[d] as i128;
        let end = if reach < 0 { &mut lowest } else { &mut highest };
        *end = end.saturating_add(reach);
    }
    if shape.contains(&0) {
        return Ok(raw); // nothing to look at
    }
    if lowest < 0 || highest >= len as i128 {
        return Err(Error::invalid(format!(
            "strides: {strides:?} with shape {shape:?} and offset {offset} reach from element \
             {lowest} to {highest}, which must be within the slice of {len}"
        )));
    }
    raw.byte_offset = (offset * size_of::<T>()) as u64;
    Ok(raw)
}

/// Everything but the strides; at most `MAX_RANK` dimensions. An extent of 2^63 or more becomes a
/// negative one, which the library refuses.
#[inline]
fn described<T: Element>(data: *const T, shape: &[usize]) -> sys::attn_tensor {
    let mut raw = sys::attn_tensor {
        data: data as *mut c_void,
        byte_offset: 0,
        dtype: T::DTYPE.raw(),
        device_type: sys::ATTN_DEVICE_CPU as i32,
        device_id: 0,
        rank: shape.len() as i32,
        shape: [0; MAX_RANK],
        strides: [0; MAX_RANK],
        reserved: [0; 2],
    };
    for (to, &from) in raw.shape.iter_mut().zip(shape) {
        *to = from as i64;
    }
    raw
}

#[cfg(feature = "ndarray")]
mod from_ndarray {
    use ndarray::{ArrayView, ArrayViewMut, Dimension};

    use super::*;

    fn view<T: Element>(
        data: *const T,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<sys::attn_tensor> {
        if shape.len() > MAX_RANK {
            return Err(too_many_dimensions(shape));
        }
        let mut raw = described(data, shape);
        for (to, &from) in raw.strides.iter_mut().zip(strides) {
            *to = from as i64;
        }
        Ok(raw)
    }

    /// Any strides. Needs the feature `ndarray`.
    impl<'a, T: Element, D: Dimension> TryFrom<ArrayView<'a, T, D>> for Tensor<'a> {
        type Error = Error;
        fn try_from(array: ArrayView<'a, T, D>) -> Result<Tensor<'a>> {
            let raw = view(array.as_ptr(), array.shape(), array.strides())?;
            Ok(Tensor { raw, memory: PhantomData })
        }
    }

    /// Any strides. Needs the feature `ndarray`.
    impl<'a, T: OutputElement, D: Dimension> TryFrom<ArrayViewMut<'a, T, D>> for TensorMut<'a> {
        type Error = Error;
        fn try_from(mut array: ArrayViewMut<'a, T, D>) -> Result<TensorMut<'a>> {
            let raw = view(array.as_mut_ptr(), array.shape(), array.strides())?;
            Ok(TensorMut { raw, memory: PhantomData })
        }
    }
}

//! Attention that any program can load: `O = softmax(scale * Q K^T + bias, masked) V`, fast, with a
//! contract for its results, without a framework.
//!
//! In a hurry:
//!
//! ```
//! use attn::{Tensor, TensorMut};
//!
//! // 4 queries over 6 keys, in 2 heads of 8: [batch, heads, seqlen, head_dim].
//! let (q, k, v) = (vec![0.5f32; 2 * 4 * 8], vec![0.5f32; 2 * 6 * 8], vec![3.0f32; 2 * 6 * 8]);
//! let mut o = vec![0.0f32; 2 * 4 * 8];
//! attn::attention(
//!     &Tensor::new(&q, &[1, 2, 4, 8])?,
//!     &Tensor::new(&k, &[1, 2, 6, 8])?,
//!     &Tensor::new(&v, &[1, 2, 6, 8])?,
//!     &mut TensorMut::new(&mut o, &[1, 2, 4, 8])?,
//!     true, // causal
//! )?;
//! assert!(o.iter().all(|x| (x - 3.0).abs() < 1e-5));
//! # Ok::<(), attn::Error>(())
//! ```
//!
//! A program that calls attention often makes a [`Context`] once (threads, memory, instruction
//! set), a [`Plan`] for each kind of problem, and gives each run a [`Workspace`]; then nothing is
//! allocated any more.
//!
//! [`Tensor`] and [`TensorMut`] are views of the caller's slices, with any shape and strides; they
//! borrow the memory, so that what is read cannot change, and what is written cannot be seen, while
//! a run has it. Types are `f32`, `half::f16` and `half::bf16`, for K and V also `i8` and
//! [`F8E4M3`] with scales.
//!
//! What a result is, where queries and keys stand, what is the same in bits: `attn/attn.h` states
//! it for every backend.
//!
//! # Features
//! - `half` (default): the types of the crate `half`.
//! - `bindgen` (default): declarations are made from the installed header; see `attn-sys`.
//! - `vendored`: builds the library from source and links it in.
//! - `ndarray`: views of ndarray's arrays become tensors by `try_from`.
//! - `rayon`: [`RayonExecutor`](https://docs.rs/libattn/latest/attn/struct.RayonExecutor.html).

mod context;
mod error;
mod executor;
mod merge;
mod plan;
mod run;
mod tensor;
mod types;
mod workspace;

use std::ffi::{CStr, c_char};

pub use attn_sys as sys;

pub use context::{BackendInfo, Context, ContextBuilder, ContextInfo, IsaInfo};
pub use error::{Error, Result};
#[cfg(feature = "rayon")]
pub use executor::RayonExecutor;
pub use executor::{Executor, Incomplete, Tasks};
pub use merge::MergeArgs;
pub use plan::{Plan, PlanBuilder, PlanInfo, Tuned};
pub use run::RunArgs;
pub use tensor::{MAX_RANK, Tensor, TensorMut};
pub use types::{Alignment, Dtype, Element, F8E4M3, Isa, LogLevel, OutputElement};
pub use workspace::{WORKSPACE_ALIGNMENT, Workspace};

/// `o = softmax(q k^T / sqrt(head_dim)) v` with a context of the library's own, planning and
/// allocating as needed.
///
/// - q `[batch, heads_q, seqlen_q, head_dim]`, k `[batch, heads_kv, seqlen_k, head_dim]`
/// - v `[batch, heads_kv, seqlen_k, head_dim_v]`
/// - o `[batch, heads_q, seqlen_q, head_dim_v]`, written
///
/// f32, f16 or bf16.
/// Causal: the last query sees the last key.
///
/// # Errors
/// As [`PlanBuilder::build`] and [`Plan::run`].
pub fn attention(
    q: &Tensor<'_>,
    k: &Tensor<'_>,
    v: &Tensor<'_>,
    o: &mut TensorMut<'_>,
    causal: bool,
) -> Result<()> {
    error::check_version()?;
    let features = if causal { sys::ATTN_CAUSAL } else { 0 };
    // SAFETY: the tensors are borrowed, the output mutably; the library checks all else.
    error::check(|error| unsafe {
        sys::attn_attention(&q.raw, &k.raw, &v.raw, &o.raw, features, error)
    })
}

/// The version of the loaded library, "0.1.0".
///
/// ```
/// assert!(attn::version().starts_with("0."));
/// ```
pub fn version() -> &'static str {
    // SAFETY: static storage.
    unsafe { text(sys::attn_version_string()) }
}

/// A C string of the library's, which are UTF-8; "" for NULL.
///
/// # Safety
/// It is NULL or lives for `'a`.
unsafe fn text<'a>(chars: *const c_char) -> &'a str {
    if chars.is_null() {
        return "";
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(chars) }.to_str().unwrap_or("")
}

/// What a config struct's `struct_size` holds.
const fn struct_size<T>() -> u32 {
    size_of::<T>() as u32
}

/// The README's program is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Errors: the library's statuses with its words.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use attn_sys as sys;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed: the kind, and the words, which name the field, what it held and what is
/// allowed.
///
/// ```
/// use attn::{Context, Error, Plan};
///
/// let plan = Plan::builder().heads_q(6).heads_kv(4).head_dim(64).max_seqlen_q(1).max_seqlen_k(1);
/// match plan.build(&Context::new()?) {
///     Err(Error::InvalidArgument(words)) => assert!(words.contains("heads_kv"), "{words}"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value that is never legal.
    #[error("{0}")]
    InvalidArgument(Box<str>),
    /// Legal, but the backend that would have to cannot do it.
    #[error("{0}")]
    Unsupported(Box<str>),
    /// A forced backend or instruction set is not on this machine.
    #[error("{0}")]
    Unavailable(Box<str>),
    /// Memory was not to be had.
    #[error("{0}")]
    OutOfMemory(Box<str>),
    /// The workspace is missing, too small or not aligned.
    #[error("{0}")]
    Workspace(Box<str>),
    /// The loaded library is older than the one that this crate was built for, or a plugin is of
    /// another version.
    #[error("{0}")]
    Version(Box<str>),
    /// The executor did not run the tasks; outputs are undefined.
    #[error("{0}")]
    Executor(Box<str>),
    /// The device failed; outputs are undefined.
    #[error("{0}")]
    Device(Box<str>),
    /// A defect of the library.
    #[error("{0}")]
    Internal(Box<str>),
    /// A status that this crate does not know, of a newer library.
    #[error("status {status}: {message}")]
    Other {
        /// The number.
        status: i32,
        /// The library's words.
        message: Box<str>,
    },
}

impl Error {
    fn new(status: sys::attn_status, message: Box<str>) -> Error {
        match status as u32 {
            sys::ATTN_ERROR_INVALID_ARGUMENT => Error::InvalidArgument(message),
            sys::ATTN_ERROR_UNSUPPORTED => Error::Unsupported(message),
            sys::ATTN_ERROR_UNAVAILABLE => Error::Unavailable(message),
            sys::ATTN_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(message),
            sys::ATTN_ERROR_WORKSPACE => Error::Workspace(message),
            sys::ATTN_ERROR_VERSION => Error::Version(message),
            sys::ATTN_ERROR_EXECUTOR => Error::Executor(message),
            sys::ATTN_ERROR_DEVICE => Error::Device(message),
            sys::ATTN_ERROR_INTERNAL => Error::Internal(message),
            _ => Error::Other { status, message },
        }
    }

    pub(crate) fn invalid(message: impl Into<Box<str>>) -> Error {
        Error::InvalidArgument(message.into())
    }
}

/// Calls a function of the C interface that takes an `attn_error`.
#[inline]
pub(crate) fn check(call: impl FnOnce(*mut sys::attn_error) -> sys::attn_status) -> Result<()> {
    let mut error = MaybeUninit::<sys::attn_error>::uninit();
    let status = call(error.as_mut_ptr());
    if status == sys::ATTN_OK as i32 { Ok(()) } else { Err(failure(status, &error)) }
}

#[cold]
fn failure(status: sys::attn_status, error: &MaybeUninit<sys::attn_error>) -> Error {
    // SAFETY: a call that fails has written it, with a NUL-terminated message.
    let words = unsafe { CStr::from_ptr((*error.as_ptr()).message.as_ptr()) };
    Error::new(status, words.to_string_lossy().into())
}

/// The loaded library is at least the one of the header that this crate was built with.
pub(crate) fn check_version() -> Result<()> {
    // SAFETY: takes nothing.
    let loaded = unsafe { sys::attn_version() };
    let built = (sys::ATTN_VERSION_MAJOR * 1_000_000
        + sys::ATTN_VERSION_MINOR * 1_000
        + sys::ATTN_VERSION_PATCH) as i32;
    if loaded >= built {
        return Ok(());
    }
    let text = |v: i32| format!("{}.{}.{}", v / 1_000_000, v / 1_000 % 1_000, v % 1_000);
    Err(Error::Version(
        format!(
            "libattn is version {}; this program was compiled for {}",
            text(loaded),
            text(built)
        )
        .into(),
    ))
}

//! What the header numbers: element types, instruction sets, layouts.

use attn_sys as sys;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// OCP E4M3: finite only, one NaN pattern.
    F8E4M3,
    /// Signed bytes.
    I8,
    /// Bytes; as masks, any that is not 0 is true.
    U8,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
}

impl Dtype {
    #[inline]
    pub(crate) fn raw(self) -> sys::attn_dtype {
        let value = match self {
            Dtype::F32 => sys::ATTN_DTYPE_F32,
            Dtype::F16 => sys::ATTN_DTYPE_F16,
            Dtype::Bf16 => sys::ATTN_DTYPE_BF16,
            Dtype::F8E4M3 => sys::ATTN_DTYPE_F8E4M3,
            Dtype::I8 => sys::ATTN_DTYPE_I8,
            Dtype::U8 => sys::ATTN_DTYPE_U8,
            Dtype::I32 => sys::ATTN_DTYPE_I32,
            Dtype::I64 => sys::ATTN_DTYPE_I64,
        };
        value as i32
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that tensors may hold.
///
/// # Safety
/// Sealed: the types of this crate, of which any bits are a value where the library writes them.
pub unsafe trait Element: Copy + sealed::Sealed + 'static {
    /// Its name in the library.
    const DTYPE: Dtype;
}

/// An element that outputs may hold: `f32`, `half::f16` and `half::bf16`.
pub trait OutputElement: Element {}

macro_rules! elements {
    ($($(#[$attribute:meta])* $type:ty => $dtype:ident),* $(,)?) => {$(
        $(#[$attribute])*
        impl sealed::Sealed for $type {}
        $(#[$attribute])*
        // SAFETY: size and meaning are those that attn.h states for the dtype.
        unsafe impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}

elements! {
    f32 => F32,
    i8 => I8,
    u8 => U8,
    bool => U8, // only ever read
    i32 => I32,
    i64 => I64,
    F8E4M3 => F8E4M3,
    #[cfg(feature = "half")]
    half::f16 => F16,
    #[cfg(feature = "half")]
    half::bf16 => Bf16,
}

impl OutputElement for f32 {}
#[cfg(feature = "half")]
impl OutputElement for half::f16 {}
#[cfg(feature = "half")]
impl OutputElement for half::bf16 {}

/// An 8-bit float, OCP E4M3, by its bits: finite only, one NaN pattern. For quantised K and V.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct F8E4M3(
    /// Sign, 4 bits of exponent, 3 of fraction.
    pub u8,
);

/// Instruction sets of the CPU backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain C++.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512: F, BW, DQ, VL.
    Avx512,
    /// AArch64.
    Neon,
    /// AVX-512 with products of bf16.
    Avx512Bf16,
    /// The same with the matrix units of Intel's servers, which a process must ask for: to name it
    /// is to ask.
    AmxBf16,
    /// One that a newer library has; 0 for a device that is no CPU.
    Other(i32),
}

impl Isa {
    pub(crate) fn raw(self) -> sys::attn_isa {
        match self {
            Isa::Scalar => sys::ATTN_ISA_SCALAR as i32,
            Isa::Avx2 => sys::ATTN_ISA_AVX2 as i32,
            Isa::Avx512 => sys::ATTN_ISA_AVX512 as i32,
            Isa::Neon => sys::ATTN_ISA_NEON as i32,
            Isa::Avx512Bf16 => sys::ATTN_ISA_AVX512_BF16 as i32,
            Isa::AmxBf16 => sys::ATTN_ISA_AMX_BF16 as i32,
            Isa::Other(value) => value,
        }
    }

    pub(crate) fn from_raw(value: sys::attn_isa) -> Isa {
        match value as u32 {
            sys::ATTN_ISA_SCALAR => Isa::Scalar,
            sys::ATTN_ISA_AVX2 => Isa::Avx2,
            sys::ATTN_ISA_AVX512 => Isa::Avx512,
            sys::ATTN_ISA_NEON => Isa::Neon,
            sys::ATTN_ISA_AVX512_BF16 => Isa::Avx512Bf16,
            sys::ATTN_ISA_AMX_BF16 => Isa::AmxBf16,
            _ => Isa::Other(value),
        }
    }
}

/// Where query 0 stands relative to key 0 when no `q_start` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Alignment {
    /// The last query sees the last key.
    #[default]
    BottomRight,
    /// Query 0 stands at key 0.
    TopLeft,
}

impl Alignment {
    pub(crate) fn raw(self) -> sys::attn_alignment {
        match self {
            Alignment::BottomRight => sys::ATTN_ALIGN_BOTTOM_RIGHT as i32,
            Alignment::TopLeft => sys::ATTN_ALIGN_TOP_LEFT as i32,
        }
    }
}

/// How urgent a message to the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogLevel {
    /// For who looks for a cause.
    Debug,
    /// Good to know.
    Info,
    /// Something is not as it should be.
    Warning,
}

impl LogLevel {
    pub(crate) fn from_raw(value: sys::attn_log_level) -> LogLevel {
        match value as u32 {
            sys::ATTN_LOG_DEBUG => LogLevel::Debug,
            sys::ATTN_LOG_INFO => LogLevel::Info,
            _ => LogLevel::Warning,
        }
    }
}

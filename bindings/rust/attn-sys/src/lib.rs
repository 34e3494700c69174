//! The C interface of [attn](https://crates.io/crates/libattn) as it is: what `attn/attn.h`
//! declares, under the same names. That header says what everything means; the safe interface is
//! the crate `libattn`.
//!
//! Enumerators are plain constants, since a newer library may return values that this crate does
//! not know. Every struct implements [`Default`] as all zeros; set `struct_size` of those that have
//! one.
//!
//! ```
//! // SAFETY: it takes nothing and returns a number.
//! assert!(unsafe { attn_sys::attn_version() } > 0);
//! ```
#![allow(non_camel_case_types, non_upper_case_globals)]
#![allow(clippy::all)] // of generated code

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

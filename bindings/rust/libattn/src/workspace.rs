//! Workspaces: the memory that a run computes in.

use std::alloc::{self, Layout};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use attn_sys as sys;

use crate::{Error, Result};

/// Memory for one run at a time; its content means nothing between runs.
///
/// [`Plan::new_workspace`](crate::Plan::new_workspace) makes one of the right size. A workspace
/// serves every plan that needs no more.
#[derive(Debug)]
pub struct Workspace<'a> {
    data: *mut c_void,
    size: usize,
    owned: bool,
    memory: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

// SAFETY: it is memory that nobody else uses.
unsafe impl Send for Workspace<'_> {}
// SAFETY: using it takes a `&mut Workspace`.
unsafe impl Sync for Workspace<'_> {}

/// What the address of a workspace must be a multiple of.
pub const WORKSPACE_ALIGNMENT: usize = sys::ATTN_WORKSPACE_ALIGNMENT as usize;

impl Workspace<'static> {
    /// `size` bytes of the global allocator's.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(size: usize) -> Result<Workspace<'static>> {
        let mut data = ptr::null_mut();
        if size > 0 {
            let refused = || Error::OutOfMemory(format!("workspace: {size} bytes").into());
            let layout = layout(size).ok_or_else(refused)?;
            // SAFETY: the size is not 0.
            data = unsafe { alloc::alloc(layout) };
            if data.is_null() {
                return Err(refused());
            }
        }
        Ok(Workspace { data: data.cast(), size, owned: true, memory: PhantomData })
    }
}

impl<'a> Workspace<'a> {
    /// Memory of the caller's, aligned to [`WORKSPACE_ALIGNMENT`], or the run refuses it.
    pub fn borrowed(memory: &'a mut [MaybeUninit<u8>]) -> Workspace<'a> {
        let data = memory.as_mut_ptr().cast();
        Workspace { data, size: memory.len(), owned: false, memory: PhantomData }
    }

    /// Memory of a device.
    ///
    /// # Safety
    /// The device may use `size` bytes from `data` for `'a`, and nobody else does.
    pub unsafe fn from_raw(data: *mut c_void, size: usize) -> Workspace<'a> {
        Workspace { data, size, owned: false, memory: PhantomData }
    }

    /// Where it begins; NULL if its size is 0.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.data
    }

    /// Bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        if self.owned && !self.data.is_null() {
            let layout = layout(self.size).expect("as when it was allocated");
            // SAFETY: allocated by `new` with this layout.
            unsafe { alloc::dealloc(self.data.cast(), layout) };
        }
    }
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, WORKSPACE_ALIGNMENT).ok()
}

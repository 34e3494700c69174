//! Contexts: threads, memory, instruction set; what this machine has.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{CString, OsStr, c_char, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use attn_sys as sys;

use crate::error::{check, check_version};
use crate::executor::parallel_for;
use crate::{Error, Executor, Isa, LogLevel, MergeArgs, Result, struct_size, text};

type Allocator = Box<dyn GlobalAlloc + Send + Sync>;
type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Threads, memory and instruction set of the plans that are made from it.
///
/// Cloning it is cheap, and clones are the same context. Plans keep what they need of it. Any
/// number of threads may use one at the same time.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

/// The handle, and what the library calls back into.
struct Inner {
    handle: *mut sys::attn_context,
    // Boxes twice: the library's `user` is a thin pointer.
    _allocator: Option<Box<Allocator>>,
    _executor: Option<Box<Box<dyn Executor>>>,
    _log: Option<Box<Log>>,
}

// SAFETY: attn.h: any number of threads may use the same context at the same time.
unsafe impl Send for Inner {}
// SAFETY: the same; what is called back is Send and Sync.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the handle is this object's, and plans hold an Arc of it.
        unsafe { sys::attn_context_destroy(self.handle) };
    }
}

/// What a context uses. Cache sizes are bytes of data cache for one core, 0 where unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextInfo<'a> {
    /// Of the CPU backends.
    pub isa: Isa,
    /// Its name, "avx512".
    pub isa_name: &'a str,
    /// Workers of the executor.
    pub concurrency: usize,
    /// Level 1.
    pub l1_cache_size: usize,
    /// Level 2.
    pub l2_cache_size: usize,
    /// Level 3.
    pub l3_cache_size: usize,
    /// Where plugins are looked for; empty if nowhere.
    pub backend_dir: &'a Path,
}

/// An instruction set that the library knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IsaInfo<'a> {
    /// Which one.
    pub isa: Isa,
    /// Its name.
    pub name: &'a str,
    /// Compiled in, and this machine and its operating system have it.
    pub available: bool,
    /// Why it is not available, in words; empty if it is.
    pub reason: &'a str,
}

/// A backend that the library knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackendInfo<'a> {
    /// What [`PlanBuilder::backend`](crate::PlanBuilder::backend) takes.
    pub name: &'a str,
    /// One line, what it serves.
    pub description: &'a str,
    /// It is there and can be used.
    pub available: bool,
    /// Why it is not available, in words; empty if it is.
    pub reason: &'a str,
}

impl Context {
    /// A context with all defaults: a thread for each CPU that the process may use, the best
    /// instruction set of this machine. Threads start with the first run.
    ///
    /// # Errors
    /// As [`ContextBuilder::build`].
    pub fn new() -> Result<Context> {
        Context::builder().build()
    }

    /// A context of the caller's choice.
    ///
    /// ```
    /// use attn::{Context, Isa};
    ///
    /// let context = Context::builder().num_threads(2).isa(Isa::Scalar).build()?;
    /// assert_eq!(context.info().isa_name, "scalar");
    /// # Ok::<(), attn::Error>(())
    /// ```
    pub fn builder() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// Starts the threads now instead of in the first run, after which a run allocates nothing.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn warmup(&self) -> Result<()> {
        // SAFETY: the handle lives.
        check(|error| unsafe { sys::attn_context_warmup(self.handle(), error) })
    }

    /// Combines partial results; see [`MergeArgs`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for shapes and types that do not fit; [`Error::Executor`].
    pub fn merge(&self, args: &mut MergeArgs<'_>) -> Result<()> {
        let raw = args.raw();
        // SAFETY: the tensors are borrowed by `args`, the outputs mutably.
        check(|error| unsafe { sys::attn_merge(self.handle(), &raw, error) })
    }

    /// What it uses.
    pub fn info(&self) -> ContextInfo<'_> {
        let mut info = sys::attn_context_info { struct_size: SIZE, ..Default::default() };
        const SIZE: u32 = struct_size::<sys::attn_context_info>();
        // SAFETY: the handle lives, the struct has its size.
        let asked = check(|e| unsafe { sys::attn_context_get_info(self.handle(), &mut info, e) });
        asked.expect("arguments are right");
        // SAFETY: strings live as long as the context.
        unsafe {
            ContextInfo {
                isa: Isa::from_raw(info.isa),
                isa_name: text(info.isa_name),
                concurrency: usize::try_from(info.concurrency).unwrap_or(0),
                l1_cache_size: info.l1_cache_size,
                l2_cache_size: info.l2_cache_size,
                l3_cache_size: info.l3_cache_size,
                backend_dir: Path::new(OsStr::from_bytes(
                    std::ffi::CStr::from_ptr(info.backend_dir).to_bytes(),
                )),
            }
        }
    }

    /// The instruction sets that the library knows.
    pub fn isas(&self) -> Vec<IsaInfo<'_>> {
        const SIZE: u32 = struct_size::<sys::attn_isa_info>();
        // SAFETY: the handle lives.
        let count = unsafe { sys::attn_context_isa_count(self.handle()) };
        let isa = |index| {
            let mut info = sys::attn_isa_info { struct_size: SIZE, ..Default::default() };
            // SAFETY: the handle lives, the struct has its size.
            let asked = check(|error| unsafe {
                sys::attn_context_get_isa(self.handle(), index, &mut info, error)
            });
            asked.expect("arguments are right");
            // SAFETY: strings live as long as the context.
            unsafe {
                IsaInfo {
                    isa: Isa::from_raw(info.isa),
                    name: text(info.name),
                    available: info.available != 0,
                    reason: text(info.reason),
                }
            }
        };
        (0..count).map(isa).collect()
    }

    /// The backends in the order in which plans try them, those that are missing too.
    ///
    /// ```
    /// let context = attn::Context::new()?;
    /// assert!(context.backends().iter().any(|backend| backend.name == "standard"));
    /// # Ok::<(), attn::Error>(())
    /// ```
    pub fn backends(&self) -> Vec<BackendInfo<'_>> {
        const SIZE: u32 = struct_size::<sys::attn_backend_info>();
        // SAFETY: the handle lives.
        let count = unsafe { sys::attn_context_backend_count(self.handle()) };
        let backend = |index| {
            let mut info = sys::attn_backend_info { struct_size: SIZE, ..Default::default() };
            // SAFETY: the handle lives, the struct has its size.
            let asked = check(|error| unsafe {
                sys::attn_context_get_backend(self.handle(), index, &mut info, error)
            });
            asked.expect("arguments are right");
            // SAFETY: strings live as long as the context.
            unsafe {
                BackendInfo {
                    name: text(info.name),
                    description: text(info.description),
                    available: info.available != 0,
                    reason: text(info.reason),
                }
            }
        };
        (0..count).map(backend).collect()
    }

    /// The handle of the C interface, which stays this object's.
    pub fn handle(&self) -> *mut sys::attn_context {
        self.inner.handle
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.info();
        f.debug_struct("Context")
            .field("isa", &info.isa)
            .field("concurrency", &info.concurrency)
            .finish_non_exhaustive()
    }
}

/// What a [`Context`] is to be; everything has a default.
#[derive(Default)]
#[must_use]
pub struct ContextBuilder {
    num_threads: Option<usize>,
    isa: Option<Isa>,
    backend_dir: Option<PathBuf>,
    allocator: Option<Allocator>,
    executor: Option<Box<dyn Executor>>,
    log: Option<Log>,
}

impl ContextBuilder {
    /// Threads of the library's own pool: 1 to 1024. By default as many as the process may use
    /// CPUs.
    pub fn num_threads(mut self, num_threads: usize) -> Self {
        self.num_threads = Some(num_threads);
        self
    }

    /// Forces an instruction set. By default the environment's `ATTN_FORCE_ISA`, else the best
    /// that this machine has.
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// The absolute directory of the plugins. By default the environment's `ATTN_BACKEND_DIR`,
    /// else the library's own directory.
    pub fn backend_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.backend_dir = Some(directory.into());
        self
    }

    /// Where the library's memory comes from: at creation and at warm-up, never in a run after
    /// that. By default malloc.
    ///
    /// ```
    /// let context = attn::Context::builder().allocator(std::alloc::System).build()?;
    /// # Ok::<(), attn::Error>(())
    /// ```
    pub fn allocator(mut self, allocator: impl GlobalAlloc + Send + Sync + 'static) -> Self {
        self.allocator = Some(Box::new(allocator));
        self
    }

    /// The host's own threads, instead of [`num_threads`](ContextBuilder::num_threads).
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executor = Some(Box::new(executor));
        self
    }

    /// Receives what the library has to say beside errors: it prints nothing itself. Called from
    /// the thread that entered the library; a panic in it is dropped.
    pub fn log(mut self, log: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    /// Creates the context.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Unavailable`] for an instruction set that this machine
    /// or build lacks; [`Error::OutOfMemory`]; [`Error::Version`] if the loaded library is older
    /// than the one that this program was built for.
    pub fn build(self) -> Result<Context> {
        check_version()?;
        let allocator = self.allocator.map(Box::new);
        let executor = self.executor.map(Box::new);
        let log = self.log.map(Box::new);
        let c_allocator = sys::attn_allocator {
            struct_size: struct_size::<sys::attn_allocator>(),
            reserved: 0,
            user: user(&allocator),
            allocate: Some(allocate),
            deallocate: Some(deallocate),
        };
        let c_executor = sys::attn_executor {
            struct_size: struct_size::<sys::attn_executor>(),
            concurrency: executor.as_ref().map_or(0, |e| clamp(e.concurrency())),
            user: user(&executor),
            parallel_for: Some(parallel_for),
        };
        let backend_dir = self.backend_dir.as_ref().map(|path| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|_| Error::invalid(format!("backend_dir: {path:?} has a NUL in it")))
        });
        let backend_dir = backend_dir.transpose()?;
        let config = sys::attn_context_config {
            struct_size: struct_size::<sys::attn_context_config>(),
            num_threads: match self.num_threads {
                Some(0) => return Err(Error::invalid("num_threads: 0 must be 1 to 1024")),
                Some(count) => clamp(count),
                None => 0,
            },
            isa: self.isa.map_or(0, Isa::raw),
            reserved: 0,
            allocator: if allocator.is_some() { &c_allocator } else { ptr::null() },
            executor: if executor.is_some() { &c_executor } else { ptr::null() },
            backend_dir: backend_dir.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            log: if log.is_some() { Some(write_log) } else { None },
            log_user: user(&log),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: what the config points at lives during the call, and what the library keeps of
        // it, the `user` pointers, in the context.
        check(|error| unsafe { sys::attn_context_create(&config, &mut handle, error) })?;
        let inner = Inner { handle, _allocator: allocator, _executor: executor, _log: log };
        Ok(Context { inner: Arc::new(inner) })
    }
}

impl fmt::Debug for ContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBuilder")
            .field("num_threads", &self.num_threads)
            .field("isa", &self.isa)
            .field("backend_dir", &self.backend_dir)
            .finish_non_exhaustive()
    }
}

/// The number, or one that the library refuses as too large.
fn clamp(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn user<T>(boxed: &Option<Box<T>>) -> *mut c_void {
    boxed.as_ref().map_or(ptr::null_mut(), |inner| ptr::from_ref::<T>(inner).cast_mut().cast())
}

unsafe extern "C" fn allocate(user: *mut c_void, size: usize, alignment: usize) -> *mut c_void {
    // SAFETY: it is what the context was created with, and lives as long as that.
    let allocator = unsafe { &*user.cast::<Allocator>() };
    match Layout::from_size_align(size.max(1), alignment) {
        // SAFETY: the size is not 0.
        Ok(layout) => unsafe { allocator.alloc(layout) }.cast(),
        Err(_) => ptr::null_mut(),
    }
}

unsafe extern "C" fn deallocate(
    user: *mut c_void,
    pointer: *mut c_void,
    size: usize,
    alignment: usize,
) {
    // SAFETY: as in `allocate`.
    let allocator = unsafe { &*user.cast::<Allocator>() };
    if let (Ok(layout), false) =
        (Layout::from_size_align(size.max(1), alignment), pointer.is_null())
    {
        // SAFETY: it came from `allocate`, with the same size and alignment.
        unsafe { allocator.dealloc(pointer.cast(), layout) };
    }
}

unsafe extern "C" fn write_log(
    user: *mut c_void,
    level: sys::attn_log_level,
    message: *const c_char,
) {
    // SAFETY: it is what the context was created with, and lives as long as that.
    let log = unsafe { &*user.cast::<Log>() };
    // SAFETY: the message lives during the call.
    let message = unsafe { text(message) };
    let _ = catch_unwind(AssertUnwindSafe(|| log(LogLevel::from_raw(level), message)));
}

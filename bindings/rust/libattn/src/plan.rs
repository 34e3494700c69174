//! Plans: what is to be computed, checked once.

use std::ffi::{CString, c_char};
use std::fmt;
use std::ptr;
use std::time::Duration;

use attn_sys as sys;

use crate::error::check;
use crate::{Alignment, Context, Dtype, Error, Isa, Result, RunArgs, Workspace, struct_size, text};

/// A kind of problem, checked once, with the backend that computes it.
///
/// Types, heads, head sizes and features are exact; what is called `max_` are upper bounds, and
/// each run may be smaller. Any number of threads may run one plan at the same time.
///
/// ```
/// use attn::{Context, Plan, RunArgs, Tensor, TensorMut};
///
/// let context = Context::new()?;
/// let plan = Plan::builder()
///     .heads_q(8)
///     .heads_kv(2)
///     .head_dim(64)
///     .max_seqlen_q(16)
///     .max_seqlen_k(128)
///     .causal(true)
///     .build(&context)?;
/// let mut workspace = plan.new_workspace()?;
///
/// let (q, k) = (vec![1.0f32; 8 * 4 * 64], vec![1.0f32; 2 * 100 * 64]);
/// let mut o = vec![0.0f32; 8 * 4 * 64];
/// {
///     let q = Tensor::new(&q, &[1, 8, 4, 64])?;
///     let k = Tensor::new(&k, &[1, 2, 100, 64])?;
///     let mut o = TensorMut::new(&mut o, &[1, 8, 4, 64])?;
///     plan.run(&mut RunArgs::new(&q, &k, &k, &mut o), &mut workspace)?;
/// }
/// assert!(o.iter().all(|x| (x - 1.0).abs() < 1e-5));
/// # Ok::<(), attn::Error>(())
/// ```
pub struct Plan {
    handle: *mut sys::attn_plan,
    workspace_size: usize,
    context: Context, // whose executor, allocator and log the plan still calls
}

// SAFETY: attn.h: any number of threads may use the same plan at the same time.
unsafe impl Send for Plan {}
// SAFETY: the same.
unsafe impl Sync for Plan {}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the handle is this object's; the context is dropped after it.
        unsafe { sys::attn_plan_destroy(self.handle) };
    }
}

/// What a plan chose. Sizes are bytes; tiles are 0 where the backend has no such thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanInfo<'a> {
    /// The backend's name.
    pub backend: &'a str,
    /// The instruction set; `Other(0)` on devices that are no CPU.
    pub isa: Isa,
    /// Its name; empty on devices that are no CPU.
    pub isa_name: &'a str,
    /// Queries a tile.
    pub tile_q: i64,
    /// Keys a step of the online softmax.
    pub tile_k: i64,
    /// Keys a chunk where long K and V are split among workers.
    pub kv_chunk: i64,
    /// What a run needs.
    pub workspace_size: usize,
    /// What the standard backend would need for the same bounds.
    pub standard_workspace_size: usize,
    /// Words of status, one for each sequence, that a run leaves at its workspace's beginning, as
    /// `attn_request_status` of attn.h; 0 on CPUs, which refuse what is bad.
    pub request_status_count: usize,
    /// On devices: which of the backend's kernels, and why none before it, in words.
    pub kernel: &'a str,
}

/// What [`Plan::autotune`] found: values for another plan, and how long a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuned {
    /// The fastest, for [`PlanBuilder::tile_k`]; `None` where the backend has no such thing.
    pub tile_k: Option<usize>,
    /// The fastest, for [`PlanBuilder::kv_chunk`]; likewise.
    pub kv_chunk: Option<usize>,
    /// With the plan's own values.
    pub default_time: Duration,
    /// With the ones above.
    pub tuned_time: Duration,
    /// Values that were compared, the plan's own included.
    pub measured: usize,
}

impl Plan {
    /// A plan to be described.
    pub fn builder() -> PlanBuilder {
        PlanBuilder::default()
    }

    /// Runs the plan. On a CPU the result is there on return; on a device the work is in the
    /// stream. After the context's first run, or [`Context::warmup`], nothing is allocated.
    ///
    /// Outputs are untouched on failure, but after [`Error::Executor`] and [`Error::Device`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for tensors that are missing or do not fit the plan, which is
    /// checked before anything is written; [`Error::Workspace`]; [`Error::Executor`];
    /// [`Error::Device`]; [`Error::OutOfMemory`] when the threads of the first run do not start.
    #[inline]
    pub fn run(&self, args: &mut RunArgs<'_>, workspace: &mut Workspace<'_>) -> Result<()> {
        let raw = args.with_workspace(workspace);
        // SAFETY: the tensors are borrowed by `args`, the outputs mutably, like the workspace; the
        // library checks all else, the content of lengths and tables included.
        check(|error| unsafe { sys::attn_run(self.handle, raw, error) })
    }

    /// Measures for about `budget` which `tile_k` and `kv_chunk` are the fastest for such runs on
    /// this machine. Inputs are read, and nothing of the caller's is written. The plan stays as it
    /// is: keep the values, and make the next plan with them. One that this plan was given is not
    /// varied.
    ///
    /// ```
    /// # use attn::{Context, Plan, RunArgs, Tensor, TensorMut};
    /// # use std::time::Duration;
    /// # let problem = Plan::builder().heads_q(1).head_dim(8).max_seqlen_q(4).max_seqlen_k(4);
    /// # let context = Context::new()?;
    /// # let (q, mut o) = ([0.5f32; 32], [0.0f32; 32]);
    /// # let q = Tensor::new(&q, &[1, 1, 4, 8])?;
    /// # let mut o = TensorMut::new(&mut o, &[1, 1, 4, 8])?;
    /// # let args = RunArgs::new(&q, &q, &q, &mut o);
    /// let plan = problem.clone().build(&context)?;
    /// let tuned = plan.autotune(&args, Duration::from_millis(10))?;
    /// let plan = match tuned.tile_k {
    ///     Some(tile_k) => problem.tile_k(tile_k).build(&context)?,
    ///     None => plan,
    /// };
    /// # Ok::<(), attn::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Plan::run), but for the workspace; [`Error::InvalidArgument`] for a budget of 0;
    /// [`Error::Unsupported`] on devices that are no CPU.
    pub fn autotune(&self, args: &RunArgs<'_>, budget: Duration) -> Result<Tuned> {
        const SIZE: u32 = struct_size::<sys::attn_autotune_info>();
        let mut info = sys::attn_autotune_info { struct_size: SIZE, ..Default::default() };
        let budget = i64::try_from(budget.as_nanos()).unwrap_or(i64::MAX);
        // SAFETY: as in `run`; outputs and workspace are not used.
        check(|error| unsafe {
            sys::attn_plan_autotune(self.handle, args.as_raw(), budget, &mut info, error)
        })?;
        let count = |value| usize::try_from(value).ok().filter(|&value| value > 0);
        let time = |ns| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
        Ok(Tuned {
            tile_k: count(info.tile_k),
            kv_chunk: count(info.kv_chunk),
            default_time: time(info.default_ns),
            tuned_time: time(info.tuned_ns),
            measured: usize::try_from(info.measured).unwrap_or(0),
        })
    }

    /// Bytes of workspace that a run within the plan's bounds needs.
    pub fn workspace_size(&self) -> usize {
        self.workspace_size
    }

    /// A workspace for one run at a time.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new_workspace(&self) -> Result<Workspace<'static>> {
        Workspace::new(self.workspace_size)
    }

    /// What the plan chose.
    pub fn info(&self) -> PlanInfo<'_> {
        const SIZE: u32 = struct_size::<sys::attn_plan_info>();
        let mut info = sys::attn_plan_info { struct_size: SIZE, ..Default::default() };
        // SAFETY: the handle lives, the struct has its size.
        let asked =
            check(|error| unsafe { sys::attn_plan_get_info(self.handle, &mut info, error) });
        asked.expect("arguments are right");
        // SAFETY: strings live as long as the plan.
        unsafe {
            PlanInfo {
                backend: text(info.backend),
                isa: Isa::from_raw(info.isa),
                isa_name: text(info.isa_name),
                tile_q: info.tile_q,
                tile_k: info.tile_k,
                kv_chunk: info.kv_chunk,
                workspace_size: info.workspace_size,
                standard_workspace_size: info.standard_workspace_size,
                request_status_count: usize::try_from(info.request_status_count).unwrap_or(0),
                kernel: text(info.kernel),
            }
        }
    }

    /// Each backend that was not chosen, and why, in words.
    pub fn refusals(&self) -> Vec<(&str, &str)> {
        let backends = self.context.backends();
        let refusal = |(index, name)| {
            // SAFETY: the handle lives; the words live as long as the plan.
            let words = unsafe { text(sys::attn_plan_refusal(self.handle, index)) };
            (!words.is_empty()).then_some((name, words))
        };
        (0..).zip(backends.iter().map(|backend| backend.name)).filter_map(refusal).collect()
    }

    /// The handle of the C interface, which stays this object's.
    pub fn handle(&self) -> *mut sys::attn_plan {
        self.handle
    }
}

/// What the plan chose and why, several lines for people.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: asks for the length alone.
        let length = unsafe { sys::attn_plan_describe(self.handle, ptr::null_mut(), 0) };
        let mut bytes = vec![0u8; length + 1];
        // SAFETY: writes at most that many bytes.
        unsafe {
            sys::attn_plan_describe(self.handle, bytes.as_mut_ptr().cast::<c_char>(), bytes.len())
        };
        bytes.truncate(length);
        f.write_str(&String::from_utf8_lossy(&bytes))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.info(), f)
    }
}

/// What a [`Plan`] computes. `heads_q`, `head_dim`, `max_seqlen_q` and `max_seqlen_k` are required.
///
/// ```
/// use attn::{Context, Dtype, Plan};
///
/// let plan = Plan::builder()
///     .dtype(Dtype::Bf16)
///     .heads_q(32)
///     .heads_kv(8)
///     .head_dim(128)
///     .max_batch(4)
///     .max_seqlen_q(1)
///     .max_seqlen_k(4096)
///     .paged(16)
///     .softcap(30.0)
///     .sink()
///     .build(&Context::new()?)?;
/// println!("{plan}");
/// # Ok::<(), attn::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PlanBuilder {
    config: sys::attn_plan_config, // its pointer is not used
    backend: Option<String>,
    error: Option<Error>,
}

impl Default for PlanBuilder {
    fn default() -> PlanBuilder {
        let config = sys::attn_plan_config {
            struct_size: struct_size::<sys::attn_plan_config>(),
            q_dtype: Dtype::F32.raw(),
            ..Default::default()
        };
        PlanBuilder { config, backend: None, error: None }
    }
}

/// Methods that set a field to a number of which 0 means the default in C, and nothing here.
macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: usize) -> Self {
            self.config.$name = self.positive(stringify!($name), $name);
            self
        }
    )*};
}

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: Dtype) -> Self {
            self.config.$name = $name.raw();
            self
        }
    )*};
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident => $feature:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(mut self) -> Self {
            self.config.features |= sys::$feature;
            self
        }
    )*};
}

impl PlanBuilder {
    /// Type of Q, and of everything that is not given another: f32 (the default), f16 or bf16.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.config.q_dtype = dtype.raw();
        self
    }

    dtypes! {
        /// Type of K; also i8 or f8e4m3, each run then carries `k_scale`. By default that of Q.
        k_dtype,
        /// Type of V; also i8 or f8e4m3, each run then carries `v_scale`. By default that of K.
        v_dtype,
        /// Type of O: f32, f16 or bf16, whatever that of Q is. By default that of Q.
        o_dtype,
    }

    counts! {
        /// Query heads.
        heads_q,
        /// Heads of K and V, which divide `heads_q`: query head h reads kv head
        /// h / (heads_q / heads_kv). By default `heads_q`.
        heads_kv,
        /// Elements of a query and a key.
        head_dim,
        /// Elements of a value. By default `head_dim`.
        head_dim_v,
        /// Sequences. By default 1.
        max_batch,
        /// Queries of any sequence.
        max_seqlen_q,
        /// Keys of any sequence.
        max_seqlen_k,
        /// Rows of packed Q. By default `max_batch` times `max_seqlen_q`.
        max_total_q,
        /// Rows of packed K and V. By default `max_batch` times `max_seqlen_k`.
        max_total_k,
        /// Keys a step of the online softmax. By default the backend's choice. Part of what fixes
        /// a result's bits.
        tile_k,
        /// Keys a chunk where long K and V are split among workers. By default the backend's
        /// choice. Part of what fixes a result's bits.
        kv_chunk,
    }

    /// Q, O and LSE are packed: `[1, heads, total, dim]`, sequence after sequence; each run carries
    /// `cu_seqlens_q`.
    pub fn packed_q(mut self) -> Self {
        self.config.q_layout = sys::ATTN_LAYOUT_PACKED as i32;
        self
    }

    /// K and V are packed: `[1, heads_kv, total, dim]`; each run carries `cu_seqlens_k`.
    pub fn packed_kv(mut self) -> Self {
        self.config.kv_layout = sys::ATTN_LAYOUT_PACKED as i32;
        self
    }

    /// K and V are paged: `[pages, heads_kv, page_size, dim]`; each run carries `block_table` and
    /// `seqlens_k`.
    pub fn paged(mut self, page_size: usize) -> Self {
        self.config.kv_layout = sys::ATTN_LAYOUT_PAGED as i32;
        self.config.page_size = self.positive_i32("page_size", page_size);
        self
    }

    /// Key position <= query position.
    pub fn causal(mut self, causal: bool) -> Self {
        if causal {
            self.config.features |= sys::ATTN_CAUSAL;
        } else {
            self.config.features &= !sys::ATTN_CAUSAL;
        }
        self
    }

    /// Where query 0 stands when no `q_start` is given.
    pub fn alignment(mut self, alignment: Alignment) -> Self {
        self.config.alignment = alignment.raw();
        self
    }

    /// Key position >= query position - `keys`.
    pub fn window_left(mut self, keys: usize) -> Self {
        self.config.features |= sys::ATTN_WINDOW_LEFT;
        self.config.window_left = self.signed("window_left", keys);
        self
    }

    /// Key position <= query position + `keys`.
    pub fn window_right(mut self, keys: usize) -> Self {
        self.config.features |= sys::ATTN_WINDOW_RIGHT;
        self.config.window_right = self.signed("window_right", keys);
        self
    }

    /// What Q K^T is multiplied by; not 0. By default 1 / sqrt(head_dim).
    pub fn scale(mut self, scale: f32) -> Self {
        if scale == 0.0 {
            self.refuse("scale: 0 must be another number".into());
        }
        self.config.scale = scale;
        self
    }

    /// Scores become softcap * tanh(score / softcap); greater than 0. By default they stay.
    pub fn softcap(mut self, softcap: f32) -> Self {
        if softcap == 0.0 {
            self.refuse("softcap: 0 must be greater than 0".into());
        }
        self.config.softcap = softcap;
        self
    }

    /// Each run carries `bias`, of type f32 or Q's.
    pub fn bias(mut self, dtype: Dtype) -> Self {
        self.config.features |= sys::ATTN_BIAS;
        self.config.bias_dtype = dtype.raw();
        self
    }

    /// Each run carries `block_mask`, of blocks of so many queries and keys.
    pub fn block_mask(mut self, block_q: usize, block_k: usize) -> Self {
        self.config.features |= sys::ATTN_BLOCK_MASK;
        self.config.block_q = self.positive_i32("block_q", block_q);
        self.config.block_k = self.positive_i32("block_k", block_k);
        self
    }

    features! {
        /// Each run carries `seqlens_q`; for padded Q.
        seqlens_q => ATTN_SEQLENS_Q,
        /// Each run carries `seqlens_k`; for padded K and V, implied by paged ones.
        seqlens_k => ATTN_SEQLENS_K,
        /// Each run carries `q_start`.
        q_start => ATTN_Q_START,
        /// Each run carries `k_start`.
        k_start => ATTN_K_START,
        /// The bias covers only the keys [k0, k0 + n); a run may carry `bias_k0`.
        bias_range => ATTN_BIAS_RANGE,
        /// Each run carries `mask`.
        mask => ATTN_MASK,
        /// The mask covers only the keys [k0, k0 + n); a run may carry `mask_k0`.
        mask_range => ATTN_MASK_RANGE,
        /// Each run carries `alibi_slopes`.
        alibi => ATTN_ALIBI,
        /// Each run carries `sink`.
        sink => ATTN_SINK,
    }

    /// Where the tensors lie. By default in the CPU's memory.
    pub fn device(mut self, device_type: sys::attn_device_type, device_id: i32) -> Self {
        self.config.device_type = device_type;
        self.config.device_id = device_id;
        self
    }

    /// On devices, runs do not ask the driver about each pointer and the stream, which saves time.
    /// Nothing changes on CPUs.
    ///
    /// # Safety
    /// Every run's tensors, workspace and stream are ones that the plan's device can reach.
    pub unsafe fn trust_pointers(mut self) -> Self {
        self.config.flags |= sys::ATTN_PLAN_TRUST_POINTERS;
        self
    }

    /// Forces a backend, by name. By default the first of [`Context::backends`] that can.
    pub fn backend(mut self, name: &str) -> Self {
        self.backend = Some(name.to_owned());
        self
    }

    /// Creates the plan: checks the problem, picks a backend and fixes its tiles.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]; [`Error::Unavailable`] and [`Error::Unsupported`] if the forced
    /// backend is not on this machine or does not serve this, the latter also if none does;
    /// [`Error::OutOfMemory`].
    pub fn build(self, context: &Context) -> Result<Plan> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let backend = self.backend.map(|name| {
            CString::new(name).map_err(|_| Error::invalid("backend: the name has a NUL in it"))
        });
        let backend = backend.transpose()?;
        let mut config = self.config;
        config.backend = backend.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let mut handle = ptr::null_mut();
        // SAFETY: the context lives, the config and its backend during the call.
        check(|e| unsafe { sys::attn_plan_create(context.handle(), &config, &mut handle, e) })?;
        let mut plan = Plan { handle, workspace_size: 0, context: context.clone() };
        let size = &mut plan.workspace_size;
        // SAFETY: the handle is the plan's.
        check(|error| unsafe { sys::attn_plan_workspace_size(handle, size, error) })?;
        Ok(plan)
    }

    /// Keeps the first error, for `build` to return.
    fn refuse(&mut self, message: String) {
        self.error.get_or_insert(Error::InvalidArgument(message.into()));
    }

    fn signed(&mut self, name: &str, value: usize) -> i64 {
        i64::try_from(value).unwrap_or_else(|_| {
            self.refuse(format!("{name}: {value} must be less than 2^63"));
            0
        })
    }

    fn positive(&mut self, name: &str, value: usize) -> i64 {
        if value == 0 {
            self.refuse(format!("{name}: 0 must be at least 1"));
        }
        self.signed(name, value)
    }

    fn positive_i32(&mut self, name: &str, value: usize) -> i32 {
        let value = self.positive(name, value);
        i32::try_from(value).unwrap_or_else(|_| {
            self.refuse(format!("{name}: {value} must be less than 2^31"));
            0
        })
    }
}

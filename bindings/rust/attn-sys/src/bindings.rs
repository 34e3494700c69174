pub const ATTN_VERSION_MAJOR: u32 = 0;
pub const ATTN_VERSION_MINOR: u32 = 1;
pub const ATTN_VERSION_PATCH: u32 = 0;
pub const ATTN_MAX_RANK: u32 = 6;
pub const ATTN_WORKSPACE_ALIGNMENT: u32 = 64;
unsafe extern "C" {
    pub fn attn_version() -> i32;
}
unsafe extern "C" {
    pub fn attn_version_string() -> *const ::core::ffi::c_char;
}
pub type attn_status = i32;
pub const ATTN_OK: _bindgen_ty_1 = 0;
pub const ATTN_ERROR_INVALID_ARGUMENT: _bindgen_ty_1 = 1;
pub const ATTN_ERROR_UNSUPPORTED: _bindgen_ty_1 = 2;
pub const ATTN_ERROR_UNAVAILABLE: _bindgen_ty_1 = 3;
pub const ATTN_ERROR_OUT_OF_MEMORY: _bindgen_ty_1 = 4;
pub const ATTN_ERROR_WORKSPACE: _bindgen_ty_1 = 5;
pub const ATTN_ERROR_VERSION: _bindgen_ty_1 = 6;
pub const ATTN_ERROR_EXECUTOR: _bindgen_ty_1 = 7;
pub const ATTN_ERROR_DEVICE: _bindgen_ty_1 = 8;
pub const ATTN_ERROR_INTERNAL: _bindgen_ty_1 = 9;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
unsafe extern "C" {
    pub fn attn_status_name(status: attn_status) -> *const ::core::ffi::c_char;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_error {
    pub status: attn_status,
    pub message: [::core::ffi::c_char; 508usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_error"][::core::mem::size_of::<attn_error>() - 512usize];
    ["Alignment of attn_error"][::core::mem::align_of::<attn_error>() - 4usize];
    [
        "Offset of field: attn_error::status",
    ][::core::mem::offset_of!(attn_error, status) - 0usize];
    [
        "Offset of field: attn_error::message",
    ][::core::mem::offset_of!(attn_error, message) - 4usize];
};
impl Default for attn_error {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_last_error() -> *const ::core::ffi::c_char;
}
pub type attn_dtype = i32;
pub const ATTN_DTYPE_INVALID: _bindgen_ty_2 = 0;
pub const ATTN_DTYPE_F32: _bindgen_ty_2 = 1;
pub const ATTN_DTYPE_F16: _bindgen_ty_2 = 2;
pub const ATTN_DTYPE_BF16: _bindgen_ty_2 = 3;
pub const ATTN_DTYPE_F8E4M3: _bindgen_ty_2 = 4;
pub const ATTN_DTYPE_I8: _bindgen_ty_2 = 5;
pub const ATTN_DTYPE_U8: _bindgen_ty_2 = 6;
pub const ATTN_DTYPE_I32: _bindgen_ty_2 = 7;
pub const ATTN_DTYPE_I64: _bindgen_ty_2 = 8;
pub type _bindgen_ty_2 = ::core::ffi::c_uint;
unsafe extern "C" {
    pub fn attn_dtype_size(dtype: attn_dtype) -> usize;
}
unsafe extern "C" {
    pub fn attn_dtype_name(dtype: attn_dtype) -> *const ::core::ffi::c_char;
}
pub type attn_device_type = i32;
pub const ATTN_DEVICE_CPU: _bindgen_ty_3 = 1;
pub const ATTN_DEVICE_CUDA: _bindgen_ty_3 = 2;
pub type _bindgen_ty_3 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_tensor {
    pub data: *mut ::core::ffi::c_void,
    pub byte_offset: u64,
    pub dtype: attn_dtype,
    pub device_type: attn_device_type,
    pub device_id: i32,
    pub rank: i32,
    pub shape: [i64; 6usize],
    pub strides: [i64; 6usize],
    pub reserved: [u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_tensor"][::core::mem::size_of::<attn_tensor>() - 144usize];
    ["Alignment of attn_tensor"][::core::mem::align_of::<attn_tensor>() - 8usize];
    [
        "Offset of field: attn_tensor::data",
    ][::core::mem::offset_of!(attn_tensor, data) - 0usize];
    [
        "Offset of field: attn_tensor::byte_offset",
    ][::core::mem::offset_of!(attn_tensor, byte_offset) - 8usize];
    [
        "Offset of field: attn_tensor::dtype",
    ][::core::mem::offset_of!(attn_tensor, dtype) - 16usize];
    [
        "Offset of field: attn_tensor::device_type",
    ][::core::mem::offset_of!(attn_tensor, device_type) - 20usize];
    [
        "Offset of field: attn_tensor::device_id",
    ][::core::mem::offset_of!(attn_tensor, device_id) - 24usize];
    [
        "Offset of field: attn_tensor::rank",
    ][::core::mem::offset_of!(attn_tensor, rank) - 28usize];
    [
        "Offset of field: attn_tensor::shape",
    ][::core::mem::offset_of!(attn_tensor, shape) - 32usize];
    [
        "Offset of field: attn_tensor::strides",
    ][::core::mem::offset_of!(attn_tensor, strides) - 80usize];
    [
        "Offset of field: attn_tensor::reserved",
    ][::core::mem::offset_of!(attn_tensor, reserved) - 128usize];
};
impl Default for attn_tensor {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_tensor_init(
        tensor: *mut attn_tensor,
        data: *mut ::core::ffi::c_void,
        dtype: attn_dtype,
        rank: i32,
        shape: *const i64,
    );
}
pub type attn_features = u32;
pub const ATTN_CAUSAL: _bindgen_ty_4 = 1;
pub const ATTN_WINDOW_LEFT: _bindgen_ty_4 = 2;
pub const ATTN_WINDOW_RIGHT: _bindgen_ty_4 = 4;
pub const ATTN_SEQLENS_Q: _bindgen_ty_4 = 8;
pub const ATTN_SEQLENS_K: _bindgen_ty_4 = 16;
pub const ATTN_Q_START: _bindgen_ty_4 = 32;
pub const ATTN_K_START: _bindgen_ty_4 = 64;
pub const ATTN_BIAS: _bindgen_ty_4 = 128;
pub const ATTN_BIAS_RANGE: _bindgen_ty_4 = 256;
pub const ATTN_MASK: _bindgen_ty_4 = 512;
pub const ATTN_MASK_RANGE: _bindgen_ty_4 = 1024;
pub const ATTN_ALIBI: _bindgen_ty_4 = 2048;
pub const ATTN_SINK: _bindgen_ty_4 = 4096;
pub const ATTN_BLOCK_MASK: _bindgen_ty_4 = 8192;
pub type _bindgen_ty_4 = ::core::ffi::c_uint;
unsafe extern "C" {
    pub fn attn_attention(
        q: *const attn_tensor,
        k: *const attn_tensor,
        v: *const attn_tensor,
        o: *const attn_tensor,
        features: attn_features,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug)]
pub struct attn_context {
    _unused: [u8; 0],
}
pub type attn_isa = i32;
pub const ATTN_ISA_AUTO: _bindgen_ty_5 = 0;
pub const ATTN_ISA_SCALAR: _bindgen_ty_5 = 1;
pub const ATTN_ISA_AVX2: _bindgen_ty_5 = 2;
pub const ATTN_ISA_AVX512: _bindgen_ty_5 = 3;
pub const ATTN_ISA_NEON: _bindgen_ty_5 = 4;
pub const ATTN_ISA_AVX512_BF16: _bindgen_ty_5 = 5;
pub const ATTN_ISA_AMX_BF16: _bindgen_ty_5 = 6;
pub type _bindgen_ty_5 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_allocator {
    pub struct_size: u32,
    pub reserved: u32,
    pub user: *mut ::core::ffi::c_void,
    pub allocate: ::core::option::Option<
        unsafe extern "C" fn(
            user: *mut ::core::ffi::c_void,
            size: usize,
            alignment: usize,
        ) -> *mut ::core::ffi::c_void,
    >,
    pub deallocate: ::core::option::Option<
        unsafe extern "C" fn(
            user: *mut ::core::ffi::c_void,
            pointer: *mut ::core::ffi::c_void,
            size: usize,
            alignment: usize,
        ),
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_allocator"][::core::mem::size_of::<attn_allocator>() - 32usize];
    ["Alignment of attn_allocator"][::core::mem::align_of::<attn_allocator>() - 8usize];
    [
        "Offset of field: attn_allocator::struct_size",
    ][::core::mem::offset_of!(attn_allocator, struct_size) - 0usize];
    [
        "Offset of field: attn_allocator::reserved",
    ][::core::mem::offset_of!(attn_allocator, reserved) - 4usize];
    [
        "Offset of field: attn_allocator::user",
    ][::core::mem::offset_of!(attn_allocator, user) - 8usize];
    [
        "Offset of field: attn_allocator::allocate",
    ][::core::mem::offset_of!(attn_allocator, allocate) - 16usize];
    [
        "Offset of field: attn_allocator::deallocate",
    ][::core::mem::offset_of!(attn_allocator, deallocate) - 24usize];
};
impl Default for attn_allocator {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_allocator_init(allocator: *mut attn_allocator, size: usize);
}
pub type attn_task_fn = ::core::option::Option<
    unsafe extern "C" fn(arg: *mut ::core::ffi::c_void, task: i64, worker: i32),
>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_executor {
    pub struct_size: u32,
    pub concurrency: i32,
    pub user: *mut ::core::ffi::c_void,
    pub parallel_for: ::core::option::Option<
        unsafe extern "C" fn(
            user: *mut ::core::ffi::c_void,
            n: i64,
            fn_: attn_task_fn,
            arg: *mut ::core::ffi::c_void,
        ) -> i32,
    >,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_executor"][::core::mem::size_of::<attn_executor>() - 24usize];
    ["Alignment of attn_executor"][::core::mem::align_of::<attn_executor>() - 8usize];
    [
        "Offset of field: attn_executor::struct_size",
    ][::core::mem::offset_of!(attn_executor, struct_size) - 0usize];
    [
        "Offset of field: attn_executor::concurrency",
    ][::core::mem::offset_of!(attn_executor, concurrency) - 4usize];
    [
        "Offset of field: attn_executor::user",
    ][::core::mem::offset_of!(attn_executor, user) - 8usize];
    [
        "Offset of field: attn_executor::parallel_for",
    ][::core::mem::offset_of!(attn_executor, parallel_for) - 16usize];
};
impl Default for attn_executor {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_executor_init(executor: *mut attn_executor, size: usize);
}
pub type attn_log_level = i32;
pub const ATTN_LOG_DEBUG: _bindgen_ty_6 = 1;
pub const ATTN_LOG_INFO: _bindgen_ty_6 = 2;
pub const ATTN_LOG_WARNING: _bindgen_ty_6 = 3;
pub type _bindgen_ty_6 = ::core::ffi::c_uint;
pub type attn_log_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        level: attn_log_level,
        message: *const ::core::ffi::c_char,
    ),
>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_context_config {
    pub struct_size: u32,
    pub num_threads: i32,
    pub isa: attn_isa,
    pub reserved: u32,
    pub allocator: *const attn_allocator,
    pub executor: *const attn_executor,
    pub backend_dir: *const ::core::ffi::c_char,
    pub log: attn_log_fn,
    pub log_user: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of attn_context_config",
    ][::core::mem::size_of::<attn_context_config>() - 56usize];
    [
        "Alignment of attn_context_config",
    ][::core::mem::align_of::<attn_context_config>() - 8usize];
    [
        "Offset of field: attn_context_config::struct_size",
    ][::core::mem::offset_of!(attn_context_config, struct_size) - 0usize];
    [
        "Offset of field: attn_context_config::num_threads",
    ][::core::mem::offset_of!(attn_context_config, num_threads) - 4usize];
    [
        "Offset of field: attn_context_config::isa",
    ][::core::mem::offset_of!(attn_context_config, isa) - 8usize];
    [
        "Offset of field: attn_context_config::reserved",
    ][::core::mem::offset_of!(attn_context_config, reserved) - 12usize];
    [
        "Offset of field: attn_context_config::allocator",
    ][::core::mem::offset_of!(attn_context_config, allocator) - 16usize];
    [
        "Offset of field: attn_context_config::executor",
    ][::core::mem::offset_of!(attn_context_config, executor) - 24usize];
    [
        "Offset of field: attn_context_config::backend_dir",
    ][::core::mem::offset_of!(attn_context_config, backend_dir) - 32usize];
    [
        "Offset of field: attn_context_config::log",
    ][::core::mem::offset_of!(attn_context_config, log) - 40usize];
    [
        "Offset of field: attn_context_config::log_user",
    ][::core::mem::offset_of!(attn_context_config, log_user) - 48usize];
};
impl Default for attn_context_config {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_context_config_init(config: *mut attn_context_config, size: usize);
}
unsafe extern "C" {
    pub fn attn_context_create(
        config: *const attn_context_config,
        context: *mut *mut attn_context,
        error: *mut attn_error,
    ) -> attn_status;
}
unsafe extern "C" {
    pub fn attn_context_destroy(context: *mut attn_context);
}
unsafe extern "C" {
    pub fn attn_context_warmup(
        context: *mut attn_context,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug)]
pub struct attn_plan {
    _unused: [u8; 0],
}
pub type attn_plan_kind = i32;
pub const ATTN_PLAN_FORWARD: _bindgen_ty_7 = 0;
pub type _bindgen_ty_7 = ::core::ffi::c_uint;
pub type attn_layout = i32;
pub const ATTN_LAYOUT_PADDED: _bindgen_ty_8 = 0;
pub const ATTN_LAYOUT_PACKED: _bindgen_ty_8 = 1;
pub const ATTN_LAYOUT_PAGED: _bindgen_ty_8 = 2;
pub type _bindgen_ty_8 = ::core::ffi::c_uint;
pub type attn_alignment = i32;
pub const ATTN_ALIGN_BOTTOM_RIGHT: _bindgen_ty_9 = 0;
pub const ATTN_ALIGN_TOP_LEFT: _bindgen_ty_9 = 1;
pub type _bindgen_ty_9 = ::core::ffi::c_uint;
pub type attn_plan_flags = u32;
pub const ATTN_PLAN_TRUST_POINTERS: _bindgen_ty_10 = 1;
pub type _bindgen_ty_10 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_plan_config {
    pub struct_size: u32,
    pub kind: attn_plan_kind,
    pub features: attn_features,
    pub device_type: attn_device_type,
    pub device_id: i32,
    pub q_dtype: attn_dtype,
    pub k_dtype: attn_dtype,
    pub v_dtype: attn_dtype,
    pub o_dtype: attn_dtype,
    pub bias_dtype: attn_dtype,
    pub q_layout: attn_layout,
    pub kv_layout: attn_layout,
    pub alignment: attn_alignment,
    pub scale: f32,
    pub softcap: f32,
    pub page_size: i32,
    pub block_q: i32,
    pub block_k: i32,
    pub heads_q: i64,
    pub heads_kv: i64,
    pub head_dim: i64,
    pub head_dim_v: i64,
    pub max_batch: i64,
    pub max_seqlen_q: i64,
    pub max_seqlen_k: i64,
    pub max_total_q: i64,
    pub max_total_k: i64,
    pub window_left: i64,
    pub window_right: i64,
    pub backend: *const ::core::ffi::c_char,
    pub tile_k: i64,
    pub kv_chunk: i64,
    pub flags: attn_plan_flags,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_plan_config"][::core::mem::size_of::<attn_plan_config>() - 192usize];
    [
        "Alignment of attn_plan_config",
    ][::core::mem::align_of::<attn_plan_config>() - 8usize];
    [
        "Offset of field: attn_plan_config::struct_size",
    ][::core::mem::offset_of!(attn_plan_config, struct_size) - 0usize];
    [
        "Offset of field: attn_plan_config::kind",
    ][::core::mem::offset_of!(attn_plan_config, kind) - 4usize];
    [
        "Offset of field: attn_plan_config::features",
    ][::core::mem::offset_of!(attn_plan_config, features) - 8usize];
    [
        "Offset of field: attn_plan_config::device_type",
    ][::core::mem::offset_of!(attn_plan_config, device_type) - 12usize];
    [
        "Offset of field: attn_plan_config::device_id",
    ][::core::mem::offset_of!(attn_plan_config, device_id) - 16usize];
    [
        "Offset of field: attn_plan_config::q_dtype",
    ][::core::mem::offset_of!(attn_plan_config, q_dtype) - 20usize];
    [
        "Offset of field: attn_plan_config::k_dtype",
    ][::core::mem::offset_of!(attn_plan_config, k_dtype) - 24usize];
    [
        "Offset of field: attn_plan_config::v_dtype",
    ][::core::mem::offset_of!(attn_plan_config, v_dtype) - 28usize];
    [
        "Offset of field: attn_plan_config::o_dtype",
    ][::core::mem::offset_of!(attn_plan_config, o_dtype) - 32usize];
    [
        "Offset of field: attn_plan_config::bias_dtype",
    ][::core::mem::offset_of!(attn_plan_config, bias_dtype) - 36usize];
    [
        "Offset of field: attn_plan_config::q_layout",
    ][::core::mem::offset_of!(attn_plan_config, q_layout) - 40usize];
    [
        "Offset of field: attn_plan_config::kv_layout",
    ][::core::mem::offset_of!(attn_plan_config, kv_layout) - 44usize];
    [
        "Offset of field: attn_plan_config::alignment",
    ][::core::mem::offset_of!(attn_plan_config, alignment) - 48usize];
    [
        "Offset of field: attn_plan_config::scale",
    ][::core::mem::offset_of!(attn_plan_config, scale) - 52usize];
    [
        "Offset of field: attn_plan_config::softcap",
    ][::core::mem::offset_of!(attn_plan_config, softcap) - 56usize];
    [
        "Offset of field: attn_plan_config::page_size",
    ][::core::mem::offset_of!(attn_plan_config, page_size) - 60usize];
    [
        "Offset of field: attn_plan_config::block_q",
    ][::core::mem::offset_of!(attn_plan_config, block_q) - 64usize];
    [
        "Offset of field: attn_plan_config::block_k",
    ][::core::mem::offset_of!(attn_plan_config, block_k) - 68usize];
    [
        "Offset of field: attn_plan_config::heads_q",
    ][::core::mem::offset_of!(attn_plan_config, heads_q) - 72usize];
    [
        "Offset of field: attn_plan_config::heads_kv",
    ][::core::mem::offset_of!(attn_plan_config, heads_kv) - 80usize];
    [
        "Offset of field: attn_plan_config::head_dim",
    ][::core::mem::offset_of!(attn_plan_config, head_dim) - 88usize];
    [
        "Offset of field: attn_plan_config::head_dim_v",
    ][::core::mem::offset_of!(attn_plan_config, head_dim_v) - 96usize];
    [
        "Offset of field: attn_plan_config::max_batch",
    ][::core::mem::offset_of!(attn_plan_config, max_batch) - 104usize];
    [
        "Offset of field: attn_plan_config::max_seqlen_q",
    ][::core::mem::offset_of!(attn_plan_config, max_seqlen_q) - 112usize];
    [
        "Offset of field: attn_plan_config::max_seqlen_k",
    ][::core::mem::offset_of!(attn_plan_config, max_seqlen_k) - 120usize];
    [
        "Offset of field: attn_plan_config::max_total_q",
    ][::core::mem::offset_of!(attn_plan_config, max_total_q) - 128usize];
    [
        "Offset of field: attn_plan_config::max_total_k",
    ][::core::mem::offset_of!(attn_plan_config, max_total_k) - 136usize];
    [
        "Offset of field: attn_plan_config::window_left",
    ][::core::mem::offset_of!(attn_plan_config, window_left) - 144usize];
    [
        "Offset of field: attn_plan_config::window_right",
    ][::core::mem::offset_of!(attn_plan_config, window_right) - 152usize];
    [
        "Offset of field: attn_plan_config::backend",
    ][::core::mem::offset_of!(attn_plan_config, backend) - 160usize];
    [
        "Offset of field: attn_plan_config::tile_k",
    ][::core::mem::offset_of!(attn_plan_config, tile_k) - 168usize];
    [
        "Offset of field: attn_plan_config::kv_chunk",
    ][::core::mem::offset_of!(attn_plan_config, kv_chunk) - 176usize];
    [
        "Offset of field: attn_plan_config::flags",
    ][::core::mem::offset_of!(attn_plan_config, flags) - 184usize];
    [
        "Offset of field: attn_plan_config::reserved",
    ][::core::mem::offset_of!(attn_plan_config, reserved) - 188usize];
};
impl Default for attn_plan_config {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_plan_config_init(config: *mut attn_plan_config, size: usize);
}
unsafe extern "C" {
    pub fn attn_plan_create(
        context: *mut attn_context,
        config: *const attn_plan_config,
        plan: *mut *mut attn_plan,
        error: *mut attn_error,
    ) -> attn_status;
}
unsafe extern "C" {
    pub fn attn_plan_destroy(plan: *mut attn_plan);
}
unsafe extern "C" {
    pub fn attn_plan_workspace_size(
        plan: *const attn_plan,
        size: *mut usize,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_run_args {
    pub struct_size: u32,
    pub reserved: u32,
    pub q: *const attn_tensor,
    pub k: *const attn_tensor,
    pub v: *const attn_tensor,
    pub o: *const attn_tensor,
    pub lse: *const attn_tensor,
    pub seqlens_q: *const attn_tensor,
    pub seqlens_k: *const attn_tensor,
    pub cu_seqlens_q: *const attn_tensor,
    pub cu_seqlens_k: *const attn_tensor,
    pub block_table: *const attn_tensor,
    pub q_start: *const attn_tensor,
    pub k_start: *const attn_tensor,
    pub bias: *const attn_tensor,
    pub bias_k0: *const attn_tensor,
    pub mask: *const attn_tensor,
    pub mask_k0: *const attn_tensor,
    pub alibi_slopes: *const attn_tensor,
    pub sink: *const attn_tensor,
    pub block_mask: *const attn_tensor,
    pub k_scale: *const attn_tensor,
    pub v_scale: *const attn_tensor,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_size: usize,
    pub stream: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_run_args"][::core::mem::size_of::<attn_run_args>() - 200usize];
    ["Alignment of attn_run_args"][::core::mem::align_of::<attn_run_args>() - 8usize];
    [
        "Offset of field: attn_run_args::struct_size",
    ][::core::mem::offset_of!(attn_run_args, struct_size) - 0usize];
    [
        "Offset of field: attn_run_args::reserved",
    ][::core::mem::offset_of!(attn_run_args, reserved) - 4usize];
    [
        "Offset of field: attn_run_args::q",
    ][::core::mem::offset_of!(attn_run_args, q) - 8usize];
    [
        "Offset of field: attn_run_args::k",
    ][::core::mem::offset_of!(attn_run_args, k) - 16usize];
    [
        "Offset of field: attn_run_args::v",
    ][::core::mem::offset_of!(attn_run_args, v) - 24usize];
    [
        "Offset of field: attn_run_args::o",
    ][::core::mem::offset_of!(attn_run_args, o) - 32usize];
    [
        "Offset of field: attn_run_args::lse",
    ][::core::mem::offset_of!(attn_run_args, lse) - 40usize];
    [
        "Offset of field: attn_run_args::seqlens_q",
    ][::core::mem::offset_of!(attn_run_args, seqlens_q) - 48usize];
    [
        "Offset of field: attn_run_args::seqlens_k",
    ][::core::mem::offset_of!(attn_run_args, seqlens_k) - 56usize];
    [
        "Offset of field: attn_run_args::cu_seqlens_q",
    ][::core::mem::offset_of!(attn_run_args, cu_seqlens_q) - 64usize];
    [
        "Offset of field: attn_run_args::cu_seqlens_k",
    ][::core::mem::offset_of!(attn_run_args, cu_seqlens_k) - 72usize];
    [
        "Offset of field: attn_run_args::block_table",
    ][::core::mem::offset_of!(attn_run_args, block_table) - 80usize];
    [
        "Offset of field: attn_run_args::q_start",
    ][::core::mem::offset_of!(attn_run_args, q_start) - 88usize];
    [
        "Offset of field: attn_run_args::k_start",
    ][::core::mem::offset_of!(attn_run_args, k_start) - 96usize];
    [
        "Offset of field: attn_run_args::bias",
    ][::core::mem::offset_of!(attn_run_args, bias) - 104usize];
    [
        "Offset of field: attn_run_args::bias_k0",
    ][::core::mem::offset_of!(attn_run_args, bias_k0) - 112usize];
    [
        "Offset of field: attn_run_args::mask",
    ][::core::mem::offset_of!(attn_run_args, mask) - 120usize];
    [
        "Offset of field: attn_run_args::mask_k0",
    ][::core::mem::offset_of!(attn_run_args, mask_k0) - 128usize];
    [
        "Offset of field: attn_run_args::alibi_slopes",
    ][::core::mem::offset_of!(attn_run_args, alibi_slopes) - 136usize];
    [
        "Offset of field: attn_run_args::sink",
    ][::core::mem::offset_of!(attn_run_args, sink) - 144usize];
    [
        "Offset of field: attn_run_args::block_mask",
    ][::core::mem::offset_of!(attn_run_args, block_mask) - 152usize];
    [
        "Offset of field: attn_run_args::k_scale",
    ][::core::mem::offset_of!(attn_run_args, k_scale) - 160usize];
    [
        "Offset of field: attn_run_args::v_scale",
    ][::core::mem::offset_of!(attn_run_args, v_scale) - 168usize];
    [
        "Offset of field: attn_run_args::workspace",
    ][::core::mem::offset_of!(attn_run_args, workspace) - 176usize];
    [
        "Offset of field: attn_run_args::workspace_size",
    ][::core::mem::offset_of!(attn_run_args, workspace_size) - 184usize];
    [
        "Offset of field: attn_run_args::stream",
    ][::core::mem::offset_of!(attn_run_args, stream) - 192usize];
};
impl Default for attn_run_args {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_run_args_init(args: *mut attn_run_args, size: usize);
}
unsafe extern "C" {
    pub fn attn_run(
        plan: *const attn_plan,
        args: *const attn_run_args,
        error: *mut attn_error,
    ) -> attn_status;
}
pub type attn_request_status = u32;
pub const ATTN_REQUEST_BAD_SEQLEN_Q: _bindgen_ty_11 = 1;
pub const ATTN_REQUEST_BAD_SEQLEN_K: _bindgen_ty_11 = 2;
pub const ATTN_REQUEST_BAD_PAGE: _bindgen_ty_11 = 4;
pub const ATTN_REQUEST_BAD_POSITION: _bindgen_ty_11 = 8;
pub type _bindgen_ty_11 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_merge_args {
    pub struct_size: u32,
    pub count: i32,
    pub o_parts: *const *const attn_tensor,
    pub lse_parts: *const *const attn_tensor,
    pub o: *const attn_tensor,
    pub lse: *const attn_tensor,
    pub sink: *const attn_tensor,
    pub stream: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_merge_args"][::core::mem::size_of::<attn_merge_args>() - 56usize];
    [
        "Alignment of attn_merge_args",
    ][::core::mem::align_of::<attn_merge_args>() - 8usize];
    [
        "Offset of field: attn_merge_args::struct_size",
    ][::core::mem::offset_of!(attn_merge_args, struct_size) - 0usize];
    [
        "Offset of field: attn_merge_args::count",
    ][::core::mem::offset_of!(attn_merge_args, count) - 4usize];
    [
        "Offset of field: attn_merge_args::o_parts",
    ][::core::mem::offset_of!(attn_merge_args, o_parts) - 8usize];
    [
        "Offset of field: attn_merge_args::lse_parts",
    ][::core::mem::offset_of!(attn_merge_args, lse_parts) - 16usize];
    [
        "Offset of field: attn_merge_args::o",
    ][::core::mem::offset_of!(attn_merge_args, o) - 24usize];
    [
        "Offset of field: attn_merge_args::lse",
    ][::core::mem::offset_of!(attn_merge_args, lse) - 32usize];
    [
        "Offset of field: attn_merge_args::sink",
    ][::core::mem::offset_of!(attn_merge_args, sink) - 40usize];
    [
        "Offset of field: attn_merge_args::stream",
    ][::core::mem::offset_of!(attn_merge_args, stream) - 48usize];
};
impl Default for attn_merge_args {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_merge_args_init(args: *mut attn_merge_args, size: usize);
}
unsafe extern "C" {
    pub fn attn_merge(
        context: *mut attn_context,
        args: *const attn_merge_args,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_context_info {
    pub struct_size: u32,
    pub isa: attn_isa,
    pub isa_name: *const ::core::ffi::c_char,
    pub concurrency: i32,
    pub reserved: i32,
    pub l1_cache_size: usize,
    pub l2_cache_size: usize,
    pub l3_cache_size: usize,
    pub backend_dir: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_context_info"][::core::mem::size_of::<attn_context_info>() - 56usize];
    [
        "Alignment of attn_context_info",
    ][::core::mem::align_of::<attn_context_info>() - 8usize];
    [
        "Offset of field: attn_context_info::struct_size",
    ][::core::mem::offset_of!(attn_context_info, struct_size) - 0usize];
    [
        "Offset of field: attn_context_info::isa",
    ][::core::mem::offset_of!(attn_context_info, isa) - 4usize];
    [
        "Offset of field: attn_context_info::isa_name",
    ][::core::mem::offset_of!(attn_context_info, isa_name) - 8usize];
    [
        "Offset of field: attn_context_info::concurrency",
    ][::core::mem::offset_of!(attn_context_info, concurrency) - 16usize];
    [
        "Offset of field: attn_context_info::reserved",
    ][::core::mem::offset_of!(attn_context_info, reserved) - 20usize];
    [
        "Offset of field: attn_context_info::l1_cache_size",
    ][::core::mem::offset_of!(attn_context_info, l1_cache_size) - 24usize];
    [
        "Offset of field: attn_context_info::l2_cache_size",
    ][::core::mem::offset_of!(attn_context_info, l2_cache_size) - 32usize];
    [
        "Offset of field: attn_context_info::l3_cache_size",
    ][::core::mem::offset_of!(attn_context_info, l3_cache_size) - 40usize];
    [
        "Offset of field: attn_context_info::backend_dir",
    ][::core::mem::offset_of!(attn_context_info, backend_dir) - 48usize];
};
impl Default for attn_context_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_context_info_init(info: *mut attn_context_info, size: usize);
}
unsafe extern "C" {
    pub fn attn_context_get_info(
        context: *const attn_context,
        info: *mut attn_context_info,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_isa_info {
    pub struct_size: u32,
    pub isa: attn_isa,
    pub name: *const ::core::ffi::c_char,
    pub available: i32,
    pub reserved: i32,
    pub reason: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_isa_info"][::core::mem::size_of::<attn_isa_info>() - 32usize];
    ["Alignment of attn_isa_info"][::core::mem::align_of::<attn_isa_info>() - 8usize];
    [
        "Offset of field: attn_isa_info::struct_size",
    ][::core::mem::offset_of!(attn_isa_info, struct_size) - 0usize];
    [
        "Offset of field: attn_isa_info::isa",
    ][::core::mem::offset_of!(attn_isa_info, isa) - 4usize];
    [
        "Offset of field: attn_isa_info::name",
    ][::core::mem::offset_of!(attn_isa_info, name) - 8usize];
    [
        "Offset of field: attn_isa_info::available",
    ][::core::mem::offset_of!(attn_isa_info, available) - 16usize];
    [
        "Offset of field: attn_isa_info::reserved",
    ][::core::mem::offset_of!(attn_isa_info, reserved) - 20usize];
    [
        "Offset of field: attn_isa_info::reason",
    ][::core::mem::offset_of!(attn_isa_info, reason) - 24usize];
};
impl Default for attn_isa_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_isa_info_init(info: *mut attn_isa_info, size: usize);
}
unsafe extern "C" {
    pub fn attn_context_isa_count(context: *const attn_context) -> i32;
}
unsafe extern "C" {
    pub fn attn_context_get_isa(
        context: *const attn_context,
        index: i32,
        info: *mut attn_isa_info,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_backend_info {
    pub struct_size: u32,
    pub available: i32,
    pub name: *const ::core::ffi::c_char,
    pub description: *const ::core::ffi::c_char,
    pub reason: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_backend_info"][::core::mem::size_of::<attn_backend_info>() - 32usize];
    [
        "Alignment of attn_backend_info",
    ][::core::mem::align_of::<attn_backend_info>() - 8usize];
    [
        "Offset of field: attn_backend_info::struct_size",
    ][::core::mem::offset_of!(attn_backend_info, struct_size) - 0usize];
    [
        "Offset of field: attn_backend_info::available",
    ][::core::mem::offset_of!(attn_backend_info, available) - 4usize];
    [
        "Offset of field: attn_backend_info::name",
    ][::core::mem::offset_of!(attn_backend_info, name) - 8usize];
    [
        "Offset of field: attn_backend_info::description",
    ][::core::mem::offset_of!(attn_backend_info, description) - 16usize];
    [
        "Offset of field: attn_backend_info::reason",
    ][::core::mem::offset_of!(attn_backend_info, reason) - 24usize];
};
impl Default for attn_backend_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_backend_info_init(info: *mut attn_backend_info, size: usize);
}
unsafe extern "C" {
    pub fn attn_context_backend_count(context: *const attn_context) -> i32;
}
unsafe extern "C" {
    pub fn attn_context_get_backend(
        context: *const attn_context,
        index: i32,
        info: *mut attn_backend_info,
        error: *mut attn_error,
    ) -> attn_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct attn_plan_info {
    pub struct_size: u32,
    pub isa: attn_isa,
    pub backend: *const ::core::ffi::c_char,
    pub isa_name: *const ::core::ffi::c_char,
    pub tile_q: i64,
    pub tile_k: i64,
    pub kv_chunk: i64,
    pub workspace_size: usize,
    pub standard_workspace_size: usize,
    pub request_status_count: i64,
    pub kernel: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of attn_plan_info"][::core::mem::size_of::<attn_plan_info>() - 80usize];
    ["Alignment of attn_plan_info"][::core::mem::align_of::<attn_plan_info>() - 8usize];
    [
        "Offset of field: attn_plan_info::struct_size",
    ][::core::mem::offset_of!(attn_plan_info, struct_size) - 0usize];
    [
        "Offset of field: attn_plan_info::isa",
    ][::core::mem::offset_of!(attn_plan_info, isa) - 4usize];
    [
        "Offset of field: attn_plan_info::backend",
    ][::core::mem::offset_of!(attn_plan_info, backend) - 8usize];
    [
        "Offset of field: attn_plan_info::isa_name",
    ][::core::mem::offset_of!(attn_plan_info, isa_name) - 16usize];
    [
        "Offset of field: attn_plan_info::tile_q",
    ][::core::mem::offset_of!(attn_plan_info, tile_q) - 24usize];
    [
        "Offset of field: attn_plan_info::tile_k",
    ][::core::mem::offset_of!(attn_plan_info, tile_k) - 32usize];
    [
        "Offset of field: attn_plan_info::kv_chunk",
    ][::core::mem::offset_of!(attn_plan_info, kv_chunk) - 40usize];
    [
        "Offset of field: attn_plan_info::workspace_size",
    ][::core::mem::offset_of!(attn_plan_info, workspace_size) - 48usize];
    [
        "Offset of field: attn_plan_info::standard_workspace_size",
    ][::core::mem::offset_of!(attn_plan_info, standard_workspace_size) - 56usize];
    [
        "Offset of field: attn_plan_info::request_status_count",
    ][::core::mem::offset_of!(attn_plan_info, request_status_count) - 64usize];
    [
        "Offset of field: attn_plan_info::kernel",
    ][::core::mem::offset_of!(attn_plan_info, kernel) - 72usize];
};
impl Default for attn_plan_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
unsafe extern "C" {
    pub fn attn_plan_info_init(info: *mut attn_plan_info, size: usize);
}
unsafe extern "C" {
    pub fn attn_plan_get_info(
        plan: *const attn_plan,
        info: *mut attn_plan_info,
        error: *mut attn_error,
    ) -> attn_status;
}
unsafe extern "C" {
    pub fn attn_plan_refusal(
        plan: *const attn_plan,
        index: i32,
    ) -> *const ::core::ffi::c_char;
}
unsafe extern "C" {
    pub fn attn_plan_describe(
        plan: *const attn_plan,
        text: *mut ::core::ffi::c_char,
        size: usize,
    ) -> usize;
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct attn_autotune_info {
    pub struct_size: u32,
    pub measured: i32,
    pub tile_k: i64,
    pub kv_chunk: i64,
    pub default_ns: i64,
    pub tuned_ns: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of attn_autotune_info",
    ][::core::mem::size_of::<attn_autotune_info>() - 40usize];
    [
        "Alignment of attn_autotune_info",
    ][::core::mem::align_of::<attn_autotune_info>() - 8usize];
    [
        "Offset of field: attn_autotune_info::struct_size",
    ][::core::mem::offset_of!(attn_autotune_info, struct_size) - 0usize];
    [
        "Offset of field: attn_autotune_info::measured",
    ][::core::mem::offset_of!(attn_autotune_info, measured) - 4usize];
    [
        "Offset of field: attn_autotune_info::tile_k",
    ][::core::mem::offset_of!(attn_autotune_info, tile_k) - 8usize];
    [
        "Offset of field: attn_autotune_info::kv_chunk",
    ][::core::mem::offset_of!(attn_autotune_info, kv_chunk) - 16usize];
    [
        "Offset of field: attn_autotune_info::default_ns",
    ][::core::mem::offset_of!(attn_autotune_info, default_ns) - 24usize];
    [
        "Offset of field: attn_autotune_info::tuned_ns",
    ][::core::mem::offset_of!(attn_autotune_info, tuned_ns) - 32usize];
};
unsafe extern "C" {
    pub fn attn_autotune_info_init(info: *mut attn_autotune_info, size: usize);
}
unsafe extern "C" {
    pub fn attn_plan_autotune(
        plan: *const attn_plan,
        args: *const attn_run_args,
        budget_ns: i64,
        info: *mut attn_autotune_info,
        error: *mut attn_error,
    ) -> attn_status;
}

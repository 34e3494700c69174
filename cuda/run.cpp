// run.cpp: a run: checks of what only the driver knows, kernel parameters, launches.
#include "run.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "error.h"
#include "plan.h"
#include "tensor.h"

namespace attn::cuda {
namespace {

constexpr int64_t kMaxGrid = INT32_MAX;

CUdeviceptr address(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

bool is_empty(const attn_tensor& t) {
  return std::any_of(t.shape, t.shape + t.rank, [](int64_t extent) { return extent == 0; });
}

// ---- what the driver knows about pointers and streams
// --------------------------------------------

attn_status check_address(const Device& device, const char* name, const void* pointer,
                          attn_error* error) {
  int32_t attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                          CU_POINTER_ATTRIBUTE_IS_MANAGED};
  // The driver writes 4, 4 and 1 byte; all 0 for memory that it does not know.
  uint32_t type = 0;
  int32_t ordinal = 0;
  uint32_t managed = 0;
  void* values[] = {&type, &ordinal, &managed};
  ATTN_CUDA_TRY(*device.driver, error, cuPointerGetAttributes, 3, attributes, values,
                address(pointer));
  if (managed || type == CU_MEMORYTYPE_HOST) return ATTN_OK;  // reached through one address space
  if (type == CU_MEMORYTYPE_DEVICE) {
    if (ordinal == device.id) return ATTN_OK;
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s is at %p, in the memory of CUDA device %d; the plan's device is %d", name,
                pointer, ordinal, device.id);
  }
  if (device.reads_pageable) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
              "%s is at %p, which CUDA device %d cannot reach; allowed: its own memory, managed "
              "memory, pinned host memory",
              name, pointer, device.id);
}

// Both ends of a tensor's memory.
attn_status check_memory(const Device& device, const char* name, const attn_tensor* tensor,
                         attn_error* error) {
  if (!tensor || is_empty(*tensor)) return ATTN_OK;
  const attn_tensor& t = *tensor;
  int64_t lowest = 0, highest = 0;  // elements
  for (int32_t i = 0; i < t.rank; ++i) {
    const int64_t reach = (t.shape[i] - 1) * t.strides[i];
    (reach < 0 ? lowest : highest) += reach;
  }
  const int64_t size = static_cast<int64_t>(dtype_size(t.dtype));
  ATTN_TRY(check_address(device, name, tensor_data(t) + lowest * size, error));
  if (lowest == highest) return ATTN_OK;
  return check_address(device, name, tensor_data(t) + highest * size + size - 1, error);
}

attn_status check_stream(const Device& device, void* stream, attn_error* error) {
  if (reinterpret_cast<uintptr_t>(stream) <= kLastSpecialStream) return ATTN_OK;
  CUcontext context = nullptr;
  ATTN_CUDA_TRY(*device.driver, error, cuStreamGetCtx, static_cast<CUstream>(stream), &context);
  if (context == device.context) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
              "stream belongs to another context than the primary one of CUDA device %d",
              device.id);
}

attn_status check_pointers(const Device& device, const attn_run_args& a, size_t workspace_size,
                           attn_error* error) {
  const struct {
    const char* name;
    const attn_tensor* tensor;
  } tensors[] = {{"q", a.q},
                 {"k", a.k},
                 {"v", a.v},
                 {"o", a.o},
                 {"lse", a.lse},
                 {"seqlens_q", a.seqlens_q},
                 {"seqlens_k", a.seqlens_k},
                 {"cu_seqlens_q", a.cu_seqlens_q},
                 {"cu_seqlens_k", a.cu_seqlens_k},
                 {"block_table", a.block_table},
                 {"q_start", a.q_start},
                 {"k_start", a.k_start},
                 {"bias", a.bias},
                 {"bias_k0", a.bias_k0},
                 {"mask", a.mask},
                 {"mask_k0", a.mask_k0},
                 {"alibi_slopes", a.alibi_slopes},
                 {"sink", a.sink},
                 {"block_mask", a.block_mask}};
  for (const auto& [name, tensor] : tensors) ATTN_TRY(check_memory(device, name, tensor, error));
  if (workspace_size > 0) {
    const char* begin = static_cast<const char*>(a.workspace);
    ATTN_TRY(check_address(device, "workspace", begin, error));
    ATTN_TRY(check_address(device, "workspace", begin + workspace_size - 1, error));
  }
  return check_stream(device, a.stream, error);
}

// ---- parameters
// ----------------------------------------------------------------------------------

// q, k, v, o and lse: packed tensors have no batch dimension to step over.
TensorView view_of(const attn_tensor* tensor, bool packed) {
  TensorView view{};
  if (!tensor || is_empty(*tensor)) return view;
  view.data = tensor_data(*tensor);
  for (int32_t i = 0; i < tensor->rank; ++i) view.strides[i] = broadcast_stride(*tensor, i);
  if (packed) view.strides[0] = 0;
  return view;
}

template <typename Vector, typename T>
Vector vector_of(const attn_tensor* tensor) {
  if (!tensor || is_empty(*tensor)) return Vector{};
  return Vector{reinterpret_cast<const T*>(tensor_data(*tensor)), broadcast_stride(*tensor, 0)};
}
Int32Vector int32_vector(const attn_tensor* t) { return vector_of<Int32Vector, int32_t>(t); }
Int64Vector int64_vector(const attn_tensor* t) { return vector_of<Int64Vector, int64_t>(t); }

ScoreMap score_map(const attn_tensor* tensor, bool packed, bool ranged, const attn_tensor* k0) {
  ScoreMap map{};
  if (!tensor || is_empty(*tensor)) return map;
  const TensorView view = view_of(tensor, packed);
  map.data = view.data;
  std::copy(view.strides, view.strides + 4, map.strides);
  if (ranged) map.strides[3] = tensor->strides[3];  // there one column is one key
  map.k0 = int64_vector(k0);
  map.columns = tensor->shape[3];
  return map;
}

AttendParams attend_params(const attn_plan_config& p, const attn_run_args& a,
                           const attn_run_shape& shape) {
  const bool q_packed = p.q_layout == ATTN_LAYOUT_PACKED;
  const bool kv_packed = p.kv_layout == ATTN_LAYOUT_PACKED;
  AttendParams to{};
  to.q = view_of(a.q, q_packed);
  to.k = view_of(a.k, kv_packed);
  to.v = view_of(a.v, kv_packed);
  to.o = view_of(a.o, q_packed);
  to.lse = view_of(a.lse, q_packed);
  to.features = p.features;
  to.q_layout = p.q_layout;
  to.kv_layout = p.kv_layout;
  to.alignment = p.alignment;
  to.o_dtype = p.o_dtype;
  to.bias_dtype = p.bias_dtype;
  to.scale = p.scale;
  to.softcap = p.softcap;
  to.window_left = p.window_left;
  to.window_right = p.window_right;
  to.batch = static_cast<int32_t>(shape.batch);
  to.heads_q = static_cast<int32_t>(p.heads_q);
  to.heads_kv = static_cast<int32_t>(p.heads_kv);
  to.head_dim = static_cast<int32_t>(p.head_dim);
  to.head_dim_v = static_cast<int32_t>(p.head_dim_v);
  to.seqlen_q = static_cast<int32_t>(shape.seqlen_q);
  to.seqlen_k = static_cast<int32_t>(shape.seqlen_k);
  to.page_size = p.page_size;
  to.total_q = shape.total_q;
  to.total_k = shape.total_k;
  to.num_pages = shape.num_pages;
  to.seqlens_q = int32_vector(a.seqlens_q);
  to.seqlens_k = int32_vector(a.seqlens_k);
  to.cu_seqlens_q = int32_vector(a.cu_seqlens_q);
  to.cu_seqlens_k = int32_vector(a.cu_seqlens_k);
  if (a.block_table && !is_empty(*a.block_table)) {
    to.block_table = reinterpret_cast<const int32_t*>(tensor_data(*a.block_table));
    to.block_table_strides[0] = broadcast_stride(*a.block_table, 0);
    to.block_table_strides[1] = broadcast_stride(*a.block_table, 1);
    to.block_table_columns = a.block_table->shape[1];
  }
  to.q_start = int64_vector(a.q_start);
  to.k_start = int64_vector(a.k_start);
  to.bias = score_map(a.bias, q_packed, p.features & ATTN_BIAS_RANGE, a.bias_k0);
  to.mask = score_map(a.mask, q_packed, p.features & ATTN_MASK_RANGE, a.mask_k0);
  if (a.alibi_slopes) {
    const attn_tensor& slopes = *a.alibi_slopes;
    to.alibi_slopes = reinterpret_cast<const float*>(tensor_data(slopes));
    to.alibi_strides[0] = slopes.rank == 2 ? broadcast_stride(slopes, 0) : 0;
    to.alibi_strides[1] = broadcast_stride(slopes, slopes.rank - 1);
  }
  if (a.sink) {
    to.sink = reinterpret_cast<const float*>(tensor_data(*a.sink));
    to.sink_stride = broadcast_stride(*a.sink, 0);
  }
  if (a.block_mask) {
    const TensorView blocks = view_of(a.block_mask, false);
    to.block_mask = static_cast<const uint8_t*>(blocks.data);
    std::copy(blocks.strides, blocks.strides + 4, to.block_mask_strides);
    to.block_q = p.block_q;
    to.block_k = p.block_k;
  }
  return to;
}

// Tiles and workspace, which depend on the kernel.
void add_work(const PlanState& state, const KernelInfo& kernel, const attn_plan_config& p,
              char* workspace, AttendParams* to) {
  to->gqa_pack = gqa_pack_of(kernel, p);
  const int64_t rows = int64_t{to->seqlen_q} * to->gqa_pack;
  to->tiles_q = static_cast<int32_t>((rows + kernel.tile_q - 1) / kernel.tile_q);
  to->num_chunks = 1;
  if (state.combine.info) {
    to->kv_chunk = static_cast<int32_t>(std::min(p.kv_chunk, kMaxSeqlen));
    to->num_chunks = std::max(1, (to->seqlen_k + to->kv_chunk - 1) / to->kv_chunk);
  }
  to->num_tiles = int64_t{to->batch} * (p.heads_q / to->gqa_pack) * to->tiles_q * to->num_chunks;
  uint32_t* const words = reinterpret_cast<uint32_t*>(workspace);
  if (state.status_count > 0) to->status = words;
  if (kernel.dynamic) to->tile_counter = words + state.status_count;
  if (to->num_chunks > 1) {
    to->partial_lse = reinterpret_cast<float*>(workspace + state.partial_lse_offset);
    to->partial_o = reinterpret_cast<float*>(workspace + state.partial_o_offset);
    const bool packed = p.q_layout == ATTN_LAYOUT_PACKED;
    to->partial_head_rows = packed ? to->total_q : to->seqlen_q;
    to->partial_batch_rows = packed ? 0 : to->partial_head_rows * p.heads_q;
    to->partial_chunk_rows =
        packed ? to->partial_head_rows * p.heads_q : to->partial_batch_rows * to->batch;
  }
}

// ---- tensor maps
// ---------------------------------------------------------------------------------

// Whether TMA takes this tensor: it has elements, rows are contiguous, its address and the strides
// of what has more than one are positive multiples of 16 bytes.
bool takes_map(const attn_tensor& t) {
  constexpr int64_t kMaxStride = int64_t{1} << 40;  // bytes
  if (is_empty(t) || reinterpret_cast<uintptr_t>(tensor_data(t)) % 16 != 0) return false;
  if (t.shape[3] > 1 && t.strides[3] != 1) return false;
  const int64_t size = static_cast<int64_t>(dtype_size(t.dtype));
  for (int32_t i = 0; i < 3; ++i) {
    if (t.shape[i] > INT32_MAX) return false;
    if (t.shape[i] == 1) continue;
    if (t.strides[i] <= 0 || t.strides[i] >= kMaxStride / size || t.strides[i] * size % 16 != 0) {
      return false;
    }
  }
  return true;
}

// The map of t [outer, heads, rows, columns], see WgmmaParams.
attn_status encode_map(const Driver& driver, const char* name, const attn_tensor& t,
                       int32_t box_rows, int32_t box_heads, TensorMap* map, attn_error* error) {
  const int64_t size = static_cast<int64_t>(dtype_size(t.dtype));
  const uint64_t dims[] = {static_cast<uint64_t>(t.shape[3]), static_cast<uint64_t>(t.shape[2]),
                           static_cast<uint64_t>(t.shape[1]), static_cast<uint64_t>(t.shape[0])};
  const auto stride = [&](int32_t dim) -> uint64_t {
    // What has one element steps nowhere, but must hold a legal number.
    return t.shape[dim] == 1 ? 16 : static_cast<uint64_t>(t.strides[dim] * size);
  };
  const uint64_t strides[] = {stride(2), stride(1), stride(0)};
  const uint32_t box[] = {static_cast<uint32_t>(128 / size), static_cast<uint32_t>(box_rows),
                          static_cast<uint32_t>(box_heads), 1};
  const uint32_t steps[] = {1, 1, 1, 1};
  const CUresult result = driver.cuTensorMapEncodeTiled(
      map,
      t.dtype == ATTN_DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      4, tensor_data(t), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return ATTN_OK;
  driver_failure(driver, result, "cuTensorMapEncodeTiled", error);
  const attn_error why = *error;
  return fail(error, why.status, "%s: %.400s", name, why.message);
}

attn_status add_maps(const Driver& driver, const KernelInfo& kernel, const attn_plan_config& p,
                     const attn_run_args& a, WgmmaParams* to, attn_error* error) {
  int32_t heads = to->attend.gqa_pack;
  if (heads > 1 && kernel.box_heads_q != kAllPackedHeads) heads = std::max(1, kernel.box_heads_q);
  int32_t rows_k = kernel.box_rows_k, rows_v = kernel.box_rows_v;
  if (p.kv_layout == ATTN_LAYOUT_PAGED) {
    rows_k = std::gcd(rows_k, p.page_size);
    rows_v = std::gcd(rows_v, p.page_size);
  }
  ATTN_TRY(encode_map(driver, "q", *a.q, kernel.box_rows_q / heads, heads, &to->q_map, error));
  ATTN_TRY(encode_map(driver, "k", *a.k, rows_k, 1, &to->k_map, error));
  ATTN_TRY(encode_map(driver, "v", *a.v, rows_v, 1, &to->v_map, error));
  to->use_o_map = p.o_dtype == p.q_dtype && to->attend.num_chunks == 1 && takes_map(*a.o);
  if (!to->use_o_map) return ATTN_OK;
  return encode_map(driver, "o", *a.o, kernel.box_rows_o / heads, heads, &to->o_map, error);
}

// ---- launches
// ------------------------------------------------------------------------------------

attn_status launch(const Device& device, const Kernel& kernel, int64_t blocks, void* params,
                   void* stream, attn_error* error) {
  const KernelInfo& info = *kernel.info;
  if (info.ctas_per_sm > 0) {
    blocks = std::min<int64_t>(blocks, int64_t{device.multiprocessors} * info.ctas_per_sm);
  }
  void* pointers[] = {params};
  const CUresult result = device.driver->cuLaunchKernel(
      kernel.function, static_cast<uint32_t>(std::min(blocks, kMaxGrid)), 1, 1,
      static_cast<uint32_t>(info.threads), 1, 1, static_cast<uint32_t>(info.shared_bytes),
      static_cast<CUstream>(stream), pointers, nullptr);
  if (result == CUDA_SUCCESS) return ATTN_OK;
  driver_failure(*device.driver, result, "cuLaunchKernel", error);
  const attn_error why = *error;
  return fail(error, why.status, "%s: %.400s", info.symbol, why.message);
}

// The kernel that takes this run's addresses and strides.
attn_status choose_kernel(const PlanState& state, const attn_run_args& a, const Kernel** kernel,
                          attn_error* error) {
  *kernel = &state.attend;
  if (state.attend.info->serves & kServesUnaligned) return ATTN_OK;
  const struct {
    const char* name;
    const attn_tensor* tensor;
  } tensors[] = {{"q", a.q}, {"k", a.k}, {"v", a.v}};
  for (const auto& [name, tensor] : tensors) {
    if (takes_map(*tensor)) continue;
    *kernel = &state.unaligned;
    if (state.unaligned.info) return ATTN_OK;
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s has no elements, or an address or strides that %s does not take: multiples of "
                "16 bytes, columns next to each other",
                name, state.attend.info->symbol);
  }
  return ATTN_OK;
}

attn_status check_process(const Device& device, attn_error* error) {
  return is_forked_child() ? init_driver(*device.driver, error) : attn_status{ATTN_OK};
}

}  // namespace

attn_status run(const attn_plan_config* problem, const attn_backend_plan* plan,
                const attn_run_args* args, const attn_run_shape* shape, attn_error* error) {
  const PlanState& state = *static_cast<const PlanState*>(plan->state);
  const Device& device = *state.device;
  const Driver& driver = *device.driver;
  ATTN_TRY(check_process(device, error));
  const Kernel* kernel;
  ATTN_TRY(choose_kernel(state, *args, &kernel, error));
  const CurrentContext current(device, error);
  ATTN_TRY(current.status());
  if (!(problem->flags & ATTN_PLAN_TRUST_POINTERS)) {
    ATTN_TRY(check_pointers(device, *args, plan->workspace_size, error));
  }

  WgmmaParams params{};
  params.attend = attend_params(*problem, *args, *shape);
  add_work(state, *kernel->info, *problem, static_cast<char*>(args->workspace), &params.attend);
  if (params.attend.num_tiles == 0) return ATTN_OK;
  if (kernel->info->ctas_per_sm == 0 && params.attend.num_tiles > kMaxGrid) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "the batch has %lld tiles of queries and heads; %s takes up to %lld in a run",
                static_cast<long long>(params.attend.num_tiles), kernel->info->symbol,
                static_cast<long long>(kMaxGrid));
  }
  const bool is_wgmma = kernel->info->family == Family::kWgmma;
  if (is_wgmma) {
    ATTN_TRY(add_maps(driver, *kernel->info, *problem, *args, &params, error));
  }
  if (state.clear_words > 0) {
    ATTN_CUDA_TRY(driver, error, cuMemsetD32Async, address(args->workspace), 0,
                  static_cast<size_t>(state.clear_words), static_cast<CUstream>(args->stream));
  }
  void* const all = is_wgmma ? static_cast<void*>(&params) : &params.attend;
  ATTN_TRY(launch(device, *kernel, params.attend.num_tiles, all, args->stream, error));
  if (params.attend.num_chunks == 1) return ATTN_OK;
  const int64_t rows = params.attend.partial_chunk_rows;
  const int64_t rows_per_block = state.combine.info->tile_q;
  return launch(device, state.combine, (rows + rows_per_block - 1) / rows_per_block, &params.attend,
                args->stream, error);
}

// ---- merging
// -------------------------------------------------------------------------------------

namespace {

// Devices that merges opened: held until the plugin is unloaded, since work may still be in a
// stream when a merge returns.
Device* merge_devices[kMaxDevices];
pthread_mutex_t merge_mutex = PTHREAD_MUTEX_INITIALIZER;

attn_status merge_device(int32_t id, const Device** device, attn_error* error) {
  if (id < 0 || id >= kMaxDevices) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "device_id is %d; allowed: 0 to %d", id,
                kMaxDevices - 1);
  }
  pthread_mutex_lock(&merge_mutex);
  attn_status status = ATTN_OK;
  if (!merge_devices[id]) status = acquire_device(id, &merge_devices[id], error);
  *device = merge_devices[id];
  pthread_mutex_unlock(&merge_mutex);
  return status;
}

attn_status check_merge_pointers(const Device& device, const attn_merge_args& a,
                                 attn_error* error) {
  ATTN_TRY(check_memory(device, "o", a.o, error));
  ATTN_TRY(check_memory(device, "lse", a.lse, error));
  ATTN_TRY(check_memory(device, "sink", a.sink, error));
  for (int32_t i = 0; i < a.count; ++i) {
    ATTN_TRY(check_memory(device, "o_parts", a.o_parts[i], error));
    ATTN_TRY(check_memory(device, "lse_parts", a.lse_parts[i], error));
  }
  return check_stream(device, a.stream, error);
}

MergePart merge_part(const TensorView& o, const TensorView& lse) {
  MergePart part{};
  part.o = static_cast<const float*>(o.data);
  part.lse = static_cast<const float*>(lse.data);
  std::copy(o.strides, o.strides + 4, part.o_strides);
  std::copy(lse.strides, lse.strides + 3, part.lse_strides);
  return part;
}

}  // namespace

attn_status merge(const attn_merge_args* args, attn_error* error) {
  const attn_merge_args& a = *args;
  // What one launch does not hold is merged on top of its result, in o and lse.
  const bool folds = a.count > kMaxMergeParts;
  if (folds && (a.o->dtype != ATTN_DTYPE_F32 || !a.lse)) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "count is %d; on CUDA a merge of more than %d parts needs an f32 o and lse (or "
                "merge in groups)",
                a.count, kMaxMergeParts);
  }
  const Device* device = nullptr;
  ATTN_TRY(merge_device(a.o->device_id, &device, error));
  ATTN_TRY(check_process(*device, error));
  if (!device->merge_row) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "this build has no kernel that merges on compute capability %d.%d", device->sm / 10,
                device->sm % 10);
  }
  const CurrentContext current(*device, error);
  ATTN_TRY(current.status());
  ATTN_TRY(check_merge_pointers(*device, a, error));
  MergeParams params{};
  std::copy(a.o->shape, a.o->shape + 4, params.shape);
  const int64_t rows = params.shape[0] * params.shape[1] * params.shape[2];
  if (rows == 0) return ATTN_OK;
  params.o = view_of(a.o, false);
  params.lse = view_of(a.lse, false);
  params.o_dtype = a.o->dtype;

  const int64_t rows_per_block = device->merge_row->tile_q;
  const auto launch_parts = [&] {
    return launch(*device, {device->merge_row, device->merge},
                  (rows + rows_per_block - 1) / rows_per_block, &params, a.stream, error);
  };
  // A part that is an output's very view comes first, before that is written.
  const auto comes_later = [&](int32_t i) {
    return folds && tensor_data(*a.o_parts[i]) != tensor_data(*a.o) &&
           tensor_data(*a.lse_parts[i]) != tensor_data(*a.lse);
  };
  for (const bool later : {false, true}) {
    for (int32_t i = 0; i < a.count; ++i) {
      if (comes_later(i) != later) continue;
      if (params.count == kMaxMergeParts) {
        ATTN_TRY(launch_parts());
        params.parts[0] = merge_part(params.o, params.lse);
        params.count = 1;
      }
      params.parts[params.count++] =
          merge_part(view_of(a.o_parts[i], false), view_of(a.lse_parts[i], false));
    }
  }
  if (a.sink) {
    params.sink = reinterpret_cast<const float*>(tensor_data(*a.sink));
    params.sink_stride = broadcast_stride(*a.sink, 0);
  }
  return launch_parts();
}

void release_merge_devices() {
  for (Device*& device : merge_devices) {
    release_device(device);
    device = nullptr;
  }
}

}  // namespace attn::cuda

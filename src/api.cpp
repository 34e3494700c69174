// The door: every extern "C" function of attn.h. Checks handles, calls, remembers failures.
#include <attn/attn.h>

#include <algorithm>
#include <atomic>

#include "autotune.h"
#include "config.h"
#include "context.h"
#include "error.h"
#include "plan.h"
#include "tensor.h"

using attn::enter;
using attn::fail;

namespace {

#define ATTN_STRINGIFY_(x) #x
#define ATTN_STRINGIFY(x) ATTN_STRINGIFY_(x)

attn_status null_argument(const char* name, attn_error* error) {
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
}

attn_status check_index(int32_t index, int32_t count, attn_error* error) {
  if (index >= 0 && index < count) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "index is %d; allowed: 0 to %d", index,
              count - 1);
}

// The context behind attn_attention.
std::atomic<attn_context*> default_context{nullptr};

attn_status get_default_context(attn_context** context, attn_error* error) {
  *context = default_context.load();
  if (*context) return ATTN_OK;
  attn_context* fresh = nullptr;
  ATTN_TRY(attn::create_context(nullptr, &fresh, error));
  if (default_context.compare_exchange_strong(*context, fresh)) {
    *context = fresh;
  } else {
    attn::release_context(fresh);  // another thread was first
  }
  return ATTN_OK;
}

// At unload, so that no thread outlives the code that it runs.
[[gnu::destructor]] void release_default_context() {
  attn::release_context(default_context.exchange(nullptr));
}

}  // namespace

extern "C" {

int32_t attn_version(void) { return ATTN_VERSION; }

const char* attn_version_string(void) {
  return ATTN_STRINGIFY(ATTN_VERSION_MAJOR) "." ATTN_STRINGIFY(
      ATTN_VERSION_MINOR) "." ATTN_STRINGIFY(ATTN_VERSION_PATCH);
}

const char* attn_status_name(attn_status status) {
  switch (status) {
    case ATTN_OK:
      return "ATTN_OK";
    case ATTN_ERROR_INVALID_ARGUMENT:
      return "ATTN_ERROR_INVALID_ARGUMENT";
    case ATTN_ERROR_UNSUPPORTED:
      return "ATTN_ERROR_UNSUPPORTED";
    case ATTN_ERROR_UNAVAILABLE:
      return "ATTN_ERROR_UNAVAILABLE";
    case ATTN_ERROR_OUT_OF_MEMORY:
      return "ATTN_ERROR_OUT_OF_MEMORY";
    case ATTN_ERROR_WORKSPACE:
      return "ATTN_ERROR_WORKSPACE";
    case ATTN_ERROR_VERSION:
      return "ATTN_ERROR_VERSION";
    case ATTN_ERROR_EXECUTOR:
      return "ATTN_ERROR_EXECUTOR";
    case ATTN_ERROR_DEVICE:
      return "ATTN_ERROR_DEVICE";
    case ATTN_ERROR_INTERNAL:
      return "ATTN_ERROR_INTERNAL";
    default:
      return "unknown status";
  }
}

const char* attn_last_error(void) { return attn::last_error(); }

size_t attn_dtype_size(attn_dtype dtype) { return attn::dtype_size(dtype); }

const char* attn_dtype_name(attn_dtype dtype) { return attn::dtype_name(dtype); }

void attn_tensor_init(attn_tensor* tensor, void* data, attn_dtype dtype, int32_t rank,
                      const int64_t* shape) {
  if (!tensor) return;
  *tensor = attn_tensor{};
  tensor->data = data;
  tensor->dtype = dtype;
  tensor->device_type = ATTN_DEVICE_CPU;
  tensor->rank = rank;
  if (!shape) return;
  uint64_t stride = 1;  // unsigned: a shape too large wraps here and is refused where it is used
  for (int32_t i = std::min(rank, ATTN_MAX_RANK) - 1; i >= 0; --i) {
    tensor->shape[i] = shape[i];
    tensor->strides[i] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(shape[i]);
  }
}

attn_status attn_attention(const attn_tensor* q, const attn_tensor* k, const attn_tensor* v,
                           const attn_tensor* o, attn_features features, attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    attn_context* context;
    ATTN_TRY(get_default_context(&context, e));
    return attn::run_once(context, q, k, v, o, features, e);
  });
}

void attn_allocator_init(attn_allocator* allocator, size_t size) {
  attn::init_config(allocator, size);
}
void attn_executor_init(attn_executor* executor, size_t size) { attn::init_config(executor, size); }
void attn_context_config_init(attn_context_config* config, size_t size) {
  attn::init_config(config, size);
}
void attn_plan_config_init(attn_plan_config* config, size_t size) {
  attn::init_config(config, size);
}
void attn_run_args_init(attn_run_args* args, size_t size) { attn::init_config(args, size); }
void attn_merge_args_init(attn_merge_args* args, size_t size) { attn::init_config(args, size); }
void attn_context_info_init(attn_context_info* info, size_t size) { attn::init_config(info, size); }
void attn_isa_info_init(attn_isa_info* info, size_t size) { attn::init_config(info, size); }
void attn_backend_info_init(attn_backend_info* info, size_t size) { attn::init_config(info, size); }
void attn_plan_info_init(attn_plan_info* info, size_t size) { attn::init_config(info, size); }
void attn_autotune_info_init(attn_autotune_info* info, size_t size) {
  attn::init_config(info, size);
}

attn_status attn_context_create(const attn_context_config* config, attn_context** context,
                                attn_error* error) {
  return enter(error, [&](attn_error* e) { return attn::create_context(config, context, e); });
}

void attn_context_destroy(attn_context* context) { attn::release_context(context); }

attn_status attn_context_warmup(attn_context* context, attn_error* error) {
  return enter(error, [&](attn_error* e) {
    return context ? attn::warmup_context(context, e) : null_argument("context", e);
  });
}

attn_status attn_plan_create(attn_context* context, const attn_plan_config* config,
                             attn_plan** plan, attn_error* error) {
  return enter(error, [&](attn_error* e) { return attn::create_plan(context, config, plan, e); });
}

void attn_plan_destroy(attn_plan* plan) { attn::destroy_plan(plan); }

attn_status attn_plan_workspace_size(const attn_plan* plan, size_t* size, attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    if (!plan) return null_argument("plan", e);
    if (!size) return null_argument("size", e);
    *size = plan->backend_plan.workspace_size;
    return ATTN_OK;
  });
}

attn_status attn_run(const attn_plan* plan, const attn_run_args* args, attn_error* error) {
  return enter(error, [&](attn_error* e) {
    return plan ? attn::run_plan(*plan, args, e) : null_argument("plan", e);
  });
}

attn_status attn_merge(attn_context* context, const attn_merge_args* args, attn_error* error) {
  return enter(error, [&](attn_error* e) { return attn::merge(context, args, e); });
}

attn_status attn_context_get_info(const attn_context* context, attn_context_info* info,
                                  attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    if (!context) return null_argument("context", e);
    const attn_host& host = context->host;
    const attn_context_info full{sizeof(attn_context_info),
                                 host.isa,
                                 attn::isa_name(host.isa),
                                 host.concurrency,
                                 0,
                                 host.l1_cache_size,
                                 host.l2_cache_size,
                                 host.l3_cache_size,
                                 context->backend_dir};
    return attn::write_info(full, "attn_context_info", info, e);
  });
}

int32_t attn_context_isa_count(const attn_context* context) {
  return context ? attn::kIsaCount : 0;
}

attn_status attn_context_get_isa(const attn_context* context, int32_t index, attn_isa_info* info,
                                 attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    if (!context) return null_argument("context", e);
    ATTN_TRY(check_index(index, attn::kIsaCount, e));
    const attn::IsaEntry& entry = context->cpu.isas[index];
    const attn_isa_info full{sizeof(attn_isa_info), entry.isa, entry.name,
                             !*entry.reason,        0,         entry.reason};
    return attn::write_info(full, "attn_isa_info", info, e);
  });
}

int32_t attn_context_backend_count(const attn_context* context) {
  return context ? context->registry.count : 0;
}

attn_status attn_context_get_backend(const attn_context* context, int32_t index,
                                     attn_backend_info* info, attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    if (!context) return null_argument("context", e);
    ATTN_TRY(check_index(index, context->registry.count, e));
    const attn::BackendEntry& entry = context->registry.entries[index];
    const attn_backend_info full{sizeof(attn_backend_info), entry.available(), entry.name,
                                 entry.backend ? entry.backend->description : "", entry.reason};
    return attn::write_info(full, "attn_backend_info", info, e);
  });
}

attn_status attn_plan_get_info(const attn_plan* plan, attn_plan_info* info, attn_error* error) {
  return enter(error, [&](attn_error* e) -> attn_status {
    if (!plan) return null_argument("plan", e);
    const attn_backend_plan& b = plan->backend_plan;
    const attn_plan_info full{sizeof(attn_plan_info),
                              b.isa,
                              plan->backend->name,
                              attn::isa_name(b.isa),
                              b.tile_q,
                              b.tile_k,
                              b.kv_chunk,
                              b.workspace_size,
                              plan->standard_workspace_size,
                              b.request_status_count,
                              b.kernel ? b.kernel : ""};
    return attn::write_info(full, "attn_plan_info", info, e);
  });
}

const char* attn_plan_refusal(const attn_plan* plan, int32_t index) {
  if (!plan || index < 0 || index >= plan->context->registry.count) return nullptr;
  return plan->refusals[index];
}

size_t attn_plan_describe(const attn_plan* plan, char* text, size_t size) {
  if (!plan || (!text && size > 0)) return 0;
  return attn::describe_plan(*plan, text, size);
}

attn_status attn_plan_autotune(const attn_plan* plan, const attn_run_args* args, int64_t budget_ns,
                               attn_autotune_info* info, attn_error* error) {
  return enter(error, [&](attn_error* e) {
    return plan ? attn::autotune_plan(*plan, args, budget_ns, info, e) : null_argument("plan", e);
  });
}

}  // extern "C"

// Plans: choosing a backend, running, describing.
#include "plan.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <new>

#include "config.h"
#include "error.h"
#include "fpmode.h"
#include "standard/standard.h"
#include "validate.h"

namespace attn {
namespace {

constexpr const char* kNoMemory = "no memory for a plan";

const BackendEntry* find_backend(const Registry& registry, const char* name) {
  for (int i = 0; i < registry.count; ++i) {
    if (std::strcmp(registry.entries[i].name, name) == 0) return &registry.entries[i];
  }
  return nullptr;
}

attn_status unknown_backend(const Registry& registry, const char* name, attn_error* error) {
  char names[256] = "";
  for (int i = 0; i < registry.count; ++i) {
    const size_t length = std::strlen(names);
    std::snprintf(names + length, sizeof(names) - length, "%s%s", i ? ", " : "",
                  registry.entries[i].name);
  }
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "backend is '%.64s'; known here: %s", name,
              names);
}

// Whether the machine has the one instruction set that is never chosen by default.
bool offers_amx(const Cpu& cpu) {
  return std::any_of(std::begin(cpu.isas), std::end(cpu.isas), [](const IsaEntry& entry) {
    return entry.isa == ATTN_ISA_AMX_BF16 && !*entry.reason;
  });
}

// Asks one backend. ATTN_OK makes it the plan's; otherwise *error tells why not.
attn_status try_backend(const BackendEntry& entry, attn_plan* plan, attn_error* error) {
  if (!entry.available()) return fail(error, ATTN_ERROR_UNAVAILABLE, "%s", entry.reason);
  const attn_plan_config& problem = plan->problem;
  if (entry.backend->device_type != problem.device_type) {
    return fail(error, ATTN_ERROR_UNSUPPORTED, "it works on device type %d; device_type is %d",
                entry.backend->device_type, problem.device_type);
  }
  plan->backend_plan = attn_backend_plan{};
  plan->backend_plan.struct_size = sizeof(attn_backend_plan);
  ATTN_TRY(entry.backend->plan_create(&plan->context->host, &problem, &plan->backend_plan, error));
  plan->backend = entry.backend;
  return ATTN_OK;
}

// The first backend that accepts the problem, or the forced one. Fills in the refusals.
attn_status choose_backend(attn_plan* plan, attn_error* error) {
  const Registry& registry = plan->context->registry;
  const char* forced_name = plan->problem.backend;
  const BackendEntry* forced = nullptr;
  if (forced_name) {
    forced = find_backend(registry, forced_name);
    if (!forced) return unknown_backend(registry, forced_name, error);
  }
  attn_error all{};  // every refusal in one line
  for (int i = 0; i < registry.count; ++i) {
    const BackendEntry& entry = registry.entries[i];
    char* const refusal = plan->refusals[i];
    const auto refuse = [&](const char* why) {
      std::snprintf(refusal, sizeof(plan->refusals[i]), "%s", why);
    };
    if (forced && forced != &entry) {
      refuse("another backend is forced");
    } else if (plan->backend) {
      refuse("a backend before it in the order accepted");
    } else {
      attn_error why{};
      const attn_status status = try_backend(entry, plan, &why);
      if (status == ATTN_OK) continue;
      if (forced) {
        return fail(error, status, "backend '%s' was asked for, but: %.400s", forced_name,
                    why.message);
      }
      // Neither "cannot" nor "is not there": a failure that another backend would only hide.
      if (status != ATTN_ERROR_UNSUPPORTED && status != ATTN_ERROR_UNAVAILABLE) {
        return fail(error, status, "backend '%s': %.400s", entry.name, why.message);
      }
      refuse(why.message);
      const size_t length = std::strlen(all.message);
      std::snprintf(all.message + length, sizeof(all.message) - length, "; %s: %s", entry.name,
                    why.message);
    }
  }
  if (plan->backend) return ATTN_OK;
  return fail(error, ATTN_ERROR_UNSUPPORTED, "no backend serves this%.470s", all.message);
}

attn_status init_plan(attn_plan* plan, attn_error* error) {
  const FixedFpMode fixed;  // the scale is the same whatever the caller's modes
  ATTN_TRY(resolve_problem(&plan->problem, error));
  ATTN_TRY(choose_backend(plan, error));
  plan->problem.backend = plan->backend->name;
  plan->standard_workspace_size =
      standard_workspace_size(plan->problem, plan->context->host.concurrency);
  return ATTN_OK;
}

attn_status check_workspace(const attn_plan& plan, const attn_run_args& args, attn_error* error) {
  const size_t needed = plan.backend_plan.workspace_size;
  if (needed == 0) return ATTN_OK;
  if (!args.workspace || args.workspace_size < needed) {
    return fail(error, ATTN_ERROR_WORKSPACE, "workspace_size is %zu%s; this plan needs %zu bytes",
                args.workspace_size, args.workspace ? "" : " and workspace is NULL", needed);
  }
  if (reinterpret_cast<uintptr_t>(args.workspace) % ATTN_WORKSPACE_ALIGNMENT != 0) {
    return fail(error, ATTN_ERROR_WORKSPACE, "workspace is not aligned to %d bytes",
                ATTN_WORKSPACE_ALIGNMENT);
  }
  return ATTN_OK;
}

// Appends to a buffer that may be too small, counting what the whole would take.
class TextWriter {
 public:
  TextWriter(char* text, size_t size) : text_(text), size_(size) {}

  [[gnu::format(printf, 2, 3)]] void write(const char* format, ...) {
    va_list args;
    va_start(args, format);
    const size_t offset = std::min(length_, size_);
    length_ +=
        std::max(std::vsnprintf(size_ ? text_ + offset : nullptr, size_ - offset, format, args), 0);
    va_end(args);
  }
  size_t length() const { return length_; }

 private:
  char* text_;
  size_t size_;
  size_t length_ = 0;
};

}  // namespace

attn_status create_plan(attn_context* context, const attn_plan_config* config, attn_plan** result,
                        attn_error* error) {
  if (!context) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "context is NULL");
  if (!result) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "plan is NULL");
  attn_plan_config problem;
  ATTN_TRY(read_config(config, "attn_plan_config", &problem, error));
  const attn_host& host = context->host;
  void* memory = host.allocate(&host, sizeof(attn_plan), alignof(attn_plan));
  if (!memory) return fail(error, ATTN_ERROR_OUT_OF_MEMORY, kNoMemory);
  attn_plan* plan = new (memory) attn_plan{};
  plan->context = context;
  plan->problem = problem;
  retain_context(context);
  const attn_status status = init_plan(plan, error);
  if (status != ATTN_OK) {
    destroy_plan(plan);
    return status;
  }
  *result = plan;
  return ATTN_OK;
}

void destroy_plan(attn_plan* plan) {
  if (!plan) return;
  attn_context* context = plan->context;
  const attn_host& host = context->host;
  if (plan->backend) plan->backend->plan_destroy(&host, &plan->problem, &plan->backend_plan);
  host.deallocate(&host, plan, sizeof(attn_plan), alignof(attn_plan));
  release_context(context);
}

attn_status run_plan(const attn_plan& plan, const attn_run_args* user_args, attn_error* error) {
  attn_run_args args;
  attn_run_shape shape;
  ATTN_TRY(read_config(user_args, "attn_run_args", &args, error));
  ATTN_TRY(check_run(plan.context->host, plan.problem, args, &shape, error));
  ATTN_TRY(check_workspace(plan, args, error));
  return plan.backend->run(&plan.context->host, &plan.problem, &plan.backend_plan, &args, &shape,
                           error);
}

attn_status merge(attn_context* context, const attn_merge_args* user_args, attn_error* error) {
  if (!context) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "context is NULL");
  attn_merge_args args;
  ATTN_TRY(read_config(user_args, "attn_merge_args", &args, error));
  ATTN_TRY(check_merge(args, error));
  const attn_device_type device =
      args.o->device_type ? args.o->device_type : attn_device_type{ATTN_DEVICE_CPU};
  const Registry& registry = context->registry;
  for (int i = 0; i < registry.count; ++i) {
    const BackendEntry& entry = registry.entries[i];
    if (!entry.available() || entry.backend->device_type != device || !entry.backend->merge) {
      continue;
    }
    return entry.backend->merge(&context->host, &args, error);
  }
  return fail(error, ATTN_ERROR_UNAVAILABLE, "no backend merges on device type %d", device);
}

size_t describe_plan(const attn_plan& plan, char* text, size_t size) {
  const attn_plan_config& p = plan.problem;
  const attn_backend_plan& b = plan.backend_plan;
  TextWriter out(text, size);
  out.write("backend            %s\n", plan.backend->name);
  if (b.isa) out.write("instruction set    %s\n", isa_name(b.isa));
  if (b.kernel) out.write("kernel             %s\n", b.kernel);
  out.write("types              q %s, k %s, v %s, o %s\n", attn_dtype_name(p.q_dtype),
            attn_dtype_name(p.k_dtype), attn_dtype_name(p.v_dtype), attn_dtype_name(p.o_dtype));
  out.write("heads              %lld query, %lld key and value\n",
            static_cast<long long>(p.heads_q), static_cast<long long>(p.heads_kv));
  out.write("head size          %lld, values %lld\n", static_cast<long long>(p.head_dim),
            static_cast<long long>(p.head_dim_v));
  if (b.tile_q) out.write("tile_q             %lld\n", static_cast<long long>(b.tile_q));
  const auto chosen_by = [](int64_t given) { return given ? "given" : "default"; };
  if (b.tile_k) {
    out.write("tile_k             %lld, %s\n", static_cast<long long>(b.tile_k),
              chosen_by(p.tile_k));
  }
  if (b.kv_chunk) {
    out.write("kv_chunk           %lld, %s\n", static_cast<long long>(b.kv_chunk),
              chosen_by(p.kv_chunk));
  }
  out.write("workspace          %zu bytes\n", b.workspace_size);
  out.write("standard workspace %zu bytes\n", plan.standard_workspace_size);
  for (int i = 0; i < plan.context->registry.count; ++i) {
    if (!plan.refusals[i][0]) continue;
    out.write("not %-14s %s\n", plan.context->registry.entries[i].name, plan.refusals[i]);
  }
  const Cpu& cpu = plan.context->cpu;
  if (b.isa && b.isa == cpu.best_isa && p.q_dtype == ATTN_DTYPE_BF16 && offers_amx(cpu)) {
    out.write("not %-14s a process must ask for it: only where a context names it\n",
              isa_name(ATTN_ISA_AMX_BF16));
  }
  return out.length();
}

attn_status run_once(attn_context* context, const attn_tensor* q, const attn_tensor* k,
                     const attn_tensor* v, const attn_tensor* o, attn_features features,
                     attn_error* error) {
  const struct {
    const char* name;
    const attn_tensor* tensor;
  } tensors[] = {{"q", q}, {"k", k}, {"v", v}, {"o", o}};
  for (const auto& [name, tensor] : tensors) {
    if (!tensor) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
    if (tensor->rank != 4) {
      return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.rank is %d; must be 4", name,
                  tensor->rank);
    }
  }
  if (features & ~attn_features{ATTN_CAUSAL}) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "features is 0x%x; attn_attention takes 0 or ATTN_CAUSAL, a plan takes all",
                features);
  }
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.features = features;
  config.device_type = q->device_type;
  config.device_id = q->device_id;
  config.q_dtype = q->dtype;
  config.k_dtype = k->dtype;
  config.v_dtype = v->dtype;
  config.o_dtype = o->dtype;
  config.heads_q = q->shape[1];
  config.heads_kv = k->shape[1];
  config.head_dim = q->shape[3];
  config.head_dim_v = v->shape[3];
  config.max_batch = std::max<int64_t>(q->shape[0], 1);
  config.max_seqlen_q = std::max<int64_t>(q->shape[2], 1);
  config.max_seqlen_k = std::max<int64_t>(k->shape[2], 1);
  attn_plan* plan = nullptr;
  ATTN_TRY(create_plan(context, &config, &plan, error));

  const attn_host& host = context->host;
  attn_run_args args = ATTN_RUN_ARGS_INIT;
  args.q = q;
  args.k = k;
  args.v = v;
  args.o = o;
  args.workspace_size = plan->backend_plan.workspace_size;
  attn_status status = ATTN_OK;
  if (args.workspace_size > 0) {
    args.workspace = host.allocate(&host, args.workspace_size, ATTN_WORKSPACE_ALIGNMENT);
    if (!args.workspace) {
      status = fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for a workspace of %zu bytes",
                    args.workspace_size);
    }
  }
  if (status == ATTN_OK) status = run_plan(*plan, &args, error);
  host.deallocate(&host, args.workspace, args.workspace_size, ATTN_WORKSPACE_ALIGNMENT);
  destroy_plan(plan);
  return status;
}

}  // namespace attn

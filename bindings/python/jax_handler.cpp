// jax_handler.cpp: attention as a custom call of XLA's CPU programs: the module attn._jax.
#define Py_LIMITED_API 0x03090000
#include <Python.h>
#include <attn/attn.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

attn_context* context;  // set by Python, which keeps it

// What a compiled program holds for each of its calls, which may run at the same time.
struct Plan {
  inline static ffi::TypeId id = {};

  ~Plan() { attn_plan_destroy(handle); }

  attn_plan* handle = nullptr;
  size_t workspace_size = 0;
};

ffi::Error failure(const attn_error& error) {
  auto code = ffi::ErrorCode::kInternal;
  switch (error.status) {
    case ATTN_ERROR_INVALID_ARGUMENT:
      code = ffi::ErrorCode::kInvalidArgument;
      break;
    case ATTN_ERROR_UNSUPPORTED:
      code = ffi::ErrorCode::kUnimplemented;
      break;
    case ATTN_ERROR_UNAVAILABLE:
      code = ffi::ErrorCode::kUnavailable;
      break;
    case ATTN_ERROR_OUT_OF_MEMORY:
      code = ffi::ErrorCode::kResourceExhausted;
      break;
    case ATTN_ERROR_VERSION:
      code = ffi::ErrorCode::kFailedPrecondition;
      break;
  }
  return {code, error.message};
}

// config: an attn_plan_config byte for byte, but for its backend.
ffi::ErrorOr<std::unique_ptr<Plan>> instantiate(ffi::Span<const uint8_t> config,
                                                std::string_view backend, ffi::Span<const int32_t>,
                                                bool) {
  attn_plan_config problem = ATTN_PLAN_CONFIG_INIT;
  if (config.size() != sizeof problem) {
    return ffi::Unexpected(ffi::Error::InvalidArgument(
        "config: has " + std::to_string(config.size()) + " bytes, must have " +
        std::to_string(sizeof problem) + " in this version of attn"));
  }
  std::memcpy(&problem, config.begin(), sizeof problem);
  const std::string name(backend);
  problem.backend = name.empty() ? nullptr : name.c_str();
  auto plan = std::make_unique<Plan>();
  attn_error error;
  if (attn_plan_create(context, &problem, &plan->handle, &error) ||
      attn_plan_workspace_size(plan->handle, &plan->workspace_size, &error)) {
    return ffi::Unexpected(failure(error));
  }
  return plan;
}

attn_dtype dtype_of(ffi::DataType type) {
  switch (type) {
    case ffi::F32:
      return ATTN_DTYPE_F32;
    case ffi::F16:
      return ATTN_DTYPE_F16;
    case ffi::BF16:
      return ATTN_DTYPE_BF16;
    case ffi::F8E4M3FN:
      return ATTN_DTYPE_F8E4M3;
    case ffi::S8:
      return ATTN_DTYPE_I8;
    case ffi::PRED:
    case ffi::U8:
      return ATTN_DTYPE_U8;
    case ffi::S32:
      return ATTN_DTYPE_I32;
    case ffi::S64:
      return ATTN_DTYPE_I64;
    default:
      return ATTN_DTYPE_INVALID;
  }
}

// slots: where in attn_run_args each operand, then each result, goes, in bytes.
// seqlen_first: q, k, v and o are [batch, seqlen, heads, dim].
ffi::Error execute(Plan* plan, ffi::RemainingArgs operands, ffi::RemainingRets results,
                   ffi::Span<const uint8_t>, std::string_view, ffi::Span<const int32_t> slots,
                   bool seqlen_first) {
  constexpr size_t kBegin = offsetof(attn_run_args, q), kEnd = offsetof(attn_run_args, workspace);
  attn_tensor tensors[(kEnd - kBegin) / sizeof(attn_tensor*)];
  attn_run_args args = ATTN_RUN_ARGS_INIT;
  const size_t count = operands.size() + results.size();
  if (slots.size() != count || count > std::size(tensors)) {
    return ffi::Error::InvalidArgument("slots: must be one for each operand and result");
  }
  for (size_t i = 0; i < count; ++i) {
    const auto slot = static_cast<size_t>(slots.begin()[i]);
    const ffi::AnyBuffer buffer = i < operands.size()
                                      ? *operands.get<ffi::AnyBuffer>(i)
                                      : **results.get<ffi::AnyBuffer>(i - operands.size());
    const auto shape = buffer.dimensions();
    if (slot < kBegin || slot >= kEnd || slot % sizeof(attn_tensor*) ||
        shape.size() > ATTN_MAX_RANK) {
      return ffi::Error::InvalidArgument("slots: must be tensors of attn_run_args, of rank 0 to 6");
    }
    attn_tensor* tensor = &tensors[i];
    attn_tensor_init(tensor, buffer.untyped_data(), dtype_of(buffer.element_type()),
                     static_cast<int32_t>(shape.size()), shape.begin());
    if (seqlen_first && slot <= offsetof(attn_run_args, o)) {
      std::swap(tensor->shape[1], tensor->shape[2]);
      std::swap(tensor->strides[1], tensor->strides[2]);
    }
    std::memcpy(reinterpret_cast<char*>(&args) + slot, &tensor, sizeof tensor);
  }
  // XLA has no scratch memory for calls on CPUs.
  const size_t rounded = (plan->workspace_size + ATTN_WORKSPACE_ALIGNMENT - 1) /
                         ATTN_WORKSPACE_ALIGNMENT * ATTN_WORKSPACE_ALIGNMENT;
  const std::unique_ptr<void, decltype(&std::free)> workspace(
      std::aligned_alloc(ATTN_WORKSPACE_ALIGNMENT, rounded), std::free);
  if (!workspace && rounded) {
    return {ffi::ErrorCode::kResourceExhausted,
            "workspace: there is no memory for its " + std::to_string(rounded) + " bytes"};
  }
  args.workspace = workspace.get();
  args.workspace_size = plan->workspace_size;
  attn_error error;
  return attn_run(plan->handle, &args, &error) ? failure(error) : ffi::Error::Success();
}

template <ffi::ExecutionStage stage, typename... T>
auto with_attributes(ffi::Binding<stage, T...> binding) {
  return std::move(binding)
      .template Attr<ffi::Span<const uint8_t>>("config")
      .template Attr<std::string_view>("backend")
      .template Attr<ffi::Span<const int32_t>>("slots")
      .template Attr<bool>("seqlen_first");
}

XLA_FFI_DEFINE_HANDLER(kInstantiate, instantiate, with_attributes(ffi::Ffi::BindInstantiate()));
XLA_FFI_DEFINE_HANDLER(
    kExecute, execute,
    with_attributes(ffi::Ffi::Bind().Ctx<ffi::State<Plan>>().RemainingArgs().RemainingRets()));

XLA_FFI_TypeInfo type_info = ffi::MakeTypeInfo<Plan>();

// use(address: int): the attn_context of all plans to come.
PyObject* use(PyObject*, PyObject* address) {
  context = static_cast<attn_context*>(PyLong_AsVoidPtr(address));
  if (PyErr_Occurred()) return nullptr;
  Py_RETURN_NONE;
}

bool add(PyObject* module, const char* name, void* pointer) {
  return PyModule_AddObject(module, name, PyCapsule_New(pointer, nullptr, nullptr)) == 0;
}

}  // namespace

PyMODINIT_FUNC PyInit__jax() {
  static PyMethodDef methods[] = {{"use", use, METH_O, nullptr}, {}};
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_jax", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module && add(module, "instantiate", reinterpret_cast<void*>(kInstantiate)) &&
      add(module, "execute", reinterpret_cast<void*>(kExecute)) &&
      add(module, "plan_type_id", &Plan::id) && add(module, "plan_type_info", &type_info)) {
    return module;
  }
  Py_XDECREF(module);
  return nullptr;
}

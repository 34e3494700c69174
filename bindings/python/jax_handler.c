/* jax_handler.c: attention as a call of XLA's programs on CPUs: the module attn._jax. */
#define Py_LIMITED_API 0x03090000
#include <Python.h>

#include <attn/attn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xla/ffi/api/c_api.h"

static attn_context* context; /* given by Python, which keeps it */

/* What a compiled program holds for each of its calls; a call may run several times at once. */
typedef struct {
  attn_plan* handle;
  size_t workspace_size;
} Plan;

static void plan_destroy(void* object) {
  Plan* plan = object;
  attn_plan_destroy(plan->handle);
  free(plan);
}

static XLA_FFI_TypeId plan_type_id; /* numbered by XLA when the type is registered */
static XLA_FFI_TypeInfo plan_type_info = {XLA_FFI_TypeInfo_STRUCT_SIZE, NULL, plan_destroy};

/* ---- Failures -------------------------------------------------------------------------------- */

static XLA_FFI_Error* failure(const XLA_FFI_CallFrame* frame, XLA_FFI_Error_Code code,
                              const char* message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, code};
  return frame->api->XLA_FFI_Error_Create(&args);
}

static XLA_FFI_Error* invalid(const XLA_FFI_CallFrame* frame, const char* message) {
  return failure(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, message);
}

static XLA_FFI_Error* library_failure(const XLA_FFI_CallFrame* frame, const attn_error* error) {
  XLA_FFI_Error_Code code = XLA_FFI_Error_Code_INTERNAL;
  switch (error->status) {
    case ATTN_ERROR_INVALID_ARGUMENT:
      code = XLA_FFI_Error_Code_INVALID_ARGUMENT;
      break;
    case ATTN_ERROR_UNSUPPORTED:
      code = XLA_FFI_Error_Code_UNIMPLEMENTED;
      break;
    case ATTN_ERROR_UNAVAILABLE:
      code = XLA_FFI_Error_Code_UNAVAILABLE;
      break;
    case ATTN_ERROR_OUT_OF_MEMORY:
      code = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
      break;
    case ATTN_ERROR_VERSION:
      code = XLA_FFI_Error_Code_FAILED_PRECONDITION;
      break;
  }
  return failure(frame, code, error->message);
}

/* ---- What XLA gives -------------------------------------------------------------------------- */

/* XLA first asks each handler for the version of its headers and the type of the state it makes. */
static int asks_metadata(const XLA_FFI_CallFrame* frame, XLA_FFI_TypeId state) {
  XLA_FFI_Extension_Base* extension = frame->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata* metadata = ((XLA_FFI_Metadata_Extension*)extension)->metadata;
  metadata->api_version = (XLA_FFI_Api_Version){XLA_FFI_Api_Version_STRUCT_SIZE, NULL,
                                                XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  metadata->traits = 0;
  metadata->state_type_id = state;
  return 1;
}

/* The attribute of that name and type; an empty one if there is none. */
static XLA_FFI_Array attribute(const XLA_FFI_CallFrame* frame, const char* name,
                               XLA_FFI_DataType dtype) {
  const XLA_FFI_Attrs* attrs = &frame->attrs;
  for (int64_t i = 0; i < attrs->size; ++i) {
    const XLA_FFI_Array* array = attrs->attrs[i];
    if (attrs->names[i]->len == strlen(name) && !memcmp(attrs->names[i]->ptr, name, strlen(name)) &&
        attrs->types[i] == XLA_FFI_AttrType_ARRAY && array->dtype == dtype) {
      return *array;
    }
  }
  return (XLA_FFI_Array){dtype, 0, NULL};
}

static attn_dtype dtype_of(XLA_FFI_DataType dtype) {
  switch (dtype) {
    case XLA_FFI_DataType_F32:
      return ATTN_DTYPE_F32;
    case XLA_FFI_DataType_F16:
      return ATTN_DTYPE_F16;
    case XLA_FFI_DataType_BF16:
      return ATTN_DTYPE_BF16;
    case XLA_FFI_DataType_F8E4M3FN:
      return ATTN_DTYPE_F8E4M3;
    case XLA_FFI_DataType_S8:
      return ATTN_DTYPE_I8;
    case XLA_FFI_DataType_PRED:
    case XLA_FFI_DataType_U8:
      return ATTN_DTYPE_U8;
    case XLA_FFI_DataType_S32:
      return ATTN_DTYPE_I32;
    case XLA_FFI_DataType_S64:
      return ATTN_DTYPE_I64;
    default:
      return ATTN_DTYPE_INVALID;
  }
}

/* ---- The handlers ---------------------------------------------------------------------------- */

/* When a program is compiled. Attributes:
 *   config   the bytes of attn_plan_config, but for its backend
 *   backend  the name, "" for none, with its NUL */
static XLA_FFI_Error* instantiate(XLA_FFI_CallFrame* frame) {
  if (asks_metadata(frame, plan_type_id)) {
    return plan_type_id.type_id ? NULL : invalid(frame, "attn_plan: must be registered before");
  }
  const XLA_FFI_Array config = attribute(frame, "config", XLA_FFI_DataType_U8);
  const XLA_FFI_Array backend = attribute(frame, "backend", XLA_FFI_DataType_U8);
  const char* name = backend.data;
  attn_plan_config problem;
  if (config.size != sizeof problem) {
    char message[96];
    snprintf(message, sizeof message, "config: has %zu bytes, must have %zu in this version",
             config.size, sizeof problem);
    return invalid(frame, message);
  }
  if (!backend.size || name[backend.size - 1]) return invalid(frame, "backend: must end with NUL");
  memcpy(&problem, config.data, sizeof problem);
  problem.backend = *name ? name : NULL;

  Plan* plan = calloc(1, sizeof *plan);
  if (!plan) return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "no memory for a plan");
  attn_error error;
  XLA_FFI_Error* failed;
  if (attn_plan_create(context, &problem, &plan->handle, &error) ||
      attn_plan_workspace_size(plan->handle, &plan->workspace_size, &error)) {
    failed = library_failure(frame, &error);
  } else {
    XLA_FFI_State_Set_Args args = {XLA_FFI_State_Set_Args_STRUCT_SIZE, NULL,          frame->ctx,
                                   XLA_FFI_ExecutionStage_INSTANTIATE, &plan_type_id, plan};
    failed = frame->api->XLA_FFI_State_Set(&args);
  }
  if (failed) plan_destroy(plan);
  return failed;
}

/* When it is run. Attributes:
 *   slots         where in attn_run_args each operand, then each result, goes, in bytes
 *   seqlen_first  q, k, v and o are [batch, seqlen, heads, dim] */
static XLA_FFI_Error* execute(XLA_FFI_CallFrame* frame) {
  if (asks_metadata(frame, (XLA_FFI_TypeId){0})) return NULL;
  XLA_FFI_State_Get_Args state = {XLA_FFI_State_Get_Args_STRUCT_SIZE, NULL,          frame->ctx,
                                  XLA_FFI_ExecutionStage_INSTANTIATE, &plan_type_id, NULL};
  XLA_FFI_Error* failed = frame->api->XLA_FFI_State_Get(&state);
  if (failed) return failed;
  const Plan* plan = state.state;
  const XLA_FFI_Array slots = attribute(frame, "slots", XLA_FFI_DataType_S32);
  const XLA_FFI_Array seqlen_first = attribute(frame, "seqlen_first", XLA_FFI_DataType_U8);

  enum { FIRST = offsetof(attn_run_args, q), END = offsetof(attn_run_args, workspace) };
  attn_tensor tensors[(END - FIRST) / sizeof(attn_tensor*)];
  attn_run_args args = ATTN_RUN_ARGS_INIT;
  const size_t operands = (size_t)frame->args.size;
  if (slots.size != operands + (size_t)frame->rets.size ||
      slots.size > sizeof tensors / sizeof *tensors || seqlen_first.size != 1) {
    return invalid(frame, "slots: must be one for each operand and result");
  }
  for (size_t i = 0; i < slots.size; ++i) {
    const size_t slot = (size_t)((const int32_t*)slots.data)[i];
    const XLA_FFI_Buffer* buffer =
        i < operands ? frame->args.args[i] : frame->rets.rets[i - operands];
    if (slot < FIRST || slot >= END || slot % sizeof(attn_tensor*) ||
        buffer->rank > ATTN_MAX_RANK) {
      return invalid(frame, "slots: must be tensors of attn_run_args, of rank 0 to 6");
    }
    attn_tensor* tensor = &tensors[i];
    attn_tensor_init(tensor, buffer->data, dtype_of(buffer->dtype), (int32_t)buffer->rank,
                     buffer->dims);
    if (*(const uint8_t*)seqlen_first.data && slot <= offsetof(attn_run_args, o)) {
      const int64_t seqlen = tensor->shape[1], stride = tensor->strides[1];
      tensor->shape[1] = tensor->shape[2], tensor->strides[1] = tensor->strides[2];
      tensor->shape[2] = seqlen, tensor->strides[2] = stride;
    }
    memcpy((char*)&args + slot, &tensor, sizeof tensor);
  }

  /* XLA has no scratch memory for calls on CPUs. */
  const size_t unit = ATTN_WORKSPACE_ALIGNMENT;
  const size_t rounded = (plan->workspace_size + unit - 1) / unit * unit;
  args.workspace = aligned_alloc(unit, rounded);
  args.workspace_size = plan->workspace_size;
  if (!args.workspace && rounded) {
    return failure(frame, XLA_FFI_Error_Code_RESOURCE_EXHAUSTED, "no memory for a workspace");
  }
  attn_error error;
  const attn_status status = attn_run(plan->handle, &args, &error);
  free(args.workspace);
  return status ? library_failure(frame, &error) : NULL;
}

/* ---- The module ------------------------------------------------------------------------------ */

/* use(address: int): the attn_context of all plans to come. */
static PyObject* use(PyObject* module, PyObject* address) {
  (void)module;
  context = PyLong_AsVoidPtr(address);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static int add(PyObject* module, const char* name, void* pointer) {
  return PyModule_AddObject(module, name, PyCapsule_New(pointer, NULL, NULL));
}

PyMODINIT_FUNC PyInit__jax(void) {
  static PyMethodDef methods[] = {{"use", use, METH_O, NULL}, {NULL, NULL, 0, NULL}};
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_jax", NULL, -1, methods, NULL, NULL, NULL, NULL};
  PyObject* module = PyModule_Create(&definition);
  if (module &&
      (add(module, "instantiate", (void*)instantiate) || add(module, "execute", (void*)execute) ||
       add(module, "plan_type_id", &plan_type_id) ||
       add(module, "plan_type_info", &plan_type_info))) {
    Py_DECREF(module);
    return NULL;
  }
  return module;
}

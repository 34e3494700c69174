// attn.i: what SWIG makes the raw Go package of: attn.h itself, and flat forms of the calls that
// read a program's memory. gen.sh runs it.
%module raw

%insert(cgo_comment_typedefs) %{
#cgo pkg-config: attn
%}
%{
#include <attn/attn.h>
#include <stdlib.h>
#include <string.h>

#if ATTN_VERSION < ATTN_MAKE_VERSION(0, 1, 0)
#error "this binding needs attn 0.1.0 or newer"
#endif
%}

%include <stdint.i>

// ---- strings: copied either way ------------------------------------------------------------------

%go_import("strings")
%fragment("TakeString", "go_runtime") %{
// takeString copies a string that C allocated, and frees it.
func takeString(s string) string {
	copied := strings.Clone(s)
	Swig_free(uintptr(unsafe.Pointer(unsafe.StringData(s))))
	return copied
}
%}
%typemap(goout, fragment="TakeString") char *, char[ANY] %{ $result = takeString($1) %}

// A config owns what is set in it; the empty string is NULL, the default.
%typemap(memberin) const char *backend, const char *backend_dir %{
  free((char *)$1);
  $1 = *$input == '\0' ? NULL : strdup($input);
%}
%extend attn_plan_config {
  ~attn_plan_config() { free((char *)$self->backend), free($self); }
}
%extend attn_context_config {
  ~attn_context_config() { free((char *)$self->backend_dir), free($self); }
}

// A new config is an initialised one.
%define CONFIG(name)
%extend name {
  name() {
    struct name *config = (struct name *)malloc(sizeof(struct name));
    if (config != NULL) name##_init(config, sizeof *config);
    return config;
  }
}
%enddef
CONFIG(attn_allocator)
CONFIG(attn_executor)
CONFIG(attn_context_config)
CONFIG(attn_plan_config)
CONFIG(attn_run_args)
CONFIG(attn_merge_args)
CONFIG(attn_context_info)
CONFIG(attn_isa_info)
CONFIG(attn_backend_info)
CONFIG(attn_plan_info)
CONFIG(attn_autotune_info)

// The library fills in these.
%immutable attn_error::message;
%immutable attn_context_info::isa_name;
%immutable attn_context_info::backend_dir;
%immutable attn_isa_info::name;
%immutable attn_isa_info::reason;
%immutable attn_backend_info::name;
%immutable attn_backend_info::description;
%immutable attn_backend_info::reason;
%immutable attn_plan_info::backend;
%immutable attn_plan_info::isa_name;
%immutable attn_plan_info::kernel;

// attn_plan_describe writes into a slice.
%typemap(gotype) (char *text, size_t size) "[]byte"
%typemap(in) (char *text, size_t size) %{ $1 = (char *)$input.array, $2 = (size_t)$input.len; %}

// ---- handles: numbers, written into a variable of the caller -------------------------------------

%typemap(gotype) attn_context *, attn_plan * "uintptr"
%typemap(gotype) attn_context **, attn_plan ** "*uintptr"

%include <attn/attn.h>

// ---- flat calls: pointers as arguments, status and words back in one call -------------------------

// Go's memory must not hold Go pointers when C gets it. So a tensor comes in two parts: an
// attn_tensor without data, the view, and its data beside it. The data's type tells cgo that it holds
// no pointers; else cgo would look at all that lies around a slice too.
// Each returns the status and writes the words of a failure into *error.
%insert(cgo_comment) %{
#include <attn/attn.h>
#include <stdio.h>
#include <stdlib.h>

typedef const uint8_t* attn_go_data;

static void attn_go_tensor(attn_tensor* tensor, attn_go_data view, attn_go_data data) {
  *tensor = *(const attn_tensor*)view;
  tensor->data = (void*)data;
}

// The tensors of attn_run_args in their order: TENSOR(name) comes as a view, whose dtype is 0 where
// there is none, and data; VECTOR(name, dtype) as data, NULL where there is none, and a size.
#define ATTN_GO_TENSORS(TENSOR, VECTOR) \
  TENSOR(q) \
  TENSOR(k) \
  TENSOR(v) \
  TENSOR(o) \
  TENSOR(lse) \
  VECTOR(seqlens_q, ATTN_DTYPE_I32) \
  VECTOR(seqlens_k, ATTN_DTYPE_I32) \
  VECTOR(cu_seqlens_q, ATTN_DTYPE_I32) \
  VECTOR(cu_seqlens_k, ATTN_DTYPE_I32) \
  TENSOR(block_table) \
  VECTOR(q_start, ATTN_DTYPE_I64) \
  VECTOR(k_start, ATTN_DTYPE_I64) \
  TENSOR(bias) \
  VECTOR(bias_k0, ATTN_DTYPE_I64) \
  TENSOR(mask) \
  VECTOR(mask_k0, ATTN_DTYPE_I64) \
  TENSOR(alibi_slopes) \
  VECTOR(sink, ATTN_DTYPE_F32) \
  TENSOR(block_mask) \
  TENSOR(k_scale) \
  TENSOR(v_scale)

#define ATTN_GO_TENSOR_PARAMETERS(name) attn_go_data name##_view, attn_go_data name,
#define ATTN_GO_VECTOR_PARAMETERS(name, type) attn_go_data name, int64_t name##_size,

// With an attn_autotune_info as `tuned` it is attn_plan_autotune, else attn_run.
#define ATTN_GO_RUN_PARAMETERS                                                          \
  uintptr_t plan, ATTN_GO_TENSORS(ATTN_GO_TENSOR_PARAMETERS, ATTN_GO_VECTOR_PARAMETERS) \
  uint8_t* workspace, size_t workspace_size, uint8_t* stream, int64_t budget_ns,        \
  uintptr_t tuned, uint8_t* error

#define ATTN_GO_INLINE static inline __attribute__((always_inline))
ATTN_GO_INLINE int32_t attn_go_run(ATTN_GO_RUN_PARAMETERS) {
  attn_tensor tensors[21];
  attn_tensor* next = tensors;
  attn_run_args args;  // each field is set, once
  args.struct_size = offsetof(attn_run_args, stream) + sizeof args.stream;
  args.reserved = 0;
#define ATTN_GO_SET_TENSOR(name)                       \
  args.name = NULL;                                    \
  if (((const attn_tensor*)name##_view)->dtype != 0) { \
    attn_go_tensor(next, name##_view, name);           \
    args.name = next++;                                \
  }
#define ATTN_GO_SET_VECTOR(name, type)                          \
  args.name = NULL;                                             \
  if (name != NULL) {                                           \
    attn_tensor_init(next, (void*)name, type, 1, &name##_size); \
    args.name = next++;                                         \
  }
  ATTN_GO_TENSORS(ATTN_GO_SET_TENSOR, ATTN_GO_SET_VECTOR)
  args.workspace = workspace;
  args.workspace_size = workspace_size;
  args.stream = stream;
  if (tuned != 0)
    return attn_plan_autotune((const attn_plan*)plan, &args, budget_ns, (attn_autotune_info*)tuned,
                              (attn_error*)error);
  return attn_run((const attn_plan*)plan, &args, (attn_error*)error);
}

// What Go hands to the first may lie on the stack of its goroutine. A call back would move that, and
// is forbidden.
#define ATTN_GO_TENSOR_ARGUMENTS(name) name##_view, name,
#define ATTN_GO_VECTOR_ARGUMENTS(name, type) name, name##_size,
#define ATTN_GO_RUN(function)                                                       \
  ATTN_GO_INLINE int32_t function(ATTN_GO_RUN_PARAMETERS) {                         \
    return attn_go_run(                                                             \
        plan, ATTN_GO_TENSORS(ATTN_GO_TENSOR_ARGUMENTS, ATTN_GO_VECTOR_ARGUMENTS)   \
        workspace, workspace_size, stream, budget_ns, tuned, error);                \
  }
#cgo noescape attn_go_run_alone
#cgo nocallback attn_go_run_alone
ATTN_GO_RUN(attn_go_run_alone)
ATTN_GO_RUN(attn_go_run_calling_go)

static int32_t attn_go_attention(attn_go_data views, attn_go_data q, attn_go_data k,
                                 attn_go_data v, attn_go_data o, uint32_t features,
                                 uint8_t* error) {
  const attn_tensor* view = (const attn_tensor*)views;
  attn_tensor tensors[4];
  attn_go_tensor(&tensors[0], (attn_go_data)view, q);
  attn_go_tensor(&tensors[1], (attn_go_data)(view + 1), k);
  attn_go_tensor(&tensors[2], (attn_go_data)(view + 2), v);
  attn_go_tensor(&tensors[3], (attn_go_data)(view + 3), o);
  return attn_attention(tensors, tensors + 1, tensors + 2, tensors + 3, features,
                        (attn_error*)error);
}

// `tensors`: o, lse, sink, `count` parts of o, `count` of lse, with their data, which Go has pinned.
// lse and sink are absent where their dtype is 0.
static int32_t attn_go_merge(uintptr_t context, int32_t count, attn_go_data tensors, uint8_t* stream,
                             uint8_t* error) {
  const attn_tensor* tensor = (const attn_tensor*)tensors;
  const attn_tensor** parts = malloc(((size_t)count * 2 + 1) * sizeof *parts);
  if (parts == NULL) {
    snprintf(((attn_error*)error)->message, sizeof((attn_error*)error)->message,
             "no memory for the list of %d parts", (int)count);
    return ATTN_ERROR_OUT_OF_MEMORY;
  }
  for (int32_t i = 0; i < 2 * count; ++i) parts[i] = tensor + 3 + i;
  attn_merge_args args = ATTN_MERGE_ARGS_INIT;
  args.count = count;
  args.o_parts = parts;
  args.lse_parts = parts + count;
  args.o = tensor;
  args.lse = tensor[1].dtype == 0 ? NULL : tensor + 1;
  args.sink = tensor[2].dtype == 0 ? NULL : tensor + 2;
  args.stream = stream;
  const attn_status status = attn_merge((attn_context*)context, &args, (attn_error*)error);
  free(parts);
  return status;
}
%}

// attn_run, or attn_plan_autotune where tuned is not nil. args and failure of RunAlone may lie on the
// goroutine's stack, since it fails hard where C calls Go; RunCallingGo's may not.
%define RUN(name, function)
%insert(go_wrapper) {
func name(plan uintptr, args *RunArgs, workspace []byte, budget int64, tuned Attn_autotune_info, failure *Failure) int32 {
  return int32(C.function(C.uintptr_t(plan),
    data(unsafe.Pointer(&args.Q.View)), data(args.Q.Data),
    data(unsafe.Pointer(&args.K.View)), data(args.K.Data),
    data(unsafe.Pointer(&args.V.View)), data(args.V.Data),
    data(unsafe.Pointer(&args.O.View)), data(args.O.Data),
    data(unsafe.Pointer(&args.LSE.View)), data(args.LSE.Data),
    data(unsafe.Pointer(unsafe.SliceData(args.SeqlensQ))), C.int64_t(len(args.SeqlensQ)),
    data(unsafe.Pointer(unsafe.SliceData(args.SeqlensK))), C.int64_t(len(args.SeqlensK)),
    data(unsafe.Pointer(unsafe.SliceData(args.CuSeqlensQ))), C.int64_t(len(args.CuSeqlensQ)),
    data(unsafe.Pointer(unsafe.SliceData(args.CuSeqlensK))), C.int64_t(len(args.CuSeqlensK)),
    data(unsafe.Pointer(&args.BlockTable.View)), data(args.BlockTable.Data),
    data(unsafe.Pointer(unsafe.SliceData(args.QStart))), C.int64_t(len(args.QStart)),
    data(unsafe.Pointer(unsafe.SliceData(args.KStart))), C.int64_t(len(args.KStart)),
    data(unsafe.Pointer(&args.Bias.View)), data(args.Bias.Data),
    data(unsafe.Pointer(unsafe.SliceData(args.BiasK0))), C.int64_t(len(args.BiasK0)),
    data(unsafe.Pointer(&args.Mask.View)), data(args.Mask.Data),
    data(unsafe.Pointer(unsafe.SliceData(args.MaskK0))), C.int64_t(len(args.MaskK0)),
    data(unsafe.Pointer(&args.AlibiSlopes.View)), data(args.AlibiSlopes.Data),
    data(unsafe.Pointer(unsafe.SliceData(args.Sink))), C.int64_t(len(args.Sink)),
    data(unsafe.Pointer(&args.BlockMask.View)), data(args.BlockMask.Data),
    data(unsafe.Pointer(&args.KScale.View)), data(args.KScale.Data),
    data(unsafe.Pointer(&args.VScale.View)), data(args.VScale.Data),
    (*C.uint8_t)(unsafe.SliceData(workspace)), C.size_t(len(workspace)), (*C.uint8_t)(args.Stream),
    C.int64_t(budget), C.uintptr_t(getSwigcptr(tuned)), (*C.uint8_t)(unsafe.Pointer(failure))))
}
}
%enddef
RUN(RunAlone, attn_go_run_alone)
RUN(RunCallingGo, attn_go_run_calling_go)

%insert(go_wrapper) %{
// data is where something of Go's begins.
type data = C.attn_go_data

// Attention is attn_attention of q, k, v and o.
func Attention(views *[4]TensorView, data *[4]unsafe.Pointer, features uint32, failure *Failure) int32 {
	return int32(C.attn_go_attention(C.attn_go_data(unsafe.Pointer(views)), C.attn_go_data(data[0]),
		C.attn_go_data(data[1]), C.attn_go_data(data[2]), C.attn_go_data(data[3]), C.uint32_t(features),
		(*C.uint8_t)(unsafe.Pointer(failure))))
}

// Merge is attn_merge of count parts. tensors: o, lse, sink, the parts of o, those of lse; each with
// the address of its data, which is pinned. lse and sink are absent where their Dtype is 0.
func Merge(context uintptr, count int, tensors []TensorView, stream unsafe.Pointer, failure *Failure) int32 {
	return int32(C.attn_go_merge(C.uintptr_t(context), C.int32_t(count),
		C.attn_go_data(unsafe.Pointer(unsafe.SliceData(tensors))), (*C.uint8_t)(stream),
		(*C.uint8_t)(unsafe.Pointer(failure))))
}
%}

// ---- callbacks: a context's log and executor as functions of Go, see callbacks.go -----------------

%{
extern void attnGoLog(uintptr_t user, int32_t level, char *message);
extern int32_t attnGoParallelFor(uintptr_t user, int64_t n, attn_task_fn fn, void *arg);

static void attn_go_log(void *user, attn_log_level level, const char *message) {
  attnGoLog((uintptr_t)user, level, (char *)message);
}

static int32_t attn_go_parallel_for(void *user, int64_t n, attn_task_fn fn, void *arg) {
  return attnGoParallelFor((uintptr_t)user, n, fn, arg);
}
%}
%inline %{
// From now on the context's log is LogFunc with `user`.
static void attn_go_set_log(attn_context_config *config, uintptr_t user) {
  config->log = attn_go_log;
  config->log_user = (void *)user;
}

// From now on the executor's threads are ParallelForFunc with `user`.
static void attn_go_set_parallel_for(attn_executor *executor, uintptr_t user) {
  executor->parallel_for = attn_go_parallel_for;
  executor->user = (void *)user;
}
%}

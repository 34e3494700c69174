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
// attn_tensor without data, in the array `views`, and its data among the arguments. The data's type
// tells cgo that it holds no pointers; else cgo would look at all that lies around a slice too.
// Each returns the status and writes the words of a failure into *error.
%insert(cgo_comment) %{
#include <attn/attn.h>
#include <stdio.h>
#include <stdlib.h>

typedef const uint8_t* attn_go_data;

static void attn_go_tensor(attn_tensor* tensor, const attn_tensor* view, attn_go_data data) {
  *tensor = *view;
  tensor->data = (void*)data;
}

// The tensors of attn_run_args in their order. Those whose bit is set in `present`, from bit 0 on,
// have their view in `views`, one after another. With an attn_autotune_info as `tuned` it is
// attn_plan_autotune, else attn_run.
static int32_t attn_go_run(
    uintptr_t plan, attn_go_data views, uint32_t present, attn_go_data q, attn_go_data k,
    attn_go_data v, attn_go_data o, attn_go_data lse, attn_go_data seqlens_q,
    attn_go_data seqlens_k, attn_go_data cu_seqlens_q, attn_go_data cu_seqlens_k,
    attn_go_data block_table, attn_go_data q_start, attn_go_data k_start, attn_go_data bias,
    attn_go_data bias_k0, attn_go_data mask, attn_go_data mask_k0, attn_go_data alibi_slopes,
    attn_go_data sink, attn_go_data block_mask, attn_go_data k_scale, attn_go_data v_scale,
    uint8_t* workspace, size_t workspace_size, uint8_t* stream, int64_t budget_ns, uintptr_t tuned,
    uint8_t* error) {
  const attn_tensor* view = (const attn_tensor*)views;
  attn_tensor tensors[21];
  attn_tensor* next = tensors;
  attn_run_args args;  // each field is set, once
  args.struct_size = offsetof(attn_run_args, stream) + sizeof args.stream;
  args.reserved = 0;
#define ATTN_GO_TENSOR(name)                \
  args.name = NULL;                         \
  if (present & 1) {                        \
    attn_go_tensor(next, view++, name);     \
    args.name = next++;                     \
  }                                         \
  present >>= 1;
  ATTN_GO_TENSOR(q)
  ATTN_GO_TENSOR(k)
  ATTN_GO_TENSOR(v)
  ATTN_GO_TENSOR(o)
  ATTN_GO_TENSOR(lse)
  ATTN_GO_TENSOR(seqlens_q)
  ATTN_GO_TENSOR(seqlens_k)
  ATTN_GO_TENSOR(cu_seqlens_q)
  ATTN_GO_TENSOR(cu_seqlens_k)
  ATTN_GO_TENSOR(block_table)
  ATTN_GO_TENSOR(q_start)
  ATTN_GO_TENSOR(k_start)
  ATTN_GO_TENSOR(bias)
  ATTN_GO_TENSOR(bias_k0)
  ATTN_GO_TENSOR(mask)
  ATTN_GO_TENSOR(mask_k0)
  ATTN_GO_TENSOR(alibi_slopes)
  ATTN_GO_TENSOR(sink)
  ATTN_GO_TENSOR(block_mask)
  ATTN_GO_TENSOR(k_scale)
  ATTN_GO_TENSOR(v_scale)
#undef ATTN_GO_TENSOR
  args.workspace = workspace;
  args.workspace_size = workspace_size;
  args.stream = stream;
  if (tuned != 0)
    return attn_plan_autotune((const attn_plan*)plan, &args, budget_ns, (attn_autotune_info*)tuned,
                              (attn_error*)error);
  return attn_run((const attn_plan*)plan, &args, (attn_error*)error);
}

static int32_t attn_go_attention(attn_go_data views, attn_go_data q, attn_go_data k,
                                 attn_go_data v, attn_go_data o, uint32_t features,
                                 uint8_t* error) {
  const attn_tensor* view = (const attn_tensor*)views;
  attn_tensor tensors[4];
  attn_go_tensor(&tensors[0], view, q);
  attn_go_tensor(&tensors[1], view + 1, k);
  attn_go_tensor(&tensors[2], view + 2, v);
  attn_go_tensor(&tensors[3], view + 3, o);
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

%insert(go_wrapper) %{
// Run is attn_run, or attn_plan_autotune where tuned is not nil. views holds the view of each tensor whose bit is set in present; data is where
// they lie, in the order of attn_run_args.
func Run(plan uintptr, views *[RunTensors]TensorView, present uint32, data *[RunTensors]unsafe.Pointer,
	workspace unsafe.Pointer, workspaceSize int, stream unsafe.Pointer, budget int64, tuned Attn_autotune_info,
	failure *Failure) int32 {
	return int32(C.attn_go_run(C.uintptr_t(plan), C.attn_go_data(unsafe.Pointer(views)), C.uint32_t(present),
		C.attn_go_data(data[0]), C.attn_go_data(data[1]), C.attn_go_data(data[2]),
		C.attn_go_data(data[3]), C.attn_go_data(data[4]), C.attn_go_data(data[5]),
		C.attn_go_data(data[6]), C.attn_go_data(data[7]), C.attn_go_data(data[8]),
		C.attn_go_data(data[9]), C.attn_go_data(data[10]), C.attn_go_data(data[11]),
		C.attn_go_data(data[12]), C.attn_go_data(data[13]), C.attn_go_data(data[14]),
		C.attn_go_data(data[15]), C.attn_go_data(data[16]), C.attn_go_data(data[17]),
		C.attn_go_data(data[18]), C.attn_go_data(data[19]), C.attn_go_data(data[20]),
		(*C.uint8_t)(workspace), C.size_t(workspaceSize), (*C.uint8_t)(stream),
		C.int64_t(budget), C.uintptr_t(getSwigcptr(tuned)), (*C.uint8_t)(unsafe.Pointer(failure))))
}

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

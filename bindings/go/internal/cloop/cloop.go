// Package cloop runs attention in a loop of C, for the benchmark that Go's calls are held against.
package cloop

/*
#cgo pkg-config: attn
#include <attn/attn.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  attn_context* context;
  attn_plan* plan;
  attn_tensor tensors[4];
  attn_run_args args;
  attn_error error;
} cloop;

static attn_status cloop_init(cloop* loop, int64_t heads, int64_t seqlen, int64_t dim) {
  const int64_t shape[4] = {1, heads, seqlen, dim};
  attn_context_config machine = ATTN_CONTEXT_CONFIG_INIT;
  machine.num_threads = 1;
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = heads;
  config.head_dim = dim;
  config.max_seqlen_q = config.max_seqlen_k = seqlen;
  attn_status status = attn_context_create(&machine, &loop->context, &loop->error);
  if (!status) status = attn_plan_create(loop->context, &config, &loop->plan, &loop->error);
  attn_run_args_init(&loop->args, sizeof loop->args);
  if (!status) status = attn_plan_workspace_size(loop->plan, &loop->args.workspace_size, &loop->error);
  if (status) return status;
  const size_t size = (size_t)(heads * seqlen * dim) * 4;
  for (int i = 0; i < 4; ++i) {
    void* data = aligned_alloc(64, (size + 63) / 64 * 64);
    memset(data, 0, size);
    attn_tensor_init(&loop->tensors[i], data, ATTN_DTYPE_F32, 4, shape);
  }
  loop->args.q = &loop->tensors[0];
  loop->args.k = &loop->tensors[1];
  loop->args.v = &loop->tensors[2];
  loop->args.o = &loop->tensors[3];
  loop->args.workspace = aligned_alloc(64, (loop->args.workspace_size + 63) / 64 * 64);
  return ATTN_OK;
}

static attn_status cloop_run(cloop* loop, int64_t n) {
  attn_status status = ATTN_OK;
  for (int64_t i = 0; i < n && !status; ++i) status = attn_run(loop->plan, &loop->args, &loop->error);
  return status;
}
*/
import "C"
import (
	"errors"
	"unsafe"
)

// Loop is an attention of zeros in f32, on one thread. It is never freed.
type Loop struct{ c *C.cloop }

// New makes a loop over [1, heads, seqlen, dim].
func New(heads, seqlen, dim int) (Loop, error) {
	loop := Loop{(*C.cloop)(C.calloc(1, C.size_t(unsafe.Sizeof(C.cloop{}))))}
	return loop, loop.check(C.cloop_init(loop.c, C.int64_t(heads), C.int64_t(seqlen), C.int64_t(dim)))
}

// Tensors is the memory of q, k, v and o, and Workspace that of the plan: where it lies matters more
// than who asks, so Go's calls use the same.
func (l Loop) Tensors() (tensors [4][]float32) {
	for i, t := range l.c.tensors {
		n := t.shape[1] * t.shape[2] * t.shape[3]
		tensors[i] = unsafe.Slice((*float32)(t.data), int(n))
	}
	return tensors
}

func (l Loop) Workspace() []byte {
	return unsafe.Slice((*byte)(l.c.args.workspace), int(l.c.args.workspace_size))
}

// Run runs it n times.
func (l Loop) Run(n int) error { return l.check(C.cloop_run(l.c, C.int64_t(n))) }

func (l Loop) check(status C.attn_status) error {
	if status == 0 {
		return nil
	}
	return errors.New(C.GoString(&l.c.error.message[0]))
}

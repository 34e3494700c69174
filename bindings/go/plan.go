// plan.go: a problem, the backend that serves it, and its tiles.

package attn

import (
	"runtime"
	"sync"
	"unsafe"

	"attn/raw"
)

// Layout is how a batch of sequences of uneven lengths lies in memory.
type Layout int32

const (
	PaddedLayout Layout = 0 // [batch, heads, seqlen, dim], lengths beside it
	PackedLayout Layout = 1 // [1, heads, total, dim], sequence after sequence, with cumulative lengths
	PagedLayout  Layout = 2 // K and V only: [pages, heads_kv, page_size, dim] with a block table
)

// Alignment is where query 0 stands relative to key 0 when no QStart is given.
type Alignment int32

const (
	BottomRight Alignment = 0 // the last query sees the last key
	TopLeft     Alignment = 1 // query 0 stands at key 0
)

// PlanOptions is a kind of problem. Types, heads, head sizes and features are exact; the Max fields
// are upper bounds, and each run may be smaller. 0 means the default.
type PlanOptions struct {
	Features Features
	Device   DeviceType // 0: CPU
	DeviceID int

	QType    DType // F32, F16 or BF16; 0: F32
	KType    DType // 0: QType
	VType    DType // 0: KType
	OType    DType // F32, F16 or BF16, whatever QType is; 0: QType
	BiasType DType // F32 or QType; 0: F32

	QLayout   Layout // of Q, O and LSE
	KVLayout  Layout
	Alignment Alignment

	Scale    float32 // 0: 1/sqrt(HeadDim)
	Softcap  float32 // 0: none
	PageSize int     // PagedLayout: keys a page
	BlockQ   int     // BlockMask: queries a block
	BlockK   int     // BlockMask: keys a block

	HeadsQ   int // required
	HeadsKV  int // 0: HeadsQ; divides HeadsQ
	HeadDim  int // required
	HeadDimV int // 0: HeadDim

	MaxBatch   int // sequences; 0: 1
	MaxSeqlenQ int // of any sequence; required
	MaxSeqlenK int // of any sequence; required
	MaxTotalQ  int // packed Q only; 0: MaxBatch * MaxSeqlenQ
	MaxTotalK  int // packed K and V only; 0: MaxBatch * MaxSeqlenK

	WindowLeft  int // with the feature WindowLeft
	WindowRight int // with the feature WindowRight

	Backend string // "standard", "flash", ...; "": the first that can. Forced means forced
	TileK   int    // keys a step of the online softmax; part of what fixes a result's bits
	KVChunk int    // keys a chunk where K and V are split among workers; likewise

	// TrustPointers: on devices, runs do not ask the driver about each pointer and the stream. The
	// program knows them to be right. Nothing changes on CPUs.
	TrustPointers bool
}

// Plan is a problem that was checked once, for any number of runs.
type Plan struct {
	handle        *handle
	backends      int  // how many the library knows
	callsGo       bool // runs may call the program's executor or log
	workspaceSize int
	workspaces    *sync.Pool // of *[]byte, for runs that bring none
	cleanup       runtime.Cleanup
}

// NewPlan checks a problem, picks a backend and fixes its tiles. It fails with ErrInvalidArgument (an
// unknown backend included), ErrUnavailable (the forced backend is not on this machine),
// ErrUnsupported (no backend, or not the forced one, serves this; the message says why),
// ErrOutOfMemory or ErrClosed. The plan outlives the context if it must.
func (c *Context) NewPlan(options PlanOptions) (*Plan, error) {
	if !c.handle.acquire() {
		return nil, ErrClosed
	}
	defer c.handle.release()
	config := raw.NewAttn_plan_config()
	defer raw.DeleteAttn_plan_config(config)
	if err := options.write(config); err != nil {
		return nil, err
	}
	var pointer uintptr
	err := try(func(failure raw.Attn_error) int {
		return raw.Attn_plan_create(c.handle.pointer, config, &pointer, failure)
	})
	if err != nil {
		return nil, err
	}
	callbacks := c.callbacks
	callbacks.acquire()
	p := &Plan{
		backends: raw.Attn_context_backend_count(c.handle.pointer),
		callsGo:  c.callsGo,
	}
	p.handle = newHandle(pointer, func(pointer uintptr) {
		raw.Attn_plan_destroy(pointer)
		callbacks.release()
	})
	p.cleanup = runtime.AddCleanup(p, (*handle).close, p.handle)
	var size int64
	err = try(func(failure raw.Attn_error) int {
		return raw.Attn_plan_workspace_size(pointer, &size, failure)
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	p.workspaceSize = int(size)
	p.workspaces = &sync.Pool{New: func() any {
		workspace := alignedBytes(int(size))
		return &workspace
	}}
	return p, nil
}

// write puts the options into C's struct.
func (o *PlanOptions) write(config raw.Attn_plan_config) error {
	var set setter
	qType := o.QType
	if qType == 0 {
		qType = F32
	}
	config.SetFeatures(uint(o.Features))
	config.SetDevice_type(int(o.Device))
	config.SetDevice_id(set.int32("device_id", o.DeviceID))
	config.SetQ_dtype(int(qType))
	config.SetK_dtype(int(o.KType))
	config.SetV_dtype(int(o.VType))
	config.SetO_dtype(int(o.OType))
	config.SetBias_dtype(int(o.BiasType))
	config.SetQ_layout(int(o.QLayout))
	config.SetKv_layout(int(o.KVLayout))
	config.SetAlignment(int(o.Alignment))
	config.SetScale(o.Scale)
	config.SetSoftcap(o.Softcap)
	config.SetPage_size(set.int32("page_size", o.PageSize))
	config.SetBlock_q(set.int32("block_q", o.BlockQ))
	config.SetBlock_k(set.int32("block_k", o.BlockK))
	config.SetHeads_q(int64(o.HeadsQ))
	config.SetHeads_kv(int64(o.HeadsKV))
	config.SetHead_dim(int64(o.HeadDim))
	config.SetHead_dim_v(int64(o.HeadDimV))
	config.SetMax_batch(int64(o.MaxBatch))
	config.SetMax_seqlen_q(int64(o.MaxSeqlenQ))
	config.SetMax_seqlen_k(int64(o.MaxSeqlenK))
	config.SetMax_total_q(int64(o.MaxTotalQ))
	config.SetMax_total_k(int64(o.MaxTotalK))
	config.SetWindow_left(int64(o.WindowLeft))
	config.SetWindow_right(int64(o.WindowRight))
	config.SetBackend(set.text("backend", o.Backend))
	config.SetTile_k(int64(o.TileK))
	config.SetKv_chunk(int64(o.KVChunk))
	if o.TrustPointers {
		config.SetFlags(uint(raw.ATTN_PLAN_TRUST_POINTERS))
	}
	return set.err
}

// Close frees the plan. It returns nil always.
func (p *Plan) Close() error {
	p.cleanup.Stop()
	p.handle.close()
	return nil
}

// NewWorkspace is memory for RunArgs.Workspace, aligned as runs want it; for one run at a time.
func (p *Plan) NewWorkspace() []byte { return alignedBytes(p.workspaceSize) }

// WorkspaceSize is the bytes that a run needs beside its tensors; may be 0.
func (p *Plan) WorkspaceSize() int { return p.workspaceSize }

// alignedBytes are size bytes at a multiple of ATTN_WORKSPACE_ALIGNMENT.
func alignedBytes(size int) []byte {
	if size == 0 {
		return nil
	}
	const alignment = raw.ATTN_WORKSPACE_ALIGNMENT
	bytes := make([]byte, size+alignment-1)
	start := -int(uintptr(unsafe.Pointer(&bytes[0]))) & (alignment - 1)
	return bytes[start : start+size : start+size]
}

// RequestStatus is what a device found wrong with a sequence, one bit each.
type RequestStatus uint32

const (
	BadSeqlenQ  RequestStatus = 1 << 0
	BadSeqlenK  RequestStatus = 1 << 1
	BadPage     RequestStatus = 1 << 2 // a used entry of the block table, or too few of them
	BadPosition RequestStatus = 1 << 3
)

// PlanInfo is what a plan chose.
type PlanInfo struct {
	Backend               string
	ISA                   ISA
	ISAName               string // "" on devices that are no CPU
	TileQ                 int    // 0 where the backend has no such thing
	TileK                 int
	KVChunk               int
	WorkspaceSize         int // bytes
	StandardWorkspaceSize int // what the standard backend would need for the same bounds

	// RequestStatusCount is the number of RequestStatus words at the beginning of a device's
	// workspace; 0 on CPUs, which refuse what is bad before they write anything.
	RequestStatusCount int
	Kernel             string // on devices: which kernel, and why none before it; "" where not told
}

// Info tells what the plan chose.
func (p *Plan) Info() (PlanInfo, error) {
	if !p.handle.acquire() {
		return PlanInfo{}, ErrClosed
	}
	defer p.handle.release()
	info := raw.NewAttn_plan_info()
	defer raw.DeleteAttn_plan_info(info)
	err := try(func(failure raw.Attn_error) int {
		return raw.Attn_plan_get_info(p.handle.pointer, info, failure)
	})
	if err != nil {
		return PlanInfo{}, err
	}
	return PlanInfo{
		Backend:               info.GetBackend(),
		ISA:                   ISA(info.GetIsa()),
		ISAName:               info.GetIsa_name(),
		TileQ:                 int(info.GetTile_q()),
		TileK:                 int(info.GetTile_k()),
		KVChunk:               int(info.GetKv_chunk()),
		WorkspaceSize:         int(info.GetWorkspace_size()),
		StandardWorkspaceSize: int(info.GetStandard_workspace_size()),
		RequestStatusCount:    int(info.GetRequest_status_count()),
		Kernel:                info.GetKernel(),
	}, nil
}

// Refusals tells why each other backend was not chosen, in the order of Context.Backends; "" for the
// one that was.
func (p *Plan) Refusals() ([]string, error) {
	if !p.handle.acquire() {
		return nil, ErrClosed
	}
	defer p.handle.release()
	refusals := make([]string, p.backends)
	for i := range refusals {
		refusals[i] = raw.Attn_plan_refusal(p.handle.pointer, i)
	}
	return refusals, nil
}

// Describe is all of that as text of several lines for people.
func (p *Plan) Describe() (string, error) {
	if !p.handle.acquire() {
		return "", ErrClosed
	}
	defer p.handle.release()
	text := make([]byte, raw.Attn_plan_describe(p.handle.pointer, nil)+1)
	raw.Attn_plan_describe(p.handle.pointer, text)
	return string(text[:len(text)-1]), nil
}

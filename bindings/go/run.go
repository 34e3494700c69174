// run.go: running a plan.

package attn

import (
	"sync"
	"time"
	"unsafe"

	"attn/raw"
)

// RunArgs is everything that one run reads and writes. b = batch, hq = heads_q, hkv = heads_kv, sq
// and sk = extents of seqlen, d = head_dim, dv = head_dim_v. A tensor whose feature is not in the plan
// must be left out, and the other way round. nil slices are left out; empty ones are not.
type RunArgs struct {
	// Padded: Q [b, hq, sq, d], K [b, hkv, sk, d], V [b, hkv, sk, dv], O [b, hq, sq, dv].
	// Packed: Q [1, hq, total_q, d], O likewise; K [1, hkv, total_k, d], V likewise.
	// Paged:  K [pages, hkv, page_size, d], V likewise. K and V may share memory.
	Q, K, V Tensor
	O       Tensor // written; may overlap no other
	LSE     Tensor // optional, written: F32 [b, hq, sq] or packed [1, hq, total_q]

	SeqlensQ, SeqlensK     []int32 // [b]
	CuSeqlensQ, CuSeqlensK []int32 // [b + 1], packed: sequence i has rows [cu[i], cu[i+1])
	BlockTable             Tensor  // I32 [b, n], paged: page of key j is table[b][j / page_size]

	QStart, KStart []int64 // [b]: positions of query 0 and key 0 of each sequence

	// Any dimension of Bias, Mask and BlockMask may be 1, or of stride 0, to broadcast.
	// Padded Q: [b, hq, sq, n]; packed Q: [1, hq, total_q, n]; column = key within its sequence.
	Bias   Tensor  // BiasType; is added to the scores
	BiasK0 []int64 // [b] or [1], with BiasRange: the key of column 0
	Mask   Tensor  // U8: true attends
	MaskK0 []int64 // [b] or [1], with MaskRange

	AlibiSlopes Tensor    // F32 [hq] or [b, hq]
	Sink        []float32 // [hq]: a further logit in each row's denominator
	BlockMask   Tensor    // U8 [b, hq, blocks of queries, blocks of keys]: false masks the block

	// F32 scales of I8 and F8E4M3 keys and values: [b, hkv, sk] or [b, hkv, sk, n].
	KScale, VScale Tensor

	// Workspace is from NewWorkspace, one for each concurrent run. nil: the plan has some of its own
	// and keeps it for its next run.
	Workspace []byte

	Stream unsafe.Pointer // the device's stream or queue; nil on CPUs
}

// call is what a run lends to C; it holds no pointers.
type call struct {
	views   [raw.RunTensors]raw.TensorView
	failure raw.Failure
}

var calls = sync.Pool{New: func() any { return new(call) }}

// inputs gathers the tensors of a call.
type inputs struct {
	call    *call
	count   int
	present uint32
	data    [raw.RunTensors]unsafe.Pointer
	err     error
}

// add takes tensor i of attn_run_args, if there is one. Most there are not: this much is inlined.
func (in *inputs) add(i int, name string, t *Tensor) {
	if t.given() {
		in.take(i, name, t)
	}
}

func (in *inputs) take(i int, name string, t *Tensor) {
	if t.bad != nil && in.err == nil {
		in.err = t.check(name)
	}
	in.call.views[in.count] = t.view
	in.count++
	in.present |= 1 << i
	in.data[i] = t.data
}

// addVector does the same with a slice.
func addVector[T Element](in *inputs, i int, name string, data []T) {
	if data != nil {
		takeVector(in, i, name, data)
	}
}

func takeVector[T Element](in *inputs, i int, name string, data []T) {
	t := View(data, len(data))
	in.take(i, name, &t)
}

// Run runs the plan. Everything is checked before anything is written: lengths, offsets and page
// numbers too. It allocates nothing after the first run. It fails with ErrInvalidArgument,
// ErrWorkspace, ErrExecutor, ErrDevice, ErrOutOfMemory (threads of the first run) or ErrClosed; O and
// LSE are untouched then, unless that is ErrExecutor or ErrDevice.
func (p *Plan) Run(args *RunArgs) error { return p.run(args, 0, nil) }

// AutotuneInfo is what Autotune found. The program may keep TileK and KVChunk, for as long as the
// machine and the kind of problem stay the same, and put them into PlanOptions.
type AutotuneInfo struct {
	Measured int           // values that were compared, the plan's own included
	TileK    int           // the fastest; 0 where the backend has no such thing
	KVChunk  int           // likewise
	Default  time.Duration // of a run with the plan's own values
	Tuned    time.Duration // with the ones above
}

// Autotune measures which TileK and KVChunk are the fastest for runs with such args, in about budget;
// some hundred runs find the best. It writes to none of the tensors and leaves the plan as it is. It
// fails as Run does, and with ErrUnsupported on devices that are no CPU.
func (p *Plan) Autotune(args *RunArgs, budget time.Duration) (AutotuneInfo, error) {
	info := raw.NewAttn_autotune_info()
	defer raw.DeleteAttn_autotune_info(info)
	if err := p.run(args, budget.Nanoseconds(), info); err != nil {
		return AutotuneInfo{}, err
	}
	return AutotuneInfo{
		Measured: info.GetMeasured(),
		TileK:    int(info.GetTile_k()),
		KVChunk:  int(info.GetKv_chunk()),
		Default:  time.Duration(info.GetDefault_ns()),
		Tuned:    time.Duration(info.GetTuned_ns()),
	}, nil
}

// run runs the plan, or tunes it where tuned is not nil.
func (p *Plan) run(args *RunArgs, budget int64, tuned raw.Attn_autotune_info) error {
	if !p.handle.acquire() {
		return ErrClosed
	}
	defer p.handle.release()
	in := inputs{call: calls.Get().(*call)}
	defer calls.Put(in.call)
	in.add(0, "q", &args.Q)
	in.add(1, "k", &args.K)
	in.add(2, "v", &args.V)
	in.add(3, "o", &args.O)
	in.add(4, "lse", &args.LSE)
	addVector(&in, 5, "seqlens_q", args.SeqlensQ)
	addVector(&in, 6, "seqlens_k", args.SeqlensK)
	addVector(&in, 7, "cu_seqlens_q", args.CuSeqlensQ)
	addVector(&in, 8, "cu_seqlens_k", args.CuSeqlensK)
	in.add(9, "block_table", &args.BlockTable)
	addVector(&in, 10, "q_start", args.QStart)
	addVector(&in, 11, "k_start", args.KStart)
	in.add(12, "bias", &args.Bias)
	addVector(&in, 13, "bias_k0", args.BiasK0)
	in.add(14, "mask", &args.Mask)
	addVector(&in, 15, "mask_k0", args.MaskK0)
	in.add(16, "alibi_slopes", &args.AlibiSlopes)
	addVector(&in, 17, "sink", args.Sink)
	in.add(18, "block_mask", &args.BlockMask)
	in.add(19, "k_scale", &args.KScale)
	in.add(20, "v_scale", &args.VScale)
	if in.err != nil {
		return in.err
	}
	workspace := args.Workspace
	if workspace == nil && p.workspaceSize > 0 {
		kept := p.workspaces.Get().(*[]byte)
		defer p.workspaces.Put(kept)
		workspace = *kept
	}
	status := raw.Run(p.handle.pointer, &in.call.views, in.present, &in.data,
		unsafe.Pointer(unsafe.SliceData(workspace)), len(workspace), args.Stream, budget, tuned,
		&in.call.failure)
	return failed(status, &in.call.failure)
}

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

// call is what C sees of a run that may call Go. It is never on a goroutine's stack, which may move then.
type call struct {
	args    RunArgs
	failure raw.Failure
}

var calls = sync.Pool{New: func() any { return new(call) }}

// run runs the plan, or tunes it where tuned is not nil.
func (p *Plan) run(args *RunArgs, budget int64, tuned raw.Attn_autotune_info) error {
	if !p.handle.acquire() {
		return ErrClosed
	}
	defer p.handle.release()
	workspace := args.Workspace
	if workspace == nil && p.workspaceSize > 0 {
		kept := p.workspaces.Get().(*[]byte)
		defer p.workspaces.Put(kept)
		workspace = *kept
	}
	var status int32
	var failure raw.Failure
	if p.callsGo {
		lent := calls.Get().(*call)
		lent.args = *args
		status = raw.RunCallingGo(p.handle.pointer, lent.args.raw(), workspace, budget, tuned, &lent.failure)
		failure, lent.args = lent.failure, RunArgs{}
		calls.Put(lent)
	} else {
		status = raw.RunAlone(p.handle.pointer, args.raw(), workspace, budget, tuned, &failure)
	}
	if status == 0 {
		return nil
	}
	if err := args.check(); err != nil {
		return err
	}
	return failed(status, &failure)
}

// raw is the same as the raw layer knows it: the same in memory, as a test proves.
func (a *RunArgs) raw() *raw.RunArgs { return (*raw.RunArgs)(unsafe.Pointer(a)) }

// check is the error of the first view that cannot be. The library has refused it too, but does not
// know why.
func (a *RunArgs) check() error {
	for _, t := range []struct {
		name string
		bad  error
	}{
		{"q", a.Q.bad},
		{"k", a.K.bad},
		{"v", a.V.bad},
		{"o", a.O.bad},
		{"lse", a.LSE.bad},
		{"block_table", a.BlockTable.bad},
		{"bias", a.Bias.bad},
		{"mask", a.Mask.bad},
		{"alibi_slopes", a.AlibiSlopes.bad},
		{"block_mask", a.BlockMask.bad},
		{"k_scale", a.KScale.bad},
		{"v_scale", a.VScale.bad},
	} {
		if t.bad != nil {
			return invalid("%s: %v", t.name, t.bad)
		}
	}
	return nil
}

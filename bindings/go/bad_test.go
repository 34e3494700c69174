// bad_test.go: every wrong use is an error with words, and leaves the outputs alone.

package attn_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"unsafe"

	"attn"
)

// refused fails unless err is of the status and says the words.
func refused(t *testing.T, err error, status attn.Status, words string) {
	t.Helper()
	var failure *attn.Error
	if !errors.Is(err, status) || !errors.As(err, &failure) {
		t.Fatalf("got %v instead of %v", err, status)
	}
	if failure.Status != status || !strings.Contains(failure.Message, words) {
		t.Fatalf("%q does not say %q", failure.Message, words)
	}
	if err.Error() != "attn: "+failure.Message {
		t.Fatalf("%q is not what %q says", err, failure.Message)
	}
}

func TestBadContexts(t *testing.T) {
	for words, options := range map[string]attn.ContextOptions{
		"num_threads is -1":            {NumThreads: -1},
		"num_threads is 1025":          {NumThreads: 1025},
		"num_threads is 4294967296":    {NumThreads: 1 << 32},
		"isa is 77":                    {ISA: 77},
		"backend_dir":                  {BackendDir: "relative"},
		`backend_dir is "/a\x00b"`:     {BackendDir: "/a\x00b"},
		"executor.parallel_for":        {Executor: &attn.Executor{Concurrency: 2}},
		"concurrency":                  {Executor: &attn.Executor{Concurrency: -3, ParallelFor: inOrder}},
		"executor.concurrency is 4294": {Executor: &attn.Executor{Concurrency: 1 << 32, ParallelFor: inOrder}},
		"executor":                     {NumThreads: 2, Executor: &attn.Executor{ParallelFor: inOrder}},
	} {
		t.Run(words, func(t *testing.T) {
			context, err := attn.NewContext(options)
			refused(t, err, attn.ErrInvalidArgument, words)
			if context != nil {
				t.Fatal("a context beside an error")
			}
		})
	}
}

func TestBadPlans(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	good := attn.PlanOptions{HeadsQ: 4, HeadsKV: 2, HeadDim: 8, MaxSeqlenQ: 6, MaxSeqlenK: 11}
	for words, change := range map[string]func(*attn.PlanOptions){
		"heads_q":          func(o *attn.PlanOptions) { o.HeadsQ = 0 },
		"heads_kv":         func(o *attn.PlanOptions) { o.HeadsKV = 3 },
		"head_dim":         func(o *attn.PlanOptions) { o.HeadDim = -1 },
		"max_seqlen_q":     func(o *attn.PlanOptions) { o.MaxSeqlenQ = 0 },
		"max_seqlen_k":     func(o *attn.PlanOptions) { o.MaxSeqlenK = math.MinInt },
		"max_batch":        func(o *attn.PlanOptions) { o.MaxBatch = -1 },
		"q_dtype":          func(o *attn.PlanOptions) { o.QType = attn.I8 },
		"o_dtype":          func(o *attn.PlanOptions) { o.OType = 99 },
		"page_size":        func(o *attn.PlanOptions) { o.KVLayout = attn.PagedLayout },
		"page_size is 429": func(o *attn.PlanOptions) { o.PageSize = 1 << 32 },
		"q_layout":         func(o *attn.PlanOptions) { o.QLayout = attn.PagedLayout },
		"scale":            func(o *attn.PlanOptions) { o.Scale = float32(math.NaN()) },
		"softcap":          func(o *attn.PlanOptions) { o.Softcap = -1 },
		"window_left":      func(o *attn.PlanOptions) { o.WindowLeft = 3 },
		"features":         func(o *attn.PlanOptions) { o.Features = 1 << 30 },
		"tile_k":           func(o *attn.PlanOptions) { o.TileK = -1 },
		"nonsense":         func(o *attn.PlanOptions) { o.Backend = "nonsense" },
		`backend is "a\x0`: func(o *attn.PlanOptions) { o.Backend = "a\x00" },
	} {
		t.Run(words, func(t *testing.T) {
			options := good
			change(&options)
			plan, err := context.NewPlan(options)
			refused(t, err, attn.ErrInvalidArgument, words)
			if plan != nil {
				t.Fatal("a plan beside an error")
			}
		})
	}
}

func TestMissingBackend(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1, BackendDir: t.TempDir()})
	backends, err := context.Backends()
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, backend := range backends {
		if backend.Available != (backend.Reason == "") {
			t.Fatalf("%+v", backend)
		}
		if !backend.Available {
			missing++
			options := attn.PlanOptions{HeadsQ: 1, HeadDim: 8, MaxSeqlenQ: 1, MaxSeqlenK: 1, Backend: backend.Name}
			_, err := context.NewPlan(options)
			refused(t, err, attn.ErrUnavailable, backend.Name)
		}
	}
	if missing == 0 {
		t.Fatal("an empty folder has all plugins")
	}
}

func TestUnsupported(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	_, err := context.NewPlan(attn.PlanOptions{
		HeadsQ: 1, HeadDim: 2000, MaxSeqlenQ: 1, MaxSeqlenK: 1, Backend: "flash",
	})
	refused(t, err, attn.ErrUnsupported, "2000")
}

func TestBadRuns(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	plan := newPlan(t, context, p.options())
	wide := make([]float64, 8)
	for words, change := range map[string]func(*attn.RunArgs){
		"q is NULL": func(a *attn.RunArgs) { a.Q = attn.Tensor{} },
		"q: shape [1 2 3 5] needs more than the 24 elements": func(a *attn.RunArgs) {
			a.Q = attn.View(p.q, 1, 2, 3, 5)
		},
		"q: shape [1 2 3 3] has 18 elements, the slice 24": func(a *attn.RunArgs) {
			a.Q = attn.View(p.q, 1, 2, 3, 3)
		},
		"k: shape [1 -2 5 4] has a negative extent": func(a *attn.RunArgs) { a.K = attn.View(p.k, 1, -2, 5, 4) },
		"k: rank 7 is more than 6":                  func(a *attn.RunArgs) { a.K = attn.View(p.k, 1, 1, 1, 1, 2, 5, 4) },
		"v: shape [1 2 5 4] with strides [0 20 4 2] from 0 reaches outside": func(a *attn.RunArgs) {
			a.V = attn.ViewStrided(p.v, 0, []int{1, 2, 5, 4}, []int{0, 20, 4, 2})
		},
		"strides [0 20 -4 1] from 15 reaches outside": func(a *attn.RunArgs) {
			a.V = attn.ViewStrided(p.v, 15, []int{1, 2, 5, 4}, []int{0, 20, -4, 1})
		},
		"strides [0 -9223372036854775808 4 1]": func(a *attn.RunArgs) {
			a.V = attn.ViewStrided(p.v, 0, []int{1, 2, 5, 4}, []int{0, math.MinInt, 4, 1})
		},
		"v: 3 strides for shape":       func(a *attn.RunArgs) { a.V = attn.ViewStrided(p.v, 0, []int{1, 2, 5, 4}, []int{20, 4, 1}) },
		"v: offset -1 must be 0 to 40": func(a *attn.RunArgs) { a.V = attn.ViewStrided(p.v, -1, []int{1}, []int{1}) },
		"v: offset 40 is past":         func(a *attn.RunArgs) { a.V = attn.ViewStrided(p.v, 40, []int{1}, []int{1}) },
		"q: order [0 1 1 2] must name": func(a *attn.RunArgs) { a.Q = a.Q.Permute(0, 1, 1, 2) },
		"q: order [0 1] for 4":         func(a *attn.RunArgs) { a.Q = a.Q.Permute(0, 1) },
		"q: dtype is not given":        func(a *attn.RunArgs) { a.Q = attn.Memory(nil, 0, attn.CPU, 0, nil, nil) },
		"q: device id 4294967296 does": func(a *attn.RunArgs) { a.Q = attn.Memory(nil, attn.F32, attn.CPU, 1<<32, nil, nil) },
		"q: 0 strides for shape [1]":   func(a *attn.RunArgs) { a.Q = attn.Memory(nil, attn.F32, attn.CPU, 0, []int{1}, nil) },
		"q.dtype is f16":               func(a *attn.RunArgs) { a.Q = attn.View(make([]attn.Float16, 24), 1, 2, 3, 4) },
		"k.dtype is 42": func(a *attn.RunArgs) {
			a.K = attn.Memory(unsafe.Pointer(&wide[0]), 42, attn.CPU, 0, []int{1, 1, 1, 1}, []int{1, 1, 1, 1})
		},
		"q.rank is 2": func(a *attn.RunArgs) { a.Q = attn.View(p.q, 6, 4) },
		"device": func(a *attn.RunArgs) {
			a.K = attn.Memory(unsafe.Pointer(&p.k[0]), attn.F32, attn.CUDA, 1, []int{1, 2, 5, 4}, []int{40, 20, 4, 1})
		},
		"mask":      func(a *attn.RunArgs) { a.Mask = attn.View([]bool{true}, 1, 1, 1, 1) },
		"seqlens_k": func(a *attn.RunArgs) { a.SeqlensK = []int32{5} },
		"sink":      func(a *attn.RunArgs) { a.Sink = []float32{} },
		"lse":       func(a *attn.RunArgs) { a.LSE = attn.View(make([]float32, 5), 1, 1, 5) },
		"overlap":   func(a *attn.RunArgs) { a.O = a.Q },
		"block_table: shape [9] needs more than the 0 elements": func(a *attn.RunArgs) { a.BlockTable = attn.View([]int32{}, 9) },
	} {
		t.Run(words, func(t *testing.T) {
			args, o, _ := p.args()
			change(&args)
			refused(t, plan.Run(&args), attn.ErrInvalidArgument, words)
			for _, x := range o {
				if x == x {
					t.Fatal("o was written")
				}
			}
		})
	}
	args, _, _ := p.args()
	workspace := plan.NewWorkspace()
	if len(workspace) != plan.WorkspaceSize() || len(workspace) == 0 {
		t.Fatal(len(workspace), plan.WorkspaceSize())
	}
	args.Workspace = workspace[:len(workspace)-1]
	refused(t, plan.Run(&args), attn.ErrWorkspace, "workspace")
	args.Workspace = append(workspace, 0)[1:]
	refused(t, plan.Run(&args), attn.ErrWorkspace, "workspace")
	args.Workspace = []byte{}
	refused(t, plan.Run(&args), attn.ErrWorkspace, "workspace")
}

func TestBadLengths(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	p := newProblem(newSource(), 1, 1, 3, 5, 4, 4)
	options := p.options()
	options.Features = attn.SeqlensK
	plan := newPlan(t, context, options)
	for _, lengths := range [][]int32{nil, {}, {6}, {-1}, {1, 2}} {
		args, _, _ := p.args()
		args.SeqlensK = lengths
		refused(t, plan.Run(&args), attn.ErrInvalidArgument, "seqlens_k")
	}
}

func TestBadMerges(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	o, lse := attn.View(make([]float32, 4), 1, 1, 1, 4), attn.View(make([]float32, 1), 1, 1, 1)
	out := attn.View(make([]float32, 4), 1, 1, 1, 4)
	bad := attn.View(make([]float32, 3), 1, 1, 1, 4)
	for words, args := range map[string]attn.MergeArgs{
		"count is 0":    {O: out},
		"lse_parts: 0":  {O: out, OParts: []attn.Tensor{o}},
		"o is missing":  {OParts: []attn.Tensor{o}, LSEParts: []attn.Tensor{lse}},
		"o_parts is mi": {O: out, OParts: []attn.Tensor{{}}, LSEParts: []attn.Tensor{lse}},
		"o_parts: shap": {O: out, OParts: []attn.Tensor{bad}, LSEParts: []attn.Tensor{lse}},
		"lse: shape":    {O: out, OParts: []attn.Tensor{o}, LSEParts: []attn.Tensor{lse}, LSE: bad},
		"sink":          {O: out, OParts: []attn.Tensor{o}, LSEParts: []attn.Tensor{lse}, Sink: []float32{1, 2}},
	} {
		refused(t, context.Merge(&args), attn.ErrInvalidArgument, words)
	}
}

func TestBadAttention(t *testing.T) {
	p := newProblem(newSource(), 1, 1, 3, 5, 4, 4)
	args, _, _ := p.args()
	refused(t, attn.Attention(args.Q, args.K, attn.Tensor{}, args.O, 0), attn.ErrInvalidArgument, "v is missing")
	refused(t, attn.Attention(attn.View(p.q, 5), args.K, args.V, args.O, 0), attn.ErrInvalidArgument, "q: shape [5]")
	refused(t, attn.Attention(args.Q, args.K, args.V, args.O, attn.Mask), attn.ErrInvalidArgument, "features")
	refused(t, attn.Attention(args.Q, args.K, args.V, args.K, 0), attn.ErrInvalidArgument, "o")
}

func TestStatusNames(t *testing.T) {
	for status, name := range map[attn.Status]string{
		attn.ErrInvalidArgument: "ATTN_ERROR_INVALID_ARGUMENT", attn.ErrInternal: "ATTN_ERROR_INTERNAL", 99: "unknown status",
	} {
		if status.Error() != name {
			t.Errorf("%d is %s", int32(status), status)
		}
	}
	var status attn.Status
	_, err := attn.NewContext(attn.ContextOptions{NumThreads: -1})
	if !errors.As(err, &status) || status != attn.ErrInvalidArgument || errors.Is(err, attn.ErrUnsupported) {
		t.Error(err)
	}
}

// introspection_test.go: what is there, what was chosen, and why.

package attn_test

import (
	"errors"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"attn"
)

func TestVersion(t *testing.T) {
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(attn.Version()) {
		t.Fatal(attn.Version())
	}
}

func TestISAs(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	isas, err := context.ISAs()
	if err != nil || len(isas) < 4 {
		t.Fatal(isas, err)
	}
	available := 0
	for _, isa := range isas {
		if isa.Available != (isa.Reason == "") {
			t.Fatalf("%+v", isa)
		}
		forced, err := attn.NewContext(attn.ContextOptions{NumThreads: 1, ISA: isa.ISA})
		if !isa.Available {
			refused(t, err, attn.ErrUnavailable, isa.Name)
			continue
		}
		available++
		if err != nil {
			t.Fatal(err)
		}
		info, err := forced.Info()
		if err != nil || info.ISA != isa.ISA || info.ISAName != isa.Name || info.Concurrency != 1 {
			t.Fatal(info, err)
		}
		forced.Close()
	}
	if available == 0 || available == len(isas) {
		t.Fatalf("%d available: no machine has none, or AVX and NEON", available)
	}
}

func TestContextInfo(t *testing.T) {
	context := newContext(t, attn.ContextOptions{})
	if err := context.Warmup(); err != nil {
		t.Fatal(err)
	}
	info, err := context.Info()
	if err != nil || info.Concurrency < 1 || info.Concurrency > runtime.NumCPU() || info.L1CacheSize < 0 {
		t.Fatal(info, err)
	}
	backends, err := context.Backends()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, backend := range backends {
		found[backend.Name] = backend.Available
		if backend.Description == "" && backend.Available {
			t.Fatalf("%+v", backend)
		}
	}
	if !found["standard"] || !found["flash"] {
		t.Fatal(backends)
	}
}

func TestPlanInfo(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1, ISA: attn.ISAScalar})
	plan := newPlan(t, context, attn.PlanOptions{
		HeadsQ: 2, HeadDim: 8, MaxSeqlenQ: 6, MaxSeqlenK: 11, Backend: "standard",
	})
	info, err := plan.Info()
	if err != nil || info.Backend != "standard" || info.ISA != attn.ISAScalar || info.ISAName != "scalar" ||
		info.WorkspaceSize != plan.WorkspaceSize() || info.StandardWorkspaceSize != info.WorkspaceSize {
		t.Fatal(info, err)
	}
	backends, err := context.Backends()
	if err != nil {
		t.Fatal(err)
	}
	refusals, err := plan.Refusals()
	if err != nil || len(refusals) != len(backends) {
		t.Fatal(refusals, err)
	}
	for i, refusal := range refusals {
		if (refusal == "") != (backends[i].Name == "standard") {
			t.Errorf("%s: %q", backends[i].Name, refusal)
		}
	}
	text, err := plan.Describe()
	if err != nil || !strings.Contains(text, "standard") || strings.ContainsRune(text, 0) || !strings.Contains(text, "\n") {
		t.Fatalf("%q %v", text, err)
	}
}

func TestDTypes(t *testing.T) {
	for dtype, want := range map[attn.DType]struct {
		name string
		size int
	}{attn.F32: {"f32", 4}, attn.BF16: {"bf16", 2}, attn.F8E4M3: {"f8e4m3", 1}, attn.I64: {"i64", 8}, 0: {"invalid", 0}} {
		if dtype.String() != want.name || dtype.Size() != want.size {
			t.Errorf("%d is %s of %d bytes", int32(dtype), dtype, dtype.Size())
		}
	}
	for _, c := range []struct {
		got  attn.Tensor
		want attn.DType
	}{
		{attn.View([]float32{}, 0), attn.F32}, {attn.View([]attn.Float16{}, 0), attn.F16},
		{attn.View([]attn.BFloat16{}, 0), attn.BF16}, {attn.View([]attn.Float8E4M3{}, 0), attn.F8E4M3},
		{attn.View([]int8{}, 0), attn.I8}, {attn.View([]uint8{}, 0), attn.U8}, {attn.View([]bool{}, 0), attn.U8},
		{attn.View([]int32{}, 0), attn.I32}, {attn.View([]int64{}, 0), attn.I64},
	} {
		if c.got.DType() != c.want {
			t.Errorf("%s instead of %s", c.got.DType(), c.want)
		}
	}
}

func TestAutotune(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	p := newProblem(newSource(), 2, 2, 16, 64, 8, 8)
	plan := newPlan(t, context, p.options())
	args, o, _ := p.args()
	info, err := plan.Autotune(&args, time.Millisecond)
	if err != nil || info.Measured < 1 || info.Default <= 0 || info.Tuned <= 0 || o[0] == o[0] {
		t.Fatal(info, err, o[0])
	}
	options := p.options()
	options.TileK, options.KVChunk = info.TileK, info.KVChunk
	newPlan(t, context, options)
	_, err = plan.Autotune(&args, 0)
	refused(t, err, attn.ErrInvalidArgument, "budget_ns")
	plan.Close()
	if _, err = plan.Autotune(&args, 1); !errors.Is(err, attn.ErrClosed) {
		t.Fatal(err)
	}
}

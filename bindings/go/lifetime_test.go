// lifetime_test.go: allocations, goroutines, Close and the garbage collector.

package attn_test

import (
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attn"
)

// TestRunsAllocateNothing: neither with a workspace nor without, tensors made anew for each run.
func TestRunsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	const heads, seqlen, dim = 4, 16, 64
	options := attn.PlanOptions{
		HeadsQ: heads, HeadDim: dim, MaxSeqlenQ: seqlen, MaxSeqlenK: seqlen, Features: attn.SeqlensK | attn.Mask,
	}
	plan := newPlan(t, context, options)
	memory := make([]float32, 4*heads*seqlen*dim)
	mask, lengths := filled(seqlen*seqlen, true), []int32{seqlen}
	part := func(i int) attn.Tensor {
		return attn.View(memory[i*heads*seqlen*dim:][:heads*seqlen*dim], 1, heads, seqlen, dim)
	}
	for _, workspace := range [][]byte{nil, plan.NewWorkspace()} {
		allocations := testing.AllocsPerRun(1000, func() {
			args := attn.RunArgs{
				Q: part(0), K: part(1), V: part(2).Permute(0, 1, 2, 3), O: part(3), SeqlensK: lengths,
				Mask:      attn.ViewStrided(mask, 0, []int{1, 1, seqlen, seqlen}, []int{0, 0, seqlen, 1}),
				Workspace: workspace,
			}
			if err := plan.Run(&args); err != nil {
				t.Fatal(err)
			}
		})
		if allocations != 0 {
			t.Errorf("%g allocations in a run", allocations)
		}
	}
}

// TestGoroutines runs one plan from many goroutines at once, each result checked.
func TestGoroutines(t *testing.T) {
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	p := newProblem(newSource(), 4, 2, 9, 17, 8, 8)
	plan := newPlan(t, context, p.options())
	want, _ := p.solve()
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 50 {
				args, o, _ := p.args()
				if err := plan.Run(&args); err != nil {
					t.Error(err)
					return
				}
				for i := range o {
					if !(math.Abs(float64(o[i])-want[i]) <= f32Tolerance) {
						t.Errorf("o[%d] is %g instead of %g", i, o[i], want[i])
						return
					}
				}
			}
		}()
	}
	group.Wait()
}

// TestClose: from many goroutines at once, while others run; afterwards everything says so.
func TestClose(t *testing.T) {
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	for range 50 {
		context := newContext(t, attn.ContextOptions{NumThreads: 1})
		plan := newPlan(t, context, p.options())
		var group sync.WaitGroup
		for i := range 6 {
			group.Add(1)
			go func() {
				defer group.Done()
				if i < 3 {
					if err := errors.Join(plan.Close(), context.Close()); err != nil {
						t.Error(err)
					}
					return
				}
				for {
					args, _, _ := p.args()
					if err := plan.Run(&args); err != nil {
						if !errors.Is(err, attn.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			}()
		}
		group.Wait()
		args, _, _ := p.args()
		_, planError := context.NewPlan(p.options())
		_, infoError := context.Info()
		_, isasError := context.ISAs()
		_, backendsError := context.Backends()
		_, planInfoError := plan.Info()
		_, refusalsError := plan.Refusals()
		_, describeError := plan.Describe()
		for i, err := range []error{
			planError, infoError, isasError, backendsError, planInfoError, refusalsError, describeError,
			plan.Run(&args), context.Warmup(), context.Merge(&attn.MergeArgs{}),
		} {
			if !errors.Is(err, attn.ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
	}
}

// TestPlansOutliveTheirContext, and the slices that they read need not outlive the call.
func TestPlansOutliveTheirContext(t *testing.T) {
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	context := newContext(t, attn.ContextOptions{NumThreads: 2})
	plan := newPlan(t, context, p.options())
	context.Close()
	context = nil
	runtime.GC()
	args, o, lse := p.args()
	if err := plan.Run(&args); err != nil {
		t.Fatal(err)
	}
	p.check(t, o, lse, f32Tolerance)
}

// TestGarbageIsFreed: nobody closes, and the executor that only C knows of is let go of.
func TestGarbageIsFreed(t *testing.T) {
	var freed atomic.Int32
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	const objects = 20
	for range objects {
		func() {
			memory := new([64]byte)
			runtime.AddCleanup(memory, func(int) { freed.Add(1) }, 0)
			context, err := attn.NewContext(attn.ContextOptions{Executor: &attn.Executor{
				ParallelFor: func(n int, run func(task, worker int)) error {
					memory[0]++
					return inOrder(n, run)
				},
			}})
			if err != nil {
				t.Fatal(err)
			}
			plan, err := context.NewPlan(p.options())
			if err != nil {
				t.Fatal(err)
			}
			args, _, _ := p.args()
			if err := plan.Run(&args); err != nil {
				t.Fatal(err)
			}
		}()
	}
	for deadline := time.Now().Add(20 * time.Second); freed.Load() < objects; time.Sleep(time.Millisecond) {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d contexts freed", freed.Load(), objects)
		}
	}
}

// TestCollectorAtWork collects all the time while runs use tensors that nothing else refers to.
func TestCollectorAtWork(t *testing.T) {
	var done atomic.Bool
	defer done.Store(true)
	go func() {
		for !done.Load() {
			runtime.GC()
		}
	}()
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	wantO, _ := p.solve()
	for range 100 {
		context, err := attn.NewContext(attn.ContextOptions{NumThreads: 1})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := context.NewPlan(p.options())
		if err != nil {
			t.Fatal(err)
		}
		o := make([]float32, len(wantO))
		copied := func(x []float32) []float32 { return append([]float32{}, x...) }
		args := attn.RunArgs{
			Q: attn.View(copied(p.q), 1, 2, 3, 4), K: attn.View(copied(p.k), 1, 2, 5, 4),
			V: attn.View(copied(p.v), 1, 2, 5, 4), O: attn.View(o, 1, 2, 3, 4),
		}
		for range 5 {
			if err := plan.Run(&args); err != nil {
				t.Fatal(err)
			}
		}
		near(t, "o", o, wantO, f32Tolerance)
	}
}

// TestSlicesOfStructs: what lies around a slice is none of cgo's business.
func TestSlicesOfStructs(t *testing.T) {
	type layer struct {
		name    *string
		lengths [1]int32
		q, k, v [4]float32
		o       [4]float32
	}
	name := "a Go pointer"
	l := &layer{name: &name, lengths: [1]int32{1}, v: [4]float32{1, 2, 3, 4}}
	context := newContext(t, attn.ContextOptions{NumThreads: 1})
	plan := newPlan(t, context, attn.PlanOptions{
		HeadsQ: 1, HeadDim: 4, MaxSeqlenQ: 1, MaxSeqlenK: 1, Features: attn.SeqlensK,
	})
	err := plan.Run(&attn.RunArgs{
		Q: attn.View(l.q[:], 1, 1, 1, 4), K: attn.View(l.k[:], 1, 1, 1, 4), V: attn.View(l.v[:], 1, 1, 1, 4),
		O: attn.View(l.o[:], 1, 1, 1, 4), SeqlensK: l.lengths[:],
	})
	if err != nil || l.o != l.v {
		t.Fatal(err, l.o)
	}
}

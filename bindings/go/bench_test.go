// bench_test.go: what a run costs in Go beyond the same run in C.

package attn_test

import (
	"sort"
	"testing"
	"time"

	"attn"
	"attn/internal/cloop"
)

// BenchmarkOverhead runs S = 16, 4 heads of 64, and the smallest attention that there is.
func BenchmarkOverhead(b *testing.B) {
	b.Run("16x64", func(b *testing.B) { overhead(b, 4, 16, 64) })
	b.Run("1x1", func(b *testing.B) { overhead(b, 1, 1, 1) })
}

// overhead runs alternately in Go and in a loop of C, over the same memory, and tells the difference in
// ns: the median over many short turns.
func overhead(b *testing.B, heads, seqlen, dim int) {
	const turn = 200
	loop, err := cloop.New(heads, seqlen, dim)
	if err != nil {
		b.Fatal(err)
	}
	run := newRun(b, loop, heads, seqlen, dim)
	allocations := testing.AllocsPerRun(turn, func() {
		if err := run(); err != nil {
			b.Fatal(err)
		}
	})
	var inGo, inC, overhead []float64
	for b.Loop() {
		start := time.Now()
		for range turn {
			if err := run(); err != nil {
				b.Fatal(err)
			}
		}
		middle := time.Now()
		if err := loop.Run(turn); err != nil {
			b.Fatal(err)
		}
		g := float64(middle.Sub(start).Nanoseconds()) / turn
		c := float64(time.Since(middle).Nanoseconds()) / turn
		inGo, inC, overhead = append(inGo, g), append(inC, c), append(overhead, g-c)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(inGo), "go-ns/run")
	b.ReportMetric(median(inC), "c-ns/run")
	b.ReportMetric(median(overhead), "overhead-ns/run")
	b.ReportMetric(allocations, "allocs/run")
}

// newRun is a run of [1, heads, seqlen, dim] on one thread, over the memory of a loop.
func newRun(tb testing.TB, loop cloop.Loop, heads, seqlen, dim int) func() error {
	tb.Helper()
	context := newContext(tb, attn.ContextOptions{NumThreads: 1})
	plan := newPlan(tb, context, attn.PlanOptions{
		HeadsQ: heads, HeadDim: dim, MaxSeqlenQ: seqlen, MaxSeqlenK: seqlen,
	})
	var views [4]attn.Tensor
	for i, memory := range loop.Tensors() {
		views[i] = attn.View(memory, 1, heads, seqlen, dim)
	}
	args := attn.RunArgs{Q: views[0], K: views[1], V: views[2], O: views[3], Workspace: loop.Workspace()}
	return func() error { return plan.Run(&args) }
}

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

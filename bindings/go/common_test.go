// common_test.go: what the tests share.

package attn_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"attn"
)

func newContext(tb testing.TB, options attn.ContextOptions) *attn.Context {
	tb.Helper()
	context, err := attn.NewContext(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { context.Close() })
	return context
}

func newPlan(tb testing.TB, context *attn.Context, options attn.PlanOptions) *attn.Plan {
	tb.Helper()
	plan, err := context.NewPlan(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { plan.Close() })
	return plan
}

// source makes the same numbers in each run of the tests.
type source struct{ *rand.Rand }

func newSource() source { return source{rand.New(rand.NewPCG(1, 2))} }

// normal is n standard normal numbers.
func (s source) normal(n int) []float32 {
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(s.NormFloat64())
	}
	return values
}

func filled[T any](n int, value T) []T {
	values := make([]T, n)
	for i := range values {
		values[i] = value
	}
	return values
}

// near fails where a value is further from the expected one than tolerance; NaN is far from all.
func near(tb testing.TB, what string, got []float32, want []float64, tolerance float64) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%s: %d values instead of %d", what, len(got), len(want))
	}
	for i := range got {
		if math.IsInf(want[i], 0) && float64(got[i]) == want[i] {
			continue
		}
		if !(math.Abs(float64(got[i])-want[i]) <= tolerance) {
			tb.Fatalf("%s[%d] is %g instead of %g, tolerance %g", what, i, got[i], want[i], tolerance)
		}
	}
}

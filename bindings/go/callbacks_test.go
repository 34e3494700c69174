// callbacks_test.go: executors and logs that are Go's.

package attn_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"attn"
)

// inOrder is one worker.
func inOrder(n int, run func(task, worker int)) error {
	for task := range n {
		run(task, 0)
	}
	return nil
}

// goroutines runs the tasks on so many goroutines.
func goroutines(workers int, calls *atomic.Int32) *attn.Executor {
	return &attn.Executor{Concurrency: workers, ParallelFor: func(n int, run func(task, worker int)) error {
		calls.Add(1)
		var next atomic.Int64
		var group sync.WaitGroup
		for worker := range workers {
			group.Add(1)
			go func() {
				defer group.Done()
				for task := next.Add(1) - 1; task < int64(n); task = next.Add(1) - 1 {
					run(int(task), worker)
					runtime.GC()
				}
			}()
		}
		group.Wait()
		return nil
	}}
}

func TestExecutor(t *testing.T) {
	p := newProblem(newSource(), 4, 2, 33, 65, 16, 16)
	solve := func(options attn.ContextOptions) ([]float32, []float32) {
		context := newContext(t, options)
		plan := newPlan(t, context, p.options())
		args, o, lse := p.args()
		if err := plan.Run(&args); err != nil {
			t.Fatal(err)
		}
		p.check(t, o, lse, f32Tolerance)
		return o, lse
	}
	var calls atomic.Int32
	wantO, wantLSE := solve(attn.ContextOptions{NumThreads: 1})
	o, lse := solve(attn.ContextOptions{Executor: goroutines(3, &calls)})
	if calls.Load() == 0 {
		t.Fatal("the executor was not called")
	}
	sameBits(t, "o", o, wantO)
	sameBits(t, "lse", lse, wantLSE)
}

// TestExecutorMovesTheStack: what a run reads and writes stays where it is while Go is called.
func TestExecutorMovesTheStack(t *testing.T) {
	p := newProblem(newSource(), 4, 2, 33, 65, 16, 16)
	moved := false
	var grow func(depth int) byte
	grow = func(depth int) byte {
		var frame [4096]byte
		if depth > 0 {
			frame[depth%len(frame)] = grow(depth - 1)
		}
		return frame[0]
	}
	solve := func(options attn.ContextOptions) []float32 {
		context := newContext(t, options)
		plan := newPlan(t, context, p.options())
		var o []float32
		done := make(chan error)
		go func() { // its stack is still small
			var args attn.RunArgs
			args, o, _ = p.args()
			before := uintptr(unsafe.Pointer(&args))
			err := plan.Run(&args)
			moved = uintptr(unsafe.Pointer(&args)) != before
			done <- err
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return o
	}
	want := solve(attn.ContextOptions{NumThreads: 1})
	got := solve(attn.ContextOptions{Executor: &attn.Executor{ParallelFor: func(n int, run func(task, worker int)) error {
		grow(100)
		return inOrder(n, run)
	}}})
	if !moved {
		t.Fatal("the stack did not move")
	}
	sameBits(t, "o", got, want)
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values instead of %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s[%d] is %g instead of %g", what, i, got[i], want[i])
		}
	}
}

func TestExecutorFails(t *testing.T) {
	p := newProblem(newSource(), 2, 2, 3, 5, 4, 4)
	for name, fails := range map[string]func(int, func(int, int)) error{
		"error": func(int, func(int, int)) error { return errors.New("no threads today") },
		"panic": func(int, func(int, int)) error { panic("no threads today") },
	} {
		t.Run(name, func(t *testing.T) {
			context := newContext(t, attn.ContextOptions{Executor: &attn.Executor{ParallelFor: fails}})
			plan := newPlan(t, context, p.options())
			args, _, _ := p.args()
			refused(t, plan.Run(&args), attn.ErrExecutor, "executor")
		})
	}
}

// TestLog: a plugin that cannot be loaded is told of.
func TestLog(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "libattn_cuda.so"), []byte("no library"), 0o644); err != nil {
		t.Fatal(err)
	}
	var lines []string
	context := newContext(t, attn.ContextOptions{
		BackendDir: folder,
		Log: func(level attn.LogLevel, message string) {
			if level < attn.LogDebug || level > attn.LogWarning {
				t.Errorf("level %d", level)
			}
			lines = append(lines, message)
			panic("a log that fails")
		},
	})
	info, err := context.Info()
	if err != nil || info.BackendDir != folder {
		t.Fatal(info, err)
	}
	if _, err := context.Backends(); err != nil {
		t.Fatal(err)
	}
	if len(lines) == 0 || !strings.Contains(lines[0], folder) {
		t.Fatalf("%q do not tell of %s", lines, folder)
	}
}

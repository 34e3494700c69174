// callbacks.go: a context's log and executor, which C calls.

package attn

import (
	"runtime/cgo"

	"attn/raw"
)

// callbacks is what stands behind the number that C hands back.
type callbacks struct {
	log      func(LogLevel, string)
	executor *Executor
}

// newCallbacks lets the config of C call the options' log and executor. The result ends with its
// last user.
func newCallbacks(config raw.Attn_context_config, executor raw.Attn_executor, options ContextOptions) *handle {
	number := cgo.NewHandle(&callbacks{options.Log, options.Executor})
	if options.Log != nil {
		raw.Attn_go_set_log(config, uint64(number))
	}
	if options.Executor != nil && options.Executor.ParallelFor != nil {
		raw.Attn_go_set_parallel_for(executor, uint64(number))
	}
	return newHandle(uintptr(number), func(number uintptr) { cgo.Handle(number).Delete() })
}

func init() {
	raw.LogFunc = func(user uintptr, level int32, message string) {
		defer func() { _ = recover() }() // a panic must not pass through C
		cgo.Handle(user).Value().(*callbacks).log(LogLevel(level), message)
	}
	raw.ParallelForFunc = func(user uintptr, n int64, run func(int64, int32)) (status int32) {
		defer func() {
			if recover() != nil {
				status = 1
			}
		}()
		executor := cgo.Handle(user).Value().(*callbacks).executor
		err := executor.ParallelFor(int(n), func(task, worker int) { run(int64(task), int32(worker)) })
		if err != nil {
			return 1
		}
		return 0
	}
}

// callbacks.go: what C calls in Go, and the way back for an executor's tasks.

package raw

/*
#include <attn/attn.h>

static void attn_go_task(attn_task_fn fn, void* arg, int64_t task, int32_t worker) {
  fn(arg, task, worker);
}
*/
import "C"
import "unsafe"

// LogFunc receives what a context logs whose config went through Attn_go_set_log.
var LogFunc func(user uintptr, level int32, message string)

// ParallelForFunc runs the tasks [0, n) of an executor that went through Attn_go_set_parallel_for,
// and returns 0 after the last.
var ParallelForFunc func(user uintptr, n int64, run func(task int64, worker int32)) int32

//export attnGoLog
func attnGoLog(user C.uintptr_t, level C.int32_t, message *C.char) {
	LogFunc(uintptr(user), int32(level), C.GoString(message))
}

//export attnGoParallelFor
func attnGoParallelFor(user C.uintptr_t, n C.int64_t, fn C.attn_task_fn, arg unsafe.Pointer) C.int32_t {
	return C.int32_t(ParallelForFunc(uintptr(user), int64(n), func(task int64, worker int32) {
		C.attn_go_task(fn, arg, C.int64_t(task), C.int32_t(worker))
	}))
}

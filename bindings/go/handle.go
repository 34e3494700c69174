// handle.go: objects of the library, which end once: by Close, or when nothing refers to them.

package attn

import "sync/atomic"

// handle counts the users of a C object: its owner, and each call that is going on. The last one
// destroys it, so that Close may come at any time, from any goroutine, any number of times.
type handle struct {
	pointer uintptr
	destroy func(uintptr)
	users   atomic.Int64
	closed  atomic.Bool
}

func newHandle(pointer uintptr, destroy func(uintptr)) *handle {
	h := &handle{pointer: pointer, destroy: destroy}
	h.users.Store(1)
	return h
}

// acquire keeps the object until release; false after close.
func (h *handle) acquire() bool {
	for !h.closed.Load() {
		// Never up from 0: then the object is gone.
		if users := h.users.Load(); users > 0 && h.users.CompareAndSwap(users, users+1) {
			return true
		}
	}
	return false
}

func (h *handle) release() {
	if h.users.Add(-1) == 0 {
		h.destroy(h.pointer)
	}
}

// close ends the owner's use; the first call does.
func (h *handle) close() {
	if h.closed.CompareAndSwap(false, true) {
		h.release()
	}
}

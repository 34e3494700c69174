// context.go: threads, instruction set, plugins; what a machine has, in words.

package attn

import (
	"runtime"
	"strings"

	"attn/raw"
)

// ISA is an instruction set of the CPU backends.
type ISA int32

const (
	ISAAuto       ISA = 0
	ISAScalar     ISA = 1
	ISAAVX2       ISA = 2
	ISAAVX512     ISA = 3
	ISANEON       ISA = 4
	ISAAVX512BF16 ISA = 5 // AVX512 with products of bf16 where Q is BF16; attn.h tells of its denormals
	ISAAMXBF16    ISA = 6 // the same with Intel's matrix units; never by default: attn.h tells why
)

// LogLevel is how much a message of the log matters.
type LogLevel int32

const (
	LogDebug   LogLevel = 1
	LogInfo    LogLevel = 2
	LogWarning LogLevel = 3
)

// Executor is the program's own threads in place of the built-in pool.
type Executor struct {
	// Concurrency is the number of workers, 1 to 1024; 0 means 1.
	Concurrency int

	// ParallelFor calls run once for each task in [0, n), in any order, on any goroutines, and
	// returns after the last one; or with an error, if it could not run them all. worker is in
	// [0, Concurrency), and different for tasks that run at the same time. Tasks never wait for one
	// another. It is called from several goroutines at once if plans are run so. A panic counts as an
	// error.
	ParallelFor func(n int, run func(task, worker int)) error
}

// ContextOptions is what a context may be made of; the zero value is a good one.
type ContextOptions struct {
	NumThreads int       // of the built-in pool: 1 to 1024; 0: the CPUs that the process may use
	ISA        ISA       // force one; 0: ATTN_FORCE_ISA of the environment, else the fastest
	Executor   *Executor // nil: the built-in pool; excludes NumThreads
	BackendDir string    // absolute directory of the plugins; "": ATTN_BACKEND_DIR, else the library's

	// Log receives what the library has to say beside errors; it prints nothing itself. It may be
	// called from several goroutines at once.
	Log func(level LogLevel, message string)
}

// Context is threads, instruction set and backends, for any number of plans.
type Context struct {
	handle    *handle
	callbacks *handle // what C may call as long as a plan of this context is there
	callsGo   bool    // whether there is anything to call
	cleanup   runtime.Cleanup
}

// NewContext makes a context. Threads start with the first run or with Warmup. It fails with
// ErrInvalidArgument, ErrUnavailable (a forced ISA that this machine lacks), ErrVersion (a library
// older than this package) or ErrOutOfMemory.
func NewContext(options ContextOptions) (*Context, error) {
	if err := checkVersion(); err != nil {
		return nil, err
	}
	config := raw.NewAttn_context_config()
	defer raw.DeleteAttn_context_config(config)
	var set setter
	config.SetNum_threads(set.int32("num_threads", options.NumThreads))
	config.SetIsa(int(options.ISA))
	config.SetBackend_dir(set.text("backend_dir", options.BackendDir))
	executor := raw.NewAttn_executor()
	defer raw.DeleteAttn_executor(executor)
	if options.Executor != nil {
		executor.SetConcurrency(set.int32("executor.concurrency", options.Executor.Concurrency))
		config.SetExecutor(executor)
	}
	if set.err != nil {
		return nil, set.err
	}

	c := &Context{
		callbacks: newCallbacks(config, executor, options),
		callsGo:   options.Executor != nil || options.Log != nil,
	}
	var pointer uintptr
	err := try(func(failure raw.Attn_error) int {
		return raw.Attn_context_create(config, &pointer, failure)
	})
	if err != nil {
		c.callbacks.release()
		return nil, err
	}
	callbacks := c.callbacks
	c.handle = newHandle(pointer, func(pointer uintptr) {
		raw.Attn_context_destroy(pointer)
		callbacks.release()
	})
	c.cleanup = runtime.AddCleanup(c, (*handle).close, c.handle)
	return c, nil
}

// Close frees the context; its threads end with the last plan that was made from it. Plans stay
// usable. It returns nil always.
func (c *Context) Close() error {
	c.cleanup.Stop()
	c.handle.close()
	return nil
}

// Warmup starts the threads now instead of in the first run.
func (c *Context) Warmup() error {
	if !c.handle.acquire() {
		return ErrClosed
	}
	defer c.handle.release()
	return try(func(failure raw.Attn_error) int {
		return raw.Attn_context_warmup(c.handle.pointer, failure)
	})
}

// ContextInfo is what a context works with.
type ContextInfo struct {
	ISA         ISA
	ISAName     string // "avx512"
	Concurrency int    // workers
	L1CacheSize int    // bytes of data cache for one core; 0 if unknown
	L2CacheSize int
	L3CacheSize int
	BackendDir  string // where plugins are looked for; "" if nowhere
}

// Info tells what the context works with.
func (c *Context) Info() (ContextInfo, error) {
	if !c.handle.acquire() {
		return ContextInfo{}, ErrClosed
	}
	defer c.handle.release()
	info := raw.NewAttn_context_info()
	defer raw.DeleteAttn_context_info(info)
	err := try(func(failure raw.Attn_error) int {
		return raw.Attn_context_get_info(c.handle.pointer, info, failure)
	})
	if err != nil {
		return ContextInfo{}, err
	}
	return ContextInfo{
		ISA:         ISA(info.GetIsa()),
		ISAName:     info.GetIsa_name(),
		Concurrency: info.GetConcurrency(),
		L1CacheSize: int(info.GetL1_cache_size()),
		L2CacheSize: int(info.GetL2_cache_size()),
		L3CacheSize: int(info.GetL3_cache_size()),
		BackendDir:  info.GetBackend_dir(),
	}, nil
}

// ISAInfo is an instruction set that the library knows.
type ISAInfo struct {
	ISA       ISA
	Name      string
	Available bool
	Reason    string // why it is not available; "" if it is
}

// ISAs lists the instruction sets.
func (c *Context) ISAs() ([]ISAInfo, error) {
	if !c.handle.acquire() {
		return nil, ErrClosed
	}
	defer c.handle.release()
	info := raw.NewAttn_isa_info()
	defer raw.DeleteAttn_isa_info(info)
	var list []ISAInfo
	for i := range raw.Attn_context_isa_count(c.handle.pointer) {
		err := try(func(failure raw.Attn_error) int {
			return raw.Attn_context_get_isa(c.handle.pointer, i, info, failure)
		})
		if err != nil {
			return nil, err
		}
		list = append(list, ISAInfo{
			ISA:       ISA(info.GetIsa()),
			Name:      info.GetName(),
			Available: info.GetAvailable() != 0,
			Reason:    info.GetReason(),
		})
	}
	return list, nil
}

// BackendInfo is a backend that the library knows.
type BackendInfo struct {
	Name        string
	Description string // one line: what it serves
	Available   bool
	Reason      string // why it is not available; "" if it is
}

// Backends lists the backends in the order in which plans try them, plugins that are not there
// included.
func (c *Context) Backends() ([]BackendInfo, error) {
	if !c.handle.acquire() {
		return nil, ErrClosed
	}
	defer c.handle.release()
	info := raw.NewAttn_backend_info()
	defer raw.DeleteAttn_backend_info(info)
	var list []BackendInfo
	for i := range raw.Attn_context_backend_count(c.handle.pointer) {
		err := try(func(failure raw.Attn_error) int {
			return raw.Attn_context_get_backend(c.handle.pointer, i, info, failure)
		})
		if err != nil {
			return nil, err
		}
		list = append(list, BackendInfo{
			Name:        info.GetName(),
			Description: info.GetDescription(),
			Available:   info.GetAvailable() != 0,
			Reason:      info.GetReason(),
		})
	}
	return list, nil
}

// setter narrows what Go's types allow and C's do not, and keeps the first error.
type setter struct{ err error }

func (s *setter) int32(name string, value int) int {
	if int(int32(value)) != value && s.err == nil {
		s.err = invalid("%s is %d; does not fit in 32 bits", name, value)
	}
	return value
}

func (s *setter) text(name, value string) string {
	if strings.IndexByte(value, 0) >= 0 && s.err == nil {
		s.err = invalid("%s is %q; must not hold a NUL byte", name, value)
	}
	return value
}

// Package attn is attention for Go programs, on any CPU: O = softmax(scale * Q K^T + bias, masked) V.
// A binding of libattn, which it finds through pkg-config.
//
// [Attention] computes it in one call. A program that calls it often makes a [Context] once (threads,
// instruction set), a [Plan] for each kind of problem (types, heads, masks, upper bounds), and runs
// that, which allocates nothing.
//
// Tensors are views of the caller's slices. The library has them for the call only and never keeps
// one. What shapes, lengths, masks and results mean is written in attn.h; names here are its names.
//
// Everything may be used from any number of goroutines at once, as long as concurrent runs have
// outputs, and workspaces where they give any, of their own. Close may be called at any time and more
// than once: calls that are going on finish, later ones return [ErrClosed]. What is not closed is
// freed after the garbage collector finds it unused.
package attn

import (
	"fmt"
	"sync"
	"unsafe"

	"attn/raw"
)

// Features is what a plan asks for beyond softmax(scale * Q K^T) V, one bit each. Those that name a
// tensor mean that each run carries it.
type Features uint32

const (
	Causal      Features = 1 << 0
	WindowLeft  Features = 1 << 1 // PlanOptions.WindowLeft is a bound
	WindowRight Features = 1 << 2 // PlanOptions.WindowRight is a bound
	SeqlensQ    Features = 1 << 3
	SeqlensK    Features = 1 << 4 // implied by PagedLayout
	QStart      Features = 1 << 5
	KStart      Features = 1 << 6
	Bias        Features = 1 << 7
	BiasRange   Features = 1 << 8 // the bias covers only the keys [k0, k0 + n)
	Mask        Features = 1 << 9
	MaskRange   Features = 1 << 10 // the mask covers only the keys [k0, k0 + n)
	Alibi       Features = 1 << 11
	Sink        Features = 1 << 12
	BlockMask   Features = 1 << 13
)

// Version is that of the loaded library, "0.1.0".
func Version() string { return raw.Attn_version_string() }

// checkVersion refuses a library that is older than the header this package was compiled with.
var checkVersion = sync.OnceValue(func() error {
	if raw.Attn_version() < raw.ATTN_VERSION {
		return &Error{ErrVersion, fmt.Sprintf("libattn is version %s; this program was compiled for %d.%d.%d",
			Version(), raw.ATTN_VERSION_MAJOR, raw.ATTN_VERSION_MINOR, raw.ATTN_VERSION_PATCH)}
	}
	return nil
})

// Attention is o = softmax(q k^T / sqrt(head_dim)) v with a context of the library's own, all CPUs,
// planning and allocating as needed.
//
//	q  [batch, heads_q,  seqlen_q, head_dim]    F32, F16 or BF16
//	k  [batch, heads_kv, seqlen_k, head_dim]
//	v  [batch, heads_kv, seqlen_k, head_dim_v]
//	o  [batch, heads_q,  seqlen_q, head_dim_v]  written
//
// features is 0 or Causal: the last query sees all keys. o is untouched on failure, unless that is
// ErrExecutor or ErrDevice.
func Attention(q, k, v, o Tensor, features Features) error {
	if err := checkVersion(); err != nil {
		return err
	}
	var views [4]raw.TensorView
	var data [4]unsafe.Pointer
	for i, t := range []Tensor{q, k, v, o} {
		if err := t.check(mainNames[i]); err != nil {
			return err
		}
		views[i], data[i] = t.view, t.data
	}
	var failure raw.Failure
	return failed(raw.Attention(&views, &data, uint32(features), &failure), &failure)
}

var mainNames = [4]string{"q", "k", "v", "o"}

// merge.go: merging partial results.

package attn

import (
	"runtime"
	"unsafe"

	"attn/raw"
)

// MergeArgs is partial results of the same queries over disjoint sets of keys, which combine into the
// result over all of them:
//
//	LSE = ln(sum_p exp(LSE_p)),   O = sum_p exp(LSE_p - LSE) O_p
//
// summed in the order given. A part with LSE -inf has no weight.
type MergeArgs struct {
	OParts   []Tensor  // F32 [b, h, s, dv]
	LSEParts []Tensor  // F32 [b, h, s], as many
	O        Tensor    // written: F32, F16 or BF16; may be the very view of a part
	LSE      Tensor    // optional, written: F32; likewise
	Sink     []float32 // optional, [h]: applied once; then no part may have had it
	Stream   unsafe.Pointer
}

// Merge merges. It fails as Plan.Run does.
func (c *Context) Merge(args *MergeArgs) error {
	if !c.handle.acquire() {
		return ErrClosed
	}
	defer c.handle.release()
	count := len(args.OParts)
	if len(args.LSEParts) != count {
		return invalid("lse_parts: %d must be as many as o_parts, %d", len(args.LSEParts), count)
	}
	if count < 1 || count > 1<<20 {
		return invalid("count is %d; must be 1 to %d", count, 1<<20)
	}
	var pinner runtime.Pinner // C gets the data's addresses in an array
	defer pinner.Unpin()
	tensors := make([]raw.TensorView, 0, 3+2*count)
	var err error
	add := func(t *Tensor, optional bool, name string) {
		if failure := t.check(name); failure != nil && (t.given() || !optional) && err == nil {
			err = failure
		}
		view := t.view
		if t.data != nil {
			pinner.Pin(t.data)
			view.Data = uintptr(t.data)
		}
		tensors = append(tensors, view)
	}
	var sink Tensor
	if args.Sink != nil {
		sink = View(args.Sink, len(args.Sink))
	}
	add(&args.O, false, "o")
	add(&args.LSE, true, "lse")
	add(&sink, true, "sink")
	for i := range args.OParts {
		add(&args.OParts[i], false, "o_parts")
	}
	for i := range args.LSEParts {
		add(&args.LSEParts[i], false, "lse_parts")
	}
	if err != nil {
		return err
	}
	var failure raw.Failure
	return failed(raw.Merge(c.handle.pointer, count, tensors, args.Stream, &failure), &failure)
}

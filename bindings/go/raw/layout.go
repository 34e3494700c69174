// Package raw is attn.h in Go, made by SWIG from bindings/attn.i. It checks nothing that C does not
// check; package attn is what programs use.
package raw

import "unsafe"

// TensorView is attn_tensor byte for byte. Data is 0 where the call passes the data beside it.
type TensorView struct {
	Data       uintptr
	ByteOffset uint64
	Dtype      int32
	DeviceType int32
	DeviceID   int32
	Rank       int32
	Shape      [ATTN_MAX_RANK]int64
	Strides    [ATTN_MAX_RANK]int64
	Reserved   [2]uint64
}

// Tensor is a tensor of Go's: none where the view's Dtype is 0. What Bad says, Go knows alone.
type Tensor struct {
	Data unsafe.Pointer
	View TensorView
	Bad  error
}

// RunArgs is package attn's byte for byte.
type RunArgs struct {
	Q, K, V, O, LSE                            Tensor
	SeqlensQ, SeqlensK, CuSeqlensQ, CuSeqlensK []int32
	BlockTable                                 Tensor
	QStart, KStart                             []int64
	Bias                                       Tensor
	BiasK0                                     []int64
	Mask                                       Tensor
	MaskK0                                     []int64
	AlibiSlopes                                Tensor
	Sink                                       []float32
	BlockMask, KScale, VScale                  Tensor
	Workspace                                  []byte
	Stream                                     unsafe.Pointer
}

// Failure is attn_error byte for byte.
type Failure struct {
	Status  int32
	Message [508]byte
}

// Text is the message.
func (f *Failure) Text() string {
	for i, c := range f.Message {
		if c == 0 {
			return string(f.Message[:i])
		}
	}
	return string(f.Message[:])
}

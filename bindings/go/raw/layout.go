// Package raw is attn.h in Go, made by SWIG from bindings/attn.i. It checks nothing that C does not
// check; package attn is what programs use.
package raw

// RunTensors is the number of tensors in attn_run_args.
const RunTensors = 21

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

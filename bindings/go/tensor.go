// tensor.go: views of slices.

package attn

import (
	"fmt"
	"slices"
	"unsafe"

	"attn/raw"
)

// DType is the type of a tensor's elements.
type DType int32

const (
	F32    DType = 1
	F16    DType = 2
	BF16   DType = 3
	F8E4M3 DType = 4 // finite only: no infinities, one NaN pattern
	I8     DType = 5
	U8     DType = 6 // masks: a non-zero byte is true
	I32    DType = 7
	I64    DType = 8
)

// String is "f32", "bf16", ...
func (d DType) String() string { return raw.Attn_dtype_name(int(d)) }

// Size is the bytes of one element; 0 for an invalid DType.
func (d DType) Size() int { return int(raw.Attn_dtype_size(int(d))) }

// DeviceType is where a tensor lies, numbered as in DLPack.
type DeviceType int32

const (
	CPU  DeviceType = 1
	CUDA DeviceType = 2
)

// MaxRank is the number of dimensions that a tensor may have.
const MaxRank = raw.ATTN_MAX_RANK

// Element is what a tensor may consist of. A bool is a U8.
type Element interface {
	float32 | Float16 | BFloat16 | Float8E4M3 | int8 | uint8 | bool | int32 | int64
}

// Tensor is a view of a slice; the zero Tensor is none. It keeps the slice alive, copies nothing,
// and sees what the slice holds when a call runs. A view that cannot be (more elements than the
// slice has) is told by the call that it is passed to, which knows its name.
type Tensor struct {
	data unsafe.Pointer
	view raw.TensorView
	bad  error
}

// View is the whole of a slice, row-major.
func View[T Element](data []T, shape ...int) Tensor {
	t := describe(dtypeOf[T](), shape)
	if t.bad != nil {
		return t
	}
	empty := slices.Contains(shape, 0)
	count := 1
	for i := len(shape) - 1; i >= 0; i-- {
		t.view.Strides[i] = int64(count)
		if !empty && count > len(data)/shape[i] {
			return t.fails("shape %v needs more than the %d elements of the slice", slices.Clone(shape), len(data))
		}
		count *= shape[i]
	}
	if count != len(data) {
		return t.fails("shape %v has %d elements, the slice %d", slices.Clone(shape), count, len(data))
	}
	t.data = unsafe.Pointer(unsafe.SliceData(data))
	return t
}

// ViewStrided is part of a slice: element (i, j, ...) is data[offset + i*strides[0] + j*strides[1] +
// ...]. A stride may be negative, or 0 to broadcast, for inputs.
func ViewStrided[T Element](data []T, offset int, shape, strides []int) Tensor {
	t := describe(dtypeOf[T](), shape)
	if t.bad != nil {
		return t
	}
	if len(strides) != len(shape) {
		return t.fails("%d strides for shape %v", len(strides), slices.Clone(shape))
	}
	if offset < 0 || offset > len(data) {
		return t.fails("offset %d must be 0 to %d, the length of the slice", offset, len(data))
	}
	for i, stride := range strides {
		t.view.Strides[i] = int64(stride)
	}
	if slices.Contains(shape, 0) {
		return t
	}
	// How far the view reaches down and up from offset. The library does the same for what it gets.
	down, up := offset, len(data)-1-offset
	for i, stride := range strides {
		steps, limit := shape[i]-1, &up
		if stride < 0 {
			stride, limit = -stride, &down
		}
		if steps > 0 && stride != 0 && (stride < 0 || steps > *limit/stride) {
			return t.fails("shape %v with strides %v from %d reaches outside of the %d elements of the slice",
				slices.Clone(shape), slices.Clone(strides), offset, len(data))
		}
		*limit -= steps * stride
	}
	if up < 0 {
		return t.fails("offset %d is past the %d elements of the slice", offset, len(data))
	}
	t.data = unsafe.Pointer(&data[offset])
	return t
}

// Memory is a view of memory that is not Go's: a device's, or C's. The caller keeps it alive, and
// answers for its size.
func Memory(data unsafe.Pointer, dtype DType, device DeviceType, id int, shape, strides []int) Tensor {
	t := describe(dtype, shape)
	if t.bad != nil {
		return t
	}
	if len(strides) != len(shape) {
		return t.fails("%d strides for shape %v", len(strides), slices.Clone(shape))
	}
	if int(int32(id)) != id {
		return t.fails("device id %d does not fit in 32 bits", id)
	}
	for i, stride := range strides {
		t.view.Strides[i] = int64(stride)
	}
	t.data, t.view.DeviceType, t.view.DeviceID = data, int32(device), int32(id)
	return t
}

// Permute is the same elements with the dimensions in another order: dimension i of the result is
// dimension order[i] of t. View(x, b, s, h, d).Permute(0, 2, 1, 3) is [b, h, s, d].
func (t Tensor) Permute(order ...int) Tensor {
	if t.bad != nil {
		return t
	}
	if len(order) != int(t.view.Rank) {
		return t.fails("order %v for %d dimensions", slices.Clone(order), t.view.Rank)
	}
	result, seen := t, [MaxRank]bool{}
	for i, from := range order {
		if from < 0 || from >= len(order) || seen[from] {
			return t.fails("order %v must name each of %d dimensions once", slices.Clone(order), len(order))
		}
		seen[from] = true
		result.view.Shape[i], result.view.Strides[i] = t.view.Shape[from], t.view.Strides[from]
	}
	return result
}

// DType is the type of the elements.
func (t Tensor) DType() DType { return DType(t.view.Dtype) }

// Shape is the extent of each dimension.
func (t Tensor) Shape() []int {
	shape := make([]int, t.view.Rank)
	for i := range shape {
		shape[i] = int(t.view.Shape[i])
	}
	return shape
}

// describe is a tensor without data and strides.
func describe(dtype DType, shape []int) Tensor {
	t := Tensor{view: raw.TensorView{Dtype: int32(dtype), DeviceType: int32(CPU)}}
	if dtype == 0 {
		return t.fails("dtype is not given")
	}
	if len(shape) > MaxRank {
		return t.fails("rank %d is more than %d", len(shape), MaxRank)
	}
	t.view.Rank = int32(len(shape))
	for i, extent := range shape {
		if extent < 0 {
			return t.fails("shape %v has a negative extent", slices.Clone(shape))
		}
		t.view.Shape[i] = int64(extent)
	}
	return t
}

// fails is a tensor that every call refuses with these words. Callers copy the slices that they tell
// of, so that the compiler leaves those of good tensors on the stack.
func (t Tensor) fails(format string, args ...any) Tensor {
	t.bad = fmt.Errorf(format, args...)
	t.view.Dtype = -1 // it is there, and no library takes it
	return t
}

func dtypeOf[T Element]() DType {
	var zero T
	switch any(zero).(type) {
	case float32:
		return F32
	case Float16:
		return F16
	case BFloat16:
		return BF16
	case Float8E4M3:
		return F8E4M3
	case int8:
		return I8
	case uint8, bool:
		return U8
	case int32:
		return I32
	}
	return I64
}

// given tells whether there is a tensor at all.
func (t *Tensor) given() bool { return t.view.Dtype != 0 }

// check is the error of a view that cannot be, or is missing, under its name.
func (t *Tensor) check(name string) error {
	if t.bad != nil {
		return invalid("%s: %v", name, t.bad)
	}
	if !t.given() {
		return invalid("%s is missing", name)
	}
	return nil
}

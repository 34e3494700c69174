// Addresses inside of attn_tensor views, for views that were checked before.
#ifndef ATTN_SRC_TENSOR_H_
#define ATTN_SRC_TENSOR_H_

#include <attn/attn.h>

#include <cstring>

namespace attn {

// Bytes of one element; 0 for an invalid dtype.
constexpr size_t dtype_size(attn_dtype dtype) {
  switch (dtype) {
    case ATTN_DTYPE_F32:
    case ATTN_DTYPE_I32:
      return 4;
    case ATTN_DTYPE_F16:
    case ATTN_DTYPE_BF16:
      return 2;
    case ATTN_DTYPE_F8E4M3:
    case ATTN_DTYPE_I8:
    case ATTN_DTYPE_U8:
      return 1;
    case ATTN_DTYPE_I64:
      return 8;
    default:
      return 0;
  }
}

// "f32", "bf16", ...; "invalid" for an invalid dtype.
constexpr const char* dtype_name(attn_dtype dtype) {
  switch (dtype) {
    case ATTN_DTYPE_F32:
      return "f32";
    case ATTN_DTYPE_F16:
      return "f16";
    case ATTN_DTYPE_BF16:
      return "bf16";
    case ATTN_DTYPE_F8E4M3:
      return "f8e4m3";
    case ATTN_DTYPE_I8:
      return "i8";
    case ATTN_DTYPE_U8:
      return "u8";
    case ATTN_DTYPE_I32:
      return "i32";
    case ATTN_DTYPE_I64:
      return "i64";
    default:
      return "invalid";
  }
}

// The byte address of element (0, 0, ...).
inline char* tensor_data(const attn_tensor& t) {
  return static_cast<char*>(t.data) + t.byte_offset;
}

// That of the element so many elements further; NULL if the tensor is empty and has no memory.
inline char* element_at(const attn_tensor& t, int64_t offset) {
  return t.data ? tensor_data(t) + offset * static_cast<int64_t>(dtype_size(t.dtype)) : nullptr;
}

// The byte address of element (i0, i1, i2) or, with a rank above three, of (i0, i1, i2, 0, ...).
inline char* tensor_at(const attn_tensor& t, int64_t i0, int64_t i1 = 0, int64_t i2 = 0) {
  int64_t offset = i0 * t.strides[0];
  if (t.rank > 1) offset += i1 * t.strides[1];
  if (t.rank > 2) offset += i2 * t.strides[2];
  return element_at(t, offset);
}

// The stride of a dimension that may broadcast: 0 if its extent is 1.
inline int64_t broadcast_stride(const attn_tensor& t, int dim) {
  return t.shape[dim] == 1 ? 0 : t.strides[dim];
}

// Element i of a vector. Only the element's alignment is promised, which memcpy does not need.
template <typename T>
inline T vector_at(const attn_tensor& t, int64_t i) {
  T value;
  std::memcpy(&value, tensor_data(t) + i * broadcast_stride(t, 0) * int64_t{sizeof(T)}, sizeof(T));
  return value;
}

}  // namespace attn

#endif  // ATTN_SRC_TENSOR_H_

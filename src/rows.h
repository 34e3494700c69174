// Rows of elements, `stride` elements apart, to and from contiguous f32: from any storage type, to
// the floating-point ones of O.
#ifndef ATTN_SRC_ROWS_H_
#define ATTN_SRC_ROWS_H_

#include <attn/attn.h>

#include "storage.h"

namespace attn {
namespace rows {

template <typename T, typename Convert>
void load(const void* from, int64_t stride, int64_t n, float* to, Convert convert) {
  const T* source = static_cast<const T*>(from);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(source[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = convert(source[i * stride]);
  }
}

template <typename T, typename Convert>
void store(const float* from, int64_t n, void* to, int64_t stride, Convert convert) {
  T* target = static_cast<T*>(to);
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) target[i] = convert(from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) target[i * stride] = convert(from[i]);
  }
}

}  // namespace rows

inline void load_row(const void* from, attn_dtype dtype, int64_t stride, int64_t n, float* to) {
  switch (dtype) {
    case ATTN_DTYPE_F16:
      return rows::load<uint16_t>(from, stride, n, to, [](uint16_t x) { return f32_from_f16(x); });
    case ATTN_DTYPE_BF16:
      return rows::load<uint16_t>(from, stride, n, to, [](uint16_t x) { return f32_from_bf16(x); });
    case ATTN_DTYPE_F8E4M3:
      return rows::load<uint8_t>(from, stride, n, to, [](uint8_t x) { return f32_from_f8e4m3(x); });
    case ATTN_DTYPE_I8:
      return rows::load<int8_t>(from, stride, n, to,
                                [](int8_t x) { return static_cast<float>(x); });
    default:
      return rows::load<float>(from, stride, n, to, [](float x) { return x; });
  }
}

inline void store_row(const float* from, int64_t n, void* to, attn_dtype dtype, int64_t stride) {
  switch (dtype) {
    case ATTN_DTYPE_F16:
      return rows::store<uint16_t>(from, n, to, stride, [](float x) { return f16_from_f32(x); });
    case ATTN_DTYPE_BF16:
      return rows::store<uint16_t>(from, n, to, stride, [](float x) { return bf16_from_f32(x); });
    default:
      return rows::store<float>(from, n, to, stride, [](float x) { return x; });
  }
}

}  // namespace attn

#endif  // ATTN_SRC_ROWS_H_

// storage.h: storage types as the tests see them, converted by arithmetic and not by the library.
#ifndef ATTN_ABI_TESTS_STORAGE_H_
#define ATTN_ABI_TESTS_STORAGE_H_

#include "harness.h"

namespace attn_test {

// Bytes of one element.
size_t element_size(attn_dtype dtype);

// Reads and writes one element of any dtype, rounding to nearest even. A float that the type holds,
// and an integer up to 2^53, come back unchanged. What is too large for f8e4m3 or i8 becomes the
// largest number of its sign.
double load(attn_dtype dtype, const void* element);
void store(attn_dtype dtype, void* element, double value);

// i8 and f8e4m3: the types that come with scales.
bool is_quantised(attn_dtype dtype);

// The value that `value` becomes when stored.
double rounded(attn_dtype dtype, double value);

// The distance from |value| to the next larger number of that floating-point type.
double ulp(attn_dtype dtype, double value);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_STORAGE_H_

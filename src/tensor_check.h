// Checks of one tensor view: is it well formed, and of the type, rank and shape that is asked for?
#ifndef ATTN_SRC_TENSOR_CHECK_H_
#define ATTN_SRC_TENSOR_CHECK_H_

#include <attn/attn.h>

namespace attn {

struct Device {
  attn_device_type type;
  int32_t id;
};

enum class Access { kRead, kWrite };

// A tensor argument on its way through the checks. `name` is the field's, as messages say it.
struct Argument {
  const char* name;
  const attn_tensor* tensor;
};

// Well formed, on `device`, of this dtype and rank; not NULL. An output may not overlap itself.
attn_status check_tensor(const Argument& arg, attn_dtype dtype, int rank, Device device,
                         Access access, attn_error* error);

// shape[dim] == expected; `meaning` says in words what that is ("head_dim").
attn_status check_extent(const Argument& arg, int dim, int64_t expected, const char* meaning,
                         attn_error* error);

// shape[dim] is 1 or expected.
attn_status check_broadcast_extent(const Argument& arg, int dim, int64_t expected,
                                   const char* meaning, attn_error* error);

// The memory ranges of an output and of another tensor are disjoint. Either may be NULL.
attn_status check_disjoint(const Argument& output, const Argument& other, attn_error* error);

}  // namespace attn

#endif  // ATTN_SRC_TENSOR_CHECK_H_

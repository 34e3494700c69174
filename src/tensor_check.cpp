// Checks of one tensor view.
#include "tensor_check.h"

#include <algorithm>

#include "error.h"
#include "tensor.h"

namespace attn {
namespace {

// Bytes [begin, end) relative to `data`. Empty views have begin == end.
struct ByteRange {
  int64_t begin;
  int64_t end;
};

bool is_empty(const attn_tensor& t) {
  return std::any_of(t.shape, t.shape + t.rank, [](int64_t extent) { return extent == 0; });
}

// False if the offsets of the elements do not fit in an int64_t of bytes.
bool byte_range(const attn_tensor& t, ByteRange* range) {
  *range = {0, 0};
  if (is_empty(t)) return true;
  int64_t lowest = 0, highest = 0;
  for (int i = 0; i < t.rank; ++i) {
    int64_t reach;
    if (__builtin_mul_overflow(t.shape[i] - 1, t.strides[i], &reach)) return false;
    int64_t* const end = reach < 0 ? &lowest : &highest;
    if (__builtin_add_overflow(*end, reach, end)) return false;
  }
  const int64_t size = static_cast<int64_t>(dtype_size(t.dtype));
  int64_t begin, end;
  if (__builtin_add_overflow(highest, 1, &end) || __builtin_mul_overflow(end, size, &end) ||
      __builtin_mul_overflow(lowest, size, &begin) ||
      __builtin_add_overflow(begin, t.byte_offset, &begin) ||
      __builtin_add_overflow(end, t.byte_offset, &end)) {
    return false;
  }
  *range = {begin, end};
  return true;
}

// True if no two elements share memory: sorted by stride, each dimension steps over all that the
// smaller ones span. (Interleavings that happen not to collide fail too; nobody writes to such.)
bool is_free_of_overlap(const attn_tensor& t) {
  struct Dim {
    int64_t stride;
    int64_t extent;
  } dims[ATTN_MAX_RANK];
  int count = 0;
  for (int i = 0; i < t.rank; ++i) {
    if (t.shape[i] <= 1) continue;
    const Dim dim{t.strides[i] < 0 ? -t.strides[i] : t.strides[i], t.shape[i]};
    int at = count++;
    for (; at > 0 && dims[at - 1].stride > dim.stride; --at) dims[at] = dims[at - 1];
    dims[at] = dim;
  }
  int64_t span = 0;  // of the dimensions so far: the highest offset
  for (int i = 0; i < count; ++i) {
    if (dims[i].stride <= span) return false;
    span += (dims[i].extent - 1) * dims[i].stride;
  }
  return true;
}

}  // namespace

attn_status check_tensor(const Argument& arg, attn_dtype dtype, int rank, Device device,
                         Access access, attn_error* error) {
  const char* name = arg.name;
  if (!arg.tensor) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
  const attn_tensor& t = *arg.tensor;
  if (dtype_size(t.dtype) == 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.dtype is %d, which is no attn_dtype", name,
                t.dtype);
  }
  if (t.dtype != dtype) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.dtype is %s; must be %s", name,
                attn_dtype_name(t.dtype), attn_dtype_name(dtype));
  }
  if (t.rank != rank) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.rank is %d; must be %d", name, t.rank,
                rank);
  }
  const attn_device_type type = t.device_type ? t.device_type : ATTN_DEVICE_CPU;
  if (type != device.type || t.device_id != device.id) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s is on device (type %d, id %d); must be on (type %d, id %d)", name, type,
                t.device_id, device.type, device.id);
  }
  if (t.reserved[0] != 0 || t.reserved[1] != 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.reserved is not 0", name);
  }
  for (int i = 0; i < rank; ++i) {
    if (t.shape[i] < 0) {
      return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.shape[%d] is %lld; must be at least 0",
                  name, i, static_cast<long long>(t.shape[i]));
    }
  }
  if (is_empty(t)) return ATTN_OK;
  if (!t.data) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.data is NULL, but the view has elements",
                name);
  }
  ByteRange range;
  if (!byte_range(t, &range)) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s.shape and strides reach beyond 2^63 bytes from data", name);
  }
  const uintptr_t base = reinterpret_cast<uintptr_t>(t.data);
  if ((range.begin < 0 && base < uintptr_t{0} - static_cast<uintptr_t>(range.begin)) ||
      base + static_cast<uintptr_t>(range.end) < base) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s.shape and strides reach beyond the address space", name);
  }
  const uintptr_t address = base + t.byte_offset;
  const size_t element = dtype_size(t.dtype);
  if (address % element != 0) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s.data + byte_offset is not a multiple of %zu, the size of its elements", name,
                element);
  }
  if (access == Access::kWrite && !is_free_of_overlap(t)) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
                "%s.strides make elements overlap, which is not allowed for an output", name);
  }
  return ATTN_OK;
}

attn_status check_extent(const Argument& arg, int dim, int64_t expected, const char* meaning,
                         attn_error* error) {
  if (arg.tensor->shape[dim] == expected) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.shape[%d] is %lld; must be %lld (%s)",
              arg.name, dim, static_cast<long long>(arg.tensor->shape[dim]),
              static_cast<long long>(expected), meaning);
}

attn_status check_broadcast_extent(const Argument& arg, int dim, int64_t expected,
                                   const char* meaning, attn_error* error) {
  const int64_t extent = arg.tensor->shape[dim];
  if (extent == expected || extent == 1) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s.shape[%d] is %lld; must be %lld (%s) or 1",
              arg.name, dim, static_cast<long long>(extent), static_cast<long long>(expected),
              meaning);
}

attn_status check_disjoint(const Argument& output, const Argument& other, attn_error* error) {
  if (!output.tensor || !other.tensor) return ATTN_OK;
  ByteRange a, b;
  byte_range(*output.tensor, &a);
  byte_range(*other.tensor, &b);
  if (a.begin == a.end || b.begin == b.end) return ATTN_OK;
  const uintptr_t a_base = reinterpret_cast<uintptr_t>(output.tensor->data);
  const uintptr_t b_base = reinterpret_cast<uintptr_t>(other.tensor->data);
  if (a_base + a.end <= b_base + b.begin || b_base + b.end <= a_base + a.begin) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s overlaps %s in memory", output.name,
              other.name);
}

}  // namespace attn

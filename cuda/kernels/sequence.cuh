// One sequence of a batch: lengths and positions as they lie on the device, where the host cannot
// check them. What is out of range is clamped, so that no address is ever wild, and remembered:
// all rows of such a sequence become NaN.
#ifndef ATTN_CUDA_KERNELS_SEQUENCE_CUH_
#define ATTN_CUDA_KERNELS_SEQUENCE_CUH_

#include "primitives.cuh"

namespace attn::cuda {

constexpr int64_t kMaxPosition = int64_t{1} << 60;

struct Sequence {
  int32_t index;     // b
  int32_t seqlen_q;  // its own, clamped
  int32_t seqlen_k;
  int64_t q_row;     // row of its query 0 in packed q, o, lse, bias and mask; 0 if padded
  int64_t k_row;     // row of its key 0 in packed k and v; else 0
  int64_t diagonal;  // the key at the position of query 0, any number to 2^61 or so
  uint32_t bad;      // ATTN_REQUEST_*
};

// Rows [begin, begin + length) of sequence b of a packed tensor.
struct PackedRows {
  int64_t begin;
  int32_t length;
  bool bad;  // one of its two entries is out of order or out of range
};

__device__ __forceinline__ PackedRows packed_rows(const Int32Vector& cu_seqlens, int32_t b,
                                                  int32_t batch, int64_t total,
                                                  int32_t max_length) {
  const auto entry = [&](int32_t i) { return int64_t{cu_seqlens.data[i * cu_seqlens.stride]}; };
  const int64_t begin = entry(b);
  const int64_t end = entry(b + 1);
  bool bad = begin < 0 || end > total || begin > end || end - begin > max_length;
  // An entry out of order spoils the sequences on both sides of it.
  if (b > 0) bad |= entry(b - 1) > begin;
  if (b + 1 < batch) bad |= entry(b + 2) < end;
  const int64_t first = clamp_to(begin, int64_t{0}, total);
  const int64_t length = clamp_to(end, first, total) - first;
  return {first, static_cast<int32_t>(min_of(length, int64_t{max_length})), bad};
}

__device__ __forceinline__ Sequence sequence_at(const AttendParams& params, int32_t b) {
  Sequence s{};
  s.index = b;
  s.seqlen_q = params.seqlen_q;
  if (params.q_layout == ATTN_LAYOUT_PACKED) {
    const PackedRows rows =
        packed_rows(params.cu_seqlens_q, b, params.batch, params.total_q, params.seqlen_q);
    s.q_row = rows.begin;
    s.seqlen_q = rows.length;
    if (rows.bad) s.bad |= ATTN_REQUEST_BAD_SEQLEN_Q;
  } else if (params.seqlens_q.data) {
    const int32_t length = params.seqlens_q.data[b * params.seqlens_q.stride];
    // A bad length feeds all rows.
    if (length < 0 || length > params.seqlen_q) {
      s.bad |= ATTN_REQUEST_BAD_SEQLEN_Q;
    } else {
      s.seqlen_q = length;
    }
  }
  s.seqlen_k = params.seqlen_k;
  if (params.kv_layout == ATTN_LAYOUT_PACKED) {
    const PackedRows rows =
        packed_rows(params.cu_seqlens_k, b, params.batch, params.total_k, params.seqlen_k);
    s.k_row = rows.begin;
    s.seqlen_k = rows.length;
    if (rows.bad) s.bad |= ATTN_REQUEST_BAD_SEQLEN_K;
  } else if (params.seqlens_k.data) {
    const int32_t length = params.seqlens_k.data[b * params.seqlens_k.stride];
    s.seqlen_k = clamp_to(length, 0, params.seqlen_k);
    if (length != s.seqlen_k) s.bad |= ATTN_REQUEST_BAD_SEQLEN_K;
  }
  if (params.kv_layout == ATTN_LAYOUT_PAGED) {
    const int64_t keys = params.block_table_columns * params.page_size;
    if (s.seqlen_k > keys) {
      s.seqlen_k = static_cast<int32_t>(keys);
      s.bad |= ATTN_REQUEST_BAD_PAGE;
    }
  }
  int64_t q_start =
      params.alignment == ATTN_ALIGN_BOTTOM_RIGHT ? int64_t{s.seqlen_k} - int64_t{s.seqlen_q} : 0;
  int64_t k_start = 0;
  if (params.q_start.data) q_start = params.q_start.data[b * params.q_start.stride];
  if (params.k_start.data) k_start = params.k_start.data[b * params.k_start.stride];
  const int64_t q_clamped = clamp_to(q_start, -kMaxPosition, kMaxPosition);
  const int64_t k_clamped = clamp_to(k_start, -kMaxPosition, kMaxPosition);
  if (q_clamped != q_start || k_clamped != k_start) s.bad |= ATTN_REQUEST_BAD_POSITION;
  s.diagonal = q_clamped - k_clamped;
  return s;
}

__device__ __forceinline__ void report(const AttendParams& params, int32_t b, uint32_t bits) {
  if (bits && params.status) atomic_or(params.status + b, bits);
}

// Keys [begin, end) of a sequence; empty if begin >= end.
struct KeyRange {
  int32_t begin;
  int32_t end;
};

// The keys that query i may attend to as far as length, causality and window go: one interval.
__device__ __forceinline__ KeyRange attended_keys(const AttendParams& params, const Sequence& s,
                                                  int32_t i) {
  const int64_t diagonal = s.diagonal + i;  // the key at the query's own position
  int64_t begin = 0;
  int64_t end = s.seqlen_k;
  if (params.features & ATTN_CAUSAL) end = min_of(end, diagonal + 1);
  if (params.features & ATTN_WINDOW_RIGHT) end = min_of(end, diagonal + params.window_right + 1);
  if (params.features & ATTN_WINDOW_LEFT) begin = max_of(begin, diagonal - params.window_left);
  begin = min_of(begin, int64_t{s.seqlen_k});
  return {static_cast<int32_t>(begin), static_cast<int32_t>(max_of(end, int64_t{0}))};
}

// Address of element (i0, i1, i2, 0).
template <class Element>
__device__ __forceinline__ Element* element_at(const TensorView& t, int64_t i0, int64_t i1,
                                               int64_t i2) {
  return static_cast<Element*>(t.data) + i0 * t.strides[0] + i1 * t.strides[1] + i2 * t.strides[2];
}

// ---- ALiBi

__device__ __forceinline__ float alibi_slope(const AttendParams& params, int32_t b, int32_t h) {
  return params.alibi_slopes[b * params.alibi_strides[0] + h * params.alibi_strides[1]];
}

// The key nearest to query i's position. Scores lose slope * |nearest - key| alone: a query far
// from all keys would lose its scores' digits to its distance. An infinite slope has no nearest
// key, since infinity * 0 is NaN.
__device__ __forceinline__ int32_t nearest_key(const Sequence& s, int32_t i, float slope) {
  const int64_t diagonal = s.diagonal + i;
  if (!is_finite(slope)) return static_cast<int32_t>(clamp_to(diagonal, -kMaxSeqlen, kMaxSeqlen));
  return static_cast<int32_t>(
      clamp_to(diagonal, int64_t{0}, max_of(int64_t{s.seqlen_k} - 1, int64_t{0})));
}

// What all scores of query i lack, in natural units: it belongs to the LSE alone.
__device__ __forceinline__ double left_out(const AttendParams& params, const Sequence& s, int32_t h,
                                           int32_t i) {
  if (!(params.features & ATTN_ALIBI)) return 0.0;
  const float slope = alibi_slope(params, s.index, h);
  if (slope == 0.0f || !is_finite(slope)) return 0.0;
  const int64_t distance = s.diagonal + i - nearest_key(s, i, slope);
  return -static_cast<double>(slope) * static_cast<double>(distance < 0 ? -distance : distance);
}

// ---- sink

// A row's softmax over keys, given by its LSE, joined by a sink: O *= weight, and the new LSE.
// `missing` is what left_out() says. One part alone keeps its bits.
struct FinishedRow {
  float weight;
  float lse;
};

__device__ __forceinline__ FinishedRow finish_row(const AttendParams& params, float lse, int32_t h,
                                                  double missing) {
  const double keys = lse;
  if (!(params.features & ATTN_SINK) || lse != lse) {
    return {1.0f, static_cast<float>(keys + missing)};
  }
  const double sink = static_cast<double>(params.sink[h * params.sink_stride]) - missing;
  const double larger = max_of(keys, sink);
  if (larger == -kInfinity) return {1.0f, -kInfinity};
  const float mine = expf(static_cast<float>(keys - larger));
  const float sum = mine + expf(static_cast<float>(sink - larger));
  return {mine / sum, static_cast<float>(larger + static_cast<double>(logf(sum)) + missing)};
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_SEQUENCE_CUH_

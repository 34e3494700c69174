// One sequence of a batch, whatever the layout: its lengths, its positions, where its rows lie, and
// which keys a query may attend to. What every CPU backend reads its problem through.
#ifndef ATTN_SRC_SEQUENCE_H_
#define ATTN_SRC_SEQUENCE_H_

#include <attn/backend.h>

#include <algorithm>

#include "tensor.h"

namespace attn {

struct Sequence {
  int64_t index;     // b
  int64_t seqlen_q;  // its own lengths, not the tensor's extents
  int64_t seqlen_k;
  int64_t q_row;    // row of its query 0 in packed q, o, lse, bias and mask; 0 if padded
  int64_t k_row;    // row of its key 0 in packed k and v; 0 if padded or paged
  int64_t q_start;  // position of query 0
  int64_t k_start;  // position of key 0
};

inline Sequence sequence_at(const attn_plan_config& problem, const attn_run_args& args,
                            const attn_run_shape& shape, int64_t b) {
  Sequence s{};
  s.index = b;
  if (problem.q_layout == ATTN_LAYOUT_PACKED) {
    s.q_row = vector_at<int32_t>(*args.cu_seqlens_q, b);
    s.seqlen_q = vector_at<int32_t>(*args.cu_seqlens_q, b + 1) - s.q_row;
  } else {
    s.seqlen_q = args.seqlens_q ? vector_at<int32_t>(*args.seqlens_q, b) : shape.seqlen_q;
  }
  if (problem.kv_layout == ATTN_LAYOUT_PACKED) {
    s.k_row = vector_at<int32_t>(*args.cu_seqlens_k, b);
    s.seqlen_k = vector_at<int32_t>(*args.cu_seqlens_k, b + 1) - s.k_row;
  } else {
    s.seqlen_k = args.seqlens_k ? vector_at<int32_t>(*args.seqlens_k, b) : shape.seqlen_k;
  }
  s.k_start = args.k_start ? vector_at<int64_t>(*args.k_start, b) : 0;
  if (args.q_start) {
    s.q_start = vector_at<int64_t>(*args.q_start, b);
  } else if (problem.alignment == ATTN_ALIGN_BOTTOM_RIGHT) {
    s.q_start = s.seqlen_k - s.seqlen_q;
  }
  return s;
}

// Row i of the sequence in q, o or lse.
inline char* query_row(const attn_plan_config& problem, const attn_tensor& t, const Sequence& s,
                       int64_t head, int64_t i) {
  const bool packed = problem.q_layout == ATTN_LAYOUT_PACKED;
  return tensor_at(t, packed ? 0 : s.index, head, s.q_row + i);
}

// Where key j of the sequence lies in k, v and their scales: the first index (batch or page) and
// the third (row).
struct KeyPlace {
  int64_t outer;
  int64_t row;
};

inline KeyPlace key_place(const attn_plan_config& problem, const attn_run_args& args,
                          const Sequence& s, int64_t j) {
  switch (problem.kv_layout) {
    case ATTN_LAYOUT_PAGED: {
      const char* entry = tensor_at(*args.block_table, s.index, j / problem.page_size);
      int32_t page;
      std::memcpy(&page, entry, sizeof(page));
      return {page, j % problem.page_size};
    }
    case ATTN_LAYOUT_PACKED:
      return {0, s.k_row + j};
    default:
      return {s.index, j};
  }
}

// Row j of the sequence in k or v.
inline char* key_row(const attn_plan_config& problem, const attn_run_args& args,
                     const attn_tensor& t, const Sequence& s, int64_t head_kv, int64_t j) {
  const KeyPlace place = key_place(problem, args, s, j);
  return tensor_at(t, place.outer, head_kv, place.row);
}

// The scales of that row: f32, one for each `block` of its columns, `stride` floats apart.
struct Scales {
  const char* data;
  int64_t stride;
  int64_t block;
};

inline Scales scales_of_key(const attn_plan_config& problem, const attn_run_args& args,
                            const attn_tensor& scale, const Sequence& s, int64_t head_kv, int64_t j,
                            int64_t columns) {
  const KeyPlace place = key_place(problem, args, s, j);
  const int64_t offset = place.outer * broadcast_stride(scale, 0) +
                         head_kv * broadcast_stride(scale, 1) +
                         place.row * broadcast_stride(scale, 2);
  const char* data = element_at(scale, offset);
  if (scale.rank == 3) return {data, 0, columns};
  return {data, scale.strides[3], columns / scale.shape[3]};
}

// Keys [begin, end) of a sequence; empty if begin == end.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

// The keys that query i may attend to as far as length, causality and window go: always one
// interval. Start positions and windows are bounded by the checks, so that nothing overflows here.
inline KeyRange attended_keys(const attn_plan_config& problem, const Sequence& s, int64_t i) {
  const int64_t diagonal = s.q_start + i - s.k_start;  // the key at the query's own position
  int64_t begin = 0;
  int64_t end = s.seqlen_k;
  if (problem.features & ATTN_CAUSAL) end = std::min(end, diagonal + 1);
  if (problem.features & ATTN_WINDOW_RIGHT)
    end = std::min(end, diagonal + problem.window_right + 1);
  if (problem.features & ATTN_WINDOW_LEFT) begin = std::max(begin, diagonal - problem.window_left);
  return begin < end ? KeyRange{begin, end} : KeyRange{0, 0};
}

// The part of a bias or a mask [b, h, rows, n] that concerns query i.
struct ColumnsView {
  KeyRange keys;     // that it covers
  const char* data;  // element of key keys.begin
  int64_t stride;    // in elements, from key to key
};

inline ColumnsView columns_of(const attn_plan_config& problem, const Sequence& s, int64_t head,
                              int64_t i, const attn_tensor& t, bool ranged,
                              const attn_tensor* k0_tensor) {
  ColumnsView view{{0, s.seqlen_k}, nullptr, broadcast_stride(t, 3)};
  int64_t first_column = 0;
  if (ranged) {  // column c is key k0 + c
    const int64_t k0 = k0_tensor ? vector_at<int64_t>(*k0_tensor, s.index) : 0;
    int64_t end;
    if (__builtin_add_overflow(k0, t.shape[3], &end)) end = s.seqlen_k;
    view.keys = {std::clamp<int64_t>(k0, 0, s.seqlen_k), std::clamp<int64_t>(end, 0, s.seqlen_k)};
    view.stride = t.strides[3];
    if (view.keys.begin >= view.keys.end) return view;
    first_column = view.keys.begin - k0;
  }
  const int64_t batch = problem.q_layout == ATTN_LAYOUT_PACKED ? 0 : s.index;
  const int64_t offset = batch * broadcast_stride(t, 0) + head * broadcast_stride(t, 1) +
                         (s.q_row + i) * broadcast_stride(t, 2) + first_column * view.stride;
  view.data = element_at(t, offset);
  return view;
}

// A head's blocks: the byte of the block of query 0 and key 0.
inline const char* block_mask_of(const attn_tensor& t, const Sequence& s, int64_t head) {
  return element_at(t, s.index * broadcast_stride(t, 0) + head * broadcast_stride(t, 1));
}

inline float alibi_slope(const attn_tensor& slopes, const Sequence& s, int64_t head) {
  float slope;
  std::memcpy(&slope, slopes.rank == 1 ? tensor_at(slopes, head) : tensor_at(slopes, s.index, head),
              sizeof(slope));
  return slope;
}

}  // namespace attn

#endif  // ATTN_SRC_SEQUENCE_H_

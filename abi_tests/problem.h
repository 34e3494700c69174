// problem.h: one attention problem, told apart from how it lies in memory.
//
// A Problem says what is computed, and with which memory layout; Data holds its numbers by their
// meaning (sequence, head, row, column). The reference reads these two alone; placement.h turns
// them into tensors.
#ifndef ATTN_ABI_TESTS_PROBLEM_H_
#define ATTN_ABI_TESTS_PROBLEM_H_

#include <array>
#include <string>
#include <vector>

#include "guarded.h"
#include "harness.h"

namespace attn_test {

// How the sequences of Q (with O and LSE) or of K and V lie in memory.
enum class Rows { kPadded, kPaddedLengths, kPacked, kPaged };

// The memory order of a tensor.
struct Order {
  std::array<int, 4> outer_to_inner = {0, 1, 2, 3};
  int gap = 0;             // elements left out after each innermost line
  unsigned reversed = 0;   // bit i: dimension i runs backwards (inputs only)
  unsigned broadcast = 0;  // bit i: dimension i has stride 0 (inputs only)
  bool offset = false;     // part of the position is in byte_offset
};

// A dense 4-d array of numbers.
struct Values {
  std::array<int64_t, 4> n = {0, 0, 0, 0};
  std::vector<double> x;

  void resize(int64_t n0, int64_t n1, int64_t n2, int64_t n3, double value = 0) {
    n = {n0, n1, n2, n3};
    x.assign(static_cast<size_t>(n0 * n1 * n2 * n3), value);
  }
  double& at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) {
    return x[static_cast<size_t>(((i0 * n[1] + i1) * n[2] + i2) * n[3] + i3)];
  }
  double at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
    return x[static_cast<size_t>(((i0 * n[1] + i1) * n[2] + i2) * n[3] + i3)];
  }
  // An extent of 1 stands for any index.
  double broadcast_at(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
    return at(n[0] == 1 ? 0 : i0, n[1] == 1 ? 0 : i1, n[2] == 1 ? 0 : i2, n[3] == 1 ? 0 : i3);
  }
};

// A bias, a mask or a block mask over [batch, heads, rows, columns].
struct Overlay {
  bool present = false;
  unsigned broadcast = 0;    // bit i: the same along dimension i
  bool zero_stride = false;  // broadcast dimensions have their full extent and stride 0, else 1
  // A range covers columns [k0, k0 + range_n) of each sequence. k0: none, 1 or batch entries.
  bool ranged = false;
  int64_t range_n = 0;
  std::vector<int64_t> k0;

  int64_t k0_of(int64_t b) const {
    return k0.empty() ? 0 : k0.size() == 1 ? k0[0] : k0[static_cast<size_t>(b)];
  }
};

// The scales of a quantised K or V.
struct Scaling {
  int64_t block = 0;         // elements of a row that share one; 0: all, and the tensor has rank 3
  unsigned broadcast = 0;    // bit i: the same along dimension i of [batch or page, heads_kv, row]
  bool zero_stride = false;  // broadcast dimensions have their full extent and stride 0, else 1

  int64_t blocks(int64_t columns) const { return block == 0 ? 1 : columns / block; }
};

struct Problem {
  std::string name;
  uint64_t seed = 1;

  attn_dtype q_dtype = ATTN_DTYPE_F32;
  attn_dtype k_dtype = ATTN_DTYPE_F32;
  attn_dtype v_dtype = ATTN_DTYPE_F32;
  attn_dtype o_dtype = ATTN_DTYPE_F32;
  attn_dtype bias_dtype = ATTN_DTYPE_F32;
  Rows q_rows = Rows::kPadded;
  Rows k_rows = Rows::kPadded;
  int64_t heads_q = 1;
  int64_t heads_kv = 1;
  int64_t head_dim = 8;
  int64_t head_dim_v = 8;
  Scaling k_scaling, v_scaling;          // read where k_dtype and v_dtype are quantised
  std::vector<int64_t> seqlens_q = {1};  // each sequence's own; as many as the batch has
  std::vector<int64_t> seqlens_k = {1};

  bool causal = false;
  int64_t window_left = -1;  // -1: no bound
  int64_t window_right = -1;
  attn_alignment alignment = ATTN_ALIGN_BOTTOM_RIGHT;
  std::vector<int64_t> q_start;  // empty: not given
  std::vector<int64_t> k_start;
  float scale = 0;
  float softcap = 0;
  Overlay bias;
  bool bias_has_inf = false;
  Overlay mask;
  Overlay block_mask;
  int32_t block_q = 1;
  int32_t block_k = 1;
  int alibi = 0;  // rank of alibi_slopes; 0: none
  bool sink = false;
  bool lse = true;
  int64_t tile_k = 0;
  int64_t kv_chunk = 0;

  // Where things lie.
  int64_t slack_q = 0;  // padded with lengths: rows beyond the longest; packed: unowned rows
  int64_t slack_k = 0;
  int64_t plan_slack = 0;  // the plan's bounds are larger by this
  int32_t page_size = 4;
  Order q_order, k_order, v_order, o_order, overlay_order;
  int list_gap = 0;  // of lengths, starts and the like
  Guard guard = Guard::kAfter;
  double magnitude = 1;        // of Q, K and V
  bool poison_masked = false;  // NaN and Inf in keys and values that no query may see

  int64_t batch() const { return static_cast<int64_t>(seqlens_q.size()); }
  int64_t longest_q() const;
  int64_t longest_k() const;
  // First packed row of sequence b, and how many rows the packed tensor has.
  int64_t packed_row_q(int64_t b) const;
  int64_t packed_row_k(int64_t b) const;
  int64_t total_q() const { return packed_row_q(batch()) + slack_q; }
  int64_t total_k() const { return packed_row_k(batch()) + slack_k; }
  // The row of an overlay for query i of sequence b, and its dimension 0.
  int64_t overlay_row(int64_t b, int64_t i) const {
    return q_rows == Rows::kPacked ? packed_row_q(b) + i : i;
  }
  int64_t overlay_batch(int64_t b) const { return q_rows == Rows::kPacked ? 0 : b; }
  int64_t kv_head(int64_t h) const { return h / (heads_q / heads_kv); }
  int64_t query_position(int64_t b, int64_t i) const;
  int64_t key_position(int64_t b, int64_t j) const;
};

struct Data {
  Values q;                 // [b, heads_q, longest_q, head_dim]
  Values k, v;              // [b, heads_kv, longest_k, ...]; the elements, if quantised
  Values k_scale, v_scale;  // [b, heads_kv, longest_k, blocks]; empty if not quantised
  Values bias, mask, block_mask;
  std::vector<double> alibi;  // [heads_q] or [b, heads_q]
  std::vector<double> sink;   // [heads_q]
};

// Seeded numbers for a problem, as its storage types hold them.
Data make_data(const Problem& problem);

// Query i of sequence b, head h may attend to key j: lengths, starts, causal, window, masks and
// -inf in the bias.
bool attends(const Problem& problem, const Data& data, int64_t b, int64_t h, int64_t i, int64_t j);

// What the plan is asked for, and how many words the problem has for its own description.
attn_features features_of(const Problem& problem);
std::string describe(const Problem& problem);

// A random problem with any mix of features, and the pairwise grid of them (see grid.cpp).
Problem random_problem(Random& random);
std::vector<Problem> pairwise_problems(uint64_t seed);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_PROBLEM_H_

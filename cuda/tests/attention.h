// attention.h: an attention problem in device terms for the emulator tests: its numbers, its
// AttendParams, and a float64 reference made of the words of attn.h alone.
#ifndef ATTN_CUDA_TESTS_ATTENTION_H_
#define ATTN_CUDA_TESTS_ATTENTION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "../params.h"

namespace attn_test {

enum class Layout { kPadded, kLengths, kPacked, kPaged };

struct Case {
  std::string name;
  attn_dtype dtype = ATTN_DTYPE_BF16;
  attn_dtype o_dtype = 0;     // 0: dtype
  attn_dtype bias_dtype = 0;  // 0: no bias
  int heads_q = 2, heads_kv = 1;
  int head_dim = 64, head_dim_v = 0;  // 0: head_dim
  std::vector<int> seqlens_q = {100};
  std::vector<int> seqlens_k = {150};
  Layout q_layout = Layout::kPadded;
  Layout k_layout = Layout::kPadded;
  int page_size = 16;
  bool causal = false;
  bool top_left = false;
  int64_t window_left = -1, window_right = -1;  // -1: none
  std::vector<int64_t> q_start, k_start;        // empty: not given
  float scale = 0;
  float softcap = 0;
  bool mask = false;
  int64_t overlay_k0 = 0, overlay_n = -1;  // range of bias and mask; n < 0: all keys
  bool bias_has_inf = false;
  int alibi = 0;  // rank of the slopes
  bool sink = false;
  int block_q = 0, block_k = 0;  // 0: no block mask
  bool block_diagonal = false;   // query block i attends to key block i alone; else drawn
  bool lse = true;
  bool pack = false;          // rows of a group of heads in one tile
  int row_gap = 0;            // elements between rows, to spoil alignment
  int dim_stride = 1;         // of all four tensors
  int kv_chunk = 0;           // 0: no split
  double magnitude = 1;       // of Q
  bool nan_unseen = false;    // NaN and infinities in keys and values that no row attends to
  std::vector<int> nan_keys;  // of each sequence: V is NaN or Inf there for those that attend
  bool nan_k = false;         // nan_keys are NaN in K as well
  uint64_t seed = 1;
  // Bad input, and what it makes of the sequence.
  int bad_page_of = -1;  // a page of sequence b has no such number...
  int bad_page = 0;      // ... the n-th one
  uint32_t bad_bit = 0;  // ATTN_REQUEST_BAD_*: an entry of that list holds what it must not
  int bad_entry = 0;
  int64_t bad_value = 0;
  std::vector<int> spoiled;  // sequences that have the status bit; their rows become NaN...
  std::vector<int> orphans;  // ... but for those that belong to nobody any more

  bool is_spoiled(int b) const;
  bool is_orphan(int b) const;
};

// Rows as [b][h][i]: index(b, h, i) rows of head_dim_v numbers.
struct Expected {
  std::vector<std::vector<double>> o;
  std::vector<double> lse;
  std::vector<double> tolerance;
};

class Problem {
 public:
  explicit Problem(const Case& c);

  // Everything but the work: tiles_q, num_chunks, num_tiles, gqa_pack.
  attn::cuda::AttendParams params;
  const Case& what;

  size_t row(int b, int h, int i) const;
  Expected expected() const;
  // "" or the first difference from what is right; NaN matches nothing but NaN.
  std::string difference(const Expected& expected) const;
  // Writes in O's and LSE's memory that belong to no row.
  std::string damage() const;
  // O and LSE of a sequence.
  std::vector<double> results(int b) const;
  // Fills outputs and workspace with NaN.
  void clear_outputs();
  uint32_t status(int b) const { return status_[static_cast<size_t>(b)]; }
  // Room for split K and V.
  void make_partials(int chunks);

 private:
  struct Place {  // of one tensor
    std::vector<uint8_t> bytes;
    attn_dtype dtype;
    int64_t strides[4];
    int64_t first = 0;  // element of index 0
  };
  bool attends(int b, int h, int i, int j) const;
  bool bad(int b, int h, int i) const;
  double element(const Place& place, int64_t index) const;
  void set(Place& place, int64_t index, double value);
  int64_t key_index(const Place& place, int b, int h, int j) const;
  int64_t query_index(const Place& place, int b, int h, int i) const;
  Place place(attn_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3, int gap,
              int stride);
  attn::cuda::TensorView view(Place& place) const;
  double random();
  double overlay_column(int j) const;

  int batch_, longest_q_, longest_k_, dim_v_;
  std::vector<int64_t> q_row_, k_row_;  // packed
  uint64_t state_;
  Place q_, k_, v_, o_, lse_, bias_, mask_, blocks_;
  std::vector<int32_t> lengths_q_, lengths_k_, cu_q_, cu_k_, table_;
  std::vector<float> slopes_, sinks_;
  std::vector<int64_t> starts_q_, starts_k_, k0_;
  std::vector<uint32_t> status_;
  std::vector<float> partial_o_, partial_lse_;
  int64_t table_columns_ = 0;
};

}  // namespace attn_test

#endif  // ATTN_CUDA_TESTS_ATTENTION_H_

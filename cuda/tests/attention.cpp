// attention.cpp: places a problem in memory, and computes it one row at a time in float64.
#include "attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace attn_test {
namespace {

constexpr double kInf = INFINITY;

// ---- storage types, by arithmetic

double decode16(attn_dtype dtype, uint16_t bits) {
  const int exponent_bits = dtype == ATTN_DTYPE_F16 ? 5 : 8;
  const int fraction_bits = 15 - exponent_bits;
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  double x;
  if (exponent == (1 << exponent_bits) - 1) {
    x = fraction ? NAN : kInf;
  } else if (exponent == 0) {
    x = std::ldexp(fraction, 1 - bias - fraction_bits);
  } else {
    x = std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  }
  return bits & 0x8000 ? -x : x;
}

uint16_t encode16(attn_dtype dtype, double x) {
  const int exponent_bits = dtype == ATTN_DTYPE_F16 ? 5 : 8;
  const int fraction_bits = 15 - exponent_bits;
  const auto infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << fraction_bits);
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return static_cast<uint16_t>(infinity | 1);
  const double magnitude = std::fabs(x);
  // Values of one sign are ordered as their bits: the nearest of all, ties to even bits.
  uint16_t low = 0, high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (decode16(dtype, middle) <= magnitude ? low : high) = middle;
  }
  const double top = high == infinity ? 2 * decode16(dtype, low) - decode16(dtype, low - 1)
                                      : decode16(dtype, high);
  const double to_low = magnitude - decode16(dtype, low), to_high = top - magnitude;
  const bool up = to_high < to_low || (to_high == to_low && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

double rounded(attn_dtype dtype, double x) {
  return dtype == ATTN_DTYPE_F32 ? static_cast<double>(static_cast<float>(x))
                                 : decode16(dtype, encode16(dtype, x));
}

int bytes_of(attn_dtype dtype) {
  return dtype == ATTN_DTYPE_U8 ? 1 : dtype == ATTN_DTYPE_F32 ? 4 : 2;
}

double ulp(attn_dtype dtype, double x) {
  const int digits = dtype == ATTN_DTYPE_F32 ? 23 : dtype == ATTN_DTYPE_F16 ? 10 : 7;
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, exponent - 1 - digits);
}

int64_t longest(const std::vector<int>& lengths) {
  return *std::max_element(lengths.begin(), lengths.end());
}

constexpr uint8_t kUntouched = 0xff;  // NaN in every type

bool contains(const std::vector<int>& list, int b) {
  return std::find(list.begin(), list.end(), b) != list.end();
}

}  // namespace

bool Case::is_spoiled(int b) const { return contains(spoiled, b); }
bool Case::is_orphan(int b) const { return contains(orphans, b); }

// ---- memory

Problem::Place Problem::place(attn_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3,
                              int gap, int stride) {
  Place p;
  p.dtype = dtype;
  p.strides[3] = stride;
  p.strides[2] = n3 * stride + gap;
  p.strides[1] = p.strides[2] * n2;
  p.strides[0] = p.strides[1] * n1;
  p.first = gap;  // an address that is not aligned either
  p.bytes.assign(static_cast<size_t>((p.strides[0] * n0 + gap + 1) * bytes_of(dtype)) + 16,
                 kUntouched);
  return p;
}

attn::cuda::TensorView Problem::view(Place& p) const {
  attn::cuda::TensorView v{};
  // vector<uint8_t> comes from operator new: aligned to 16.
  v.data = p.bytes.data() + p.first * bytes_of(p.dtype);
  std::copy(p.strides, p.strides + 4, v.strides);
  return v;
}

double Problem::element(const Place& p, int64_t index) const {
  const uint8_t* at = p.bytes.data() + (p.first + index) * bytes_of(p.dtype);
  if (p.dtype == ATTN_DTYPE_U8) return *at;
  if (p.dtype == ATTN_DTYPE_F32) {
    float x;
    std::memcpy(&x, at, 4);
    return x;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return decode16(p.dtype, bits);
}

void Problem::set(Place& p, int64_t index, double value) {
  uint8_t* at = p.bytes.data() + (p.first + index) * bytes_of(p.dtype);
  if (p.dtype == ATTN_DTYPE_U8) {
    *at = static_cast<uint8_t>(value);
  } else if (p.dtype == ATTN_DTYPE_F32) {
    const auto x = static_cast<float>(value);
    std::memcpy(at, &x, 4);
  } else {
    const uint16_t bits = encode16(p.dtype, value);
    std::memcpy(at, &bits, 2);
  }
}

// Index of dim 0 of a row.
int64_t Problem::query_index(const Place& p, int b, int h, int i) const {
  const bool packed = what.q_layout == Layout::kPacked;
  return (packed ? 0 : b) * p.strides[0] + h * p.strides[1] +
         ((packed ? q_row_[static_cast<size_t>(b)] : 0) + i) * p.strides[2];
}

int64_t Problem::key_index(const Place& p, int b, int h, int j) const {
  if (what.k_layout == Layout::kPaged) {
    const int64_t page = table_[static_cast<size_t>(b * table_columns_ + j / what.page_size)];
    return page * p.strides[0] + h * p.strides[1] + j % what.page_size * p.strides[2];
  }
  const bool packed = what.k_layout == Layout::kPacked;
  return (packed ? 0 : b) * p.strides[0] + h * p.strides[1] +
         ((packed ? k_row_[static_cast<size_t>(b)] : 0) + j) * p.strides[2];
}

double Problem::random() {  // about N(0, 1)
  double sum = 0;
  for (int i = 0; i < 6; ++i) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    sum += static_cast<double>(state_ >> 33) / 2147483648.0 - 0.5;
  }
  return sum * 1.41421356;
}

size_t Problem::row(int b, int h, int i) const {
  return static_cast<size_t>((b * what.heads_q + h) * longest_q_ + i);
}

Problem::Problem(const Case& c) : params{}, what(c), state_(c.seed * 77 + 5) {
  batch_ = static_cast<int>(c.seqlens_q.size());
  longest_q_ = static_cast<int>(longest(c.seqlens_q));
  longest_k_ = static_cast<int>(longest(c.seqlens_k));
  dim_v_ = c.head_dim_v ? c.head_dim_v : c.head_dim;
  const attn_dtype o_dtype = c.o_dtype ? c.o_dtype : c.dtype;
  int64_t total_q = 0, total_k = 0, pages = 3;
  for (int b = 0; b < batch_; ++b) {
    const auto i = static_cast<size_t>(b);
    q_row_.push_back(total_q);
    k_row_.push_back(total_k);
    cu_q_.push_back(static_cast<int32_t>(total_q));
    cu_k_.push_back(static_cast<int32_t>(total_k));
    total_q += c.seqlens_q[i];
    total_k += c.seqlens_k[i];
    lengths_q_.push_back(c.seqlens_q[i]);
    lengths_k_.push_back(c.seqlens_k[i]);
    pages += (c.seqlens_k[i] + c.page_size - 1) / c.page_size;
  }
  cu_q_.push_back(static_cast<int32_t>(total_q));
  cu_k_.push_back(static_cast<int32_t>(total_k));

  const bool packed_q = c.q_layout == Layout::kPacked;
  const int64_t n_q = packed_q ? 1 : batch_, rows_q = packed_q ? total_q : longest_q_;
  q_ = place(c.dtype, n_q, c.heads_q, rows_q, c.head_dim, c.row_gap, c.dim_stride);
  o_ = place(o_dtype, n_q, c.heads_q, rows_q, dim_v_, c.row_gap, c.dim_stride);
  lse_ = place(ATTN_DTYPE_F32, n_q, c.heads_q, rows_q, 1, 0, 1);
  const bool paged = c.k_layout == Layout::kPaged;
  const bool packed_k = c.k_layout == Layout::kPacked;
  const int64_t n_k = paged ? pages : packed_k ? 1 : batch_;
  const int64_t rows_k = paged ? c.page_size : packed_k ? total_k : longest_k_;
  k_ = place(c.dtype, n_k, c.heads_kv, rows_k, c.head_dim, c.row_gap, c.dim_stride);
  v_ = place(c.dtype, n_k, c.heads_kv, rows_k, dim_v_, c.row_gap, c.dim_stride);

  if (paged) {  // pages in an order of their own; unused entries are wild
    table_columns_ = (longest_k_ + c.page_size - 1) / c.page_size + 1;
    table_.assign(static_cast<size_t>(batch_ * table_columns_), 0x7fffff00);
    int32_t next = static_cast<int32_t>(pages) - 2;
    for (int b = 0; b < batch_; ++b) {
      for (int j = 0; j < c.seqlens_k[static_cast<size_t>(b)]; j += c.page_size) {
        table_[static_cast<size_t>(b * table_columns_ + j / c.page_size)] = next--;
      }
    }
  }

  // Numbers. Memory that belongs to no row stays NaN.
  for (int b = 0; b < batch_; ++b) {
    for (int h = 0; h < c.heads_q; ++h) {
      for (int i = 0; i < c.seqlens_q[static_cast<size_t>(b)]; ++i) {
        for (int x = 0; x < c.head_dim; ++x) {
          set(q_, query_index(q_, b, h, i) + x * c.dim_stride, random() * c.magnitude);
        }
      }
    }
    for (int h = 0; h < c.heads_kv; ++h) {
      for (int j = 0; j < c.seqlens_k[static_cast<size_t>(b)]; ++j) {
        for (int x = 0; x < c.head_dim; ++x) {
          set(k_, key_index(k_, b, h, j) + x * c.dim_stride, random());
        }
        for (int x = 0; x < dim_v_; ++x) {
          set(v_, key_index(v_, b, h, j) + x * c.dim_stride, random());
        }
      }
    }
  }

  auto& p = params;
  p.q = view(q_), p.k = view(k_), p.v = view(v_), p.o = view(o_);
  if (c.lse) p.lse = view(lse_);
  p.lse.strides[3] = 0;
  if (packed_q) p.q.strides[0] = p.o.strides[0] = p.lse.strides[0] = 0;
  if (packed_k) p.k.strides[0] = p.v.strides[0] = 0;
  p.q_layout = packed_q ? ATTN_LAYOUT_PACKED : ATTN_LAYOUT_PADDED;
  p.kv_layout = paged ? ATTN_LAYOUT_PAGED : packed_k ? ATTN_LAYOUT_PACKED : ATTN_LAYOUT_PADDED;
  p.alignment = c.top_left ? ATTN_ALIGN_TOP_LEFT : ATTN_ALIGN_BOTTOM_RIGHT;
  p.o_dtype = o_dtype;
  p.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<float>(c.head_dim));
  p.softcap = c.softcap;
  if (c.causal) p.features |= ATTN_CAUSAL;
  if (c.window_left >= 0) p.features |= ATTN_WINDOW_LEFT, p.window_left = c.window_left;
  if (c.window_right >= 0) p.features |= ATTN_WINDOW_RIGHT, p.window_right = c.window_right;
  p.batch = batch_;
  p.heads_q = c.heads_q, p.heads_kv = c.heads_kv;
  p.head_dim = c.head_dim, p.head_dim_v = dim_v_;
  p.seqlen_q = longest_q_, p.seqlen_k = longest_k_;
  p.page_size = paged ? c.page_size : 0;
  p.total_q = packed_q ? total_q : 0, p.total_k = packed_k ? total_k : 0;
  p.num_pages = paged ? pages : 0;
  if (c.q_layout == Layout::kLengths) {
    p.seqlens_q = {lengths_q_.data(), 1};
    p.features |= ATTN_SEQLENS_Q;
  }
  if (c.k_layout == Layout::kLengths || paged) {
    p.seqlens_k = {lengths_k_.data(), 1};
    p.features |= ATTN_SEQLENS_K;
  }
  if (packed_q) p.cu_seqlens_q = {cu_q_.data(), 1};
  if (packed_k) p.cu_seqlens_k = {cu_k_.data(), 1};
  if (paged) {
    p.block_table = table_.data();
    p.block_table_strides[0] = p.block_table_columns = table_columns_;
    p.block_table_strides[1] = 1;
  }
  starts_q_ = c.q_start, starts_k_ = c.k_start;
  if (!starts_q_.empty()) p.q_start = {starts_q_.data(), 1}, p.features |= ATTN_Q_START;
  if (!starts_k_.empty()) p.k_start = {starts_k_.data(), 1}, p.features |= ATTN_K_START;

  const int64_t columns = c.overlay_n >= 0 ? c.overlay_n : longest_k_;
  k0_.assign(static_cast<size_t>(batch_), c.overlay_k0);
  const auto map = [&](Place& at) {
    attn::cuda::ScoreMap m{};
    m.data = at.bytes.data() + at.first * bytes_of(at.dtype);
    std::copy(at.strides, at.strides + 4, m.strides);
    if (packed_q) m.strides[0] = 0;
    m.columns = columns;
    if (c.overlay_n >= 0) m.k0 = {k0_.data(), 1};
    return m;
  };
  if (c.bias_dtype) {
    bias_ = place(c.bias_dtype, n_q, c.heads_q, rows_q, columns, 3, 1);
    for (int64_t i = 0; i < n_q * bias_.strides[0]; ++i) {
      set(bias_, i, c.bias_has_inf && random() > 1 ? -kInf : random());
    }
    p.bias = map(bias_);
    p.bias_dtype = c.bias_dtype;
    p.features |= ATTN_BIAS | (c.overlay_n >= 0 ? ATTN_BIAS_RANGE : 0);
  }
  if (c.mask) {
    mask_ = place(ATTN_DTYPE_U8, n_q, c.heads_q, rows_q, columns, 1, 1);
    for (int64_t i = 0; i < n_q * mask_.strides[0]; ++i)
      set(mask_, i, random() > 0.3 ? 0 : 1 + (i & 7));
    p.mask = map(mask_);
    p.features |= ATTN_MASK | (c.overlay_n >= 0 ? ATTN_MASK_RANGE : 0);
  }
  if (c.block_q) {
    blocks_ = place(ATTN_DTYPE_U8, batch_, c.heads_q, (longest_q_ + c.block_q - 1) / c.block_q,
                    (longest_k_ + c.block_k - 1) / c.block_k, 0, 1);
    for (int64_t i = 0; i < batch_ * blocks_.strides[0]; ++i) {
      const int64_t query_block = i % blocks_.strides[1] / blocks_.strides[2];
      const int64_t key_block = i % blocks_.strides[2];
      const bool attends = c.block_diagonal ? query_block == key_block : random() <= 0;
      set(blocks_, i, attends ? 4 : 0);
    }
    p.block_mask = blocks_.bytes.data();
    std::copy(blocks_.strides, blocks_.strides + 4, p.block_mask_strides);
    p.block_q = c.block_q, p.block_k = c.block_k;
    p.features |= ATTN_BLOCK_MASK;
  }
  if (c.alibi) {
    for (int i = 0; i < (c.alibi == 2 ? batch_ : 1) * c.heads_q; ++i) {
      slopes_.push_back(static_cast<float>(0.05 + 0.3 * std::fabs(random())));
    }
    p.alibi_slopes = slopes_.data();
    p.alibi_strides[0] = c.alibi == 2 ? c.heads_q : 0;
    p.alibi_strides[1] = 1;
    p.features |= ATTN_ALIBI;
  }
  if (c.sink) {
    for (int h = 0; h < c.heads_q; ++h) sinks_.push_back(static_cast<float>(random()));
    p.sink = sinks_.data();
    p.sink_stride = 1;
    p.features |= ATTN_SINK;
  }
  status_.assign(static_cast<size_t>(batch_), 0);
  p.status = status_.data();
  p.gqa_pack = c.pack ? c.heads_q / c.heads_kv : 1;
  p.num_chunks = 1;

  // What nobody attends to, and what some do.
  const auto spoil = [&](int b, int j, bool k_too) {
    for (int h = 0; h < c.heads_kv; ++h) {
      set(v_, key_index(v_, b, h, j), j % 2 ? NAN : kInf);
      set(v_, key_index(v_, b, h, j) + (dim_v_ - 1) * c.dim_stride, -kInf);
      if (k_too) set(k_, key_index(k_, b, h, j), NAN);
    }
  };
  for (int b = 0; b < batch_; ++b) {
    for (int j = 0; c.nan_unseen && j < c.seqlens_k[static_cast<size_t>(b)]; ++j) {
      bool seen = false;
      for (int h = 0; h < c.heads_q; ++h) {
        for (int i = 0; i < c.seqlens_q[static_cast<size_t>(b)]; ++i) seen |= attends(b, h, i, j);
      }
      if (!seen) spoil(b, j, true);
    }
    for (const int j : c.nan_keys) {
      if (j < c.seqlens_k[static_cast<size_t>(b)]) spoil(b, j, c.nan_k);
    }
  }
  // Only now: every good page has its place.
  if (c.bad_page_of >= 0) {
    table_[static_cast<size_t>(c.bad_page_of * table_columns_ + c.bad_page)] =
        c.bad_page % 2 ? -1 : 1 << 30;
  }
  if (c.bad_bit == ATTN_REQUEST_BAD_POSITION) {
    starts_q_[static_cast<size_t>(c.bad_entry)] = c.bad_value;
  } else if (c.bad_bit) {
    auto& list = c.bad_bit == ATTN_REQUEST_BAD_SEQLEN_Q ? (packed_q ? cu_q_ : lengths_q_)
                                                        : (packed_k ? cu_k_ : lengths_k_);
    list[static_cast<size_t>(c.bad_entry)] = static_cast<int32_t>(c.bad_value);
  }
  clear_outputs();
}

void Problem::clear_outputs() {
  std::fill(o_.bytes.begin(), o_.bytes.end(), kUntouched);
  std::fill(lse_.bytes.begin(), lse_.bytes.end(), kUntouched);
  std::fill(status_.begin(), status_.end(), 0u);
  std::fill(partial_o_.begin(), partial_o_.end(), NAN);
  std::fill(partial_lse_.begin(), partial_lse_.end(), NAN);
}

void Problem::make_partials(int chunks) {
  const bool packed = what.q_layout == Layout::kPacked;
  const int64_t rows = packed ? params.total_q : longest_q_;
  params.partial_head_rows = rows;
  params.partial_batch_rows = packed ? 0 : rows * what.heads_q;
  params.partial_chunk_rows = rows * what.heads_q * (packed ? 1 : batch_);
  partial_o_.assign(static_cast<size_t>(chunks * params.partial_chunk_rows * dim_v_), NAN);
  partial_lse_.assign(static_cast<size_t>(chunks * params.partial_chunk_rows), NAN);
  params.partial_o = partial_o_.data();
  params.partial_lse = partial_lse_.data();
}

// ---- what is right

bool Problem::bad(int b, int h, int i) const {
  if (what.is_spoiled(b)) return true;
  if (what.bad_page_of != b) return false;
  const int first = what.bad_page * what.page_size;
  for (int j = first; j < std::min(first + what.page_size, what.seqlens_k[static_cast<size_t>(b)]);
       ++j) {
    if (attends(b, h, i, j)) return true;
  }
  return false;
}

double Problem::overlay_column(int j) const {
  if (what.overlay_n < 0) return j;
  const int64_t column = j - what.overlay_k0;
  return column >= 0 && column < what.overlay_n ? static_cast<double>(column) : -1;
}

bool Problem::attends(int b, int h, int i, int j) const {
  const auto index = static_cast<size_t>(b);
  const int64_t q_start = !starts_q_.empty() ? starts_q_[index]
                          : what.top_left    ? 0
                                             : what.seqlens_k[index] - what.seqlens_q[index];
  const int64_t q = q_start + i;
  const int64_t k = (starts_k_.empty() ? 0 : starts_k_[index]) + j;
  if (what.causal && k > q) return false;
  if (what.window_left >= 0 && k < q - what.window_left) return false;
  if (what.window_right >= 0 && k > q + what.window_right) return false;
  const double column = overlay_column(j);
  if (column >= 0) {
    const auto c = static_cast<int64_t>(column);
    if (what.mask && element(mask_, query_index(mask_, b, h, i) + c) == 0) return false;
    if (what.bias_dtype && element(bias_, query_index(bias_, b, h, i) + c) == -kInf) return false;
  }
  if (what.block_q) {
    const int64_t at = b * blocks_.strides[0] + h * blocks_.strides[1] +
                       i / what.block_q * blocks_.strides[2] + j / what.block_k;
    if (element(blocks_, at) == 0) return false;
  }
  return true;
}

Expected Problem::expected() const {
  Expected e;
  const auto rows = static_cast<size_t>(batch_ * what.heads_q * longest_q_);
  e.o.assign(rows, std::vector<double>(static_cast<size_t>(dim_v_), 0.0));
  e.lse.assign(rows, -kInf);
  e.tolerance.assign(rows, 0.0);
  const attn_dtype o_dtype = params.o_dtype;
  for (int b = 0; b < batch_; ++b) {
    for (int h = 0; h < what.heads_q; ++h) {
      const int kv = h / (what.heads_q / what.heads_kv);
      // Without a length, all rows are a sequence's own.
      const bool no_length = what.bad_bit == ATTN_REQUEST_BAD_SEQLEN_Q && what.is_spoiled(b);
      const int end = no_length ? longest_q_ : what.seqlens_q[static_cast<size_t>(b)];
      for (int i = 0; i < end; ++i) {
        const size_t at = row(b, h, i);
        std::vector<int> keys;
        std::vector<double> scores;
        if (bad(b, h, i)) {
          e.lse[at] = NAN;
          std::fill(e.o[at].begin(), e.o[at].end(), NAN);
          continue;
        }
        for (int j = 0; j < what.seqlens_k[static_cast<size_t>(b)]; ++j) {
          if (!attends(b, h, i, j)) continue;
          double s = 0;
          for (int x = 0; x < what.head_dim; ++x) {
            s += element(q_, query_index(q_, b, h, i) + x * what.dim_stride) *
                 element(k_, key_index(k_, b, kv, j) + x * what.dim_stride);
          }
          s *= params.scale;
          if (what.softcap != 0) s = what.softcap * std::tanh(s / what.softcap);
          if (what.alibi) {
            const auto index = static_cast<size_t>(b);
            const int64_t q_start = !starts_q_.empty() ? starts_q_[index]
                                    : what.top_left    ? 0
                                                    : what.seqlens_k[index] - what.seqlens_q[index];
            const int64_t k_start = starts_k_.empty() ? 0 : starts_k_[index];
            s -= slopes_[static_cast<size_t>(what.alibi == 2 ? b * what.heads_q + h : h)] *
                 std::fabs(static_cast<double>(q_start + i - k_start - j));
          }
          const double column = overlay_column(j);
          if (what.bias_dtype && column >= 0) {
            s += element(bias_, query_index(bias_, b, h, i) + static_cast<int64_t>(column));
          }
          keys.push_back(j);
          scores.push_back(s);
        }
        const double sink = what.sink ? static_cast<double>(sinks_[static_cast<size_t>(h)]) : -kInf;
        double max = sink;
        for (const double s : scores)
          max = std::isnan(s) || std::isnan(max) ? NAN : std::max(max, s);
        if (max == -kInf) continue;
        double sum = std::exp(sink - max);
        std::vector<double> weights;
        for (const double s : scores) weights.push_back(std::exp(s - max)), sum += weights.back();
        e.lse[at] = max + std::log(sum);
        // The plain computation in the storage type: P and O rounded, sums in f32.
        double largest_v = 0, error = 0;
        for (int x = 0; x < dim_v_; ++x) {
          double o = 0;
          float half = 0;
          for (size_t n = 0; n < keys.size(); ++n) {
            const double v = element(v_, key_index(v_, b, kv, keys[n]) + x * what.dim_stride);
            if (std::isfinite(v)) largest_v = std::max(largest_v, std::fabs(v));
            o += weights[n] / sum * v;
            half +=
                static_cast<float>(rounded(what.dtype, static_cast<float>(weights[n] / sum)) * v);
          }
          e.o[at][static_cast<size_t>(x)] = o;
          const double off = std::fabs(rounded(o_dtype, half) - o);
          if (std::isfinite(off)) error = std::max(error, off);
        }
        e.tolerance[at] =
            what.dtype == ATTN_DTYPE_F32
                ? 1e-5 * largest_v + (o_dtype == ATTN_DTYPE_F32 ? 0 : ulp(o_dtype, largest_v))
                : 2 * error + ulp(what.dtype, largest_v);
      }
    }
  }
  return e;
}

namespace {

bool close(double actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  return actual == expected || std::fabs(actual - expected) <= tolerance;
}

}  // namespace

std::string Problem::difference(const Expected& e) const {
  const bool packed = what.q_layout == Layout::kPacked;
  for (int b = 0; b < batch_; ++b) {
    if (what.is_orphan(b)) continue;
    for (int h = 0; h < what.heads_q; ++h) {
      const int end = packed ? what.seqlens_q[static_cast<size_t>(b)] : longest_q_;
      for (int i = 0; i < end; ++i) {
        const size_t at = row(b, h, i);
        const std::string where =
            "[" + std::to_string(b) + "][" + std::to_string(h) + "][" + std::to_string(i) + "]";
        for (int x = 0; x < dim_v_; ++x) {
          const double actual = element(o_, query_index(o_, b, h, i) + x * what.dim_stride);
          const double right = e.o[at][static_cast<size_t>(x)];
          if (!close(actual, right, e.tolerance[at])) {
            return "O" + where + "[" + std::to_string(x) + "] is " + std::to_string(actual) +
                   " instead of " + std::to_string(right) + ", tolerance " +
                   std::to_string(e.tolerance[at]);
          }
        }
        if (!what.lse) continue;
        const double actual = element(lse_, query_index(lse_, b, h, i));
        if (!close(actual, e.lse[at], 4e-6 * (1 + std::fabs(e.lse[at])))) {
          return "LSE" + where + " is " + std::to_string(actual) + " instead of " +
                 std::to_string(e.lse[at]);
        }
      }
    }
  }
  return damage();
}

std::vector<double> Problem::results(int b) const {
  std::vector<double> all;
  for (int h = 0; h < what.heads_q; ++h) {
    for (int i = 0; i < what.seqlens_q[static_cast<size_t>(b)]; ++i) {
      all.push_back(element(lse_, query_index(lse_, b, h, i)));
      for (int x = 0; x < dim_v_; ++x) all.push_back(element(o_, query_index(o_, b, h, i) + x));
    }
  }
  return all;
}

std::string Problem::damage() const {
  // Gaps between rows, and between dims, of O.
  std::vector<bool> owned(o_.bytes.size());
  const bool packed = what.q_layout == Layout::kPacked;
  const int size = bytes_of(o_.dtype);
  for (int b = 0; b < batch_; ++b) {
    for (int h = 0; h < what.heads_q; ++h) {
      const int end = packed ? what.seqlens_q[static_cast<size_t>(b)] : longest_q_;
      for (int i = 0; i < end; ++i) {
        for (int x = 0; x < dim_v_; ++x) {
          const int64_t at = o_.first + query_index(o_, b, h, i) + x * what.dim_stride;
          for (int n = 0; n < size; ++n) owned[static_cast<size_t>(at * size + n)] = true;
        }
      }
    }
  }
  for (size_t n = 0; n < owned.size(); ++n) {
    if (!owned[n] && o_.bytes[n] != kUntouched)
      return "byte " + std::to_string(n) + " of O's memory, in no row, is written";
  }
  if (!what.lse) {
    for (const uint8_t byte : lse_.bytes) {
      if (byte != kUntouched) return "LSE is written though nobody asked for it";
    }
  }
  return "";
}

}  // namespace attn_test

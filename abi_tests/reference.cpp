// reference.cpp: one row at a time, every key in order, nothing clever.
#include "reference.h"

#include <algorithm>
#include <limits>

#include "storage.h"

namespace attn_test {
namespace {

// The row's scores in the precision of T: scale, softcap, ALiBi, bias. Masked keys are not in it.
template <typename T>
struct Row {
  std::vector<int64_t> keys;
  std::vector<T> scores;
};

template <typename T>
T dot(const double* a, const double* b, int64_t n) {
  // Four sums, to be quick; in f32 any order is as good as another.
  T sum[4] = {0, 0, 0, 0};
  for (int64_t x = 0; x < n; x++) sum[x % 4] += static_cast<T>(a[x]) * static_cast<T>(b[x]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <typename T>
Row<T> score_row(const Problem& p, const Data& data, int64_t b, int64_t h, int64_t i) {
  Row<T> row;
  const T scale = p.scale != 0 ? static_cast<T>(p.scale)
                               : static_cast<T>(1 / std::sqrt(static_cast<double>(p.head_dim)));
  const T softcap = static_cast<T>(p.softcap);
  for (int64_t j = 0; j < p.seqlens_k[static_cast<size_t>(b)]; j++) {
    if (!attends(p, data, b, h, i, j)) continue;
    const double* q =
        &data.q.x[static_cast<size_t>(((b * p.heads_q + h) * data.q.n[2] + i) * p.head_dim)];
    const double* k = &data.k.x[static_cast<size_t>(
        ((b * p.heads_kv + p.kv_head(h)) * data.k.n[2] + j) * p.head_dim)];
    T score = scale * dot<T>(q, k, p.head_dim);
    if (p.softcap != 0) score = softcap * std::tanh(score / softcap);
    if (p.alibi > 0) {
      const int64_t distance = std::abs(p.query_position(b, i) - p.key_position(b, j));
      const double slope = data.alibi[static_cast<size_t>(p.alibi == 2 ? b * p.heads_q + h : h)];
      score -= static_cast<T>(slope) * static_cast<T>(distance);
    }
    if (p.bias.present) {
      const int64_t column = j - (p.bias.ranged ? p.bias.k0_of(b) : 0);
      if (!p.bias.ranged || (column >= 0 && column < p.bias.range_n)) {
        score += static_cast<T>(
            data.bias.broadcast_at(p.overlay_batch(b), h, p.overlay_row(b, i), column));
      }
    }
    row.keys.push_back(j);
    row.scores.push_back(score);
  }
  return row;
}

template <typename T>
T largest(const std::vector<T>& scores, T start) {
  T max = start;
  for (const T score : scores) {
    if (std::isnan(score)) return score;
    max = std::max(max, score);
  }
  return max;
}

// Element times scale, where there are scales: exact in float64.
void apply_scales(const Scaling& scaling, const Values& scales, Values& values) {
  if (scales.x.empty()) return;
  const int64_t block = scaling.block == 0 ? values.n[3] : scaling.block;
  for (int64_t b = 0; b < values.n[0]; b++)
    for (int64_t h = 0; h < values.n[1]; h++)
      for (int64_t j = 0; j < values.n[2]; j++)
        for (int64_t x = 0; x < values.n[3]; x++)
          values.at(b, h, j, x) *= scales.at(b, h, j, x / block);
}

// One row of the plain computation in a half type: f32 arithmetic, P and O rounded to the type.
std::vector<double> half_row(const Problem& p, const Data& data, int64_t b, int64_t h, int64_t i) {
  const Row<float> row = score_row<float>(p, data, b, h, i);
  const float sink = p.sink ? static_cast<float>(data.sink[static_cast<size_t>(h)]) : -INFINITY;
  const float max = largest(row.scores, sink);
  std::vector<float> weights;
  float sum = std::exp(sink - max);
  for (const float score : row.scores) {
    weights.push_back(std::exp(score - max));
    sum += weights.back();
  }
  for (float& weight : weights) weight = static_cast<float>(rounded(p.q_dtype, weight / sum));
  std::vector<double> o;
  for (int64_t x = 0; x < p.head_dim_v; x++) {
    float dot_product = 0;
    for (size_t n = 0; n < weights.size(); n++) {
      dot_product += weights[n] * static_cast<float>(data.v.at(b, p.kv_head(h), row.keys[n], x));
    }
    o.push_back(rounded(p.o_dtype, dot_product));
  }
  return o;
}

void reference_row(const Problem& p, const Data& data, int64_t b, int64_t h, int64_t i,
                   Expected& expected) {
  const Row<double> row = score_row<double>(p, data, b, h, i);
  const double sink = p.sink ? data.sink[static_cast<size_t>(h)] : -INFINITY;
  const double max = largest(row.scores, sink);
  double& lse = expected.lse.at(b, h, i, 0);
  if (max == -INFINITY) return;  // no key and no sink: 0 and -inf already
  double sum = std::exp(sink - max);
  std::vector<double> weights;
  for (const double score : row.scores) {
    weights.push_back(std::exp(score - max));
    sum += weights.back();
  }
  lse = max + std::log(sum);

  double largest_v = 0;
  for (int64_t x = 0; x < p.head_dim_v; x++) {
    double o = 0;
    for (size_t n = 0; n < row.keys.size(); n++) {
      const double v = data.v.at(b, p.kv_head(h), row.keys[n], x);
      if (std::isfinite(v)) largest_v = std::max(largest_v, std::fabs(v));
      o += weights[n] / sum * v;
    }
    expected.o.at(b, h, i, x) = o;
  }
  double& tolerance = expected.tolerance.at(b, h, i, 0);
  if (p.q_dtype == ATTN_DTYPE_F32) {
    tolerance = 1e-5 * largest_v;
  } else {
    const std::vector<double> half = half_row(p, data, b, h, i);
    double error = 0;
    for (int64_t x = 0; x < p.head_dim_v; x++) {
      const double distance = std::fabs(half[static_cast<size_t>(x)] - expected.o.at(b, h, i, x));
      if (std::isfinite(distance)) error = std::max(error, distance);
    }
    tolerance = 2 * error + ulp(p.q_dtype, largest_v);
  }
}

}  // namespace

Expected reference(const Problem& p, const Data& stored) {
  Data data = stored;
  apply_scales(p.k_scaling, data.k_scale, data.k);
  apply_scales(p.v_scaling, data.v_scale, data.v);
  Expected expected;
  expected.o.resize(p.batch(), p.heads_q, p.longest_q(), p.head_dim_v);
  expected.lse.resize(p.batch(), p.heads_q, p.longest_q(), 1, -INFINITY);
  expected.tolerance.resize(p.batch(), p.heads_q, p.longest_q(), 1);
  for (int64_t b = 0; b < p.batch(); b++)
    for (int64_t h = 0; h < p.heads_q; h++)
      for (int64_t i = 0; i < p.seqlens_q[static_cast<size_t>(b)]; i++)
        reference_row(p, data, b, h, i, expected);
  return expected;
}

double lse_tolerance(double expected) { return 1e-5 * std::max(1.0, std::fabs(expected)); }

bool close(double actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (std::isinf(expected)) return actual == expected;
  return std::fabs(actual - expected) <= tolerance;
}

}  // namespace attn_test

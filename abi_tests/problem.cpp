// problem.cpp: positions, masks and seeded numbers of a problem.
#include "problem.h"

#include <algorithm>
#include <cstdio>

#include "storage.h"

namespace attn_test {
namespace {

int64_t longest(const std::vector<int64_t>& seqlens) {
  return seqlens.empty() ? 0 : *std::max_element(seqlens.begin(), seqlens.end());
}

int64_t sum_before(const std::vector<int64_t>& seqlens, int64_t b) {
  int64_t sum = 0;
  for (int64_t i = 0; i < b; i++) sum += seqlens[static_cast<size_t>(i)];
  return sum;
}

// Dimensions with stride 0 in memory must hold the same numbers.
void fill_normal(Values& values, attn_dtype dtype, double magnitude, unsigned broadcast,
                 Random random) {
  for (int64_t i0 = 0; i0 < values.n[0]; i0++)
    for (int64_t i1 = 0; i1 < values.n[1]; i1++)
      for (int64_t i2 = 0; i2 < values.n[2]; i2++)
        for (int64_t i3 = 0; i3 < values.n[3]; i3++) {
          const int64_t j0 = broadcast & 1 ? 0 : i0, j1 = broadcast & 2 ? 0 : i1,
                        j2 = broadcast & 4 ? 0 : i2, j3 = broadcast & 8 ? 0 : i3;
          const bool first = j0 == i0 && j1 == i1 && j2 == i2 && j3 == i3;
          values.at(i0, i1, i2, i3) =
              first ? rounded(dtype, magnitude * random.normal()) : values.at(j0, j1, j2, j3);
        }
}

// Elements that use their type's range, and scales that bring them to `magnitude`. Scales that lie
// at one place in memory must be the same.
void fill_quantised(const Problem& p, attn_dtype dtype, const Scaling& scaling, unsigned broadcast,
                    Random random, Values& values, Values& scales) {
  const double spread = dtype == ATTN_DTYPE_I8 ? 40 : 16;
  fill_normal(values, dtype, spread, broadcast, {random.next()});
  scales.resize(values.n[0], values.n[1], values.n[2], scaling.blocks(values.n[3]));
  const bool per_batch = (scaling.broadcast & 1) == 0, per_row = (scaling.broadcast & 4) == 0;
  for (int64_t b = 0; b < scales.n[0]; b++)
    for (int64_t h = 0; h < scales.n[1]; h++)
      for (int64_t j = 0; j < scales.n[2]; j++)
        for (int64_t x = 0; x < scales.n[3]; x++) {
          int64_t first_b = per_batch ? b : 0, first_j = per_row ? j : 0;
          if (p.k_rows == Rows::kPacked) first_b = per_row ? b : 0;
          if (p.k_rows == Rows::kPaged && per_batch && !per_row) first_j = j - j % p.page_size;
          if (p.k_rows == Rows::kPaged && !per_batch && per_row) first_j = j % p.page_size;
          const int64_t first_h = scaling.broadcast & 2 ? 0 : h;
          // Seeded by the place, which sequences of other lengths may not have.
          Random own{
              p.seed + random.state +
              static_cast<uint64_t>(((first_b * 1009 + first_h) * 10007 + first_j) * 101 + x)};
          scales.at(b, h, j, x) =
              rounded(ATTN_DTYPE_F32, p.magnitude * (0.5 + own.uniform()) / spread);
        }
}

void size_overlay(const Problem& p, const Overlay& overlay, int64_t rows, int64_t columns,
                  bool by_packed_rows, Values& values) {
  const bool packed = by_packed_rows && p.q_rows == Rows::kPacked;
  const std::array<int64_t, 4> full = {packed ? 1 : p.batch(), p.heads_q, rows, columns};
  std::array<int64_t, 4> n;
  for (size_t i = 0; i < 4; i++) n[i] = (overlay.broadcast >> i) & 1 ? 1 : full[i];
  values.resize(n[0], n[1], n[2], n[3]);
}

int64_t blocks(int64_t length, int64_t block) { return (length + block - 1) / block; }

}  // namespace

int64_t Problem::longest_q() const { return longest(seqlens_q); }
int64_t Problem::longest_k() const { return longest(seqlens_k); }

int64_t Problem::packed_row_q(int64_t b) const { return slack_q + sum_before(seqlens_q, b); }
int64_t Problem::packed_row_k(int64_t b) const { return slack_k + sum_before(seqlens_k, b); }

int64_t Problem::query_position(int64_t b, int64_t i) const {
  const size_t s = static_cast<size_t>(b);
  if (!q_start.empty()) return q_start[s] + i;
  if (alignment == ATTN_ALIGN_TOP_LEFT) return i;
  return seqlens_k[s] - seqlens_q[s] + i;
}

int64_t Problem::key_position(int64_t b, int64_t j) const {
  return (k_start.empty() ? 0 : k_start[static_cast<size_t>(b)]) + j;
}

bool attends(const Problem& p, const Data& data, int64_t b, int64_t h, int64_t i, int64_t j) {
  if (j >= p.seqlens_k[static_cast<size_t>(b)]) return false;
  const int64_t distance = p.key_position(b, j) - p.query_position(b, i);
  if (p.causal && distance > 0) return false;
  if (p.window_left >= 0 && distance < -p.window_left) return false;
  if (p.window_right >= 0 && distance > p.window_right) return false;
  const int64_t row = p.overlay_row(b, i), batch = p.overlay_batch(b);
  if (p.mask.present) {
    const int64_t column = j - (p.mask.ranged ? p.mask.k0_of(b) : 0);
    const bool covered = !p.mask.ranged || (column >= 0 && column < p.mask.range_n);
    if (covered && data.mask.broadcast_at(batch, h, row, column) == 0) return false;
  }
  if (p.block_mask.present &&
      data.block_mask.broadcast_at(b, h, i / p.block_q, j / p.block_k) == 0) {
    return false;
  }
  if (p.bias.present) {
    const int64_t column = j - (p.bias.ranged ? p.bias.k0_of(b) : 0);
    const bool covered = !p.bias.ranged || (column >= 0 && column < p.bias.range_n);
    if (covered && data.bias.broadcast_at(batch, h, row, column) == -INFINITY) return false;
  }
  return true;
}

Data make_data(const Problem& p) {
  Random random{p.seed};
  Data data;
  data.q.resize(p.batch(), p.heads_q, p.longest_q(), p.head_dim);
  data.k.resize(p.batch(), p.heads_kv, p.longest_k(), p.head_dim);
  data.v.resize(p.batch(), p.heads_kv, p.longest_k(), p.head_dim_v);
  fill_normal(data.q, p.q_dtype, p.magnitude, p.q_order.broadcast, {random.next()});
  const auto fill_kv = [&](attn_dtype dtype, const Scaling& scaling, unsigned broadcast,
                           Values& values, Values& scales) {
    const Random own{random.next()};
    if (is_quantised(dtype)) {
      fill_quantised(p, dtype, scaling, broadcast, own, values, scales);
    } else {
      fill_normal(values, dtype, p.magnitude, broadcast, own);
    }
  };
  fill_kv(p.k_dtype, p.k_scaling, p.k_order.broadcast, data.k, data.k_scale);
  fill_kv(p.v_dtype, p.v_scaling, p.v_order.broadcast, data.v, data.v_scale);

  const int64_t rows = p.q_rows == Rows::kPacked ? p.total_q() : p.longest_q();
  if (p.bias.present) {
    size_overlay(p, p.bias, rows, p.bias.ranged ? p.bias.range_n : p.longest_k(), true, data.bias);
    for (double& x : data.bias.x) {
      x = rounded(p.bias_dtype, random.normal());
      if (p.bias_has_inf && random.chance(0.15)) x = -INFINITY;
    }
  }
  if (p.mask.present) {
    size_overlay(p, p.mask, rows, p.mask.ranged ? p.mask.range_n : p.longest_k(), true, data.mask);
    // A whole line of zeros now and then, for rows that see nothing.
    for (size_t i = 0; i < data.mask.x.size(); i++) {
      const bool line_off = Random{p.seed + i / static_cast<size_t>(data.mask.n[3])}.chance(0.1);
      const bool on = !line_off && random.chance(0.75);
      data.mask.x[i] = on ? static_cast<double>(1 << random.below(8)) : 0;
    }
  }
  if (p.block_mask.present) {
    size_overlay(p, p.block_mask, blocks(p.longest_q(), p.block_q),
                 blocks(p.longest_k(), p.block_k), false, data.block_mask);
    for (double& x : data.block_mask.x) x = random.chance(0.7) ? 1 : 0;
  }
  if (p.alibi > 0) {
    const int64_t count = p.heads_q * (p.alibi == 2 ? p.batch() : 1);
    for (int64_t i = 0; i < count; i++) {
      data.alibi.push_back(rounded(ATTN_DTYPE_F32, random.uniform() * 0.5));
    }
  }
  if (p.sink) {
    for (int64_t h = 0; h < p.heads_q; h++) {
      data.sink.push_back(rounded(ATTN_DTYPE_F32, 2 * random.normal()));
    }
  }

  if (p.poison_masked) {
    for (int64_t b = 0; b < p.batch(); b++)
      for (int64_t kv = 0; kv < p.heads_kv; kv++)
        for (int64_t j = 0; j < p.seqlens_k[static_cast<size_t>(b)]; j++) {
          bool seen = false;
          for (int64_t h = 0; h < p.heads_q; h++)
            for (int64_t i = 0; i < p.seqlens_q[static_cast<size_t>(b)] && !seen; i++)
              seen = p.kv_head(h) == kv && attends(p, data, b, h, i, j);
          if (seen) continue;
          const auto poison = [&](attn_dtype dtype, Values& values) {
            if (dtype == ATTN_DTYPE_I8) return;  // which has no such numbers
            const double infinity = dtype == ATTN_DTYPE_F8E4M3 ? NAN : INFINITY;
            const double bad[] = {NAN, infinity, -infinity};
            for (int64_t x = 0; x < values.n[3]; x++) values.at(b, kv, j, x) = bad[(j + x) % 3];
          };
          poison(p.k_dtype, data.k);
          poison(p.v_dtype, data.v);
        }
  }
  return data;
}

attn_features features_of(const Problem& p) {
  attn_features features = 0;
  if (p.causal) features |= ATTN_CAUSAL;
  if (p.window_left >= 0) features |= ATTN_WINDOW_LEFT;
  if (p.window_right >= 0) features |= ATTN_WINDOW_RIGHT;
  if (p.q_rows == Rows::kPaddedLengths) features |= ATTN_SEQLENS_Q;
  if (p.k_rows == Rows::kPaddedLengths || p.k_rows == Rows::kPaged) features |= ATTN_SEQLENS_K;
  if (!p.q_start.empty()) features |= ATTN_Q_START;
  if (!p.k_start.empty()) features |= ATTN_K_START;
  if (p.bias.present) features |= ATTN_BIAS | (p.bias.ranged ? ATTN_BIAS_RANGE : 0);
  if (p.mask.present) features |= ATTN_MASK | (p.mask.ranged ? ATTN_MASK_RANGE : 0);
  if (p.alibi > 0) features |= ATTN_ALIBI;
  if (p.sink) features |= ATTN_SINK;
  if (p.block_mask.present) features |= ATTN_BLOCK_MASK;
  return features;
}

std::string describe(const Problem& p) {
  static const char* const kRows[] = {"padded", "padded+lengths", "packed", "paged"};
  char text[512];
  std::snprintf(text, sizeof text,
                "%s: seed %llu %s/%s/%s->%s q %s kv %s h %lld/%lld d %lld/%lld b %lld sq %lld "
                "sk %lld features %#x window %lld,%lld align %d softcap %g scales %lld/%x %lld/%x",
                p.name.c_str(), static_cast<unsigned long long>(p.seed), attn_dtype_name(p.q_dtype),
                attn_dtype_name(p.k_dtype), attn_dtype_name(p.v_dtype), attn_dtype_name(p.o_dtype),
                kRows[static_cast<int>(p.q_rows)], kRows[static_cast<int>(p.k_rows)],
                static_cast<long long>(p.heads_q), static_cast<long long>(p.heads_kv),
                static_cast<long long>(p.head_dim), static_cast<long long>(p.head_dim_v),
                static_cast<long long>(p.batch()), static_cast<long long>(p.longest_q()),
                static_cast<long long>(p.longest_k()), features_of(p),
                static_cast<long long>(p.window_left), static_cast<long long>(p.window_right),
                p.alignment, static_cast<double>(p.softcap),
                static_cast<long long>(p.k_scaling.block), p.k_scaling.broadcast,
                static_cast<long long>(p.v_scaling.block), p.v_scaling.broadcast);
  return text;
}

}  // namespace attn_test

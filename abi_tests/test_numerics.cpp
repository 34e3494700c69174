// test_numerics.cpp: results against the float64 reference, on every backend and instruction set.
#include <algorithm>
#include <initializer_list>

#include "compare.h"
#include "storage.h"

namespace attn_test {
namespace {

Problem problem(const char* name, std::vector<int64_t> seqlens_q, std::vector<int64_t> seqlens_k,
                int64_t heads_q, int64_t heads_kv, int64_t head_dim, int64_t head_dim_v) {
  Problem p;
  p.name = name;
  p.seqlens_q = std::move(seqlens_q);
  p.seqlens_k = std::move(seqlens_k);
  p.heads_q = heads_q;
  p.heads_kv = heads_kv;
  p.head_dim = head_dim;
  p.head_dim_v = head_dim_v;
  p.seed = static_cast<uint64_t>(p.seqlens_q[0] * 1000003 + p.seqlens_k[0] * 1009 + head_dim);
  return p;
}

void set_types(Problem& p, attn_dtype dtype) {
  p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = dtype;
}

// Every head size up to past the widest vector unit, and a choice of the large ones.
void head_dims() {
  for (int64_t d = 1; d <= 512; d++) {
    const bool chosen = d <= 70 || d % 64 == 0 || d % 64 == 1 || d % 64 == 63;
    if (!chosen && !full_grid()) continue;
    Problem p = problem("head_dim", {5}, {19}, 2, 1, d, d);
    p.guard = d % 2 ? Guard::kAfter : Guard::kBefore;
    check_everywhere(p);
    p = problem("head_dim_v", {3}, {21}, 2, 2, (d * 7) % 93 + 1, d);
    p.causal = true;
    check_everywhere(p);
  }
}

// Lengths around every tile size that a kernel might have.
void key_tails() {
  for (int64_t keys = 1; keys <= 1100; keys++) {
    const int64_t distance = std::min(keys % 128, 128 - keys % 128);
    if (keys > 140 && (full_grid() ? distance > 20 : distance > 1)) continue;
    Problem p = problem("keys", {3}, {keys}, 2, 1, 8, 8);
    p.guard = keys % 2 ? Guard::kAfter : Guard::kBefore;
    check_everywhere(p);
    p.name = "keys, causal";
    p.seqlens_q = {std::min<int64_t>(keys, 20)};
    p.causal = true;
    check_everywhere(p);
  }
}

void query_tails() {
  for (int64_t queries = 1; queries <= 530; queries++) {
    const int64_t distance = std::min(queries % 96, 96 - queries % 96);
    if (queries > 100 && distance > (full_grid() ? 20 : 1)) continue;
    Problem p = problem("queries", {queries}, {37}, 3, 3, 16, 16);
    p.guard = queries % 2 ? Guard::kAfter : Guard::kBefore;
    check_everywhere(p);
    p.name = "queries, causal";
    p.seqlens_k = {queries};
    p.causal = true;
    check_everywhere(p);
  }
}

// Causal and windows with queries and keys of different numbers, and both alignments.
void causal_and_windows() {
  for (const int64_t queries : {1, 2, 7, 33, 64, 150}) {
    for (const int64_t keys : {1, 2, 9, 40, 65, 200, 300}) {
      for (int variant = 0; variant < 10; variant++) {
        Problem p = problem("window", {queries}, {keys}, 2, 1, 12, 12);
        p.alignment = variant & 1 ? ATTN_ALIGN_TOP_LEFT : ATTN_ALIGN_BOTTOM_RIGHT;
        p.causal = variant < 4;
        if (variant == 2 || variant == 3) p.window_left = 5;
        if (variant == 4 || variant == 5) p.window_left = 0, p.window_right = 0;
        if (variant == 6 || variant == 7) p.window_left = 100, p.window_right = 3;
        if (variant == 8) p.window_left = 64;
        if (variant == 9) p.window_right = 63;
        p.poison_masked = true;
        check_everywhere(p);
      }
    }
  }
}

void starts() {
  for (const int64_t q_start : {-300, -3, 0, 1, 70, 140, 500}) {
    for (const int64_t k_start : {-50, 0, 3, 130}) {
      for (const bool window : {false, true}) {
        Problem p = problem("starts", {40, 70}, {150, 133}, 2, 2, 16, 16);
        p.q_rows = p.k_rows = Rows::kPacked;
        p.q_start = {q_start, q_start + 17};
        p.k_start = {k_start, k_start - 1};
        p.causal = true;
        if (window) p.window_left = 31;
        p.poison_masked = true;
        check_everywhere(p);
      }
    }
  }
  // Positions far beyond 32 bits.
  Problem p = problem("far positions", {20}, {40}, 1, 1, 8, 8);
  p.q_start = {(int64_t{1} << 45) + 20};
  p.k_start = {int64_t{1} << 45};
  p.causal = true;
  p.window_left = 4;
  check_everywhere(p);
}

void grouped_heads() {
  for (const int64_t heads_kv : {1, 2, 3, 4, 6, 12}) {
    for (const int64_t queries : {1, 5, 50}) {
      Problem p = problem("heads", {queries, queries}, {70, 70}, 12, heads_kv, 20, 24);
      check_everywhere(p);
      p.causal = true;
      p.k_order.outer_to_inner = p.v_order.outer_to_inner = {0, 2, 1, 3};
      check_everywhere(p);
    }
  }
}

// Sequences of very different lengths in one batch, padded and packed, some of them empty.
void uneven_lengths() {
  for (const Rows q_rows : {Rows::kPaddedLengths, Rows::kPacked}) {
    for (const Rows k_rows : {Rows::kPaddedLengths, Rows::kPacked, Rows::kPaged}) {
      for (int variant = 0; variant < 4; variant++) {
        Problem p = problem("lengths", {5, 0, 100, 33, 1}, {200, 7, 0, 64, 129}, 4, 2, 16, 16);
        p.q_rows = q_rows;
        p.k_rows = k_rows;
        p.causal = variant & 1;
        p.slack_q = variant & 2 ? 3 : 0;
        p.slack_k = variant & 2 ? 30 : 0;
        p.plan_slack = variant & 2 ? 9 : 0;
        p.page_size = 16;
        check_everywhere(p);
      }
    }
  }
}

void nothing_at_all() {
  for (int variant = 0; variant < 5; variant++) {
    for (const Rows q_rows : {Rows::kPadded, Rows::kPaddedLengths, Rows::kPacked}) {
      for (const Rows k_rows : {Rows::kPadded, Rows::kPaddedLengths, Rows::kPacked, Rows::kPaged}) {
        Problem p = problem("empty", {4, 4}, {6, 6}, 2, 1, 8, 8);
        if (variant == 0) p.seqlens_q = p.seqlens_k = {};
        if (variant == 1) p.seqlens_q = {0, 0};
        if (variant == 2) p.seqlens_k = {0, 0};
        if (variant == 3) p.seqlens_q = p.seqlens_k = {0, 0};
        if (variant == 4) p.seqlens_k = {0, 0}, p.causal = true, p.window_left = 3;
        p.q_rows = q_rows;
        p.k_rows = k_rows;
        check_everywhere(p);
      }
    }
  }
  // Every feature that standard has, with no key.
  Problem p = problem("empty with sink", {4}, {0}, 2, 1, 8, 8);
  p.sink = true;
  check_everywhere(p);
}

// More (sequence, KV head) pairs and more packed K and V than a backend holds at a time.
void many_units() {
  Problem p = problem("many sequences", std::vector<int64_t>(90, 2), std::vector<int64_t>(90, 5),
                      16, 16, 4, 4);
  p.q_rows = p.k_rows = Rows::kPacked;
  for (size_t b = 0; b < 90; b += 7) p.seqlens_k[b] = 40 + static_cast<int64_t>(b);
  p.causal = true;
  check_everywhere(p);
  p = problem("much K and V", {3}, {4100}, 14, 14, 64, 64);
  check_everywhere(p);
  p.window_left = 700;
  check_everywhere(p);
}

// A key tile of the caller's choice: other bits, as right.
void given_tiles() {
  for (const int64_t tile_k : {16, 64, 128, 192, 256, 512}) {
    Problem p = problem("tile_k", {40}, {700}, 2, 1, 24, 24);
    p.tile_k = tile_k;
    check_everywhere(p);
    p.causal = true;
    p.window_left = 300;
    check_everywhere(p);
  }
}

// Scores far from 0: the row's maximum moves with almost every key, and far below the others.
void large_scores() {
  for (const double magnitude : {1e-3, 3.0, 8.0}) {
    for (const bool causal : {false, true}) {
      Problem p = problem("large scores", {70}, {500}, 1, 1, 32, 32);
      p.causal = causal;
      Data data = make_data(p);
      for (double& x : data.k.x) x = static_cast<float>(x * magnitude);
      check_everywhere(p, data);
      // Scores that rise with the key, so that every tile rescales what was before.
      for (int64_t j = 0; j < 500; j++)
        for (int64_t x = 0; x < 32; x++) data.k.at(0, 0, j, x) *= static_cast<double>(j) / 500;
      for (double& x : data.k.x) x = static_cast<float>(x);
      check_everywhere(p, data);
    }
  }
}

// Short queries around the greatest length that is cut into chunks, keys around ends of chunks.
void chunks() {
  uint64_t seed = 900;
  for (const int64_t kv_chunk : {0, 64, 192, 4096}) {
    for (const int64_t queries : {1, 2, 7, 16, 17}) {
      for (const int64_t keys : {1, 63, 64, 65, 191, 193, 640}) {
        for (const int64_t group : {1, 4, 7}) {
          Problem p = problem("chunks", {queries, 1}, {keys, 130}, 2 * group, 2, 40, 24);
          p.seed = seed++;
          p.kv_chunk = kv_chunk;
          p.tile_k = seed % 2 ? 64 : 0;
          if (seed % 3 == 0) set_types(p, ATTN_DTYPE_BF16);
          p.q_rows = seed % 4 == 0 ? Rows::kPaddedLengths : Rows::kPacked;
          p.k_rows = seed % 4 == 0   ? Rows::kPaddedLengths
                     : seed % 4 == 1 ? Rows::kPacked
                                     : Rows::kPaged;
          p.page_size = seed % 5 == 0 ? 1 : seed % 5 == 1 ? 256 : 16;
          p.slack_k = 9;
          p.causal = seed % 2 == 0;
          if (seed % 5 == 0) p.window_left = 70;
          if (seed % 7 < 3) p.softcap = 5, p.alibi = 1, p.sink = true;
          if (seed % 11 < 3) p.bias.present = p.mask.present = true;
          if (seed % 13 < 4) p.block_mask.present = true, p.block_q = 2, p.block_k = 24;
          p.poison_masked = seed % 3 == 1;
          check_everywhere(p);
        }
      }
    }
  }
  // More kv heads than are worked on together.
  for (const int64_t heads_kv : {5, 19, 33}) {
    for (const Rows rows : {Rows::kPaged, Rows::kPacked}) {
      Problem p =
          problem("chunks of many kv heads", {1, 3}, {100, 75}, 2 * heads_kv, heads_kv, 32, 32);
      p.seed = seed++;
      p.kv_chunk = 64;
      p.q_rows = Rows::kPacked;
      p.k_rows = rows;
      p.page_size = 4;
      p.causal = true;
      if (heads_kv == 19) set_types(p, ATTN_DTYPE_BF16);
      check_everywhere(p);
    }
  }
  // Latent attention's shapes: many heads on one, more rows than a tile has.
  Problem p = problem("chunks of many heads", {3}, {300}, 128, 1, 192, 128);
  p.kv_chunk = 128;
  p.causal = true;
  check_everywhere(p);
}

// All scores the same: O is the mean of V, LSE is the score + ln(seqlen_k).
void equal_scores() {
  for (const int64_t keys : {1, 100, 1000}) {
    Problem p = problem("equal scores", {9}, {keys}, 1, 1, 16, 16);
    Data data = make_data(p);
    for (double& x : data.q.x) x = 5;
    for (double& x : data.k.x) x = 5;
    check_everywhere(p, data);
    for (double& x : data.k.x) x = -50;
    check_everywhere(p, data);
  }
}

void storage_types() {
  for (const attn_dtype dtype : {ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    for (const int64_t keys : {1, 2, 17, 64, 200}) {
      for (const int64_t dim : {1, 33, 40, 64, 128}) {
        for (int variant = 0; variant < 3; variant++) {
          Problem p = problem("types", {9}, {keys}, 2, 1, dim, dim);
          set_types(p, dtype);
          p.causal = variant == 1;
          if (variant == 2) p.o_dtype = ATTN_DTYPE_F32;
          check_everywhere(p);
        }
      }
    }
  }
}

// i8 and f8e4m3 with each kind of scale, in each layout.
void quantised() {
  constexpr attn_dtype I8 = ATTN_DTYPE_I8, F8 = ATTN_DTYPE_F8E4M3;
  for (const attn_dtype q_dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    for (const Rows rows : {Rows::kPadded, Rows::kPaddedLengths, Rows::kPacked, Rows::kPaged}) {
      for (const int64_t block : {0, 32, 64}) {
        for (unsigned broadcast = 0; broadcast < 8; broadcast++) {
          Problem p = problem("quantised", {21, 5}, {90, 61}, 4, 2, 128, 64);
          p.seed += broadcast + 8 * static_cast<uint64_t>(block);
          p.q_dtype = p.o_dtype = q_dtype;
          p.k_dtype = broadcast & 1 ? F8 : I8;
          p.v_dtype = broadcast & 2 ? F8 : I8;
          p.q_rows = p.k_rows = rows;
          if (rows == Rows::kPadded) p.seqlens_q[1] = 21, p.seqlens_k[1] = 90;
          if (rows == Rows::kPaged) p.q_rows = Rows::kPacked, p.page_size = 16;
          p.slack_q = rows == Rows::kPadded ? 0 : 3;
          p.slack_k = rows == Rows::kPadded ? 0 : 7;
          p.k_scaling = {block, broadcast, block == 32};
          p.v_scaling = {block, broadcast ^ 5, block == 64};
          p.guard = block == 0 ? Guard::kBefore : Guard::kAfter;
          check_everywhere(p);
          p.causal = true;
          p.poison_masked = true;
          if (broadcast & 4) p.softcap = 5, p.bias.present = p.sink = true;
          check_everywhere(p);
        }
      }
    }
  }
}

// Every pattern of the two types, as a key and as a value.
void quantised_patterns() {
  for (const attn_dtype dtype : {ATTN_DTYPE_I8, ATTN_DTYPE_F8E4M3}) {
    Problem p = problem("every pattern", {3}, {254}, 1, 1, 1, 1);
    p.k_dtype = p.v_dtype = dtype;
    p.scale = 1;
    Data data = make_data(p);
    for (int64_t j = 0; j < 254; j++) {  // without NaN, and without -128, which quantisers avoid
      const unsigned char pattern =
          static_cast<unsigned char>(dtype == ATTN_DTYPE_I8 ? j - 127 : j + (j > 126));
      data.k.x[static_cast<size_t>(j)] = load(dtype, &pattern);
      data.v.x[static_cast<size_t>((j * 101) % 254)] = load(dtype, &pattern);
      data.k_scale.x[static_cast<size_t>(j)] = rounded(ATTN_DTYPE_F32, 0.003);
    }
    check_everywhere(p, data);
  }
}

// A sink of -inf is none; a large one takes all the weight.
void sinks() {
  for (const double sink : {-double{INFINITY}, -50.0, 0.0, 90.0}) {
    for (const int64_t keys : {0, 1, 60}) {
      Problem p = problem("sink", {20}, {keys}, 3, 1, 16, 16);
      p.sink = true;
      p.causal = true;
      p.alignment = ATTN_ALIGN_TOP_LEFT;
      Data data = make_data(p);
      for (double& x : data.sink) x = sink;
      check_everywhere(p, data);
    }
  }
}

// The ways in which a row can be left without a key; each takes keys from some rows.
enum Emptying { kNoKeys, kCausal, kWindow, kKeysLater, kMask, kBias, kBlockMask, kEmptyings };

void empty_rows_by(Problem& p, Emptying way) {
  switch (way) {
    case kNoKeys:
      p.seqlens_k[0] = 0;
      break;
    case kCausal:  // all of a sequence, and the first ones of the other
      p.causal = true;
      p.q_start = {-100, -3};
      break;
    case kWindow:
      p.window_left = 4;
      if (p.q_start.empty()) p.q_start = {68, 200};
      break;
    case kKeysLater:
      p.window_right = 0;
      p.k_start = {9, 80};
      break;
    case kMask:
      p.mask.present = true;
      break;
    case kBias:
      p.bias.present = true;
      break;
    default:
      p.block_mask.present = true;
      p.block_q = 3;
      p.block_k = 16;
  }
}

// O exactly 0, LSE the sink or exactly -inf, on every target; the other rows as the reference has
// them.
void check_empty_rows(const Problem& p, const Data& data) {
  const Expected expected = reference(p, data);
  for (const Target& target : targets()) {
    Placement placement(p, data);
    const Outcome outcome = execute(target.context, target.backend.c_str(), p, placement, nullptr);
    if (!CHECK(outcome.status == ATTN_OK, "%s: %s", target.label().c_str(),
               outcome.error.message)) {
      continue;
    }
    count(target.label());
    const std::string wrong = difference(p, placement, expected);
    CHECK(wrong.empty(), "%s on %s: %s", target.label().c_str(), describe(p).c_str(),
          wrong.c_str());
    for (int64_t b = 0; b < p.batch(); b++)
      for (int64_t h = 0; h < p.heads_q; h++)
        for (int64_t i = 0; i < p.seqlens_q[static_cast<size_t>(b)]; i++) {
          bool empty = true;
          for (int64_t j = 0; j < p.seqlens_k[static_cast<size_t>(b)]; j++) {
            empty = empty && !attends(p, data, b, h, i, j);
          }
          if (!empty) continue;
          count("rows without a key");
          for (int64_t x = 0; x < p.head_dim_v; x++) {
            CHECK(placement.o(b, h, i, x) == 0, "%s on %s: o is %g", target.label().c_str(),
                  describe(p).c_str(), placement.o(b, h, i, x));
          }
          const double lse = p.sink ? data.sink[static_cast<size_t>(h)] : -double{INFINITY};
          CHECK(close(placement.lse(b, h, i), lse, p.sink ? lse_tolerance(lse) : 0),
                "%s on %s: lse is %g, expected %g", target.label().c_str(), describe(p).c_str(),
                placement.lse(b, h, i), lse);
        }
  }
}

// Every way and every pair of them, with everything that the result of such a row depends on.
void rows_without_a_key() {
  constexpr struct {
    Rows q, k;
  } kRows[] = {{Rows::kPaddedLengths, Rows::kPaddedLengths},
               {Rows::kPacked, Rows::kPacked},
               {Rows::kPacked, Rows::kPaged}};
  for (int first = 0; first < kEmptyings; first++) {
    for (int second = first; second < kEmptyings; second++) {
      for (unsigned variant = 0; variant < 12; variant++) {
        Problem p = problem("without a key", {7, 20}, {70, 33}, 4, 2, 16, 24);
        p.q_rows = kRows[variant % 3].q;
        p.k_rows = kRows[variant % 3].k;
        if (variant & 1) set_types(p, ATTN_DTYPE_BF16);
        empty_rows_by(p, static_cast<Emptying>(first));
        empty_rows_by(p, static_cast<Emptying>(second));
        p.sink = variant >= 6;
        if (variant & 2) p.softcap = 3, p.alibi = 1;
        if (variant & 4) p.tile_k = 64;  // some blocks of a row have keys, others none
        Data data = make_data(p);
        for (int64_t b = 0; b < data.mask.n[0]; b++)
          for (int64_t h = 0; h < data.mask.n[1]; h++)
            for (int64_t i = 0; i < data.mask.n[2]; i += 2)
              for (int64_t j = 0; j < data.mask.n[3]; j++) data.mask.at(b, h, i, j) = 0;
        for (int64_t b = 0; b < data.bias.n[0]; b++)
          for (int64_t h = 0; h < data.bias.n[1]; h++)
            for (int64_t i = 0; i < data.bias.n[2]; i += 3)
              for (int64_t j = 0; j < data.bias.n[3]; j++) data.bias.at(b, h, i, j) = -INFINITY;
        for (int64_t b = 0; b < data.block_mask.n[0]; b++)
          for (int64_t h = 0; h < data.block_mask.n[1]; h++)
            for (int64_t j = 0; j < data.block_mask.n[3]; j++) data.block_mask.at(b, h, 1, j) = 0;
        check_empty_rows(p, data);
      }
    }
  }
  CHECK(counted("rows without a key") > 10000, "%d", counted("rows without a key"));
}

// Speculative decoding: the last keys are the queries' own, a tree in which each attends to itself
// and its ancestors, and to all keys before. The mask covers the tree alone, and lies between guard
// pages.
void trees() {
  for (const int64_t queries : {1, 5, 17, 32, 64, 100}) {
    for (const int64_t keys : {queries, queries + 1, int64_t{130}, int64_t{512}, int64_t{1055}}) {
      if (keys < queries) continue;
      for (unsigned variant = 0; variant < 4; variant++) {
        Problem p =
            problem("tree", {queries, queries}, {keys, keys - (keys - queries) / 3}, 8, 2, 16, 16);
        p.q_rows = Rows::kPacked;
        p.k_rows = variant & 1 ? Rows::kPaged : Rows::kPaddedLengths;
        p.page_size = 16;
        if (variant & 1) set_types(p, ATTN_DTYPE_BF16);
        p.causal = variant < 2;  // follows from a tree whose parents come first
        p.mask.present = p.mask.ranged = true;
        p.mask.range_n = std::max<int64_t>(queries, 2);
        p.mask.broadcast = 2;  // the same for all heads
        p.mask.k0 = {p.seqlens_k[0] - queries, p.seqlens_k[1] - queries};
        p.guard = variant & 1 ? Guard::kBefore : Guard::kAfter;
        Data data = make_data(p);
        for (double& x : data.mask.x) x = 0;
        for (int64_t b = 0; b < 2; b++)
          for (int64_t i = 0; i < queries; i++)
            for (int64_t node = i;; node = (node - 1) / 2) {
              data.mask.at(0, 0, p.overlay_row(b, i), node) = 1;
              if (node == 0) break;
            }
        // Below, and beyond the sequence where the tree has one node: nothing to mask.
        check_everywhere(p, data);
        const int64_t last = queries - 1, before = keys - queries;
        CHECK(attends(p, data, 0, 0, last, before) && attends(p, data, 0, 0, last, keys - 1));
        if (queries > 3) CHECK(!attends(p, data, 0, 0, 3, before + 2));
        if (before > 0) CHECK(attends(p, data, 0, 7, 0, before - 1));
      }
    }
  }
}

void pairwise() {
  for (const Problem& p : pairwise_problems(1)) check_everywhere(p);
  if (!full_grid()) return;
  for (uint64_t seed = 2; seed < 6; seed++) {
    for (const Problem& p : pairwise_problems(seed)) check_everywhere(p);
  }
}

void random_problems() {
  Random random{20};
  const int problems = full_grid() ? 6000 : 500;
  for (int i = 0; i < problems; i++) check_everywhere(random_problem(random));
}

// Sequences of several key blocks and query tiles, with bounds and starts anywhere in them.
void random_long_problems() {
  Random random{22};
  const int problems = full_grid() ? 800 : 60;
  for (int i = 0; i < problems; i++) {
    Problem p = random_problem(random);
    p.name = "random, long";
    p.tile_k = 0;
    p.heads_q = 2;
    p.heads_kv = random.between(1, 2);
    p.head_dim = random.between(1, 40);
    p.head_dim_v = random.between(1, 40);
    if (p.k_scaling.block != 0) p.k_scaling.block = p.head_dim;  // whatever divides it
    if (p.v_scaling.block != 0) p.v_scaling.block = p.head_dim_v;
    if (p.q_rows == Rows::kPadded) p.q_rows = Rows::kPaddedLengths;
    if (p.k_rows == Rows::kPadded) p.k_rows = Rows::kPaddedLengths;
    p.k_order.broadcast = p.v_order.broadcast = p.q_order.broadcast = 0;
    for (size_t b = 0; b < p.seqlens_q.size(); b++) {
      p.seqlens_q[b] = random.between(0, b == 0 ? 400 : 60);
      p.seqlens_k[b] = random.between(0, b == 0 ? 1300 : 300);
      if (!p.q_start.empty()) p.q_start[b] = random.between(-100, 1400);
      if (!p.k_start.empty()) p.k_start[b] = random.between(-300, 300);
    }
    if (p.window_left >= 0) p.window_left = random.between(0, 600);
    if (p.window_right >= 0) p.window_right = random.between(0, 300);
    for (Overlay* overlay : {&p.bias, &p.mask}) {
      overlay->range_n = random.between(2, 900);
      for (int64_t& k0 : overlay->k0) k0 = random.between(-50, p.longest_k());
    }
    constexpr int32_t kPageSizes[] = {1, 7, 16, 64, 256};
    p.page_size = kPageSizes[random.below(5)];
    check_everywhere(p);
  }
}

// Nothing above may pass because nothing ran.
void enough_ran() {
  for (const Target& target : targets()) {
    const bool ours = target.backend == "standard" || target.backend == "flash";
    const int least = ours ? 2700 / kTurns : 0;
    CHECK(counted(target.label()) >= least, "%s ran %d problems, at least %d expected",
          target.label().c_str(), counted(target.label()), least);
  }
  CHECK(counted("standard/scalar") > 0);
  CHECK(counted("flash/scalar") > 0);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(head_dims),       TEST(key_tails),
      TEST(query_tails),     TEST(causal_and_windows),
      TEST(starts),          TEST(grouped_heads),
      TEST(uneven_lengths),  TEST(nothing_at_all),
      TEST(many_units),      TEST(given_tiles),
      TEST(large_scores),    TEST(chunks),
      TEST(equal_scores),    TEST(storage_types),
      TEST(quantised),       TEST(quantised_patterns),
      TEST(sinks),           TEST(rows_without_a_key),
      TEST(trees),           TEST(pairwise),
      TEST(random_problems), TEST(random_long_problems),
      TEST(enough_ran),
  };
  return run_tests("numerics", argc, argv, tests);
}

// grid.cpp: problems out of choices: a factor for each thing that can vary, picked at random, or
// so that every pair of choices meets at least once.
#include <algorithm>

#include "problem.h"

namespace attn_test {
namespace {

// The factors and how many choices each has.
enum Factor {
  kQRows,
  kKRows,
  kCausal,
  kWindow,
  kStart,
  kSoftcap,
  kScale,
  kBias,
  kMask,
  kAlibi,
  kSink,
  kBlockMask,
  kTypes,
  kHeads,
  kHeadDims,
  kLengths,
  kOrders,
  kGuard,
  kSlack,
  kPoison,
  kFactors
};
constexpr int kChoices[kFactors] = {3, 4, 2, 4, 5, 2, 2, 6, 5, 3, 2, 3, 12, 5, 6, 6, 7, 2, 2, 2};

using Choice = std::array<int, kFactors>;

void choose_types(Problem& p, int choice) {
  constexpr attn_dtype F32 = ATTN_DTYPE_F32, F16 = ATTN_DTYPE_F16, BF16 = ATTN_DTYPE_BF16,
                       F8 = ATTN_DTYPE_F8E4M3, I8 = ATTN_DTYPE_I8;
  constexpr attn_dtype kTypeRows[12][4] = {
      {F32, F32, F32, F32},   {F16, F16, F16, F16},    {BF16, BF16, BF16, BF16},
      {F32, F32, F32, F32},  // twice: it is what most backends serve
      {F16, F16, F16, F32},   {BF16, BF16, BF16, F32}, {F32, BF16, F16, F32},
      {BF16, F32, F16, BF16}, {F32, I8, I8, F32},      {BF16, I8, F8, BF16},
      {F16, F8, F8, F32},     {F32, F8, BF16, F32}};
  p.q_dtype = kTypeRows[choice][0];
  p.k_dtype = kTypeRows[choice][1];
  p.v_dtype = kTypeRows[choice][2];
  p.o_dtype = kTypeRows[choice][3];
}

void choose_lengths(Problem& p, int choice, Random& random) {
  // {batch, queries from, to, keys from, to}
  constexpr int64_t kRanges[6][5] = {{3, 0, 3, 0, 4},    {2, 17, 40, 17, 40},  {1, 1, 1, 90, 150},
                                     {2, 60, 70, 1, 20}, {2, 30, 70, 50, 140}, {4, 1, 20, 1, 40}};
  const int64_t* r = kRanges[choice];
  p.seqlens_q.clear();
  p.seqlens_k.clear();
  for (int64_t b = 0; b < r[0]; b++) {
    // Without lengths all sequences of a batch are as long as the first.
    const bool copy_q = b > 0 && p.q_rows == Rows::kPadded;
    const bool copy_k = b > 0 && p.k_rows == Rows::kPadded;
    p.seqlens_q.push_back(copy_q ? p.seqlens_q[0] : random.between(r[1], r[2]));
    p.seqlens_k.push_back(copy_k ? p.seqlens_k[0] : random.between(r[3], r[4]));
  }
}

void choose_starts(Problem& p, int choice, Random& random) {
  if (choice == 1) p.alignment = ATTN_ALIGN_TOP_LEFT;
  for (int64_t b = 0; b < p.batch(); b++) {
    if (choice == 2 || choice == 3) {
      p.q_start.push_back(random.between(-5, p.longest_k() + 5));
    }
    if (choice == 3 || choice == 4) p.k_start.push_back(random.between(-20, 20));
  }
}

// k0 so that ranges begin before, within and after the sequences.
void choose_range(Problem& p, Overlay& overlay, Random& random) {
  overlay.ranged = true;
  overlay.range_n = random.between(2, 30);
  const int64_t entries = p.batch() == 0 ? 0 : random.below(3) == 0 ? p.batch() : random.below(2);
  for (int64_t i = 0; i < entries; i++) {
    overlay.k0.push_back(random.between(-9, p.longest_k()));
  }
}

// A scale for each row or for each block of it, the same along any of the dimensions.
void choose_scaling(Scaling& scaling, int64_t columns, Random& random) {
  constexpr int64_t kBlocks[] = {0, 32, 64, 8, 17, 1};
  scaling.block = kBlocks[random.below(6)];
  if (scaling.block != 0 && columns % scaling.block != 0) scaling.block = columns;
  scaling.broadcast = random.chance(0.5) ? static_cast<unsigned>(random.below(8)) : 0;
  scaling.zero_stride = random.chance(0.5);
}

void choose_overlays(Problem& p, const Choice& c, Random& random) {
  const auto broadcast = [&](Overlay& overlay, unsigned allowed) {
    overlay.broadcast = static_cast<unsigned>(random.next()) & allowed;
    overlay.zero_stride = random.chance(0.5);
  };
  // Bias: none, f32, f32 broadcast, Q's type, range, broadcast range.
  p.bias.present = c[kBias] > 0;
  p.bias_has_inf = random.chance(0.5);
  if (c[kBias] == 2) broadcast(p.bias, 15);
  if (c[kBias] == 3) p.bias_dtype = p.q_dtype;
  if (c[kBias] >= 4) choose_range(p, p.bias, random);
  if (c[kBias] == 5) broadcast(p.bias, 7);
  // Mask: none, whole, broadcast, range, broadcast range.
  p.mask.present = c[kMask] > 0;
  if (c[kMask] == 2) broadcast(p.mask, 15);
  if (c[kMask] >= 3) choose_range(p, p.mask, random);
  if (c[kMask] == 4) broadcast(p.mask, 7);
  p.block_mask.present = c[kBlockMask] > 0;
  if (c[kBlockMask] == 2) broadcast(p.block_mask, 15);
  constexpr int32_t kBlocks[] = {1, 3, 8, 16, 64};
  p.block_q = kBlocks[random.below(5)];
  p.block_k = kBlocks[random.below(5)];
}

void choose_orders(Problem& p, int choice, Random& random) {
  constexpr int kOrderCount = 7;
  const Order orders[kOrderCount] = {
      {},
      {{0, 2, 1, 3}, 0, 0, 0, false},  // [batch, seqlen, heads, dim]
      {{2, 0, 1, 3}, 0, 0, 0, true},   // [seqlen, batch, heads, dim]
      {{1, 2, 0, 3}, 3, 0, 0, false},  // [heads, seqlen, batch, dim + 3]
      {{0, 1, 3, 2}, 1, 0, 0, true},   // [batch, heads, dim, seqlen + 1]
      {{0, 1, 2, 3}, 2, 0b1100, 0, true},
      {{0, 2, 1, 3}, 0, 0b0010, 0, false},
  };
  const auto pick = [&](int shift) { return orders[(choice + shift) % kOrderCount]; };
  p.q_order = pick(0);
  p.k_order = pick(static_cast<int>(random.below(2)));
  p.v_order = pick(static_cast<int>(random.below(3)));
  p.o_order = orders[choice % 5];  // the ones without negative strides
  p.overlay_order = pick(2);
  if (random.chance(0.15)) p.k_order.broadcast = p.v_order.broadcast = 0b0010;
  if (random.chance(0.1)) p.q_order.broadcast = 0b0010;
  if (random.chance(0.1) && p.k_rows == Rows::kPadded) p.k_order.broadcast |= 0b0001;
  p.list_gap = static_cast<int>(random.below(2));
}

Problem build(const Choice& c, uint64_t seed) {
  Random random{seed};
  Problem p;
  p.seed = seed;
  p.q_rows = static_cast<Rows>(c[kQRows]);
  p.k_rows = static_cast<Rows>(c[kKRows]);
  choose_types(p, c[kTypes]);
  choose_lengths(p, c[kLengths], random);
  p.causal = c[kCausal] == 1;
  if (c[kWindow] & 1) p.window_left = random.between(0, 40);
  if (c[kWindow] & 2) p.window_right = random.between(0, 20);
  choose_starts(p, c[kStart], random);
  if (c[kSoftcap]) p.softcap = static_cast<float>(1 + 4 * random.uniform());
  if (c[kScale]) p.scale = static_cast<float>(0.05 + random.uniform() * 0.3);
  constexpr int64_t kHeadRows[5][2] = {{1, 1}, {2, 2}, {4, 2}, {6, 1}, {6, 3}};
  p.heads_q = kHeadRows[c[kHeads]][0];
  p.heads_kv = kHeadRows[c[kHeads]][1];
  constexpr int64_t kDims[6][2] = {{1, 1}, {64, 64}, {33, 17}, {8, 40}, {16, 16}, {72, 5}};
  p.head_dim = kDims[c[kHeadDims]][0];
  p.head_dim_v = kDims[c[kHeadDims]][1];
  choose_overlays(p, c, random);
  choose_scaling(p.k_scaling, p.head_dim, random);
  choose_scaling(p.v_scaling, p.head_dim_v, random);
  p.alibi = c[kAlibi];
  p.sink = c[kSink] == 1;
  p.lse = random.chance(0.8);
  choose_orders(p, c[kOrders], random);
  p.guard = c[kGuard] ? Guard::kBefore : Guard::kAfter;
  if (c[kSlack]) {
    if (p.q_rows != Rows::kPadded) p.slack_q = random.between(1, 5);
    if (p.k_rows != Rows::kPadded) p.slack_k = random.between(1, 9);
    p.plan_slack = random.between(1, 20);
  }
  constexpr int32_t kPageSizes[] = {1, 4, 16, 5};
  p.page_size = kPageSizes[random.below(4)];
  if (random.chance(0.5)) p.tile_k = 64;  // several key blocks even in short sequences
  if (random.chance(0.5)) p.kv_chunk = 64;
  // Broadcast lines cannot hold a poison of their own.
  p.poison_masked = c[kPoison] == 1 && (p.k_order.broadcast | p.v_order.broadcast) == 0;
  return p;
}

Choice random_choice(Random& random) {
  Choice choice;
  for (size_t f = 0; f < kFactors; f++) choice[f] = static_cast<int>(random.below(kChoices[f]));
  return choice;
}

// Which pairs of choices have met.
class Pairs {
 public:
  Pairs() {
    for (size_t f = 0; f < kFactors; f++) {
      first_.push_back(total_);
      total_ += kChoices[f];
    }
    met_.assign(static_cast<size_t>(total_ * total_), false);
    for (size_t f = 0; f < kFactors; f++)
      for (size_t g = f + 1; g < kFactors; g++) left_ += kChoices[f] * kChoices[g];
  }

  int left() const { return left_; }

  int gain(const Choice& choice) const {
    int gain = 0;
    for (size_t f = 0; f < kFactors; f++)
      for (size_t g = f + 1; g < kFactors; g++) gain += !met_[index(choice, f, g)];
    return gain;
  }

  void add(const Choice& choice) {
    left_ -= gain(choice);
    for (size_t f = 0; f < kFactors; f++)
      for (size_t g = f + 1; g < kFactors; g++) met_[index(choice, f, g)] = true;
  }

 private:
  size_t index(const Choice& choice, size_t f, size_t g) const {
    return static_cast<size_t>((first_[f] + choice[f]) * total_ + first_[g] + choice[g]);
  }

  std::vector<int> first_;
  std::vector<bool> met_;
  int total_ = 0;
  int left_ = 0;
};

}  // namespace

Problem random_problem(Random& random) {
  const Choice choice = random_choice(random);
  Problem problem = build(choice, random.next());
  problem.name = "random";
  return problem;
}

std::vector<Problem> pairwise_problems(uint64_t seed) {
  Random random{seed};
  Pairs pairs;
  std::vector<Problem> problems;
  while (pairs.left() > 0) {
    Choice best = random_choice(random);
    for (int attempt = 0; attempt < 200; attempt++) {
      const Choice candidate = random_choice(random);
      if (pairs.gain(candidate) > pairs.gain(best)) best = candidate;
    }
    if (pairs.gain(best) == 0) continue;
    pairs.add(best);
    problems.push_back(build(best, random.next()));
    problems.back().name = "pairwise " + std::to_string(problems.size());
  }
  return problems;
}

}  // namespace attn_test

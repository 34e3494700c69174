// decode.cpp: a language model's attention, one token at a time over a growing cache of K and V.
//
// A context and a plan are made once. First the prompt goes through in one causal run (prefill),
// then each new token attends to everything before it (decode). The cache has the memory order
// [seqlen, heads_kv, head_dim], which strides express without a copy. Decoding must give the rows
// that one causal run over all tokens gives; the program checks that.
#include <algorithm>
#include <attn/attn.hpp>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

constexpr int64_t kHeadsQ = 8, kHeadsKv = 2, kHeadDim = 64;  // 4 query heads share a kv head
constexpr int64_t kPrompt = 100, kTokens = 16, kTotal = kPrompt + kTokens;

// Rows [first, first + count) of a [kTotal, heads, kHeadDim] array as [1, heads, count, kHeadDim].
attn::Tensor rows(std::vector<float>& array, int64_t heads, int64_t first, int64_t count) {
  const int64_t row = heads * kHeadDim;
  return attn::Tensor(array.data() + first * row, {1, heads, count, kHeadDim},
                      {kTotal * row, kHeadDim, row, 1});
}

std::vector<float> random_array(int64_t heads, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> array(static_cast<size_t>(kTotal * heads * kHeadDim));
  std::generate(array.begin(), array.end(), [&] { return normal(generator); });
  return array;
}

void run_example() {
  attn::Context context;

  attn::PlanConfig config;
  config.q_dtype = ATTN_DTYPE_F32;
  config.features = ATTN_CAUSAL;  // the last query sees the last key, so also right for one query
  config.heads_q = kHeadsQ;
  config.heads_kv = kHeadsKv;
  config.head_dim = kHeadDim;
  config.max_seqlen_q = kTotal;
  config.max_seqlen_k = kTotal;
  const attn::Plan plan(context, config);
  const attn::Workspace workspace(plan.workspace_size());
  std::printf("%s\n", plan.describe().c_str());

  std::vector<float> q = random_array(kHeadsQ, 1), k = random_array(kHeadsKv, 2),
                     v = random_array(kHeadsKv, 3), o = random_array(kHeadsQ, 4), all = o;

  // Queries [first, first + count) over all keys up to the last of them.
  const auto attend = [&](std::vector<float>& out, int64_t first, int64_t count) {
    const attn::Tensor tq = rows(q, kHeadsQ, first, count), to = rows(out, kHeadsQ, first, count),
                       tk = rows(k, kHeadsKv, 0, first + count),
                       tv = rows(v, kHeadsKv, 0, first + count);
    attn::RunArgs args;
    args.q = &tq;
    args.k = &tk;
    args.v = &tv;
    args.o = &to;
    args.set_workspace(workspace);
    plan.run(args);
  };

  attend(o, 0, kPrompt);
  for (int64_t token = kPrompt; token < kTotal; ++token) attend(o, token, 1);

  attend(all, 0, kTotal);
  // Each is within 1e-5 * max|V| of the exact result, and |V| < 5 here.
  constexpr float kTolerance = 1e-4f;
  float largest = 0;
  for (size_t i = 0; i < o.size(); ++i) {
    const float difference = std::fabs(o[i] - all[i]);
    if (!(difference <= kTolerance)) throw std::runtime_error("decode and prefill disagree");
    largest = std::max(largest, difference);
  }
  std::printf("prefill of %d and decode of %d tokens: largest difference from one run %g\n",
              static_cast<int>(kPrompt), static_cast<int>(kTokens), static_cast<double>(largest));
}

}  // namespace

int main() {
  try {
    run_example();
  } catch (const std::exception& error) {  // attn::Error carries the library's message
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

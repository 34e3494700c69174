// paged.cpp: decoding with a paged cache of keys and values.
//
// The cache is a pool of pages of 16 keys, which sequences take as they grow: none reserves its
// longest length, none is ever moved. Three sequences of different lengths take their steps
// together, one run each step. The results must have the bits that each sequence has alone with its
// keys and values in a row; the program checks that.
#include <attn/attn.hpp>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

constexpr int64_t kBatch = 3, kHeadsQ = 8, kHeadsKv = 2, kDim = 64;
constexpr int64_t kPageSize = 16, kPages = 24, kTablePages = 8;  // kTablePages: of one sequence
constexpr int kPrompts[kBatch] = {40, 3, 17}, kSteps = 20;

// Keys and values in pages [kPages, kHeadsKv, kPageSize, kDim], and which page holds which.
struct Cache {
  std::vector<float> k = std::vector<float>(kPages * kHeadsKv * kPageSize * kDim), v = k;
  std::vector<int32_t> table = std::vector<int32_t>(kBatch * kTablePages, -1);
  int32_t lengths[kBatch] = {};
  int32_t next = 0;  // a server would keep a list of free pages, and put back what has ended

  // Adds one token's key and value, each [kHeadsKv, kDim], to a sequence.
  void append(int64_t sequence, const float* key, const float* value) {
    const int64_t slot = lengths[sequence] % kPageSize;
    int32_t& page = table.at(sequence * kTablePages + lengths[sequence] / kPageSize);
    if (slot == 0) page = next++;
    if (page >= kPages) throw std::runtime_error("the cache is full");
    for (int64_t head = 0; head < kHeadsKv; ++head) {
      const int64_t row = ((page * kHeadsKv + head) * kPageSize + slot) * kDim;
      std::memcpy(&k[row], key + head * kDim, kDim * sizeof(float));
      std::memcpy(&v[row], value + head * kDim, kDim * sizeof(float));
    }
    ++lengths[sequence];
  }
};

attn::PlanConfig problem(attn_layout kv_layout) {
  attn::PlanConfig config;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = kHeadsQ;
  config.heads_kv = kHeadsKv;
  config.head_dim = kDim;
  config.max_seqlen_q = 1;
  config.max_seqlen_k = kTablePages * kPageSize;
  config.kv_layout = kv_layout;
  return config;
}

void run_example() {
  attn::Context context;
  attn::PlanConfig paged = problem(ATTN_LAYOUT_PAGED);
  paged.page_size = kPageSize;
  paged.max_batch = kBatch;
  const attn::Plan plan(context, paged), alone(context, problem(ATTN_LAYOUT_PADDED));
  const attn::Workspace workspace(plan.workspace_size()), workspace_alone(alone.workspace_size());

  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const auto random = [&](std::vector<float>& row) {
    for (float& x : row) x = normal(generator);
  };

  Cache cache;
  std::vector<float> history_k[kBatch], history_v[kBatch];  // [seqlen, kHeadsKv, kDim], to compare
  std::vector<float> key(kHeadsKv * kDim), value(key);
  const auto add_token = [&](int64_t sequence) {
    random(key), random(value);  // a model's projections of the token
    cache.append(sequence, key.data(), value.data());
    history_k[sequence].insert(history_k[sequence].end(), key.begin(), key.end());
    history_v[sequence].insert(history_v[sequence].end(), value.begin(), value.end());
  };
  for (int64_t sequence = 0; sequence < kBatch; ++sequence)
    for (int token = 0; token < kPrompts[sequence]; ++token) add_token(sequence);

  std::vector<float> q(kBatch * kHeadsQ * kDim), o(q), expected(kHeadsQ * kDim);
  const attn::Tensor tq(q.data(), {kBatch, kHeadsQ, 1, kDim}),
      to(o.data(), {kBatch, kHeadsQ, 1, kDim}),
      tk(cache.k.data(), {kPages, kHeadsKv, kPageSize, kDim}),
      tv(cache.v.data(), {kPages, kHeadsKv, kPageSize, kDim}),
      table(cache.table.data(), {kBatch, kTablePages}), lengths(cache.lengths, {kBatch});
  attn::RunArgs args;
  args.q = &tq;
  args.k = &tk;
  args.v = &tv;
  args.o = &to;
  args.block_table = &table;  // entries past a sequence's length are never read
  args.seqlens_k = &lengths;
  args.set_workspace(workspace);

  for (int step = 0; step < kSteps; ++step) {
    for (int64_t sequence = 0; sequence < kBatch; ++sequence) add_token(sequence);
    random(q);
    plan.run(args);

    for (int64_t sequence = 0; sequence < kBatch; ++sequence) {
      const int64_t seqlen = cache.lengths[sequence];
      const attn::Tensor q1(&q[sequence * kHeadsQ * kDim], {1, kHeadsQ, 1, kDim}),
          o1(expected.data(), {1, kHeadsQ, 1, kDim}),
          k1(history_k[sequence].data(), {1, kHeadsKv, seqlen, kDim},
             {0, kDim, kHeadsKv * kDim, 1}),
          v1(history_v[sequence].data(), {1, kHeadsKv, seqlen, kDim},
             {0, kDim, kHeadsKv * kDim, 1});
      attn::RunArgs args1;
      args1.q = &q1;
      args1.k = &k1;
      args1.v = &v1;
      args1.o = &o1;
      args1.set_workspace(workspace_alone);
      alone.run(args1);
      if (std::memcmp(&o[sequence * kHeadsQ * kDim], expected.data(), expected.size() * 4) != 0)
        throw std::runtime_error("paged and alone differ");
    }
  }
  std::printf("%d steps of %d sequences in %d pages: the same bits as each alone\n", kSteps,
              static_cast<int>(kBatch), static_cast<int>(cache.next));
}

}  // namespace

int main() {
  try {
    run_example();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

// cascade.cpp: many requests that share a prefix, which is attended to once for all of them.
//
// A decode step has one query for each request. Their keys lie in pages: those of the prefix, say a
// system prompt, are the same for all, then come some of their own. Plainly, each request reads the
// whole prefix. Here its pages are one sequence, and the queries of all requests are rows of it: it
// is read once. Each request's own keys are attended to as ever, and attn_merge makes of the two
// partial results the whole one. The program checks that and tells both times.
#include <algorithm>
#include <attn/attn.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

constexpr int64_t kRequests = 16, kHeadsQ = 32, kHeadsKv = 8, kHeadDim = 128;
constexpr int64_t kPageSize = 64, kPrefixPages = 64, kOwnPages = 2;  // of a request
constexpr int64_t kPages = kPrefixPages + kRequests * kOwnPages;
constexpr int64_t kPrefix = kPrefixPages * kPageSize, kOwn = kOwnPages * kPageSize;

std::vector<float> random_array(int64_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> array(static_cast<size_t>(size));
  std::generate(array.begin(), array.end(), [&] { return normal(generator); });
  return array;
}

// A plan for so many sequences of so many queries over paged keys, and its workspace.
struct Attention {
  Attention(const attn::Context& context, int64_t batch, int64_t seqlen_q, int64_t seqlen_k)
      : plan(context, config(batch, seqlen_q, seqlen_k)), workspace(plan.workspace_size()) {}

  static attn::PlanConfig config(int64_t batch, int64_t seqlen_q, int64_t seqlen_k) {
    attn::PlanConfig c;
    c.q_dtype = ATTN_DTYPE_F32;
    c.kv_layout = ATTN_LAYOUT_PAGED;
    c.page_size = kPageSize;
    c.heads_q = kHeadsQ;
    c.heads_kv = kHeadsKv;
    c.head_dim = kHeadDim;
    c.max_batch = batch;
    c.max_seqlen_q = seqlen_q;
    c.max_seqlen_k = seqlen_k;
    return c;
  }

  void run(attn::RunArgs args, const attn::Tensor& block_table, const attn::Tensor& lengths,
           const attn::Tensor& q, const attn::Tensor& o, const attn::Tensor* lse) const {
    args.block_table = &block_table;
    args.seqlens_k = &lengths;
    args.q = &q;
    args.o = &o;
    args.lse = lse;
    args.set_workspace(workspace);
    plan.run(args);
  }

  attn::Plan plan;
  attn::Workspace workspace;
};

// Milliseconds of a call, the median of many.
template <class Fn>
double milliseconds(Fn&& fn) {
  std::vector<double> times(15);
  for (double& time : times) {
    const auto start = std::chrono::steady_clock::now();
    fn();
    const auto end = std::chrono::steady_clock::now();
    time = std::chrono::duration<double, std::milli>(end - start).count();
  }
  std::nth_element(times.begin(), times.begin() + 7, times.end());
  return times[7];
}

void run_example() {
  attn::Context context;
  const std::vector<float> k = random_array(kPages * kHeadsKv * kPageSize * kHeadDim, 1),
                           v = random_array(kPages * kHeadsKv * kPageSize * kHeadDim, 2),
                           q = random_array(kRequests * kHeadsQ * kHeadDim, 3);
  const attn::Tensor tk(k, {kPages, kHeadsKv, kPageSize, kHeadDim}),
      tv(v, {kPages, kHeadsKv, kPageSize, kHeadDim});
  attn::RunArgs pages;
  pages.k = &tk;
  pages.v = &tv;

  // The pages of each request: those of the prefix, then its own, of which the last one is not
  // full.
  constexpr int64_t kTable = kPrefixPages + kOwnPages;
  std::vector<int32_t> table, lengths, own_lengths;
  for (int32_t request = 0; request < kRequests; ++request) {
    for (int32_t page = 0; page < kTable; ++page) {
      table.push_back(page < kPrefixPages ? page : page + request * int32_t{kOwnPages});
    }
    own_lengths.push_back(int32_t{kPageSize} + 1 + request);
    lengths.push_back(int32_t{kPrefix} + own_lengths.back());
  }
  const int32_t prefix_length = kPrefix;
  const attn::Tensor whole_table(table, {kRequests, kTable}), whole_lengths(lengths, {kRequests}),
      prefix_table(table.data(), {1, kPrefixPages}), one_length(&prefix_length, {1}),
      own_table(table.data() + kPrefixPages, {kRequests, kOwnPages}, {kTable, 1}),
      own_length(own_lengths, {kRequests});

  // q, o and lse of each request, [requests, heads, 1, head_dim], and of the prefix alone, where
  // the requests are the queries of one sequence: [1, heads, requests, head_dim]. Strides express
  // that without a copy.
  const auto by_request = [](auto* data) {
    return attn::Tensor(data, {kRequests, kHeadsQ, 1, kHeadDim});
  };
  const auto by_query = [](auto* data) {
    return attn::Tensor(data, {1, kHeadsQ, kRequests, kHeadDim},
                        {0, kHeadDim, kHeadsQ * kHeadDim, 1});
  };
  std::vector<float> o(q.size()), whole(q.size()), o_prefix(q.size()), o_own(q.size());
  std::vector<float> lse_prefix(kRequests * kHeadsQ), lse_own(lse_prefix.size());
  const attn::Tensor lse_by_query(lse_prefix, {1, kHeadsQ, kRequests}, {0, 1, kHeadsQ}),
      lse_by_request(lse_prefix, {kRequests, kHeadsQ, 1}), lse(lse_own, {kRequests, kHeadsQ, 1});

  const Attention plain(context, kRequests, 1, kPrefix + kOwn),
      prefix(context, 1, kRequests, kPrefix), own(context, kRequests, 1, kOwn);
  const double plain_ms = milliseconds([&] {
    plain.run(pages, whole_table, whole_lengths, by_request(q.data()), by_request(whole.data()),
              nullptr);
  });

  const attn::Tensor prefix_part = by_request(o_prefix.data()), own_part = by_request(o_own.data()),
                     to = by_request(o.data());
  const attn_tensor* const o_parts[] = {&prefix_part, &own_part};
  const attn_tensor* const lse_parts[] = {&lse_by_request, &lse};
  attn::MergeArgs merge;
  merge.count = 2;
  merge.o_parts = o_parts;
  merge.lse_parts = lse_parts;
  merge.o = &to;
  const double cascade_ms = milliseconds([&] {
    prefix.run(pages, prefix_table, one_length, by_query(q.data()), by_query(o_prefix.data()),
               &lse_by_query);
    own.run(pages, own_table, own_length, by_request(q.data()), own_part, &lse);
    context.merge(merge);
  });

  // Both are within 1e-5 * max|V| of the exact result, and |V| < 6 here.
  constexpr float kTolerance = 1.2e-4f;
  float largest = 0;
  for (size_t i = 0; i < o.size(); ++i) {
    const float difference = std::fabs(o[i] - whole[i]);
    if (!(difference <= kTolerance)) throw std::runtime_error("cascade and plain call disagree");
    largest = std::max(largest, difference);
  }
  std::printf("%d requests, a prefix of %d keys shared: largest difference %g\n",
              static_cast<int>(kRequests), static_cast<int>(kPrefix), static_cast<double>(largest));
  std::printf("a step takes %.2f ms plainly, %.2f ms with the prefix read once\n", plain_ms,
              cascade_ms);
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

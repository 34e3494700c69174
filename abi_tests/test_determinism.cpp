// test_determinism.cpp: the same bits for any threads, order, batch, memory order, workspace
// content and floating-point modes of the host.
#include <cstring>
#include <memory>

#include "compare.h"
#include "host.h"
#include "storage.h"

namespace attn_test {
namespace {

// What every backend serves, and what standard does beyond that.
std::vector<Problem> problems() {
  std::vector<Problem> list;
  Problem p;
  p.seed = 31;
  p.heads_q = 4;
  p.heads_kv = 2;
  p.head_dim = 40;
  p.head_dim_v = 24;
  p.seqlens_q = {70, 7, 100, 1};
  p.seqlens_k = {150, 50, 100, 300};
  p.q_rows = p.k_rows = Rows::kPacked;
  p.name = "full";
  list.push_back(p);
  p.name = "causal";
  p.causal = true;
  list.push_back(p);
  p.name = "window";
  p.window_left = 33;
  list.push_back(p);
  p.name = "decode";
  p.window_left = -1;
  p.seqlens_q = {1, 1, 1, 1};
  p.seqlens_k = {600, 3, 129, 400};
  list.push_back(p);
  p.name = "decode in chunks";
  p.kv_chunk = 128;
  p.tile_k = 64;
  p.seqlens_q = {1, 16, 3, 17};
  list.push_back(p);
  p.name = "decode in chunks with all additions";
  p.alibi = 1;
  p.sink = true;
  p.softcap = 3;
  p.heads_q = 8;
  list.push_back(p);
  p.heads_q = 4;
  p.kv_chunk = p.tile_k = 0;
  p.name = "additions";
  p.seqlens_q = {20, 7, 33, 1};
  p.alibi = 1;
  p.sink = true;
  p.softcap = 3;
  list.push_back(p);
  p.name = "additions in f16";
  p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = ATTN_DTYPE_F16;
  list.push_back(p);
  p.name = "additions over i8 and f8e4m3";
  p.k_dtype = ATTN_DTYPE_I8;
  p.v_dtype = ATTN_DTYPE_F8E4M3;
  p.k_scaling.block = 8;
  list.push_back(p);
  p.k_scaling = {};
  p.name = "bf16 over i8 and f8e4m3";
  p.q_dtype = p.o_dtype = ATTN_DTYPE_BF16;
  list.push_back(p);
  p.name = "additions in bf16";
  p.k_dtype = p.v_dtype = ATTN_DTYPE_BF16;
  list.push_back(p);
  p.name = "masks in bf16";  // of each row its own
  p.bias.present = p.mask.present = p.block_mask.present = true;
  p.block_q = p.block_k = 5;
  list.push_back(p);
  p.bias.present = p.mask.present = p.block_mask.present = false;
  p.name = "masks";  // of each row its own
  p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = ATTN_DTYPE_F32;
  p.seqlens_q = {70, 7, 100, 1};
  p.bias.present = p.mask.present = p.block_mask.present = true;
  p.block_q = p.block_k = 5;
  list.push_back(p);
  return list;
}

// Its masks have a row for each packed row: a part of the batch would need other masks.
bool has_rows_of_its_own(const Problem& p) { return p.mask.present; }

// fn(target, problem, data, base): base is the outcome with the target's own context.
template <typename Fn>
void for_each_served(Fn fn) {
  for (const Problem& p : problems()) {
    const Data data = make_data(p);
    for (const Target& target : targets_in_turn()) {
      const Outcome base = execute(target.context, target.backend.c_str(), p, data);
      if (base.status == ATTN_ERROR_UNSUPPORTED && !must_serve(target.backend, p)) continue;
      if (!CHECK(base.status == ATTN_OK, "%s: %s", target.label().c_str(), base.error.message)) {
        continue;
      }
      count(target.label());
      fn(target, p, data, base);
    }
  }
}

void expect_same(const Outcome& base, const Outcome& other, const Target& target, const Problem& p,
                 const char* what) {
  CHECK(same_bits(base, other), "%s on %s: %s gives other bits (%s)", target.label().c_str(),
        p.name.c_str(), what, other.error.message);
}

void threads() {
  for_each_served(
      [](const Target& target, const Problem& p, const Data& data, const Outcome& base) {
        for (const int32_t number : {1, 2, 3, 7}) {
          attn_context* context = context_with_threads(target.isa, number);
          for (int repeat = 0; repeat < 2; repeat++) {
            const Outcome other = execute(context, target.backend.c_str(), p, data);
            expect_same(base, other, target, p, (std::to_string(number) + " threads").c_str());
          }
          attn_context_destroy(context);
        }
      });
}

void executors() {
  for_each_served(
      [](const Target& target, const Problem& p, const Data& data, const Outcome& base) {
        const auto check = [&](const attn_executor& executor, const char* what) {
          attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
          config.isa = target.isa;
          config.executor = &executor;
          attn_context* context = make_context(config);
          for (int repeat = 0; repeat < 2; repeat++) {
            expect_same(base, execute(context, target.backend.c_str(), p, data), target, p, what);
          }
          attn_context_destroy(context);
        };
        SerialExecutor backwards{false, 1};
        check(backwards.executor(), "an executor that runs backwards");
        CHECK(backwards.loops > 0);
        SerialExecutor last_worker{false, 5};
        check(last_worker.executor(), "an executor that has the last worker do it all");
        SerialExecutor shuffled{true, 4};
        check(shuffled.executor(), "an executor in random order");
        ThreadExecutor threads{3};
        check(threads.executor(), "an executor with threads");
        CHECK(threads.loops > 0);
        ThreadExecutor rounding{3, FpMode::kFlushAndRoundUp};
        check(rounding.executor(), "an executor whose threads flush to zero and round up");
        CHECK(rounding.modes_lost == 0, "%d tasks changed their thread's modes",
              rounding.modes_lost.load());
      });
}

// One sequence of a problem, as a problem of its own, with its data.
Problem alone(const Problem& p, const Data& data, size_t b, Data& part) {
  Problem one = p;
  one.seqlens_q = {p.seqlens_q[b]};
  one.seqlens_k = {p.seqlens_k[b]};
  const auto slice = [&](const Values& from, int64_t rows) {
    Values to;
    to.resize(1, from.n[1], rows, from.n[3]);
    for (int64_t h = 0; h < from.n[1]; h++)
      for (int64_t i = 0; i < rows; i++)
        for (int64_t x = 0; x < from.n[3]; x++)
          to.at(0, h, i, x) = from.at(static_cast<int64_t>(b), h, i, x);
    return to;
  };
  part = data;
  part.q = slice(data.q, one.seqlens_q[0]);
  part.k = slice(data.k, one.seqlens_k[0]);
  part.v = slice(data.v, one.seqlens_k[0]);
  if (!data.k_scale.x.empty()) part.k_scale = slice(data.k_scale, one.seqlens_k[0]);
  if (!data.v_scale.x.empty()) part.v_scale = slice(data.v_scale, one.seqlens_k[0]);
  return one;
}

// Each sequence alone, and all of them padded, packed and paged, in larger plans.
void batch_invariance() {
  for_each_served([](const Target& target, const Problem& p, const Data& data,
                     const Outcome& base) {
    if (has_rows_of_its_own(p)) return;
    const char* backend = target.backend.c_str();
    Outcome joined = {ATTN_OK, {}, {}, {}};
    for (size_t b = 0; b < p.seqlens_q.size(); b++) {
      Data part;
      Problem one = alone(p, data, b, part);
      one.q_rows = one.k_rows = Rows::kPadded;
      const Outcome outcome = execute(target.context, backend, one, part);
      CHECK(outcome.status == ATTN_OK);
      joined.o.insert(joined.o.end(), outcome.o.begin(), outcome.o.end());
      joined.lse.insert(joined.lse.end(), outcome.lse.begin(), outcome.lse.end());
    }
    expect_same(base, joined, target, p, "each sequence alone");

    Problem other = p;
    other.q_rows = other.k_rows = Rows::kPaddedLengths;
    other.slack_q = 11;
    other.slack_k = 400;
    expect_same(base, execute(target.context, backend, other, data), target, p, "padded");
    other = p;
    other.plan_slack = 1000;
    other.slack_q = other.slack_k = 5;
    expect_same(base, execute(target.context, backend, other, data), target, p, "a larger plan");
    other = p;
    other.k_rows = Rows::kPaged;
    other.page_size = 16;
    const Outcome paged = execute(target.context, backend, other, data);
    expect_same(base, paged, target, p, "paged");
  });
}

// The heads of a problem one by one, each with its KV head.
void head_invariance() {
  for_each_served(
      [](const Target& target, const Problem& p, const Data& data, const Outcome& base) {
        if (has_rows_of_its_own(p)) return;
        Problem one = p;
        one.heads_q = one.heads_kv = 1;
        for (int64_t head = 0; head < p.heads_q; head++) {
          const auto slice = [&](const Values& from, int64_t h) {
            Values to;
            to.resize(from.n[0], 1, from.n[2], from.n[3]);
            for (int64_t b = 0; b < from.n[0]; b++)
              for (int64_t i = 0; i < from.n[2]; i++)
                for (int64_t x = 0; x < from.n[3]; x++) to.at(b, 0, i, x) = from.at(b, h, i, x);
            return to;
          };
          Data part = data;
          part.q = slice(data.q, head);
          part.k = slice(data.k, p.kv_head(head));
          part.v = slice(data.v, p.kv_head(head));
          if (!data.k_scale.x.empty()) part.k_scale = slice(data.k_scale, p.kv_head(head));
          if (!data.v_scale.x.empty()) part.v_scale = slice(data.v_scale, p.kv_head(head));
          if (p.alibi) part.alibi = {data.alibi[static_cast<size_t>(head)]};
          if (p.sink) part.sink = {data.sink[static_cast<size_t>(head)]};
          const Outcome outcome = execute(target.context, target.backend.c_str(), one, part);
          Outcome expected = {ATTN_OK, {}, {}, {}};
          size_t row = 0;
          for (const int64_t length : p.seqlens_q)
            for (int64_t h = 0; h < p.heads_q; h++)
              for (int64_t i = 0; i < length; i++, row++) {
                if (h != head) continue;
                const auto from = base.o.begin() + static_cast<int64_t>(row) * p.head_dim_v;
                expected.o.insert(expected.o.end(), from, from + p.head_dim_v);
                expected.lse.push_back(base.lse[row]);
              }
          expect_same(expected, outcome, target, p, "one head alone");
        }
      });
}

void memory_orders() {
  for_each_served(
      [](const Target& target, const Problem& p, const Data& data, const Outcome& base) {
        const Order orders[] = {{{0, 2, 1, 3}, 0, 0, 0, false},
                                {{0, 1, 3, 2}, 1, 0, 0, false},
                                {{2, 1, 0, 3}, 3, 0, 0, true}};
        for (const Order& order : orders) {
          Problem other = p;
          other.q_order = other.k_order = other.v_order = other.o_order = order;
          other.guard = Guard::kBefore;
          expect_same(base, execute(target.context, target.backend.c_str(), other, data), target, p,
                      "another memory order");
        }
      });
}

void workspace_content() {
  for_each_served(
      [](const Target& target, const Problem& p, const Data& data, const Outcome& base) {
        Placement placement(p, data);
        attn_plan_config config = placement.config();
        config.backend = target.backend.c_str();
        attn_plan* plan = nullptr;
        if (!CHECK_OK(attn_plan_create(target.context, &config, &plan, nullptr))) return;
        size_t size = 0;
        CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
        GuardedBuffer workspace(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
        placement.args().workspace = workspace.data();
        placement.args().workspace_size = size;
        for (const int content : {0x00, 0x7f, 0xff, 0x3c}) {
          std::memset(workspace.data(), content, size);
          const attn_status status = attn_run(plan, &placement.args(), nullptr);
          expect_same(base, placement.outcome(status, {}), target, p, "another workspace content");
        }
        attn_plan_destroy(plan);
      });
}

// The host's modes change nothing, and are as they were afterwards; the numbers include
// subnormals, which flushing would lose.
void floating_point_modes() {
  for (const int32_t threads : {1, 3}) {
    for (const Target& target : targets()) {
      attn_context* context = context_with_threads(target.isa, threads);
      Problem p = problems()[1];
      p.seqlens_q = {40, 3, 50, 1};
      Data data = make_data(p);
      for (double& x : data.v.x) x = rounded(ATTN_DTYPE_F32, x * 1e-40);
      for (size_t i = 0; i < data.k.x.size(); i += 3) data.k.x[i] = 1e-41;
      Placement placement(p, data);
      const Outcome base = execute(context, target.backend.c_str(), p, placement, nullptr);
      if (base.status != ATTN_OK) continue;
      double largest = 0;
      for (const double x : base.o) largest = std::max(largest, std::fabs(x));
      CHECK(largest > 0 && largest < 0x1p-126, "results are not subnormal: %g", largest);
      for (const FpMode mode : {FpMode::kFlushToZero, FpMode::kRoundUp, FpMode::kRoundDown,
                                FpMode::kRoundToZero, FpMode::kFlushAndRoundUp}) {
        attn_plan_config config = placement.config();
        config.backend = target.backend.c_str();
        attn_plan* plan = nullptr;
        set_fp_mode(mode);
        const uint64_t before = fp_control();
        attn_status status = attn_plan_create(context, &config, &plan, nullptr);
        const uint64_t after_plan = fp_control();
        size_t size = 0;
        if (status == ATTN_OK) status = attn_plan_workspace_size(plan, &size, nullptr);
        set_fp_mode(FpMode::kDefault);
        GuardedBuffer workspace(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
        placement.args().workspace = workspace.data();
        placement.args().workspace_size = size;
        set_fp_mode(mode);
        if (status == ATTN_OK) status = attn_run(plan, &placement.args(), nullptr);
        const uint64_t after = fp_control();
        attn_plan_destroy(plan);
        set_fp_mode(FpMode::kDefault);
        CHECK(before == after_plan && before == after, "%s: modes were not restored (%s)",
              target.label().c_str(), name_of(mode));
        expect_same(base, placement.outcome(status, {}), target, p, name_of(mode));
        count(target.label() + " modes");
      }
      attn_context_destroy(context);
    }
  }
}

// A plan's tiles may not depend on anything that invariance forbids; given ones are kept to.
void tiles() {
  for (const Target& target : targets()) {
    Problem p = problems()[0];
    const Data data = make_data(p);
    int64_t tile_k[4] = {}, kv_chunk[4] = {};
    for (int variant = 0; variant < 4; variant++) {
      Problem other = p;
      if (variant == 1) other.heads_q = 1, other.heads_kv = 1;
      if (variant == 2) other.plan_slack = 3000;
      if (variant == 3) other.seqlens_q = {1}, other.seqlens_k = {5};
      const Data other_data = make_data(other);
      Placement placement(other, other_data);
      attn_plan_config config = placement.config();
      config.backend = target.backend.c_str();
      attn_plan* plan = nullptr;
      if (!CHECK_OK(attn_plan_create(target.context, &config, &plan, nullptr))) continue;
      attn_plan_info info = ATTN_PLAN_INFO_INIT;
      CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
      tile_k[variant] = info.tile_k;
      kv_chunk[variant] = info.kv_chunk;
      attn_plan_destroy(plan);
    }
    if (target.backend == "flash") {
      p.tile_k = 128;
      Placement placement(p, data);
      attn_plan_config config = placement.config();
      config.backend = "flash";
      attn_plan* plan = nullptr;
      if (!CHECK_OK(attn_plan_create(target.context, &config, &plan, nullptr))) continue;
      attn_plan_info info = ATTN_PLAN_INFO_INIT;
      CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
      CHECK(info.tile_k == 128, "%lld", static_cast<long long>(info.tile_k));
      attn_plan_destroy(plan);
    }
    for (int variant = 1; variant < 4; variant++) {
      CHECK(tile_k[variant] == tile_k[0], "%s: tile_k %lld and %lld", target.label().c_str(),
            static_cast<long long>(tile_k[variant]), static_cast<long long>(tile_k[0]));
      CHECK(kv_chunk[variant] == kv_chunk[0], "%s", target.label().c_str());
    }
  }
}

void ran_on_everything() {
  for (const Target& target : targets()) {
    const int least = target.backend == "standard" ? 36 : target.backend == "flash" ? 24 : 0;
    CHECK(counted(target.label()) >= least / kTurns, "%s ran %d problems only",
          target.label().c_str(), counted(target.label()));
    CHECK(counted(target.label() + " modes") == 10, "%s", target.label().c_str());
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(threads),
      TEST(executors),
      TEST(batch_invariance),
      TEST(head_invariance),
      TEST(memory_orders),
      TEST(workspace_content),
      TEST(floating_point_modes),
      TEST(tiles),
      TEST(ran_on_everything),
  };
  return run_tests("determinism", argc, argv, tests);
}

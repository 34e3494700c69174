// test_merge.cpp: merging partial results, against float64 and against attention over all keys.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "compare.h"
#include "host.h"
#include "storage.h"

namespace attn_test {
namespace {

constexpr int64_t kBatch = 2, kHeads = 3, kRows = 17, kDim = 21;

struct Sizes {
  int64_t heads = kHeads, rows = kRows, dim = kDim;
};

// Parts and an output in guarded memory. Rows of a part are -inf with NaN in O now and then.
struct Merge {
  std::vector<std::unique_ptr<Placed>> o_parts, lse_parts;
  std::vector<const attn_tensor*> o_views, lse_views;
  std::unique_ptr<Placed> o, lse, sink;
  attn_merge_args args = ATTN_MERGE_ARGS_INIT;
  Sizes sizes;

  Merge(int count, attn_dtype o_dtype, bool with_sink, Guard guard, uint64_t seed, Sizes s = {})
      : sizes(s) {
    Random random{seed};
    const Order orders[] = {{},
                            {{0, 2, 1, 3}, 0, 0, 0, false},
                            {{2, 1, 0, 3}, 3, 0, 0, true},
                            {{0, 1, 3, 2}, 0, 0, 0, false}};  // columns apart
    for (int part = 0; part < count; part++) {
      const Order& order = orders[random.below(4)];
      const std::vector<int64_t> shape = {kBatch, sizes.heads, sizes.rows, sizes.dim};
      o_parts.push_back(std::make_unique<Placed>(ATTN_DTYPE_F32, shape, order, guard));
      const std::vector<int64_t> lse_shape = {kBatch, sizes.heads, sizes.rows};
      lse_parts.push_back(std::make_unique<Placed>(ATTN_DTYPE_F32, lse_shape, Order{}, guard));
      for (int64_t b = 0; b < kBatch; b++)
        for (int64_t h = 0; h < sizes.heads; h++)
          for (int64_t i = 0; i < sizes.rows; i++) {
            // Row 0 has no key in any part; others miss some.
            const bool none = i == 0 || random.chance(0.2);
            lse_parts.back()->set({b, h, i}, none ? -double{INFINITY} : 5 * random.normal());
            for (int64_t x = 0; x < sizes.dim; x++) {
              o_parts.back()->set({b, h, i, x}, none ? NAN : random.normal());
            }
          }
      o_views.push_back(o_parts.back()->view());
      lse_views.push_back(lse_parts.back()->view());
    }
    const std::vector<int64_t> shape = {kBatch, sizes.heads, sizes.rows, sizes.dim};
    o = std::make_unique<Placed>(o_dtype, shape, orders[random.below(4)], guard);
    const std::vector<int64_t> lse_shape = {kBatch, sizes.heads, sizes.rows};
    lse = std::make_unique<Placed>(ATTN_DTYPE_F32, lse_shape, Order{}, guard);
    if (with_sink) {
      const std::vector<int64_t> sink_shape = {sizes.heads};
      sink = std::make_unique<Placed>(ATTN_DTYPE_F32, sink_shape, Order{}, guard);
      for (int64_t h = 0; h < sizes.heads; h++) sink->set({h}, random.normal());
      args.sink = sink->view();
    }
    args.count = count;
    args.o_parts = o_views.data();
    args.lse_parts = lse_views.data();
    args.o = o->view();
    args.lse = lse->view();
  }

  // The outputs as they are now: O, then LSE.
  std::vector<double> result() const {
    std::vector<double> values;
    const auto read = [](const attn_tensor* tensor, std::initializer_list<int64_t> index) {
      int64_t position = 0;
      int d = 0;
      for (const int64_t i : index) position += i * tensor->strides[d++];
      return load(tensor->dtype, static_cast<char*>(tensor->data) + tensor->byte_offset +
                                     position * static_cast<int64_t>(element_size(tensor->dtype)));
    };
    for (int64_t b = 0; b < kBatch; b++)
      for (int64_t h = 0; h < sizes.heads; h++)
        for (int64_t i = 0; i < sizes.rows; i++) {
          for (int64_t x = 0; x < sizes.dim; x++) values.push_back(read(args.o, {b, h, i, x}));
          if (args.lse) values.push_back(read(args.lse, {b, h, i}));
        }
    return values;
  }

  // The same in float64, with the tolerance of each number.
  std::vector<std::pair<double, double>> expected() const {
    std::vector<std::pair<double, double>> values;
    for (int64_t b = 0; b < kBatch; b++)
      for (int64_t h = 0; h < sizes.heads; h++)
        for (int64_t i = 0; i < sizes.rows; i++) {
          double max = sink ? sink->get({h}) : -INFINITY;
          for (const auto& part : lse_parts) max = std::max(max, part->get({b, h, i}));
          double sum = sink ? std::exp(sink->get({h}) - max) : 0;
          for (const auto& part : lse_parts) {
            if (max > -INFINITY) sum += std::exp(part->get({b, h, i}) - max);
          }
          for (int64_t x = 0; x < sizes.dim; x++) {
            double value = 0, largest = 0;
            for (size_t n = 0; n < o_parts.size(); n++) {
              const double weight = std::exp(lse_parts[n]->get({b, h, i}) - max) / sum;
              if (lse_parts[n]->get({b, h, i}) == -INFINITY) continue;
              const double part = o_parts[n]->get({b, h, i, x});
              value += weight * part;
              largest = std::max(largest, std::fabs(part));
            }
            const attn_dtype dtype = args.o->dtype;
            const double rounding = dtype == ATTN_DTYPE_F32 ? 0 : ulp(dtype, largest);
            values.push_back({value, 1e-5 * largest + rounding});
          }
          if (args.lse) {
            const double right = max == -INFINITY ? -INFINITY : max + std::log(sum);
            values.push_back({right, lse_tolerance(right)});
          }
        }
    return values;
  }
};

std::string difference(const Merge& merge, const std::vector<std::pair<double, double>>& expected) {
  const std::vector<double> actual = merge.result();
  for (size_t n = 0; n < actual.size(); n++) {
    if (!close(actual[n], expected[n].first, expected[n].second)) {
      return "number " + std::to_string(n) + " is " + std::to_string(actual[n]) + ", expected " +
             std::to_string(expected[n].first);
    }
  }
  return actual.size() == expected.size() ? "" : "numbers are missing";
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// A context for each instruction set with kernels that merge: as many as standard has.
std::vector<const Target*> contexts() {
  std::vector<const Target*> list;
  for (const Target& target : targets()) {
    if (target.backend == "standard") list.push_back(&target);
  }
  return list;
}

void against_float64() {
  uint64_t seed = 0;
  for (const Target* target : contexts())
    for (const int count : {1, 2, 3, 9})
      for (const attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_F16, ATTN_DTYPE_BF16})
        for (const bool with_sink : {false, true})
          for (const bool with_lse : {false, true}) {
            Merge merge(count, dtype, with_sink, seed % 2 ? Guard::kAfter : Guard::kBefore, seed);
            seed++;
            if (!with_lse) merge.args.lse = nullptr;
            CHECK_OK(attn_merge(target->context, &merge.args, nullptr));
            const std::string wrong = difference(merge, merge.expected());
            CHECK(wrong.empty(), "%s, %d parts: %s", target->isa_name.c_str(), count,
                  wrong.c_str());
            CHECK(merge.o->gaps_intact() && merge.o->memory().margin_intact());
            if (!with_lse) CHECK(std::isnan(merge.lse->get({0, 0, 0})));
            attn_test::count("merges");
          }
  CHECK(counted("merges") >= 48);
}

// More parts, heads and columns than are merged at a time.
void large() {
  uint64_t seed = 40;
  for (const Target* target : contexts())
    for (const Sizes sizes : {Sizes{kHeads, kRows, 300}, Sizes{35, 2, 64}, Sizes{2, 100, 259}})
      for (const int count : {1, 16, 17, 45})
        for (const attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_BF16}) {
          Merge merge(count, dtype, true, Guard::kAfter, seed++, sizes);
          CHECK_OK(attn_merge(target->context, &merge.args, nullptr));
          const std::string wrong = difference(merge, merge.expected());
          CHECK(wrong.empty(), "%s, %d parts: %s", target->isa_name.c_str(), count, wrong.c_str());
          CHECK(merge.o->gaps_intact() && merge.o->memory().margin_intact());
        }
}

// The output may be a part's own view, O and LSE both or either.
void into_a_part() {
  for (const Target* target : contexts())
    for (const int alias : {0, 10, 19})
      for (const int which : {1, 2, 3}) {
        Merge merge(20, ATTN_DTYPE_F32, true, Guard::kAfter, 5, {2, 5, 300});
        const auto expected = merge.expected();
        const size_t n = static_cast<size_t>(alias);
        if (which & 1) merge.args.o = merge.o_views[n];
        if (which & 2) merge.args.lse = merge.lse_views[n];
        CHECK_OK(attn_merge(target->context, &merge.args, nullptr));
        const std::string wrong = difference(merge, expected);
        CHECK(wrong.empty(), "into part %d (%d): %s", alias, which, wrong.c_str());
      }
}

// Parts without weight change no bit, wherever they stand; one part alone comes back as it is.
void parts_without_weight() {
  attn_context* context = targets()[0].context;
  Merge merge(2, ATTN_DTYPE_F32, false, Guard::kAfter, 8);
  CHECK_OK(attn_merge(context, &merge.args, nullptr));
  const std::vector<double> base = merge.result();
  Merge empty(1, ATTN_DTYPE_F32, false, Guard::kAfter, 8);
  for (int64_t b = 0; b < kBatch; b++)
    for (int64_t h = 0; h < kHeads; h++)
      for (int64_t i = 0; i < kRows; i++) {
        empty.lse_parts[0]->set({b, h, i}, -INFINITY);
        for (int64_t x = 0; x < kDim; x++)
          empty.o_parts[0]->set({b, h, i, x}, x % 2 ? NAN : INFINITY);
      }
  for (int position = 0; position < 3; position++) {
    std::vector<const attn_tensor*> o = merge.o_views, lse = merge.lse_views;
    o.insert(o.begin() + position, empty.o_views[0]);
    lse.insert(lse.begin() + position, empty.lse_views[0]);
    attn_merge_args args = merge.args;
    args.count = 3;
    args.o_parts = o.data();
    args.lse_parts = lse.data();
    CHECK_OK(attn_merge(context, &args, nullptr));
    CHECK(same(merge.result(), base), "a part of weight 0 at position %d changed bits", position);
  }

  Merge one(1, ATTN_DTYPE_F32, false, Guard::kAfter, 3);
  CHECK_OK(attn_merge(context, &one.args, nullptr));
  for (int64_t i = 1; i < kRows; i++) {
    if (one.lse_parts[0]->get({0, 0, i}) == -INFINITY) continue;
    CHECK(one.lse->get({0, 0, i}) == one.lse_parts[0]->get({0, 0, i}));
    CHECK(one.o->get({0, 0, i, 3}) == one.o_parts[0]->get({0, 0, i, 3}));
  }
}

// Summed in the order given: large parts that cancel show the order, in exact arithmetic of f32.
// Parts whose columns lie side by side are summed together, others one by one.
void order() {
  const double values[] = {0x1p25, -0x1p25, 1};
  int together = 0;
  for (uint64_t seed = 0; seed < 12; seed++) {
    Merge merge(3, ATTN_DTYPE_F32, false, Guard::kAfter, seed);
    for (size_t part = 0; part < 3; part++)
      for (int64_t b = 0; b < kBatch; b++)
        for (int64_t h = 0; h < kHeads; h++)
          for (int64_t i = 0; i < kRows; i++) {
            merge.lse_parts[part]->set({b, h, i}, 0);
            for (int64_t x = 0; x < kDim; x++) {
              merge.o_parts[part]->set({b, h, i, x}, values[part]);
            }
          }
    together += std::all_of(merge.o_views.begin(), merge.o_views.end(),
                            [](const attn_tensor* view) { return view->strides[3] == 1; });
    for (const Target& target : targets()) {
      // (2^25 - 2^25) + 1 keeps the 1; (1 + 2^25) - 2^25 loses it.
      auto views = merge.o_views;
      merge.args.o_parts = views.data();
      CHECK_OK(attn_merge(target.context, &merge.args, nullptr));
      const double kept = merge.o->get({0, 0, 0, 0});
      std::rotate(views.begin(), views.begin() + 2, views.end());
      CHECK_OK(attn_merge(target.context, &merge.args, nullptr));
      const double lost = merge.o->get({0, 0, 0, 0});
      CHECK(close(kept, 1.0 / 3, 1e-6), "%g", kept);
      CHECK(std::fabs(lost) < 1e-6, "%g: the order of the parts was not kept", lost);
    }
  }
  CHECK(together > 0 && together < 12, "%d", together);
}

// Weights may be far beyond f32: only their differences count. NaN is not lost.
void extremes() {
  attn_context* context = targets()[0].context;
  Merge merge(2, ATTN_DTYPE_F32, false, Guard::kAfter, 8);
  const auto set_row = [&](int64_t i, double lse0, double lse1, double o0, double o1) {
    merge.lse_parts[0]->set({0, 0, i}, lse0);
    merge.lse_parts[1]->set({0, 0, i}, lse1);
    for (int64_t x = 0; x < kDim; x++) {
      merge.o_parts[0]->set({0, 0, i, x}, o0);
      merge.o_parts[1]->set({0, 0, i, x}, o1);
    }
  };
  set_row(1, 1000, 1000, 1, 3);
  set_row(2, -1000, -1000, 1, 3);
  set_row(3, 1000, -1000, 1, 3);
  set_row(4, NAN, 0, 1, 3);
  set_row(5, 0, 0, NAN, 3);
  set_row(6, 0, -1000, 1, NAN);  // a tiny weight is a weight still
  CHECK_OK(attn_merge(context, &merge.args, nullptr));
  CHECK(close(merge.o->get({0, 0, 1, 0}), 2, 1e-5));
  CHECK(close(merge.lse->get({0, 0, 1}), 1000 + std::log(2), 1e-3));
  CHECK(close(merge.o->get({0, 0, 2, 0}), 2, 1e-5));
  CHECK(close(merge.lse->get({0, 0, 2}), -1000 + std::log(2), 1e-3));
  CHECK(merge.o->get({0, 0, 3, 0}) == 1 && merge.lse->get({0, 0, 3}) == 1000);
  CHECK(std::isnan(merge.o->get({0, 0, 4, 0})) && std::isnan(merge.lse->get({0, 0, 4})));
  CHECK(std::isnan(merge.o->get({0, 0, 5, 0})) && !std::isnan(merge.lse->get({0, 0, 5})));
  CHECK(std::isnan(merge.o->get({0, 0, 6, 0})));
}

void same_bits_everywhere() {
  Merge merge(5, ATTN_DTYPE_F32, true, Guard::kAfter, 77);
  for (const Target* target : contexts()) {
    CHECK_OK(attn_merge(target->context, &merge.args, nullptr));
    const std::vector<double> base = merge.result();
    for (const int32_t threads : {1, 2, 7}) {
      attn_context* context = context_with_threads(target->isa, threads);
      CHECK_OK(attn_merge(context, &merge.args, nullptr));
      CHECK(same(merge.result(), base), "%d threads", threads);
      attn_context_destroy(context);
    }
    for (const FpMode mode : {FpMode::kFlushAndRoundUp, FpMode::kRoundToZero}) {
      set_fp_mode(mode);
      const uint64_t before = fp_control();
      const attn_status status = attn_merge(target->context, &merge.args, nullptr);
      const uint64_t after = fp_control();
      set_fp_mode(FpMode::kDefault);
      CHECK(status == ATTN_OK && before == after);
      CHECK(same(merge.result(), base), "%s", name_of(mode));
    }
  }
}

// One part alone is its own result, so that this is how the library rounds to the storage types.
void rounding_to_storage_types() {
  std::vector<double> values = {0,           -0.0,       1.0 / 3,        65504,        65519.996,
                                65520,       -1e9,       0x1p-14,        0x1p-24,      0x1p-25,
                                0x1.8p-24,   -0x1.8p-25, 0x1.000002p-25, 0x1.ffep-15,  1 + 0x1p-11,
                                1 + 0x3p-11, 1 + 0x1p-8, 1 + 0x3p-8,     3.3895314e38, 3.4e38,
                                0x1p-133,    0x1p-134,   0x1.8p-133,     INFINITY,     -INFINITY};
  Random random{3};
  while (values.size() < 4096) {
    const double exponent = static_cast<double>(random.between(-30, 20));
    values.push_back(static_cast<float>(random.normal() * std::exp2(exponent)));
    // And the float next to the middle between two f16.
    const double middle = rounded(ATTN_DTYPE_F16, random.normal()) * (1 + 0x1p-11);
    values.push_back(
        static_cast<float>(middle + static_cast<double>(random.between(-1, 1)) * 0x1p-26));
  }
  const int64_t n = static_cast<int64_t>(values.size());
  const int64_t shape[] = {1, 1, 1, n};
  std::vector<float> part(values.begin(), values.end());
  float lse = 0;
  attn_tensor o_part, lse_part;
  attn_tensor_init(&o_part, part.data(), ATTN_DTYPE_F32, 4, shape);
  attn_tensor_init(&lse_part, &lse, ATTN_DTYPE_F32, 3, shape);
  const attn_tensor *o_parts[] = {&o_part}, *lse_parts[] = {&lse_part};
  for (const attn_dtype dtype : {ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    std::vector<uint16_t> out(values.size());
    attn_tensor o;
    attn_tensor_init(&o, out.data(), dtype, 4, shape);
    attn_merge_args args = ATTN_MERGE_ARGS_INIT;
    args.count = 1;
    args.o_parts = o_parts;
    args.lse_parts = lse_parts;
    args.o = &o;
    CHECK_OK(attn_merge(targets()[0].context, &args, nullptr));
    for (size_t i = 0; i < values.size(); i++) {
      CHECK(load(dtype, &out[i]) == rounded(dtype, part[i]), "%.9g became %.9g as %s",
            static_cast<double>(part[i]), load(dtype, &out[i]), attn_dtype_name(dtype));
    }
  }
}

void nothing_to_merge() {
  attn_context* context = targets()[0].context;
  for (int dimension = 0; dimension < 3; dimension++) {
    int64_t shape[4] = {2, 3, 4, 5};
    shape[dimension] = 0;
    attn_tensor o, lse;
    attn_tensor_init(&o, nullptr, ATTN_DTYPE_F32, 4, shape);
    attn_tensor_init(&lse, nullptr, ATTN_DTYPE_F32, 3, shape);
    const attn_tensor* o_parts[] = {&o, &o};
    const attn_tensor* lse_parts[] = {&lse, &lse};
    attn_merge_args args = ATTN_MERGE_ARGS_INIT;
    args.count = 2;
    args.o_parts = o_parts;
    args.lse_parts = lse_parts;
    args.o = &o;
    args.lse = &lse;
    CHECK_OK(attn_merge(context, &args, nullptr));
  }
}

// Attention over two halves of the keys, merged, is attention over all of them; the sink comes in
// once, in the first half or at the merge.
void splits_of_attention() {
  for (const Target& target : targets()) {
    for (const bool causal : {false, true}) {
      for (int sink_at = 0; sink_at < 3; sink_at++) {  // none, in a part, in the merge
        Problem p;
        p.name = "split";
        p.seed = 12;
        p.seqlens_q = {kRows, kRows};
        p.seqlens_k = {60, 60};
        p.heads_q = kHeads;
        p.head_dim = p.head_dim_v = kDim;
        p.causal = causal;
        p.q_start = {43, 20};
        p.sink = sink_at == 1;
        Data data = make_data(p);
        Merge merge(2, ATTN_DTYPE_F32, sink_at == 2, Guard::kAfter, 4);
        bool served = true;
        for (int half = 0; half < 2; half++) {
          Problem part = p;
          part.seqlens_k = half ? std::vector<int64_t>{35, 35} : std::vector<int64_t>{25, 25};
          part.k_start = half ? std::vector<int64_t>{25, 25} : std::vector<int64_t>{0, 0};
          part.sink = p.sink && half == 0;
          Data part_data = data;
          for (Values* values : {&part_data.k, &part_data.v}) {
            const Values whole = *values;
            values->resize(2, 1, part.seqlens_k[0], kDim);
            for (int64_t b = 0; b < 2; b++)
              for (int64_t j = 0; j < part.seqlens_k[0]; j++)
                for (int64_t x = 0; x < kDim; x++)
                  values->at(b, 0, j, x) = whole.at(b, 0, j + (half ? 25 : 0), x);
          }
          Placement placement(part, part_data);
          const size_t n = static_cast<size_t>(half);
          placement.args().o = merge.o_views[n];
          placement.args().lse = merge.lse_views[n];
          const Outcome outcome =
              execute(target.context, target.backend.c_str(), part, placement, nullptr);
          served = served && outcome.status == ATTN_OK;
          CHECK(outcome.status == ATTN_OK || (p.sink && !must_serve(target.backend, part)), "%s",
                outcome.error.message);
        }
        if (!served) continue;
        CHECK_OK(attn_merge(target.context, &merge.args, nullptr));
        Problem whole = p;
        if (sink_at == 2) {
          whole.sink = true;
          for (int64_t h = 0; h < kHeads; h++) data.sink.push_back(merge.sink->get({h}));
        }
        const Expected expected = reference(whole, data);
        int wrong = 0;
        for (int64_t b = 0; b < kBatch; b++)
          for (int64_t h = 0; h < kHeads; h++)
            for (int64_t i = 0; i < kRows; i++) {
              for (int64_t x = 0; x < kDim; x++) {
                wrong += !close(merge.o->get({b, h, i, x}), expected.o.at(b, h, i, x),
                                2 * expected.tolerance.at(b, h, i, 0));
              }
              const double lse = expected.lse.at(b, h, i, 0);
              wrong += !close(merge.lse->get({b, h, i}), lse, lse_tolerance(lse));
            }
        CHECK(wrong == 0, "%s, causal %d, sink %d: %d numbers", target.label().c_str(), causal,
              sink_at, wrong);
        count(target.label() + " splits");
      }
    }
    CHECK(counted(target.label() + " splits") >= 4 || !must_serve(target.backend, Problem{}));
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(against_float64),
      TEST(large),
      TEST(into_a_part),
      TEST(parts_without_weight),
      TEST(order),
      TEST(extremes),
      TEST(same_bits_everywhere),
      TEST(rounding_to_storage_types),
      TEST(nothing_to_merge),
      TEST(splits_of_attention),
  };
  return run_tests("merge", argc, argv, tests);
}

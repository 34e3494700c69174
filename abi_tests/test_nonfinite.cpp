// test_nonfinite.cpp: NaN and Inf: what is masked never leaks, what is attended is not lost.
#include "compare.h"

namespace attn_test {
namespace {

constexpr int64_t kLength = 200;
constexpr int64_t kDim = 16;

Problem square(const char* name) {
  Problem p;
  p.name = name;
  p.seed = 9;
  p.seqlens_q = {kLength};
  p.seqlens_k = {kLength};
  p.heads_q = 2;
  p.head_dim = p.head_dim_v = kDim;
  return p;
}

// Positions around the edges of vectors and tiles.
constexpr int64_t kKeys[] = {0, 1, 15, 16, 31, 63, 64, 100, 127, 128, 160, 199};

const double kBad[] = {NAN, INFINITY, -INFINITY};

// One bad number in V: with a causal mask the rows before it are right, the rows from it on have
// it in its column alone.
void one_value() {
  for (const int64_t key : kKeys) {
    for (const double bad : kBad) {
      Problem p = square("one bad value in v");
      p.causal = true;
      Data data = make_data(p);
      data.v.at(0, 0, key, key % kDim) = bad;
      check_everywhere(p, data);
      p.window_left = 20;  // and the rows far behind it do not see it either
      check_everywhere(p, data);
    }
  }
}

// One NaN in K makes the rows that see it NaN, O and LSE; masked Inf in K is as harmless as NaN.
void one_key() {
  for (const int64_t key : kKeys) {
    Problem p = square("one bad number in k");
    p.causal = true;
    p.window_left = 7;
    Data data = make_data(p);
    data.k.at(0, 0, key, (key * 3) % kDim) = NAN;
    check_everywhere(p, data);
  }
}

// A NaN in Q is its own row's alone, and not even that if the row sees no key.
void one_query() {
  for (const int64_t query : kKeys) {
    Problem p = square("one bad number in q");
    Data data = make_data(p);
    data.q.at(0, 1, query, query % kDim) = NAN;
    check_everywhere(p, data);
    p.causal = true;
    p.q_start = {-20};
    check_everywhere(p, data);
  }
}

// Few queries over K and V in chunks: one bad number, which some of the rows see.
void in_a_chunk() {
  for (const int64_t queries : {2, 16}) {
    for (const int64_t key : {int64_t{5}, kLength - 140, kLength - queries + 1, kLength - 1}) {
      for (const double bad : kBad) {
        Problem p = square("one bad number in a chunk");
        p.seqlens_q = {queries};
        p.kv_chunk = 64;
        p.causal = true;
        Data data = make_data(p);
        data.v.at(0, 0, key, key % kDim) = bad;
        check_everywhere(p, data);
        data.k.at(0, 0, key, key % kDim) = NAN;
        check_everywhere(p, data);
        p.window_left = 20;
        check_everywhere(p, data);
      }
    }
  }
}

// Every key and value that nobody may see holds NaN or Inf, under each kind of mask.
void masked_by_structure() {
  for (int variant = 0; variant < 6; variant++) {
    for (const Rows rows : {Rows::kPaddedLengths, Rows::kPacked}) {
      Problem p = square("masked by structure");
      p.seqlens_q = {150, 30};
      p.seqlens_k = {200, 170};
      p.q_rows = p.k_rows = rows;
      p.poison_masked = true;
      p.slack_q = p.slack_k = 20;  // which holds NaN too
      if (variant == 0) p.causal = true, p.alignment = ATTN_ALIGN_TOP_LEFT;
      if (variant == 1) p.window_left = 10, p.alignment = ATTN_ALIGN_BOTTOM_RIGHT;
      if (variant == 2) p.window_right = 3, p.alignment = ATTN_ALIGN_TOP_LEFT;
      if (variant == 3) p.window_left = 3, p.window_right = 2, p.q_start = {60, 90};
      if (variant == 4) p.causal = true, p.q_start = {-200, 50};  // a whole sequence sees nothing
      if (variant == 5) p.causal = true, p.k_start = {100, 10000};
      check_everywhere(p);
    }
  }
}

// Single values inside of what would be a tile: each query of a head has masks of its own.
void masked_one_by_one() {
  for (const attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    for (int variant = 0; variant < 3; variant++) {
      Problem p = square("masked one by one");
      p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = dtype;
      p.seqlens_q = {40};
      p.mask.present = variant == 0;
      p.bias.present = p.bias_has_inf = variant == 1;
      p.block_mask.present = variant == 2;
      p.block_q = 8;
      p.block_k = 5;
      Data data = make_data(p);
      // Keys 3, 13, 23, ... are masked for every query but the last, which has NaN therefore.
      for (int64_t h = 0; h < 2; h++)
        for (int64_t i = 0; i < 40; i++)
          for (int64_t j = 3; j < kLength; j += 10) {
            if (variant == 0) data.mask.at(0, h, i, j) = i == 39;
            if (variant == 1) data.bias.at(0, h, i, j) = i == 39 ? 0 : -double{INFINITY};
            if (variant == 2) data.block_mask.at(0, h, i / 8, j / 5) = i / 8 == 4;
          }
      for (int64_t j = 3; j < kLength; j += 10) {
        data.k.at(0, 0, j, j % kDim) = NAN;
        data.v.at(0, 0, j, j % kDim) = kBad[j % 3];
      }
      check_everywhere(p, data);
    }
  }
}

// NaN in a bias counts where the key is attended, and not where a mask forbids it.
void bias() {
  Problem p = square("NaN in the bias");
  p.seqlens_q = {20};
  p.bias.present = p.mask.present = true;
  Data data = make_data(p);
  for (double& x : data.mask.x) x = 1;
  for (int64_t i = 0; i < 20; i += 2) {
    data.bias.at(0, 0, i, 10 * i) = NAN;
    data.mask.at(0, 0, i, 10 * i) = i % 4 == 0;
  }
  check_everywhere(p, data);
}

// Inf that is attended: the sum is infinite, or NaN where both signs meet.
void attended_infinity() {
  Problem p = square("attended Inf");
  Data data = make_data(p);
  data.v.at(0, 0, 40, 3) = INFINITY;
  data.v.at(0, 0, 50, 4) = -INFINITY;
  data.v.at(0, 0, 60, 5) = INFINITY;
  data.v.at(0, 0, 150, 5) = -INFINITY;
  check_everywhere(p, data);
}

// Every number past a length, in page tails and in unused pages is NaN in all tests (see Placed);
// here with many pages, each with a tail.
void paged() {
  for (const int32_t page_size : {1, 3, 16, 64}) {
    Problem p = square("paged");
    p.k_rows = Rows::kPaged;
    p.page_size = page_size;
    p.seqlens_q = {30, 30, 30};
    p.seqlens_k = {100, 1, 63};
    p.causal = true;
    p.poison_masked = true;
    check_everywhere(p);
  }
}

// f8e4m3 has one NaN and no infinity: masked it is harmless, attended it is not lost.
void f8e4m3() {
  for (const int64_t key : kKeys) {
    for (const bool in_v : {false, true}) {
      Problem p = square("NaN in f8e4m3");
      (in_v ? p.v_dtype : p.k_dtype) = ATTN_DTYPE_F8E4M3;
      p.causal = true;
      p.window_left = 20;
      Data data = make_data(p);
      (in_v ? data.v : data.k).at(0, 0, key, key % kDim) = NAN;
      check_everywhere(p, data);
      p.poison_masked = true;
      p.alignment = ATTN_ALIGN_TOP_LEFT;
      p.seqlens_q = {50};
      check_everywhere(p);
    }
  }
}

// NaN in a masked key and value changes no bit of the rows that do not see it, though it may take
// another path through the library.
void masked_numbers_change_no_bit(attn_dtype dtype) {
  Problem p = square("bits beside a NaN");
  p.causal = true;
  p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = dtype;
  const Data data = make_data(p);
  for (const Target& target : targets()) {
    const Outcome base = execute(target.context, target.backend.c_str(), p, data);
    for (const int64_t key : kKeys) {
      Data bad = data;
      for (int64_t x = 0; x < kDim; x += 5) {
        bad.k.at(0, 0, key, x) = NAN;
        bad.v.at(0, 0, key, x) = kBad[x % 3];
      }
      const Outcome other = execute(target.context, target.backend.c_str(), p, bad);
      int changed = 0;
      for (int64_t h = 0; h < p.heads_q; h++)
        for (int64_t i = 0; i < key; i++) {
          const size_t row = static_cast<size_t>(h * kLength + i);
          changed += base.lse[row] != other.lse[row];
          for (size_t x = 0; x < kDim; x++) {
            changed += base.o[row * kDim + x] != other.o[row * kDim + x];
          }
        }
      CHECK(changed == 0, "%s: %d numbers before key %lld", target.label().c_str(), changed,
            static_cast<long long>(key));
    }
  }
}

void masked_numbers_change_no_bit() {
  masked_numbers_change_no_bit(ATTN_DTYPE_F32);
  masked_numbers_change_no_bit(ATTN_DTYPE_BF16);
}

void ran_on_everything() {
  for (const Target& target : targets()) {
    const int least = target.backend == "standard" ? 120 : target.backend == "flash" ? 100 : 0;
    CHECK(counted(target.label()) >= least / kTurns, "%s ran %d problems only",
          target.label().c_str(), counted(target.label()));
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(one_value),
      TEST(one_key),
      TEST(one_query),
      TEST(in_a_chunk),
      TEST(masked_by_structure),
      TEST(masked_one_by_one),
      TEST(bias),
      TEST(attended_infinity),
      TEST(paged),
      TEST(f8e4m3),
      TEST(masked_numbers_change_no_bit),
      TEST(ran_on_everything),
  };
  return run_tests("nonfinite", argc, argv, tests);
}

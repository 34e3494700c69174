// test_reference.cpp: the yardstick itself: storage conversions and the float64 reference, against
// numbers worked out by hand.
#include <cstdint>
#include <cstring>

#include "reference.h"
#include "storage.h"

namespace attn_test {
namespace {

struct Vector {
  double value;
  uint16_t bits;
};

void check_vectors(attn_dtype dtype, const Vector* vectors, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint16_t bits;
    store(dtype, &bits, vectors[i].value);
    CHECK(bits == vectors[i].bits, "%s of %.10g is %#x, expected %#x", attn_dtype_name(dtype),
          vectors[i].value, bits, vectors[i].bits);
  }
}

void f16_vectors() {
  const Vector vectors[] = {{0.0, 0x0000},
                            {-0.0, 0x8000},
                            {1.0, 0x3c00},
                            {-2.0, 0xc000},
                            {1.0 / 3, 0x3555},
                            {65504, 0x7bff},
                            {65519, 0x7bff},
                            {65520, 0x7c00},  // halfway to 65536, which is infinity
                            {1e9, 0x7c00},
                            {-INFINITY, 0xfc00},
                            {NAN, 0x7e00},
                            {0x1p-14, 0x0400},
                            {0x1p-24, 0x0001},
                            {0x1p-25, 0x0000},    // a tie, to even
                            {0x1.8p-24, 0x0002},  // a tie, to even
                            {0x1.000001p-25, 0x0001},
                            {1 + 0x1p-11, 0x3c00},      // a tie, to even
                            {1 + 3 * 0x1p-11, 0x3c02},  // a tie, to even
                            {0x1.ffep-15, 0x0400}};     // rounds up into the normal numbers
  check_vectors(ATTN_DTYPE_F16, vectors, sizeof vectors / sizeof *vectors);
}

void bf16_vectors() {
  const Vector vectors[] = {{0.0, 0x0000},
                            {1.0, 0x3f80},
                            {-1.5, 0xbfc0},
                            {3.14159265, 0x4049},
                            {1 + 0x1p-8, 0x3f80},
                            {1 + 3 * 0x1p-8, 0x3f82},
                            {3.3895313892515355e38, 0x7f7f},
                            {3.4e38, 0x7f80},
                            {INFINITY, 0x7f80},
                            {NAN, 0x7fc0},
                            {0x1p-133, 0x0001},
                            {0x1p-126, 0x0080}};
  check_vectors(ATTN_DTYPE_BF16, vectors, sizeof vectors / sizeof *vectors);
}

void f8e4m3_vectors() {
  const struct {
    double value;
    uint8_t bits;
  } vectors[] = {{0.0, 0x00},      {-0.0, 0x80},   {1.0, 0x38},    {-1.5, 0xbc},
                 {448, 0x7e},      {-448, 0xfe},   {1000, 0x7e},   {-INFINITY, 0xfe},
                 {NAN, 0x7f},      {0x1p-6, 0x08}, {0x1p-9, 0x01}, {0x1p-10, 0x00},
                 {0x1.8p-9, 0x02}, {1.0625, 0x38}, {1.1875, 0x3a}, {-0x1.cp-7, 0x87}};
  for (const auto& [value, bits] : vectors) {
    uint8_t stored;
    store(ATTN_DTYPE_F8E4M3, &stored, value);
    CHECK(stored == bits, "f8e4m3 of %.10g is %#x, expected %#x", value, stored, bits);
  }
  for (uint32_t pattern = 0; pattern <= 0xff; pattern++) {
    const uint8_t bits = static_cast<uint8_t>(pattern);
    const double value = load(ATTN_DTYPE_F8E4M3, &bits);
    CHECK(std::isnan(value) == ((pattern & 0x7f) == 0x7f));
    uint8_t back;
    store(ATTN_DTYPE_F8E4M3, &back, value);
    CHECK(std::isnan(value) || back == bits, "%#x came back as %#x", bits, back);
  }
}

void i8_rounding() {
  CHECK(rounded(ATTN_DTYPE_I8, 2.5) == 2 && rounded(ATTN_DTYPE_I8, -3.5) == -4);
  CHECK(rounded(ATTN_DTYPE_I8, 300) == 127 && rounded(ATTN_DTYPE_I8, -300) == -127);
}

// Every 16-bit pattern comes back, and lies where f32's own arithmetic has it.
void every_pattern() {
  for (const attn_dtype dtype : {ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    for (uint32_t pattern = 0; pattern <= 0xffff; pattern++) {
      const uint16_t bits = static_cast<uint16_t>(pattern);
      const double value = load(dtype, &bits);
      uint16_t back;
      store(dtype, &back, value);
      if (std::isnan(value)) {
        CHECK(std::isnan(load(dtype, &back)));
      } else {
        CHECK(back == bits, "%#x came back as %#x", bits, back);
      }
      if (dtype == ATTN_DTYPE_BF16) {
        const uint32_t wide = pattern << 16;
        float upper_half;
        std::memcpy(&upper_half, &wide, sizeof wide);
        CHECK(std::isnan(value) ? std::isnan(upper_half)
                                : value == static_cast<double>(upper_half));
      }
    }
  }
}

void units_in_the_last_place() {
  CHECK(ulp(ATTN_DTYPE_F16, 1.0) == 0x1p-10);
  CHECK(ulp(ATTN_DTYPE_F16, 1.999) == 0x1p-10);
  CHECK(ulp(ATTN_DTYPE_F16, -2.0) == 0x1p-9);
  CHECK(ulp(ATTN_DTYPE_F16, 0.0) == 0x1p-24);
  CHECK(ulp(ATTN_DTYPE_BF16, 1.0) == 0x1p-7);
}

void comparator() {
  CHECK(!close(NAN, 0, 1e9));
  CHECK(!close(0, NAN, 1e9));
  CHECK(close(NAN, NAN, 0));
  CHECK(!close(INFINITY, 1, INFINITY) || !close(1, INFINITY, 1));
  CHECK(close(-INFINITY, -INFINITY, 0));
  CHECK(!close(INFINITY, -INFINITY, 1));
  CHECK(!close(-INFINITY, NAN, 1));
  CHECK(close(1.0, 1.1, 0.2));
  CHECK(!close(1.0, 1.3, 0.2));
}

// One head, d = 1, so that scores are products: Q = [1, 2], K = [0, ln 2, ln 4], V = [1, 2, 4].
Problem small_problem() {
  Problem p;
  p.seqlens_q = {2};
  p.seqlens_k = {3};
  p.head_dim = p.head_dim_v = 1;
  return p;
}

Data small_data(const Problem& p) {
  Data data = make_data(p);
  data.q.x = {1, 2};
  data.k.x = {0, std::log(2), std::log(4)};
  data.v.x = {1, 2, 4};
  return data;
}

bool is(double actual, double expected) { return close(actual, expected, 1e-14); }

void worked_by_hand() {
  Problem p = small_problem();
  Data data = small_data(p);
  // Weights 1, 2, 4 and, for q = 2, 1, 4, 16.
  Expected e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), (1 + 4 + 16) / 7.0));
  CHECK(is(e.o.at(0, 0, 1, 0), (1 + 8 + 64) / 21.0));
  CHECK(is(e.lse.at(0, 0, 0, 0), std::log(7)));
  CHECK(is(e.lse.at(0, 0, 1, 0), std::log(21)));
  CHECK(is(e.tolerance.at(0, 0, 0, 0), 4e-5));

  // Causal, bottom right: query 0 stands at 1 and sees two keys; top left: it sees one.
  p.causal = true;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), (1 + 4) / 3.0));
  CHECK(is(e.o.at(0, 0, 1, 0), (1 + 8 + 64) / 21.0));
  p.alignment = ATTN_ALIGN_TOP_LEFT;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), 1));
  CHECK(is(e.o.at(0, 0, 1, 0), (1 + 8) / 5.0));
  // A start overrides the alignment; at -1 the first query sees nothing.
  p.q_start = {-1};
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), 0));
  CHECK(is(e.lse.at(0, 0, 0, 0), -INFINITY));
  CHECK(is(e.o.at(0, 0, 1, 0), 1));
  p.k_start = {-2};  // keys at -2, -1, 0
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), (1 + 4) / 3.0));

  // Windows around the bottom right diagonal: query 0 at 1, query 1 at 2.
  p = small_problem();
  p.window_left = 0;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), (4 + 16) / 6.0));
  CHECK(is(e.o.at(0, 0, 1, 0), 4));
  p.window_left = -1;
  p.window_right = 0;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), (1 + 4) / 3.0));
}

void worked_by_hand_additions() {
  Problem p = small_problem();
  Data data = small_data(p);
  // A sink of ln 9 adds 9 to the denominator.
  p.sink = true;
  data.sink = {std::log(9)};
  Expected e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), 21 / 16.0));
  CHECK(is(e.lse.at(0, 0, 0, 0), std::log(16)));
  p.sink = false;

  // ALiBi: queries at 1 and 2; slope ln 2 halves the weight with each step of distance.
  p.alibi = 1;
  data.alibi = {std::log(2)};
  e = reference(p, data);
  CHECK(is(e.lse.at(0, 0, 0, 0), std::log(0.5 + 2 + 2)));
  CHECK(is(e.lse.at(0, 0, 1, 0), std::log(0.25 + 2 + 16)));
  p.alibi = 0;

  // A bias that covers key 1 alone, for query 0 ln 3, for query 1 -inf.
  p.bias.present = p.bias.ranged = true;
  p.bias.range_n = 1;
  p.bias.k0 = {1};
  data.bias.resize(1, 1, 2, 1);
  data.bias.x = {std::log(3), -INFINITY};
  e = reference(p, data);
  CHECK(is(e.lse.at(0, 0, 0, 0), std::log(1 + 6 + 4)));
  CHECK(is(e.lse.at(0, 0, 1, 0), std::log(1 + 16)));
  CHECK(is(e.o.at(0, 0, 1, 0), (1 + 64) / 17.0));
  p.bias = {};

  // softcap and scale: scores 1 * tanh(2 * s / 1).
  p.softcap = 1;
  p.scale = 2;
  e = reference(p, data);
  CHECK(is(e.lse.at(0, 0, 0, 0), std::log(1 + std::exp(std::tanh(2 * std::log(2))) +
                                          std::exp(std::tanh(2 * std::log(4))))));
  p.softcap = 0;
  p.scale = 0;

  // K and V as elements 0, 1, 2 and 1, 2, 4 with scales of ln 2 and 3, the last key's twice that.
  p.k_dtype = p.v_dtype = ATTN_DTYPE_I8;
  data.k.x = {0, 1, 1};
  data.k_scale.resize(1, 1, 3, 1, std::log(2));
  data.k_scale.x[2] *= 2;
  data.v.x = {1, 2, 2};
  data.v_scale.resize(1, 1, 3, 1, 3);
  data.v_scale.x[2] *= 2;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), 3 * (1 + 4 + 16) / 7.0));
  CHECK(is(e.lse.at(0, 0, 1, 0), std::log(21)));
  p = small_problem();
  data = small_data(p);

  // Two blocks of a row: 3 * 1 and 5 * 1.
  p.head_dim = p.head_dim_v = 2;
  p.seqlens_q = p.seqlens_k = {1};
  p.v_dtype = ATTN_DTYPE_I8;
  p.v_scaling.block = 1;
  Data two = make_data(p);
  two.v.x = {1, 1};
  two.v_scale.x = {3, 5};
  e = reference(p, two);
  CHECK(is(e.o.at(0, 0, 0, 0), 3) && is(e.o.at(0, 0, 0, 1), 5));
  p = small_problem();

  // A NaN that is masked is not there; one that is attended is everywhere in its row.
  data.k.x[2] = NAN;
  p.mask.present = true;
  data.mask.resize(1, 1, 2, 3, 1);
  data.mask.at(0, 0, 0, 2) = 0;
  e = reference(p, data);
  CHECK(is(e.o.at(0, 0, 0, 0), 5 / 3.0));
  CHECK(std::isnan(e.o.at(0, 0, 1, 0)));
  CHECK(std::isnan(e.lse.at(0, 0, 1, 0)));
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(f16_vectors), TEST(bf16_vectors),   TEST(f8e4m3_vectors),
      TEST(i8_rounding), TEST(every_pattern),  TEST(units_in_the_last_place),
      TEST(comparator),  TEST(worked_by_hand), TEST(worked_by_hand_additions),
  };
  return run_tests("reference", argc, argv, tests);
}

// Warp collectives: each is computed once, by the last lane to arrive.
#include "warp.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "emulator.h"

namespace attn::emulator {

uint32_t shuffle(uint32_t value, int source_lane) {
  struct Operand {
    uint32_t value;
    int source;
    uint32_t result;
  } operand{value, source_lane, 0};
  collective("shuffle", operand, [](Operand* const* lanes) {
    for (int i = 0; i < kWarpSize; ++i) {
      lanes[i]->result = lanes[lanes[i]->source & (kWarpSize - 1)]->value;
    }
  });
  return operand.result;
}

uint32_t ballot(bool predicate) {
  struct Operand {
    bool predicate;
    uint32_t result;
  } operand{predicate, 0};
  collective("ballot", operand, [](Operand* const* lanes) {
    uint32_t bits = 0;
    for (int i = 0; i < kWarpSize; ++i) bits |= static_cast<uint32_t>(lanes[i]->predicate) << i;
    for (int i = 0; i < kWarpSize; ++i) lanes[i]->result = bits;
  });
  return operand.result;
}

void warp_sync() {
  int nothing = 0;
  collective("warp barrier", nothing, [](int* const*) {});
}

void ldmatrix_x4(uint32_t registers[4], uint32_t address, bool transposed) {
  struct Operand {
    uint32_t* registers;
    const char* row;
    bool transposed;
  } operand{registers, shared_at(address, 16, 16), transposed};
  collective("ldmatrix", operand, [](Operand* const* lanes) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t m[8][8];
      for (int row = 0; row < 8; ++row) std::memcpy(m[row], lanes[matrix * 8 + row]->row, 16);
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const int group = lane / 4;
        const int pair = lane % 4 * 2;
        const bool t = lanes[lane]->transposed;
        const uint32_t low = t ? m[pair][group] : m[group][pair];
        const uint32_t high = t ? m[pair + 1][group] : m[group][pair + 1];
        lanes[lane]->registers[matrix] = low | high << 16;
      }
    }
  });
}

namespace {

float round_toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  if (std::isinf(nearest) || std::fabs(static_cast<double>(nearest)) <= std::fabs(x))
    return nearest;
  return std::nextafterf(nearest, 0.0f);
}

struct MmaOperand {
  MmaType type;
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

float element(MmaType type, uint32_t reg, int half) {
  if (type == MmaType::kTF32) return std::bit_cast<float>(reg & 0xffffe000u);
  const auto bits = static_cast<uint16_t>(reg >> (16 * half));
  return type == MmaType::kF16 ? from_half(bits) : from_bfloat(bits);
}

void mma_warp(MmaOperand* const* lanes) {
  const MmaType type = lanes[0]->type;
  const int k = type == MmaType::kTF32 ? 8 : 16;
  const int halves = type == MmaType::kTF32 ? 1 : 2;  // elements in a register
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int group = lane / 4;
    const int first = lane % 4 * halves;
    for (int r = 0; r < 4; ++r) {  // a0, a1: rows group, group + 8; a2, a3: k / 2 columns further
      for (int h = 0; h < halves; ++h) {
        a[group + r % 2 * 8][first + h + r / 2 * k / 2] = element(type, lanes[lane]->a[r], h);
      }
    }
    for (int r = 0; r < 2; ++r) {
      for (int h = 0; h < halves; ++h) {
        b[first + h + r * k / 2][group] = element(type, lanes[lane]->b[r], h);
      }
    }
  }
  for (int row = 0; row < 16; ++row) {
    double sum[8];
    for (int n = 0; n < 8; ++n) {  // d0, d1: row group; d2, d3: row group + 8
      sum[n] = lanes[row % 8 * 4 + n / 2]->d[row / 8 * 2 + n % 2];
    }
    for (int x = 0; x < k; ++x) {
      const double left = a[row][x];
      for (int n = 0; n < 8; ++n) sum[n] += left * static_cast<double>(b[x][n]);
    }
    for (int n = 0; n < 8; ++n) {
      lanes[row % 8 * 4 + n / 2]->d[row / 8 * 2 + n % 2] = round_toward_zero(sum[n]);
    }
  }
}

}  // namespace

void mma(MmaType type, float d[4], const uint32_t a[4], const uint32_t b[2]) {
  MmaOperand operand{type, d, a, b};
  collective("mma", operand, mma_warp);
}

namespace {

float decode_half(uint32_t bits) {
  const uint32_t exponent = bits >> 10 & 31;
  const uint32_t fraction = bits & 1023;
  float value;
  if (exponent == 31) {
    value = fraction ? std::nanf("") : INFINITY;
  } else if (exponent == 0) {
    value = static_cast<float>(fraction) * 0x1p-24f;
  } else {
    value = std::bit_cast<float>((exponent + 112) << 23 | fraction << 13);
  }
  return bits & 0x8000 ? -value : value;
}

struct HalfTable {
  float value[65536];
  HalfTable() {
    for (uint32_t bits = 0; bits < 65536; ++bits) value[bits] = decode_half(bits);
  }
};

}  // namespace

float from_half(uint16_t bits) {
  static const HalfTable table;
  return table.value[bits];
}

float from_bfloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t to_half(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude == 0.0f) return sign;
  int exponent;
  std::frexp(magnitude, &exponent);
  const int unit = std::max(exponent - 11, -24);  // of the last place
  const float quantum = std::ldexp(1.0f, unit);
  const auto steps = static_cast<uint32_t>(std::nearbyint(magnitude / quantum));
  // Subnormals count in steps of 2^-24; a normal number's leading step is its exponent's.
  if (unit == -24) return static_cast<uint16_t>(sign | steps);
  return static_cast<uint16_t>(sign + ((static_cast<uint32_t>(unit + 24) << 10) + steps));
}

uint16_t to_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint32_t to_tf32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (!std::isfinite(value)) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace attn::emulator

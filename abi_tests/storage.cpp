// storage.cpp: conversions by the definition of each format: sign, exponent, fraction.
#include "storage.h"

#include <algorithm>
#include <cstring>

namespace attn_test {
namespace {

struct Format {
  int fraction_bits;
  int exponent_bits;
  bool finite_only = false;  // no infinities, and NaN is all ones
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int min_exponent() const { return 1 - bias(); }
};

Format format_of(attn_dtype dtype) {
  if (dtype == ATTN_DTYPE_F16) return {10, 5};
  if (dtype == ATTN_DTYPE_BF16) return {7, 8};
  if (dtype == ATTN_DTYPE_F8E4M3) return {3, 4, true};
  return {23, 8};
}

int exponent_of(const Format& format, double magnitude) {
  return magnitude == 0 ? format.min_exponent()
                        : std::max(std::ilogb(magnitude), format.min_exponent());
}

uint32_t encode(const Format& format, double value) {
  const uint32_t sign =
      std::signbit(value) ? 1u << (format.fraction_bits + format.exponent_bits) : 0;
  const uint32_t infinity = ((1u << format.exponent_bits) - 1) << format.fraction_bits;
  const uint32_t all_ones = infinity | ((1u << format.fraction_bits) - 1);
  const uint32_t nan =
      format.finite_only ? all_ones : infinity | (1u << (format.fraction_bits - 1));
  const uint32_t too_large = format.finite_only ? all_ones - 1 : infinity;
  if (std::isnan(value)) return sign | nan;
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return sign | too_large;
  const int exponent = exponent_of(format, magnitude);
  // In units of the last place; nearbyint rounds halves to even.
  const double units = std::nearbyint(std::ldexp(magnitude, format.fraction_bits - exponent));
  const uint32_t one = 1u << format.fraction_bits;
  const uint32_t whole = static_cast<uint32_t>(units);
  if (whole < one) return sign | whole;  // subnormal or zero
  // A carry out of the fraction lands in the exponent, and past the largest number in infinity.
  const uint32_t bits =
      (static_cast<uint32_t>(exponent + format.bias()) << format.fraction_bits) + (whole - one);
  return sign | std::min(bits, too_large);
}

double decode(const Format& format, uint32_t bits) {
  const bool negative = (bits >> (format.fraction_bits + format.exponent_bits)) & 1;
  const int field =
      static_cast<int>(bits >> format.fraction_bits) & ((1 << format.exponent_bits) - 1);
  const uint32_t fraction = bits & ((1u << format.fraction_bits) - 1);
  double magnitude;
  const bool largest_field = field == (1 << format.exponent_bits) - 1;
  if (largest_field && !format.finite_only) {
    magnitude = fraction ? NAN : INFINITY;
  } else if (largest_field && fraction == (1u << format.fraction_bits) - 1) {
    magnitude = NAN;
  } else if (field == 0) {
    magnitude = std::ldexp(fraction, format.min_exponent() - format.fraction_bits);
  } else {
    magnitude = std::ldexp(fraction + (1u << format.fraction_bits),
                           field - format.bias() - format.fraction_bits);
  }
  return negative ? -magnitude : magnitude;
}

template <typename T>
double load_as(const void* element) {
  T value;
  std::memcpy(&value, element, sizeof value);
  return static_cast<double>(value);
}

template <typename T>
void store_as(void* element, double value) {
  const T converted = static_cast<T>(value);
  std::memcpy(element, &converted, sizeof converted);
}

}  // namespace

size_t element_size(attn_dtype dtype) {
  switch (dtype) {
    case ATTN_DTYPE_I64:
      return 8;
    case ATTN_DTYPE_F32:
    case ATTN_DTYPE_I32:
      return 4;
    case ATTN_DTYPE_F16:
    case ATTN_DTYPE_BF16:
      return 2;
    default:
      return 1;
  }
}

double load(attn_dtype dtype, const void* element) {
  switch (dtype) {
    case ATTN_DTYPE_I64:
      return load_as<int64_t>(element);
    case ATTN_DTYPE_I32:
      return load_as<int32_t>(element);
    case ATTN_DTYPE_I8:
      return load_as<int8_t>(element);
    case ATTN_DTYPE_U8:
      return load_as<uint8_t>(element);
    case ATTN_DTYPE_F8E4M3:
      return decode(format_of(dtype), *static_cast<const uint8_t*>(element));
    case ATTN_DTYPE_F32:
      return load_as<float>(element);
    default: {
      uint16_t bits;
      std::memcpy(&bits, element, sizeof bits);
      return decode(format_of(dtype), bits);
    }
  }
}

void store(attn_dtype dtype, void* element, double value) {
  switch (dtype) {
    case ATTN_DTYPE_I64:
      return store_as<int64_t>(element, value);
    case ATTN_DTYPE_I32:
      return store_as<int32_t>(element, value);
    case ATTN_DTYPE_I8:
      return store_as<int8_t>(element, rounded(dtype, value));
    case ATTN_DTYPE_U8:
      return store_as<uint8_t>(element, value);
    case ATTN_DTYPE_F8E4M3:
      *static_cast<uint8_t*>(element) = static_cast<uint8_t>(encode(format_of(dtype), value));
      return;
    case ATTN_DTYPE_F32:
      return store_as<float>(element, value);
    default: {
      const uint16_t bits = static_cast<uint16_t>(encode(format_of(dtype), value));
      std::memcpy(element, &bits, sizeof bits);
    }
  }
}

bool is_quantised(attn_dtype dtype) { return dtype == ATTN_DTYPE_I8 || dtype == ATTN_DTYPE_F8E4M3; }

double rounded(attn_dtype dtype, double value) {
  if (dtype == ATTN_DTYPE_I8) return std::clamp(std::nearbyint(value), -127.0, 127.0);
  if (dtype == ATTN_DTYPE_F32) return static_cast<float>(value);
  return decode(format_of(dtype), encode(format_of(dtype), value));
}

double ulp(attn_dtype dtype, double value) {
  const Format format = format_of(dtype);
  return std::ldexp(1.0, exponent_of(format, std::fabs(value)) - format.fraction_bits);
}

}  // namespace attn_test

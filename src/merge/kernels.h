// What merging asks of each instruction set: three loops, on plain data.
#ifndef ATTN_MERGE_KERNELS_H_
#define ATTN_MERGE_KERNELS_H_

#include <stdint.h>

namespace attn::merging {

constexpr int64_t kRows = 16;  // that are weighed side by side: whole vectors of all sets

// Row by row, sum [rows][n] = start + weights[0] * parts[0] + weights[1] * parts[1] + ..., in this
// order. sum may be start or one of the parts. Steps are floats from one row to the next.
struct Sum {
  const float* const* parts;  // [count] of [rows][n]
  const int64_t* part_steps;  // [count]
  const float* weights;       // [count][kRows]; where one is negative the row is left out
  int64_t count;
  const float* start;  // NULL: 0
  int64_t start_step;
  float* sum;
  int64_t sum_step;
  int64_t rows;  // at most kRows
  int64_t n;
};

struct Kernels {
  // max [kRows] = the greatest of itself and of all lse [count] of [kRows]; skips NaN.
  void (*find_max)(const float* const* lse, int64_t count, float* max);
  // weights [count][kRows] = exp(lse - max): 0 for -inf, NaN for NaN, exactly 1 where lse is max.
  void (*weigh)(const float* const* lse, int64_t count, const float* max, float* weights);
  void (*add_parts)(const Sum* sum);
};

// Only those of the build's architecture exist.
extern const Kernels kScalar;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kNeon;

}  // namespace attn::merging

#endif  // ATTN_MERGE_KERNELS_H_

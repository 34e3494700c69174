// What the standard backend asks of each instruction set: three loops, on plain data.
#ifndef ATTN_STANDARD_KERNELS_H_
#define ATTN_STANDARD_KERNELS_H_

#include <stdint.h>

namespace attn::standard {

// C [rows, columns] = A [rows, depth] B [depth, columns], in f32. The rows of a matrix lie
// lda, ldb, ldc floats apart. B and C are aligned to 64 bytes, ldb and ldc are multiples of 16:
// whole vectors are read and written, past the last column too.
struct Product {
  const float* a;
  const float* b;
  float* c;
  int64_t rows;
  int64_t columns;
  int64_t depth;
  int64_t lda;
  int64_t ldb;
  int64_t ldc;
};

// One row of scores becomes exp(score - max), max being the greatest of them and of `floor`, or 0
// if all are -inf; NaN stays NaN.
struct Exponentials {
  float* row;   // aligned to 64 bytes; -inf from n up to a multiple of 16
  int64_t n;    // keys
  float floor;  // a logit beside the row's: the sink; -inf if there is none
  float max;    // result
  double sum;   // result: of the row's exponentials, the floor's left out
};

struct Kernels {
  void (*multiply)(const Product* product);
  // row [n] = softcap * tanh(row / softcap); the row is aligned, and in whole vectors, as above.
  void (*apply_softcap)(float* row, int64_t n, float softcap);
  void (*exponentiate)(Exponentials* exponentials);
};

// Only those of the build's architecture exist.
extern const Kernels kScalar;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kNeon;

}  // namespace attn::standard

#endif  // ATTN_STANDARD_KERNELS_H_

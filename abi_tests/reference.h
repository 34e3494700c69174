// reference.h: attention in float64, from the words of attn.h and nothing else.
#ifndef ATTN_ABI_TESTS_REFERENCE_H_
#define ATTN_ABI_TESTS_REFERENCE_H_

#include "problem.h"

namespace attn_test {

// What is right, and how far a result may be from it. [b, heads_q, longest_q, ...]; rows past a
// sequence's length are 0 and -inf, as the contract has them for padded Q.
struct Expected {
  Values o;
  Values lse;        // last dimension 1
  Values tolerance;  // of a row of o; last dimension 1
};
Expected reference(const Problem& problem, const Data& data);

// How far an LSE may be from `expected`. The contract states no bound for it; the f32 sum that
// bounds O bounds it too.
double lse_tolerance(double expected);

// The same number, or both NaN, or within the tolerance. NaN matches nothing but NaN.
bool close(double actual, double expected, double tolerance);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_REFERENCE_H_

// compare.h: runs a problem on every backend and instruction set, and compares with the reference.
#ifndef ATTN_ABI_TESTS_COMPARE_H_
#define ATTN_ABI_TESTS_COMPARE_H_

#include "placement.h"
#include "reference.h"

namespace attn_test {

// The named backend has to serve this problem: standard everything here, flash head sizes up to
// 1024 and no tile_k and kv_chunk but multiples of 64.
bool must_serve(const std::string& backend, const Problem& problem);

// The message names one of the things in the problem that only standard has to serve.
bool refusal_names_a_reason(const std::string& message, const Problem& problem);

// Compares a result with what is right. Returns "" or the first difference in words.
std::string difference(const Problem& problem, const Placement& placement,
                       const Expected& expected);

// The targets that the next problem goes to: all of them, but see kTurns.
std::vector<Target> targets_in_turn();

// Runs on those targets, checks results, damage and refusals, and counts what ran and what was
// refused as "LABEL" and "LABEL refused".
void check_everywhere(const Problem& problem);
void check_everywhere(const Problem& problem, const Data& data);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_COMPARE_H_

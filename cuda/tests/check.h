// Checks of the emulator tests: a program of named cases that exits with 1 if one fails.
#ifndef ATTN_CUDA_TESTS_CHECK_H_
#define ATTN_CUDA_TESTS_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <string>

namespace attn_test {

// Counts what ran and what failed; report() is main's return value.
struct Results {
  int ran = 0;
  int failed = 0;

  // `difference` is "" or says what is wrong.
  void check(const std::string& name, const std::string& difference) {
    ++ran;
    if (difference.empty()) return;
    ++failed;
    std::printf("FAILED %s: %s\n", name.c_str(), difference.c_str());
    std::fflush(stdout);
    // Planted mistakes need to be noticed once.
    if (std::getenv("ATTN_TEST_FIRST_FAILURE")) std::exit(1);
  }

  int report() const {
    std::printf("%d cases, %d failed\n", ran, failed);
    return failed || ran == 0 ? 1 : 0;
  }
};

}  // namespace attn_test

#endif  // ATTN_CUDA_TESTS_CHECK_H_

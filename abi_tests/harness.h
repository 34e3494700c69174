// harness.h: what every test program shares: checks that go on after a failure, the runner on top
// of CMocka, seeded randomness, and counts of what ran.
//
// CMocka leaves a test with longjmp, which skips C++ destructors. So a check here only records its
// failure, and the test fails at its end, when nothing is left on the stack.
#ifndef ATTN_ABI_TESTS_HARNESS_H_
#define ATTN_ABI_TESTS_HARNESS_H_

#include <attn/attn.h>

#include <cmath>
#include <string>

namespace attn_test {

// Records a failure of the running test, and prints it. May be called from any thread.
void fail(const char* file, int line, const char* what);
__attribute__((format(printf, 4, 5))) void fail(const char* file, int line, const char* what,
                                                const char* format, ...);

// Evaluates to whether the condition holds. CHECK(condition) or CHECK(condition, "format", ...).
#define CHECK(condition, ...)   \
  (static_cast<bool>(condition) \
       ? true                   \
       : (attn_test::fail(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__), false))

// The call returns ATTN_OK.
#define CHECK_OK(call)                                                                \
  ([&] {                                                                              \
    const attn_status check_status = (call);                                          \
    return check_status == ATTN_OK                                                    \
               ? true                                                                 \
               : (attn_test::fail(__FILE__, __LINE__, #call, "%s: %s",                \
                                  attn_status_name(check_status), attn_last_error()), \
                  false);                                                             \
  }())

// Failures of the running test so far.
int failures();

// Leaves the running test as skipped. Only from a test's own body, with no C++ object alive.
[[noreturn]] void skip_test(const char* reason);

struct Test {
  const char* name;
  void (*body)();
};
#define TEST(function) \
  attn_test::Test { #function, function }

// Runs the tests as a CMocka group: main's body. argv[1], if given, is a filter with * and ?.
// Returns the exit code: 0 all passed, 77 if nothing failed but some were skipped, 1 otherwise.
int run_tests(const char* group, int argc, char** argv, const Test* tests, int count);

template <size_t count>
int run_tests(const char* group, int argc, char** argv, const Test (&tests)[count]) {
  return run_tests(group, argc, argv, tests, static_cast<int>(count));
}

// ATTN_TEST_FULL is set: the large grids.
bool full_grid();

// Where all takes ten times as long, a problem goes to every kTurns-th target, the next one to
// others.
constexpr int kTurns =
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    3;
#elif defined(ATTN_TEST_EMULATED)
    2;
#else
    1;
#endif

// Built with -fsanitize=thread.
constexpr bool kThreadSanitizer =
#if defined(__SANITIZE_THREAD__)
    true;
#else
    false;
#endif
// Run by qemu-user, which cannot start threads after a fork.
constexpr bool kEmulated =
#if defined(ATTN_TEST_EMULATED)
    true;
#else
    false;
#endif

// Counts what ran, by name; printed at the end of the program.
void count(const std::string& name);
int counted(const std::string& name);

// splitmix64: small, seeded, the same everywhere.
struct Random {
  uint64_t state;

  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, n).
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  // In [low, high].
  int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
  bool chance(double p) { return uniform() < p; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
};

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_HARNESS_H_

// cmocka.h (cross builds): the part of CMocka's interface that harness.cpp uses.
//
// Debian has CMocka for other architectures only as foreign packages, which a test run must not
// add to the system. Natively the real CMocka is used.
#ifndef ATTN_ABI_TESTS_CROSS_CMOCKA_H_
#define ATTN_ABI_TESTS_CROSS_CMOCKA_H_

#include <fnmatch.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>

typedef void (*CMUnitTestFunction)(void** state);
typedef int (*CMFixtureFunction)(void** state);

struct CMUnitTest {
  const char* name;
  CMUnitTestFunction test_func;
  CMFixtureFunction setup_func;
  CMFixtureFunction teardown_func;
  void* initial_state;
};

enum { kCrossPassed, kCrossFailed, kCrossSkipped };
static jmp_buf cross_test_end;
static const char* cross_test_filter = "*";
static size_t cross_results[3];  // how many tests of each result

static inline void cmocka_set_test_filter(const char* pattern) { cross_test_filter = pattern; }

[[noreturn]] static inline void _fail(const char*, int) { longjmp(cross_test_end, kCrossFailed); }
[[noreturn]] static inline void skip() { longjmp(cross_test_end, kCrossSkipped); }

// In a function of its own: setjmp leaves a caller's changed locals undefined.
static inline int cross_run(const CMUnitTest* test) {
  const int result = setjmp(cross_test_end);
  void* state = test->initial_state;
  if (result == kCrossPassed) test->test_func(&state);
  return result;
}

// The number of tests that failed.
static inline int _cmocka_run_group_tests(const char*, const CMUnitTest* tests, size_t count,
                                          CMFixtureFunction, CMFixtureFunction) {
  static const char* const kResults[] = {"      OK", " FAILED ", "SKIPPED "};
  for (size_t i = 0; i < count; i++) {
    if (fnmatch(cross_test_filter, tests[i].name, 0) != 0) continue;
    fprintf(stderr, "[ RUN      ] %s\n", tests[i].name);
    const int result = cross_run(&tests[i]);
    cross_results[result]++;
    fprintf(stderr, "[ %s ] %s\n", kResults[result], tests[i].name);
  }
  fprintf(stderr, "[  PASSED  ] %zu test(s).\n", cross_results[kCrossPassed]);
  fprintf(stderr, "[  SKIPPED ] %zu test(s).\n", cross_results[kCrossSkipped]);
  fprintf(stderr, "[  FAILED  ] %zu test(s).\n", cross_results[kCrossFailed]);
  return (int)cross_results[kCrossFailed];
}

#endif  // ATTN_ABI_TESTS_CROSS_CMOCKA_H_

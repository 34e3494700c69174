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

static inline void cmocka_set_test_filter(const char* pattern) { cross_test_filter = pattern; }

[[noreturn]] static inline void _fail(const char*, int) { longjmp(cross_test_end, kCrossFailed); }
[[noreturn]] static inline void skip() { longjmp(cross_test_end, kCrossSkipped); }

// The number of tests that failed.
static inline int _cmocka_run_group_tests(const char* group, const CMUnitTest* tests, size_t count,
                                          CMFixtureFunction, CMFixtureFunction) {
  volatile int failed = 0;
  for (volatile size_t i = 0; i < count; i = i + 1) {
    if (fnmatch(cross_test_filter, tests[i].name, 0) != 0) continue;
    fprintf(stderr, "[ RUN      ] %s: %s\n", group, tests[i].name);
    const int result = setjmp(cross_test_end);
    void* state = tests[i].initial_state;
    if (result == kCrossPassed) tests[i].test_func(&state);
    if (result == kCrossFailed) failed = failed + 1;
    static const char* const kResults[] = {"      OK", " FAILED ", "SKIPPED "};
    fprintf(stderr, "[ %s ] %s\n", kResults[result], tests[i].name);
  }
  return failed;
}

#endif  // ATTN_ABI_TESTS_CROSS_CMOCKA_H_

// harness.cpp: the runner, and the record of failures and counts.
#include "harness.h"

#include <setjmp.h>  // cmocka.h wants these four before it
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {  // which its header forgets
#include <cmocka.h>
}
#undef fail  // macros of CMocka with the names of functions here
#undef run_tests

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <vector>

namespace attn_test {
namespace {

constexpr int kPrintedFailures = 25;  // of one test; the rest is only counted
constexpr int kSkippedExit = 77;      // CTest's SKIP_RETURN_CODE

std::atomic<int> test_failures{0};
std::atomic<int> skipped_tests{0};
std::mutex print_mutex;

std::map<std::string, int>& counts() {
  static std::map<std::string, int> map;
  return map;
}

void report(const char* file, int line, const char* what, const char* detail) {
  const std::lock_guard<std::mutex> lock(print_mutex);
  const int before = test_failures.fetch_add(1);
  if (before < kPrintedFailures) {
    std::fprintf(stderr, "%s:%d: %s%s%s\n", file, line, what, *detail ? ": " : "", detail);
  } else if (before == kPrintedFailures) {
    std::fprintf(stderr, "(further failures of this test are only counted)\n");
  }
}

void run_body(void** state) {
  const Test& test = *static_cast<const Test*>(*state);
  test_failures = 0;
  try {
    test.body();
  } catch (const std::exception& exception) {
    report(test.name, 0, "exception", exception.what());
  }
  if (test_failures == 0) return;
  std::fprintf(stderr, "%d checks failed\n", test_failures.load());
  _fail(test.name, 0);
}

}  // namespace

void fail(const char* file, int line, const char* what) { report(file, line, what, ""); }

void fail(const char* file, int line, const char* what, const char* format, ...) {
  char detail[1024];
  va_list list;
  va_start(list, format);
  std::vsnprintf(detail, sizeof detail, format, list);
  va_end(list);
  report(file, line, what, detail);
}

int failures() { return test_failures; }

void skip_test(const char* reason) {
  std::fprintf(stderr, "SKIPPED: %s\n", reason);
  skipped_tests++;
  skip();
  std::abort();  // skip() does not return, but is not declared so
}

int run_tests(const char* group, int argc, char** argv, const Test* tests, int test_count) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  std::vector<CMUnitTest> list;
  for (int i = 0; i < test_count; i++) {
    list.push_back({tests[i].name, run_body, nullptr, nullptr, const_cast<Test*>(&tests[i])});
  }
  const int failed = _cmocka_run_group_tests(group, list.data(), list.size(), nullptr, nullptr);
  for (const auto& [name, number] : counts()) std::printf("ran %7d  %s\n", number, name.c_str());
  if (failed != 0) return 1;
  return skipped_tests > 0 ? kSkippedExit : 0;
}

bool full_grid() {
  const char* value = std::getenv("ATTN_TEST_FULL");
  return value != nullptr && *value != '\0' && *value != '0';
}

void count(const std::string& name) {
  const std::lock_guard<std::mutex> lock(print_mutex);
  counts()[name]++;
}

int counted(const std::string& name) {
  const std::lock_guard<std::mutex> lock(print_mutex);
  const auto found = counts().find(name);
  return found == counts().end() ? 0 : found->second;
}

}  // namespace attn_test

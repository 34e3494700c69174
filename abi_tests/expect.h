// expect.h: what every failure of the library has to be like.
#ifndef ATTN_ABI_TESTS_EXPECT_H_
#define ATTN_ABI_TESTS_EXPECT_H_

#include <cctype>
#include <cstring>
#include <initializer_list>
#include <string>

#include "harness.h"

namespace attn_test {

// `word` stands in the message as a word of its own ("q" is not in "sequence").
inline bool mentions(const char* message, const std::string& word) {
  const auto inside = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  const char* at = message;
  while ((at = std::strstr(at, word.c_str())) != nullptr) {
    const char after = at[word.size()];
    if ((at == message || !inside(at[-1])) && !(inside(after) && inside(word.back()))) return true;
    at++;
  }
  return false;
}

inline bool mentions_any(const char* message, const std::initializer_list<const char*>& words) {
  for (const char* word : words) {
    if (mentions(message, word)) return true;
  }
  return words.size() == 0;
}

// A failed call: the status is one of `statuses`; the error holds the same status and one line of
// words, which is also the thread's last error.
inline bool check_failure(const char* what, attn_status status, const attn_error& error,
                          const std::initializer_list<attn_status>& statuses) {
  bool allowed = false;
  for (const attn_status one : statuses) allowed = allowed || status == one;
  bool good = CHECK(allowed, "%s: %s (%s)", what, attn_status_name(status),
                    status == ATTN_OK ? "" : error.message);
  if (status == ATTN_OK) return false;
  good &= CHECK(error.status == status, "%s: error.status is %d", what, error.status);
  good &= CHECK(std::memchr(error.message, 0, sizeof error.message) != nullptr, "%s", what);
  good &=
      CHECK(*error.message && !std::strchr(error.message, '\n'), "%s: \"%s\"", what, error.message);
  good &= CHECK(std::strcmp(attn_last_error(), error.message) == 0, "%s: last error is \"%s\"",
                what, attn_last_error());
  return good;
}

// Also that the message mentions one of `fields`, and the value that was there.
inline void check_failure(const char* what, attn_status status, const attn_error& error,
                          const std::initializer_list<attn_status>& statuses,
                          const std::initializer_list<const char*>& fields,
                          const std::string& held = "") {
  if (!check_failure(what, status, error, statuses)) return;
  CHECK(mentions_any(error.message, fields), "%s: the field is not in \"%s\"", what, error.message);
  if (!held.empty()) {
    CHECK(mentions(error.message, held), "%s: %s is not in \"%s\"", what, held.c_str(),
          error.message);
  }
}

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_EXPECT_H_

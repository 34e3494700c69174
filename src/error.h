// Failures: a status and one line of words, written where the caller can read them.
#ifndef ATTN_SRC_ERROR_H_
#define ATTN_SRC_ERROR_H_

#include <attn/attn.h>

#include <cstdarg>

namespace attn {

// Writes `status` and the formatted message to *error and returns `status`.
[[gnu::format(printf, 3, 4)]] attn_status fail(attn_error* error, attn_status status,
                                               const char* format, ...);

attn_status vfail(attn_error* error, attn_status status, const char* format, va_list args);

// Keeps a failure for attn_last_error() of this thread.
void remember_error(const attn_error& error);
const char* last_error();

// The body of an extern "C" function that can fail: gives `body` an error to write to, whether the
// caller passed one or not, and remembers what was written.
template <typename Body>
attn_status enter(attn_error* error, Body body) {
  attn_error local;
  if (!error) error = &local;
  const attn_status status = body(error);
  if (status != ATTN_OK) remember_error(*error);
  return status;
}

}  // namespace attn

// Returns from the calling function if `expression` is a failure.
#define ATTN_TRY(expression)                                                                   \
  do {                                                                                         \
    if (const attn_status try_status = (expression); try_status != ATTN_OK) return try_status; \
  } while (0)

#endif  // ATTN_SRC_ERROR_H_

// Failures: formatting and the thread's last message.
#include "error.h"

#include <cstdio>
#include <cstring>

namespace attn {
namespace {

thread_local char last_message[sizeof(attn_error::message)];

}  // namespace

attn_status fail(attn_error* error, attn_status status, const char* format, ...) {
  va_list args;
  va_start(args, format);
  vfail(error, status, format, args);
  va_end(args);
  return status;
}

attn_status vfail(attn_error* error, attn_status status, const char* format, va_list args) {
  error->status = status;
  std::vsnprintf(error->message, sizeof(error->message), format, args);
  return status;
}

void remember_error(const attn_error& error) {
  std::memcpy(last_message, error.message, sizeof(last_message));
}

const char* last_error() { return last_message; }

}  // namespace attn

// Failures: formatting and the thread's last message.
#include "error.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace attn {
namespace {

thread_local char last_message[sizeof(attn_error::message)];

}  // namespace

attn_status fail(attn_error* error, attn_status status, const char* format, ...) {
  error->status = status;
  va_list args;
  va_start(args, format);
  std::vsnprintf(error->message, sizeof(error->message), format, args);
  va_end(args);
  return status;
}

void remember_error(const attn_error& error) {
  std::memcpy(last_message, error.message, sizeof(last_message));
}

const char* last_error() { return last_message; }

}  // namespace attn

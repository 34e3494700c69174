// Reading structs of other versions.
#include "config.h"

namespace attn {

namespace {

constexpr uint32_t kMaxStructSize = 4096;  // far more than any struct will ever have

}  // namespace

attn_status check_plausible_size(const char* name, uint32_t size, attn_error* error) {
  if (size >= sizeof(uint32_t) && size <= kMaxStructSize) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
              "%s.struct_size is %u; set it with the ATTN_*_INIT macro of the struct", name, size);
}

attn_status check_struct_size(const void* config, const char* name, size_t known_size,
                              attn_error* error) {
  if (!config) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
  uint32_t size;
  std::memcpy(&size, config, sizeof(size));
  ATTN_TRY(check_plausible_size(name, size, error));
  const char* bytes = static_cast<const char*>(config);
  for (size_t i = known_size; i < size; ++i) {
    if (bytes[i] != 0) {
      return fail(error, ATTN_ERROR_VERSION,
                  "%s.struct_size is %u and byte %zu is not 0; library version %s knows %zu bytes: "
                  "the program uses a field of a newer version",
                  name, size, i, attn_version_string(), known_size);
    }
  }
  return ATTN_OK;
}

}  // namespace attn

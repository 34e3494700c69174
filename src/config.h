// Reading and writing the structs that begin with struct_size, across versions.
#ifndef ATTN_SRC_CONFIG_H_
#define ATTN_SRC_CONFIG_H_

#include <attn/attn.h>

#include <algorithm>
#include <cstring>

#include "error.h"

namespace attn {

// Zeroes `size` bytes of a struct of the caller's version and sets its struct_size.
inline void init_config(void* config, size_t size) {
  if (!config || size < sizeof(uint32_t)) return;
  std::memset(config, 0, size);
  const uint32_t struct_size = static_cast<uint32_t>(size);
  std::memcpy(config, &struct_size, sizeof(struct_size));
}

// A struct_size that some version of some struct may have: anything else was not set, and what it
// says lies there must not be touched.
attn_status check_plausible_size(const char* name, uint32_t size, attn_error* error);

// A struct that this version can read: nothing that it does not know is non-zero.
attn_status check_struct_size(const void* config, const char* name, size_t known_size,
                              attn_error* error);

// Copies the caller's struct into this version's: missing fields are 0, unknown ones must be.
template <typename Config>
attn_status read_config(const Config* from, const char* name, Config* to, attn_error* error) {
  ATTN_TRY(check_struct_size(from, name, sizeof(Config), error));
  std::memset(to, 0, sizeof(Config));
  std::memcpy(to, from, std::min<size_t>(from->struct_size, sizeof(Config)));
  to->struct_size = sizeof(Config);
  return ATTN_OK;
}

// Fills the caller's struct as far as its version goes, zeroes what this version does not know.
template <typename Info>
attn_status write_info(const Info& from, const char* name, Info* to, attn_error* error) {
  if (!to) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
  const uint32_t size = to->struct_size;
  ATTN_TRY(check_plausible_size(name, size, error));
  init_config(to, size);
  std::memcpy(reinterpret_cast<char*>(to) + sizeof(uint32_t),
              reinterpret_cast<const char*>(&from) + sizeof(uint32_t),
              std::min<size_t>(size, sizeof(Info)) - sizeof(uint32_t));
  return ATTN_OK;
}

}  // namespace attn

#endif  // ATTN_SRC_CONFIG_H_

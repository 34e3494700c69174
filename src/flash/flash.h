// The flash backend: tiled attention with online softmax, O(workers * tile + packed K and V)
// memory.
#ifndef ATTN_FLASH_FLASH_H_
#define ATTN_FLASH_FLASH_H_

#include <attn/backend.h>

namespace attn {

extern const attn_backend kFlashBackend;

}  // namespace attn

#endif  // ATTN_FLASH_FLASH_H_

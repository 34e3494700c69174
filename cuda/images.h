// images.h: the compiled kernels, which are part of the plugin's file.
#ifndef ATTN_CUDA_IMAGES_H_
#define ATTN_CUDA_IMAGES_H_

#include <cstdint>

namespace attn::cuda {

// Machine code for one compute capability (and, without a letter, later minor versions of it), or
// PTX, which the driver compiles when it loads it.
struct Image {
  const char* module;  // name of the .cu file
  const char* target;  // "sm_90a", "sm_80" or "compute_80"
  const void* data;
};

// The version of the nvcc that made them, 13000 for 13.0.
extern const int32_t kToolkitVersion;

// The image of a module that fits a device of this compute capability (10 * major + minor) best:
// exact code, else code of an earlier minor version, else PTX. NULL if there is none.
const Image* find_image(const char* module, int32_t sm);

}  // namespace attn::cuda

#endif  // ATTN_CUDA_IMAGES_H_

// images.cpp: the compiled kernels as bytes in the plugin. ATTN_CUDA_IMAGES, which CMake writes,
// has one line ATTN_CUDA_IMAGE(number, module, target, path) for each.
#include "images.h"

#include <cstdlib>
#include <cstring>

#define ATTN_CUDA_IMAGE(number, module, target, path)                                          \
  asm(".pushsection .rodata, \"a\"\n.balign 64\nattn_cuda_image_" #number ":\n.incbin \"" path \
      "\"\n.byte 0\n.popsection\n");                                                           \
  extern "C" const unsigned char attn_cuda_image_##number[] __attribute__((visibility("hidden")));
#include ATTN_CUDA_IMAGES
#undef ATTN_CUDA_IMAGE

namespace attn::cuda {
namespace {

constexpr Image kImages[] = {
#define ATTN_CUDA_IMAGE(number, module, target, path) {module, target, attn_cuda_image_##number},
#include ATTN_CUDA_IMAGES
#undef ATTN_CUDA_IMAGE
};

// How well code for `target` fits: the higher the better, 0 not at all.
int32_t fit(const char* target, int32_t sm) {
  const bool is_ptx = std::strncmp(target, "compute_", 8) == 0;
  char* end;
  const int32_t made_for =
      static_cast<int32_t>(std::strtol(std::strchr(target, '_') + 1, &end, 10));
  if (*end == 'a') return made_for == sm ? 3000 : 0;  // of that very architecture
  if (made_for > sm) return 0;
  if (is_ptx) return made_for;
  return made_for / 10 == sm / 10 ? 1000 + made_for : 0;
}

}  // namespace

const int32_t kToolkitVersion = ATTN_CUDA_TOOLKIT_VERSION;

const Image* find_image(const char* module, int32_t sm) {
  const Image* best = nullptr;
  int32_t best_fit = 0;
  for (const Image& image : kImages) {
    if (std::strcmp(image.module, module) != 0) continue;
    if (const int32_t value = fit(image.target, sm); value > best_fit) {
      best = &image;
      best_fit = value;
    }
  }
  return best;
}

}  // namespace attn::cuda

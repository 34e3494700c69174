// wgmma_launch.h: launches the wgmma kernels on the emulator, from the AttendParams of a problem.
#ifndef ATTN_CUDA_TESTS_WGMMA_LAUNCH_H_
#define ATTN_CUDA_TESTS_WGMMA_LAUNCH_H_

#include <string>

#include "../params.h"

namespace attn_test {

// A kernel of the family, small and whole.
struct WgmmaKernel {
  const char* name;
  attn_dtype dtype;
  int head_dim, head_dim_v;
  int consumers, tile_k, shared_bytes;
  bool features;
  void (*entry)(attn::cuda::WgmmaParams);
};
// The first kernel that serves these; features: not a plain one; full: the one with longer tiles.
// NULL if this program has none.
const WgmmaKernel* wgmma_kernel(attn_dtype dtype, int head_dim, int head_dim_v, bool features,
                                bool full);

// "" or where the table of kernels says otherwise than the kernels.
std::string table_difference();

// "" or what is wrong with how a kernel's tiles are numbered.
std::string numbering_difference();

struct WgmmaLaunch {
  int ctas = 3;
  bool dynamic = true;  // tiles from a counter
  bool use_o_map = true;
  uint64_t seed = 1;
  bool exact = true;  // false: no row should need the exact path; one that takes it becomes NaN
};

// Fills in the work and the tensor maps and runs; after a split the combining kernel as well. "" or
// what went wrong.
std::string run_wgmma(const WgmmaKernel& kernel, const attn::cuda::AttendParams& attend,
                      const WgmmaLaunch& launch);

}  // namespace attn_test

#endif  // ATTN_CUDA_TESTS_WGMMA_LAUNCH_H_

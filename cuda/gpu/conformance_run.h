// conformance_run.h: cases of conformance.h, on the emulator and on the GPU.
#ifndef ATTN_CUDA_GPU_CONFORMANCE_RUN_H_
#define ATTN_CUDA_GPU_CONFORMANCE_RUN_H_

#include <string>
#include <vector>

#include "cuda.h"

namespace attn_test {

std::vector<std::string> conformance_cases();

// Runs a case on both sides and compares. Refused where the GPU lacks what the case is about.
Report run_conformance(const std::string& name);

// Every case on the emulator: that it ends well and says the same for every seed.
Report check_twins();

}  // namespace attn_test

#endif  // ATTN_CUDA_GPU_CONFORMANCE_RUN_H_

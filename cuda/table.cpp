// table.cpp: prints the table of kernels as JSON lines, for the tests that read machine code.
#include "kernels/table.h"

#include <cstdio>

namespace attn::cuda {
namespace {

template <size_t n>
void print(const KernelInfo (&rows)[n], const char* family) {
  for (const KernelInfo& k : rows) {
    if (!k.symbol) continue;
    std::printf(
        "{\"symbol\": \"%s\", \"module\": \"%s\", \"family\": \"%s\", \"kind\": %d, \"min_sm\": "
        "%d, "
        "\"threads\": %d, \"shared_bytes\": %d, \"max_registers\": %d, \"instructions\": {",
        k.symbol, k.module, family, static_cast<int>(k.kind), k.min_sm, k.threads, k.shared_bytes,
        k.max_registers);
    const char* comma = "";
    for (const InstructionCount& i : k.instructions) {
      if (!i.opcode) continue;
      std::printf("%s\"%s\": %d", comma, i.opcode, i.count);
      comma = ", ";
    }
    std::printf("}}\n");
  }
}

}  // namespace
}  // namespace attn::cuda

int main() {
  attn::cuda::print(attn::cuda::kMmaKernels, "mma");
  attn::cuda::print(attn::cuda::kWgmmaKernels, "wgmma");
}

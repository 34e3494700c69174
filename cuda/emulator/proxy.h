// The two ways into shared memory: ordinary writes by threads, and the async proxy of TMA and
// wgmma, which does not see the former until the writing thread has fenced them.
#ifndef ATTN_CUDA_EMULATOR_PROXY_H_
#define ATTN_CUDA_EMULATOR_PROXY_H_

#include <vector>

#include "emulator.h"

namespace attn::emulator {

class Proxy : public Engine {
 public:
  explicit Proxy(Cta& cta);
  bool land_one(Random&) override { return false; }

  // fence.proxy.async by the current thread.
  void fence();
  // Called where the async proxy is about to access [address, address + bytes).
  void check(uint32_t address, uint32_t bytes, const char* who) const;

 private:
  static constexpr uint32_t kGranule = 16;
  std::vector<int> writer_;                       // by granule: 1 + thread, 0: nothing unfenced
  std::vector<std::vector<uint32_t>> by_thread_;  // granules
};

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_PROXY_H_

// mbarriers: phases that end when all arrivals have come and all expected bytes have landed.
#ifndef ATTN_CUDA_EMULATOR_MBARRIER_H_
#define ATTN_CUDA_EMULATOR_MBARRIER_H_

#include <map>

#include "emulator.h"

namespace attn::emulator {

class Mbarriers : public Engine {
 public:
  explicit Mbarriers(Cta& cta) : cta_(cta) {}
  bool land_one(Random&) override { return false; }
  std::string describe() const override;

  void init(uint32_t address, uint32_t arrivals);
  void init_fence();  // by the thread that has initialised them
  void arrive(uint32_t address, uint32_t expected_bytes);
  // Waits for the end of the phase of this parity.
  void wait(uint32_t address, uint32_t parity);

  // For TMA: that the barrier may be used, when a copy is issued; that bytes have landed.
  void check_ready(uint32_t address);
  void land_bytes(uint32_t address, uint32_t bytes);

 private:
  struct State {
    int arrivals = 0;  // of a phase
    int missing = 0;   // of this one
    int64_t bytes = 0;
    uint32_t phase = 0;
    int initialiser = -1;  // thread, until it has fenced
    uint64_t acquired = 0;
  };
  State& at(uint32_t address);
  static void advance(State& state);

  Cta& cta_;
  std::map<uint32_t, State> states_;
};

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_MBARRIER_H_

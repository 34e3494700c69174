// wgmma: matrix products of a warpgroup (128 threads), under way from the instruction until a wait.
//
// Accumulators are NaN meanwhile; shared memory is read at any time between commit and wait; the
// registers of A and the accumulators must stay as they are.
#ifndef ATTN_CUDA_EMULATOR_WGMMA_H_
#define ATTN_CUDA_EMULATOR_WGMMA_H_

#include <deque>
#include <map>
#include <vector>

#include "emulator.h"

namespace attn::emulator {

enum class WgmmaType { kF16, kBF16 };

// D [64, n] (+)= A [64, 16] B [16, n].
struct WgmmaInstruction {
  WgmmaType type;
  int n;
  bool a_in_registers;
  uint64_t a;  // descriptor, K-major
  uint64_t b;  // descriptor
  bool b_mn_major;
  bool accumulate;
  bool operator==(const WgmmaInstruction&) const = default;
};

class Wgmma : public Engine {
 public:
  explicit Wgmma(Cta& cta);
  bool land_one(Random& random) override;
  std::string describe() const override;

  void fence();
  // d: this thread's n / 2 accumulators; a: its 4 registers of A, or null.
  void issue(const WgmmaInstruction& instruction, float* d, const uint32_t* a);
  void commit();
  // Returns when all but the latest `pending` groups are done.
  void wait(int pending);

 private:
  static constexpr int kThreads = 128;
  struct Registers {
    float* d;
    const uint32_t* a;
    uint32_t a_value[4];
  };
  struct Operation {
    WgmmaInstruction instruction;
    std::vector<Registers> threads;  // of those that have issued it
  };
  struct Group {
    std::vector<Operation> operations;
    int committed = 0;  // threads
    bool executed = false;
  };
  struct Accumulator {  // under way
    std::vector<float> value;
    int uses = 0;  // instructions
  };
  struct Warpgroup {
    std::deque<Group> groups;  // oldest first
    uint64_t retired = 0;      // groups so far
    struct Position {
      uint64_t group = 0;  // that the thread is filling, counted from the first
      size_t operation = 0;
      bool fenced = false;
    } position[kThreads];
    std::map<float*, Accumulator> pending;
    int waiting = 0;
    int waiting_pending = 0;
    uint64_t waits = 0;
  };
  Warpgroup& mine();
  void execute(Warpgroup& warpgroup, Group& group);
  void retire(Warpgroup& warpgroup);
  float element(WgmmaType type, uint32_t address) const;

  Cta& cta_;
  std::vector<Warpgroup> warpgroups_;
};

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_WGMMA_H_

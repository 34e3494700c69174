// A GPU on one host thread, to test kernels on: grids, CTAs, warps, barriers, and memory whose
// asynchronous and unfenced effects are late on purpose. Not fast, not parallel, and no judge of
// speed.
//
//   Launch launch{.grid = {8}, .block = {128}, .shared_bytes = 65536, .seed = 1};
//   std::string error = run(launch, [&] { kernel(params); });     // "" if all went well
//
// Each thread is a fiber. The scheduler picks warps of the resident CTAs at random and runs each
// lane until it waits for something; so a missing barrier shows as a wrong result for some seed.
// Shared memory starts as NaN. When nobody can go on, run() says who waits for what.
//
// Asynchronous engines (cp.async here; bulk copies and matrix products of warpgroups elsewhere)
// derive from Engine: an operation takes effect when the scheduler calls land_one(), or when a wait
// forces it, as late as that may be.
#ifndef ATTN_CUDA_EMULATOR_EMULATOR_H_
#define ATTN_CUDA_EMULATOR_EMULATOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <typeindex>
#include <vector>

#include "fiber.h"

namespace attn::emulator {

constexpr int kWarpSize = 32;
constexpr int kNamedBarriers = 16;
// Where a CTA's shared memory begins: no kernel may take its addresses to start at 0.
constexpr uint32_t kSharedBase = 1024;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x1234567) {}
  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

struct Cta;
struct Warp;

enum class State { kReady, kBlocked, kPolling, kDone };

struct Thread {
  Fiber fiber;
  void* stack = nullptr;
  Cta* cta = nullptr;
  Warp* warp = nullptr;
  Dim3 index;      // threadIdx
  int linear = 0;  // in the CTA
  int lane = 0;
  State state = State::kReady;
  std::function<bool()> ready;  // of a polling thread
  const char* waits_for = "";
  int waits_for_id = 0;
  uint64_t acquired = 0;  // global writes up to this time are visible: see memory.h
};

struct Warp {
  Cta* cta = nullptr;
  Thread* lanes[kWarpSize] = {};
  // A collective in progress: who has arrived, and with what.
  int arrived = 0;
  const char* collective = "";
  void* operands[kWarpSize] = {};
  int done = 0;
};

struct Barrier {
  int arrived = 0;
  int expected = 0;
  std::vector<Thread*> waiting;
  uint64_t acquired = 0;  // the latest of those that arrived
  bool vote = false;      // of those that arrived, and the one before
  bool last_vote = false;
};

// Operations that take effect later.
class Engine {
 public:
  virtual ~Engine() = default;
  // Lets one operation that may take effect now do so; false if there is none.
  virtual bool land_one(Random& random) = 0;
  // What is under way, for the report of a deadlock; "" if nothing is.
  virtual std::string describe() const { return ""; }
};

struct Cta {
  Dim3 index;  // blockIdx
  int linear = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<Warp>> warps;
  Barrier barriers[kNamedBarriers];
  char* shared = nullptr;  // at address kSharedBase; a guard page follows
  uint32_t shared_bytes = 0;
  std::map<std::type_index, std::unique_ptr<Engine>> engines;
  // Called for generic writes to shared memory that go through the primitives.
  std::function<void(uint32_t address, uint32_t bytes, Thread& thread)> on_shared_write;
  int done = 0;

  // The CTA's engine of this type, made at first use with the CTA as its argument.
  template <class E>
  E& engine() {
    std::unique_ptr<Engine>& slot = engines[typeid(E)];
    if (!slot) slot = std::make_unique<E>(*this);
    return static_cast<E&>(*slot);
  }
};

struct Launch {
  Dim3 grid = {};
  Dim3 block = {};
  uint32_t shared_bytes = 0;
  uint64_t seed = 1;
  int resident = 0;  // CTAs at a time; 0: random, 1 to 6
};

// Runs kernel() once for each thread of the grid. Returns "" or what went wrong: the first failed
// check, or the deadlock.
std::string run(const Launch& launch, const std::function<void()>& kernel);

// ---- for the twins of device primitives, called by a thread of a running grid

Thread& current();
Dim3 block_dim();
Dim3 grid_dim();
Random& random_source();

// Rows that a kernel has computed again because they came out non-finite; for tests to reset and
// read.
inline int exact_rows = 0;

// Ends the launch with this message.
[[noreturn]] void fail(const std::string& message);

// Lets others run; the thread stays ready.
void yield();
// The same now and then: at places where the order between threads matters.
void preempt();
// Waits for ready() to hold. `what` and `id` are for the report of a deadlock.
void wait_until(std::function<bool()> ready, const char* what, int id = 0);

// bar.sync and bar.arrive: `threads` is the number that takes part. bar.sync returns whether any
// of them voted.
bool barrier_sync(int id, int threads, bool vote = false);
void barrier_arrive(int id, int threads);

// Arrives with the warp's other lanes; true for the last one, which does the work for all lanes and
// then calls end_collective(). The others return when it has.
bool begin_collective(const char* what, void* operand);
void end_collective();

// What all 32 lanes do together: fn(operands) runs once, operands[i] being lane i's.
template <class Operand, class Fn>
void collective(const char* what, Operand& operand, const Fn& fn) {
  if (!begin_collective(what, &operand)) return;
  Operand* operands[kWarpSize];
  for (int i = 0; i < kWarpSize; ++i) {
    operands[i] = static_cast<Operand*>(current().warp->operands[i]);
  }
  fn(operands);
  end_collective();
}

// Host memory of `bytes` bytes at a shared address; fails outside of the CTA's shared memory and
// for addresses that are no multiple of `alignment`.
char* shared_at(uint32_t address, uint32_t bytes, uint32_t alignment);

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_EMULATOR_H_

// The scheduler: resident CTAs, warps at random, barriers, collectives, and the deadlock report.
#include "emulator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "memory.h"

namespace attn::emulator {
namespace {

struct Machine {
  Machine(const Launch& l, const std::function<void()>& k)
      : launch(l),
        kernel(k),
        random(l.seed),
        resident(l.resident ? l.resident : 1 + static_cast<int>(random.below(6))) {
    // Some launches leave asynchronous operations until the last moment, some finish them early.
    const uint32_t choices[] = {0, 64, 4};
    land_one_in = choices[random.below(3)];
  }

  const Launch& launch;
  const std::function<void()>& kernel;
  Random random;
  int resident;
  uint32_t land_one_in;
  Fiber scheduler;
  std::vector<std::unique_ptr<Cta>> ctas;
  Thread* current = nullptr;
  bool switch_warps = false;  // at the next chance
  std::string error;
};

Machine* machine = nullptr;

void to_scheduler() { Fiber::switch_to(machine->current->fiber, machine->scheduler); }

void block_on(const char* what, int id) {
  Thread& self = *machine->current;
  self.state = State::kBlocked;
  self.waits_for = what;
  self.waits_for_id = id;
  to_scheduler();
}

// A thread's whole life.
void thread_main() {
  machine->kernel();
  Thread& self = *machine->current;
  self.state = State::kDone;
  ++self.warp->done;
  ++self.cta->done;
  to_scheduler();
  std::abort();  // nobody runs a thread that is done
}

// ---- shared memory: ends where a page without access begins

size_t page_size() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

size_t mapped_size(uint32_t bytes) {
  return (bytes + page_size() - 1) / page_size() * page_size() + page_size();
}

char* map_shared(uint32_t bytes) {
  const size_t size = mapped_size(bytes);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  char* guard = static_cast<char*>(memory) + size - page_size();
  if (mprotect(guard, page_size(), PROT_NONE) != 0) std::abort();
  return static_cast<char*>(memory);
}

std::unique_ptr<Cta> make_cta(unsigned linear) {
  const Dim3 grid = machine->launch.grid;
  const Dim3 block = machine->launch.block;
  auto cta = std::make_unique<Cta>();
  cta->linear = static_cast<int>(linear);
  cta->index = {linear % grid.x, linear / grid.x % grid.y, linear / grid.x / grid.y};
  cta->shared_bytes = machine->launch.shared_bytes;
  cta->shared = map_shared(cta->shared_bytes);
  std::memset(cta->shared, 0xff, cta->shared_bytes);  // NaN in every type
  const unsigned count = block.x * block.y * block.z;
  for (unsigned i = 0; i < count; ++i) {
    if (i % kWarpSize == 0) {
      cta->warps.push_back(std::make_unique<Warp>());
      cta->warps.back()->cta = cta.get();
    }
    auto thread = std::make_unique<Thread>();
    thread->cta = cta.get();
    thread->warp = cta->warps.back().get();
    thread->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    thread->linear = static_cast<int>(i);
    thread->lane = static_cast<int>(i % kWarpSize);
    thread->stack = take_stack();
    thread->fiber.start(thread->stack, thread_main);
    thread->warp->lanes[thread->lane] = thread.get();
    cta->threads.push_back(std::move(thread));
  }
  return cta;
}

void destroy_cta(Cta& cta) {
  for (const auto& thread : cta.threads) give_back_stack(thread->stack);
  munmap(cta.shared, mapped_size(cta.shared_bytes));
}

// ---- the scheduler

bool can_run(Thread& thread) {
  if (thread.state == State::kPolling && thread.ready()) thread.state = State::kReady;
  return thread.state == State::kReady;
}

// Runs each lane that can until it waits; whether there was one.
bool run_warp(Warp& warp) {
  bool progress = false;
  const uint32_t turn = machine->random.below(kWarpSize);
  const uint32_t flip = machine->random.below(2) * (kWarpSize - 1);
  for (uint32_t i = 0; i < kWarpSize && machine->error.empty(); ++i) {
    Thread* thread = warp.lanes[((i + turn) % kWarpSize) ^ flip];
    if (!thread || !can_run(*thread)) continue;
    machine->current = thread;
    Fiber::switch_to(machine->scheduler, thread->fiber);
    machine->current = nullptr;
    progress = true;
  }
  return progress;
}

bool land_one() {
  const size_t count = machine->ctas.size();
  const size_t first = machine->random.below(static_cast<uint32_t>(count));
  for (size_t i = 0; i < count; ++i) {
    Cta& cta = *machine->ctas[(first + i) % count];
    std::vector<Engine*> engines;
    for (const auto& entry : cta.engines) engines.push_back(entry.second.get());
    if (engines.empty()) continue;
    const size_t start = machine->random.below(static_cast<uint32_t>(engines.size()));
    for (size_t e = 0; e < engines.size(); ++e) {
      if (engines[(start + e) % engines.size()]->land_one(machine->random)) return true;
    }
  }
  return false;
}

std::string describe_deadlock() {
  std::string text = "deadlock:";
  for (const auto& cta : machine->ctas) {
    std::map<std::string, std::pair<int, int>> waits;  // what -> how many, the first thread
    for (const auto& thread : cta->threads) {
      std::string what = thread->state == State::kDone ? "done" : thread->waits_for;
      if (thread->state != State::kDone) what += " " + std::to_string(thread->waits_for_id);
      auto [entry, fresh] = waits.try_emplace(what, 0, thread->linear);
      ++entry->second.first;
    }
    text += "\n  CTA " + std::to_string(cta->linear) + ":";
    for (const auto& [what, who] : waits) {
      text += " " + std::to_string(who.first) + " threads from " + std::to_string(who.second) +
              " on: " + what + ";";
    }
    for (int id = 0; id < kNamedBarriers; ++id) {
      const Barrier& barrier = cta->barriers[id];
      if (barrier.arrived == 0) continue;
      text += " barrier " + std::to_string(id) + " has " + std::to_string(barrier.arrived) +
              " of " + std::to_string(barrier.expected) + ";";
    }
    for (const auto& entry : cta->engines) text += " " + entry.second->describe();
  }
  return text;
}

void schedule() {
  const Dim3 grid = machine->launch.grid;
  const unsigned total = grid.x * grid.y * grid.z;
  unsigned next = 0;
  std::vector<Warp*> warps;
  while (machine->error.empty()) {
    // CTAs come and go.
    for (size_t i = 0; i < machine->ctas.size();) {
      Cta& cta = *machine->ctas[i];
      if (cta.done < static_cast<int>(cta.threads.size())) {
        ++i;
        continue;
      }
      destroy_cta(cta);
      machine->ctas.erase(machine->ctas.begin() + static_cast<std::ptrdiff_t>(i));
      warps.clear();
    }
    while (next < total && static_cast<int>(machine->ctas.size()) < machine->resident) {
      machine->ctas.push_back(make_cta(next++));
      warps.clear();
    }
    if (machine->ctas.empty()) return;
    if (warps.empty()) {
      for (const auto& cta : machine->ctas) {
        for (const auto& warp : cta->warps) warps.push_back(warp.get());
      }
    }
    // A warp at random for a burst of random length; all in turn before giving up.
    const size_t first = machine->random.below(static_cast<uint32_t>(warps.size()));
    bool progress = false;
    for (size_t i = 0; i < warps.size() && !progress && machine->error.empty(); ++i) {
      Warp& warp = *warps[(first + i) % warps.size()];
      machine->switch_warps = false;
      while (run_warp(warp)) {
        progress = true;
        if (machine->land_one_in && machine->random.one_in(machine->land_one_in)) land_one();
        if (machine->switch_warps || machine->random.one_in(24) || !machine->error.empty()) break;
      }
    }
    if (!progress && machine->error.empty() && !land_one()) machine->error = describe_deadlock();
  }
}

}  // namespace

std::string run(const Launch& launch, const std::function<void()>& kernel) {
  Machine here(launch, kernel);
  machine = &here;
  begin_launch();
  schedule();
  for (const auto& cta : here.ctas) destroy_cta(*cta);
  end_launch();
  machine = nullptr;
  return here.error;
}

Thread& current() { return *machine->current; }
Dim3 block_dim() { return machine->launch.block; }
Dim3 grid_dim() { return machine->launch.grid; }
Random& random_source() { return machine->random; }

void fail(const std::string& message) {
  const Thread& self = *machine->current;
  machine->error = "CTA " + std::to_string(self.cta->linear) + ", thread " +
                   std::to_string(self.linear) + ": " + message;
  to_scheduler();
  std::abort();  // the launch is over; nobody comes back here
}

void yield() {
  machine->switch_warps = true;
  to_scheduler();
}

void preempt() {
  if (machine->random.one_in(4)) yield();
}

void wait_until(std::function<bool()> ready, const char* what, int id) {
  Thread& self = *machine->current;
  if (!machine->random.one_in(4) && ready()) return;
  self.ready = std::move(ready);
  self.state = State::kPolling;
  self.waits_for = what;
  self.waits_for_id = id;
  to_scheduler();
  self.ready = nullptr;
}

namespace {

// Counts an arrival; true if it was the last one.
bool arrive(Barrier& barrier, int id, int threads, bool vote) {
  if (threads <= 0 || threads % kWarpSize != 0)
    fail("a barrier of " + std::to_string(threads) + " threads");
  if (barrier.arrived > 0 && barrier.expected != threads) {
    fail("barrier " + std::to_string(id) + " is used with " + std::to_string(barrier.expected) +
         " and " + std::to_string(threads) + " threads at once");
  }
  Thread& self = *machine->current;
  barrier.expected = threads;
  barrier.acquired = std::max(barrier.acquired, self.acquired);
  barrier.vote = barrier.vote || vote;
  publish_to_cta(self);
  if (++barrier.arrived < threads) return false;
  barrier.arrived = 0;
  barrier.last_vote = barrier.vote;
  barrier.vote = false;
  for (Thread* thread : barrier.waiting) {
    thread->state = State::kReady;
    thread->acquired = std::max(thread->acquired, barrier.acquired);
  }
  barrier.waiting.clear();
  return true;
}

}  // namespace

bool barrier_sync(int id, int threads, bool vote) {
  Thread& self = *machine->current;
  Barrier& barrier = self.cta->barriers[id];
  if (arrive(barrier, id, threads, vote)) {
    self.acquired = std::max(self.acquired, barrier.acquired);
  } else {
    barrier.waiting.push_back(&self);
    block_on("barrier", id);
  }
  return barrier.last_vote;
}

void barrier_arrive(int id, int threads) {
  arrive(machine->current->cta->barriers[id], id, threads, false);
}

bool begin_collective(const char* what, void* operand) {
  Thread& self = *machine->current;
  Warp& warp = *self.warp;
  if (warp.arrived > 0 && std::strcmp(warp.collective, what) != 0) {
    fail(std::string("lanes of a warp in two collectives at once: ") + warp.collective + " and " +
         what);
  }
  warp.collective = what;
  warp.operands[self.lane] = operand;
  if (++warp.arrived == kWarpSize) return true;
  block_on(what, 0);
  return false;
}

void end_collective() {
  Thread& self = *machine->current;
  self.warp->arrived = 0;
  for (Thread* lane : self.warp->lanes) {
    if (lane != &self) lane->state = State::kReady;
  }
}

char* shared_at(uint32_t address, uint32_t bytes, uint32_t alignment) {
  const Cta& cta = *machine->current->cta;
  if (address % alignment != 0) {
    fail("shared address " + std::to_string(address) + " is no multiple of " +
         std::to_string(alignment));
  }
  if (address < kSharedBase || address - kSharedBase + uint64_t{bytes} > cta.shared_bytes) {
    fail("shared address " + std::to_string(int64_t{address} - kSharedBase) + " + " +
         std::to_string(bytes) + " of " + std::to_string(cta.shared_bytes));
  }
  return cta.shared + (address - kSharedBase);
}

}  // namespace attn::emulator

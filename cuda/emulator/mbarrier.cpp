// mbarriers.
#include "mbarrier.h"

#include <algorithm>

#include "memory.h"

namespace attn::emulator {
namespace {

std::string name(uint32_t address) { return "mbarrier " + std::to_string(address - kSharedBase); }

}  // namespace

Mbarriers::State& Mbarriers::at(uint32_t address) {
  const auto found = states_.find(address);
  if (found == states_.end()) fail(name(address) + " was not initialised");
  return found->second;
}

void Mbarriers::init(uint32_t address, uint32_t arrivals) {
  shared_at(address, 8, 8);
  if (arrivals == 0) fail(name(address) + " of 0 arrivals");
  State& state = states_[address];
  state = State{};
  state.arrivals = state.missing = static_cast<int>(arrivals);
  state.initialiser = current().linear;
}

void Mbarriers::init_fence() {
  for (auto& entry : states_) {
    if (entry.second.initialiser == current().linear) entry.second.initialiser = -1;
  }
}

void Mbarriers::advance(State& state) {
  if (state.missing > 0 || state.bytes != 0) return;
  state.missing = state.arrivals;
  ++state.phase;
}

void Mbarriers::arrive(uint32_t address, uint32_t expected_bytes) {
  preempt();
  State& state = at(address);
  if (state.missing == 0) {
    fail(name(address) + " phase " + std::to_string(state.phase) + " has one arrival too many");
  }
  Thread& self = current();
  state.acquired = std::max(state.acquired, self.acquired);
  publish_to_cta(self);
  state.bytes += expected_bytes;
  --state.missing;
  advance(state);
  preempt();
}

void Mbarriers::wait(uint32_t address, uint32_t parity) {
  at(address);
  // std::map keeps its elements where they are.
  State* state = &states_[address];
  wait_until([state, parity] { return (state->phase & 1) != parity; },
             parity ? "mbarrier, parity 1, at" : "mbarrier, parity 0, at",
             static_cast<int>(address - kSharedBase));
  Thread& self = current();
  self.acquired = std::max(self.acquired, state->acquired);
}

void Mbarriers::check_ready(uint32_t address) {
  if (at(address).initialiser >= 0) fail(name(address) + " was not fenced after initialisation");
}

void Mbarriers::land_bytes(uint32_t address, uint32_t bytes) {
  State& state = states_[address];
  state.bytes -= bytes;
  advance(state);
}

std::string Mbarriers::describe() const {
  std::string text;
  for (const auto& [address, state] : states_) {
    if (state.missing == state.arrivals && state.bytes == 0) continue;
    text += name(address) + " in phase " + std::to_string(state.phase) + " lacks " +
            std::to_string(state.missing) + " arrivals and " + std::to_string(state.bytes) +
            " bytes; ";
  }
  return text;
}

}  // namespace attn::emulator

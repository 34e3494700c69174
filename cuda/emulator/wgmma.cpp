// wgmma.
#include "wgmma.h"

#include <cmath>
#include <cstring>

#include "proxy.h"
#include "warp.h"

namespace attn::emulator {
namespace {

// Fields of a descriptor, in bytes.
struct Operand {
  explicit Operand(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        swizzle(static_cast<uint32_t>(bits >> 62)) {}
  uint32_t start, leading, stride, swizzle;

  // Of element k of row r, before the swizzle.
  uint32_t k_major(int r, int k) const {
    return start + static_cast<uint32_t>(r / 8) * stride +
           static_cast<uint32_t>(r % 8 * 128 + k * 2);
  }
  // Of element n of row k.
  uint32_t mn_major(int k, int n) const {
    return start + static_cast<uint32_t>(n / 64) * leading + static_cast<uint32_t>(k / 8) * stride +
           static_cast<uint32_t>(k % 8 * 128 + n % 64 * 2);
  }
};

uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// Row and column of accumulator i of a warpgroup's thread.
int row_of(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
int column_of(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

}  // namespace

Wgmma::Wgmma(Cta& cta) : cta_(cta), warpgroups_((cta.threads.size() + kThreads - 1) / kThreads) {
  cta.engine<Proxy>();
}

Wgmma::Warpgroup& Wgmma::mine() {
  return warpgroups_[static_cast<size_t>(current().linear / kThreads)];
}

void Wgmma::fence() { mine().position[current().linear % kThreads].fenced = true; }

void Wgmma::issue(const WgmmaInstruction& instruction, float* d, const uint32_t* a) {
  Warpgroup& warpgroup = mine();
  const int self = current().linear % kThreads;
  auto& position = warpgroup.position[self];
  if (!position.fenced) fail("wgmma without wgmma.fence");
  const size_t index = position.group - warpgroup.retired;
  if (index >= warpgroup.groups.size()) warpgroup.groups.resize(index + 1);
  auto& operations = warpgroup.groups[index].operations;
  if (position.operation == operations.size()) {
    operations.push_back({instruction, std::vector<Registers>(kThreads)});
    // The first thread looks at shared memory for all.
    const Operand b(instruction.b);
    Proxy& proxy = cta_.engine<Proxy>();
    if (b.swizzle != 1) fail("wgmma: B is not 128-byte swizzled");
    for (int i = 0; i < (instruction.b_mn_major ? 16 : instruction.n); ++i) {
      const int step = instruction.b_mn_major ? 64 : 16;  // elements in one go
      for (int j = 0; j < (instruction.b_mn_major ? instruction.n : 16); j += step) {
        const uint32_t at = instruction.b_mn_major ? b.mn_major(i, j) : b.k_major(i, j);
        shared_at(at & ~127u, 128, 128);
        proxy.check(at & ~127u, 128, "wgmma");
      }
    }
    if (!instruction.a_in_registers) {
      const Operand left(instruction.a);
      if (left.swizzle != 1) fail("wgmma: A is not 128-byte swizzled");
      for (int i = 0; i < 64; ++i) {
        shared_at(left.k_major(i, 0) & ~127u, 128, 128);
        proxy.check(left.k_major(i, 0) & ~127u, 128, "wgmma");
      }
    }
  }
  Operation& operation = operations[position.operation++];
  if (!(operation.instruction == instruction)) fail("threads of a warpgroup issue different wgmma");
  Registers& registers = operation.threads[static_cast<size_t>(self)];
  registers.d = d;
  registers.a = a;
  if (a) std::memcpy(registers.a_value, a, sizeof(registers.a_value));
  auto [entry, fresh] = warpgroup.pending.try_emplace(d);
  if (fresh) {
    entry->second.value.assign(d, d + instruction.n / 2);
    std::memset(d, 0xff, static_cast<size_t>(instruction.n / 2) * 4);
  }
  ++entry->second.uses;
}

void Wgmma::commit() {
  Warpgroup& warpgroup = mine();
  auto& position = warpgroup.position[current().linear % kThreads];
  const size_t index = position.group - warpgroup.retired;
  if (index >= warpgroup.groups.size()) warpgroup.groups.resize(index + 1);
  Group& group = warpgroup.groups[index];
  if (position.operation != group.operations.size()) fail("a thread left out a wgmma");
  ++group.committed;
  ++position.group;
  position.operation = 0;
  position.fenced = false;
  preempt();
}

float Wgmma::element(WgmmaType type, uint32_t address) const {
  uint16_t bits;
  std::memcpy(&bits, cta_.shared + (swizzled(address) - kSharedBase), 2);
  return type == WgmmaType::kF16 ? from_half(bits) : from_bfloat(bits);
}

void Wgmma::execute(Warpgroup& warpgroup, Group& group) {
  static float a[64][16], b[16][256], d[64][256];
  for (Operation& operation : group.operations) {
    const WgmmaInstruction& in = operation.instruction;
    const Operand left(in.a), right(in.b);
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < in.n; ++n) {
        b[k][n] = element(in.type, in.b_mn_major ? right.mn_major(k, n) : right.k_major(n, k));
      }
      for (int m = 0; m < 64 && !in.a_in_registers; ++m)
        a[m][k] = element(in.type, left.k_major(m, k));
    }
    for (int t = 0; t < kThreads; ++t) {
      const Registers& registers = operation.threads[static_cast<size_t>(t)];
      for (int i = 0; i < 8 && in.a_in_registers; ++i) {  // register i / 2, its half i % 2
        const auto bits = static_cast<uint16_t>(registers.a_value[i / 2] >> (i % 2 * 16));
        a[row_of(t, i)][i / 4 * 8 + t % 4 * 2 + i % 2] =
            in.type == WgmmaType::kF16 ? from_half(bits) : from_bfloat(bits);
      }
      const std::vector<float>& value = warpgroup.pending[registers.d].value;
      for (int i = 0; i < in.n / 2; ++i) {
        d[row_of(t, i)][column_of(t, i)] = in.accumulate ? value[static_cast<size_t>(i)] : 0.0f;
      }
    }
    for (int m = 0; m < 64; ++m) {
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < in.n; ++n) d[m][n] += a[m][k] * b[k][n];
      }
    }
    for (int t = 0; t < kThreads; ++t) {
      float* accumulator = operation.threads[static_cast<size_t>(t)].d;
      std::vector<float>& value = warpgroup.pending[accumulator].value;
      for (int i = 0; i < in.n / 2; ++i) {
        value[static_cast<size_t>(i)] = d[row_of(t, i)][column_of(t, i)];
      }
    }
  }
  group.executed = true;
}

// The oldest group's registers are the threads' again.
void Wgmma::retire(Warpgroup& warpgroup) {
  Group group = std::move(warpgroup.groups.front());
  warpgroup.groups.pop_front();
  ++warpgroup.retired;
  for (const Operation& operation : group.operations) {
    for (const Registers& registers : operation.threads) {
      if (registers.a &&
          std::memcmp(registers.a, registers.a_value, sizeof(registers.a_value)) != 0) {
        fail("registers of A were written while wgmma read them");
      }
      const auto found = warpgroup.pending.find(registers.d);
      if (--found->second.uses > 0) continue;
      const std::vector<float>& value = found->second.value;
      for (size_t i = 0; i < value.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, registers.d + i, 4);
        if (bits != 0xffffffffu) fail("an accumulator was written while wgmma had it");
        registers.d[i] = value[i];
      }
      warpgroup.pending.erase(found);
    }
  }
}

void Wgmma::wait(int pending) {
  preempt();
  Warpgroup& warpgroup = mine();
  if (warpgroup.waiting > 0 && warpgroup.waiting_pending != pending) {
    fail("threads of a warpgroup wait for different groups");
  }
  warpgroup.waiting_pending = pending;
  warpgroup.position[current().linear % kThreads].fenced = false;
  if (++warpgroup.waiting < kThreads) {
    const uint64_t before = warpgroup.waits;
    const Warpgroup* group = &warpgroup;
    wait_until([group, before] { return group->waits != before; }, "wgmma.wait_group", pending);
    return;
  }
  warpgroup.waiting = 0;
  ++warpgroup.waits;
  while (warpgroup.groups.size() > static_cast<size_t>(pending)) {
    if (warpgroup.groups.front().committed != kThreads) fail("wgmma.wait_group before a commit");
    if (!warpgroup.groups.front().executed) execute(warpgroup, warpgroup.groups.front());
    retire(warpgroup);
  }
}

bool Wgmma::land_one(Random& random) {
  const size_t first = random.below(static_cast<uint32_t>(warpgroups_.size()));
  for (size_t i = 0; i < warpgroups_.size(); ++i) {
    Warpgroup& warpgroup = warpgroups_[(first + i) % warpgroups_.size()];
    for (Group& group : warpgroup.groups) {
      if (group.executed) continue;
      if (group.committed != kThreads) break;
      execute(warpgroup, group);
      return true;
    }
  }
  return false;
}

std::string Wgmma::describe() const {
  std::string text;
  for (size_t i = 0; i < warpgroups_.size(); ++i) {
    if (warpgroups_[i].groups.empty()) continue;
    text += "warpgroup " + std::to_string(i) + " has " +
            std::to_string(warpgroups_[i].groups.size()) + " groups of wgmma under way;";
  }
  return text;
}

}  // namespace attn::emulator

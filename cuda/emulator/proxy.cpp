// Which ordinary writes to shared memory the async proxy does not see yet.
#include "proxy.h"

namespace attn::emulator {

Proxy::Proxy(Cta& cta) : writer_(cta.shared_bytes / kGranule + 1), by_thread_(cta.threads.size()) {
  cta.on_shared_write = [this](uint32_t address, uint32_t bytes, Thread& thread) {
    const uint32_t begin = address - kSharedBase;
    for (uint32_t g = begin / kGranule; g <= (begin + bytes - 1) / kGranule; ++g) {
      writer_[g] = thread.linear + 1;
      by_thread_[static_cast<size_t>(thread.linear)].push_back(g);
    }
  };
}

void Proxy::fence() {
  const int self = current().linear;
  auto& mine = by_thread_[static_cast<size_t>(self)];
  for (uint32_t g : mine) {
    if (writer_[g] == self + 1) writer_[g] = 0;
  }
  mine.clear();
}

void Proxy::check(uint32_t address, uint32_t bytes, const char* who) const {
  const uint32_t begin = address - kSharedBase;
  for (uint32_t g = begin / kGranule; g <= (begin + bytes - 1) / kGranule; ++g) {
    if (writer_[g] == 0) continue;
    fail(std::string(who) + " accesses shared address " + std::to_string(g * kGranule) +
         ", which thread " + std::to_string(writer_[g] - 1) + " wrote without a proxy fence");
  }
}

}  // namespace attn::emulator

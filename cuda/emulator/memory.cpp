// cp.async, and the visibility of global writes.
#include "memory.h"

#include <cstring>
#include <unordered_map>

namespace attn::emulator {
namespace {

struct AsyncCopy {
  char* destination;
  const void* source;
  uint32_t bytes;
  uint32_t source_bytes;
  int group;  // counted from the thread's first one

  void land() const {
    std::memset(destination, 0, bytes);
    if (source_bytes) std::memcpy(destination, source, source_bytes);
  }
};

class CopyEngine : public Engine {
 public:
  explicit CopyEngine(Cta& cta) : threads_(cta.threads.size()) {}

  struct PerThread {
    std::vector<AsyncCopy> copies;
    int group = 0;  // that is being filled
  };
  PerThread& of(const Thread& thread) { return threads_[static_cast<size_t>(thread.linear)]; }

  bool land_one(Random& random) override {
    const size_t first = random.below(static_cast<uint32_t>(threads_.size()));
    for (size_t i = 0; i < threads_.size(); ++i) {
      auto& copies = threads_[(first + i) % threads_.size()].copies;
      if (copies.empty()) continue;
      std::swap(copies[random.below(static_cast<uint32_t>(copies.size()))], copies.back());
      copies.back().land();
      copies.pop_back();
      return true;
    }
    return false;
  }

 private:
  std::vector<PerThread> threads_;
};

struct Shadow {
  int cta;
  uint64_t written = 0;  // when it came in sight of other CTAs; 0: not yet
};

// Writes of this launch that other CTAs may want, and those that no fence covers yet.
std::unordered_map<const uint32_t*, Shadow> shadows;
std::unordered_map<const Thread*, std::vector<const uint32_t*>> unfenced;         // by thread
std::unordered_map<const Cta*, std::vector<const uint32_t*>> unfenced_published;  // by CTA
uint64_t now = 0;

}  // namespace

void copy_async(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes) {
  Thread& self = current();
  if (source_bytes > bytes) fail("cp.async reads more than it writes");
  if (source_bytes && reinterpret_cast<uintptr_t>(source) % bytes != 0) {
    fail("cp.async from an address that is no multiple of " + std::to_string(bytes));
  }
  char* to = shared_at(destination, bytes, bytes);
  std::memset(to, 0xff, bytes);
  auto& mine = self.cta->engine<CopyEngine>().of(self);
  mine.copies.push_back({to, source, bytes, source_bytes, mine.group});
}

void copy_async_commit() {
  Thread& self = current();
  ++self.cta->engine<CopyEngine>().of(self).group;
}

void copy_async_wait(int pending) {
  Thread& self = current();
  auto& mine = self.cta->engine<CopyEngine>().of(self);
  auto& copies = mine.copies;
  for (size_t i = 0; i < copies.size();) {
    if (copies[i].group < mine.group - pending) {
      copies[i].land();
      copies[i] = copies.back();
      copies.pop_back();
    } else {
      ++i;
    }
  }
}

void write_global(uint32_t* address, uint32_t value) {
  Thread& self = current();
  std::memcpy(address, &value, sizeof(value));
  shadows[address] = {self.cta->linear, 0};
  unfenced[&self].push_back(address);
  preempt();
}

uint32_t read_global(const uint32_t* address) {
  const Thread& self = current();
  preempt();
  const auto shadow = shadows.find(address);
  if (shadow != shadows.end() && shadow->second.cta != self.cta->linear &&
      (shadow->second.written == 0 || shadow->second.written > self.acquired)) {
    return 0xffffffffu;
  }
  uint32_t value;
  std::memcpy(&value, address, sizeof(value));
  return value;
}

void thread_fence() {
  Thread& self = current();
  preempt();
  ++now;
  for (auto* list : {&unfenced[&self], &unfenced_published[self.cta]}) {
    for (const uint32_t* address : *list) shadows[address].written = now;
    list->clear();
  }
  self.acquired = now;
  preempt();
}

void publish_to_cta(Thread& thread) {
  const auto mine = unfenced.find(&thread);
  if (mine == unfenced.end() || mine->second.empty()) return;
  auto& list = unfenced_published[thread.cta];
  list.insert(list.end(), mine->second.begin(), mine->second.end());
  mine->second.clear();
}

void begin_launch() {
  end_launch();
  now = 1;
}

void end_launch() {
  shadows.clear();
  unfenced.clear();
  unfenced_published.clear();
}

}  // namespace attn::emulator

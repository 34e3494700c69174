// guarded.cpp: page mappings with PROT_NONE at both ends, kept for reuse.
#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace attn_test {
namespace {

constexpr size_t kMargin = 256;
constexpr unsigned char kFill = 0xfb;  // as f32, f16, bf16: large negative numbers

size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::mutex free_mutex;
std::map<size_t, std::vector<unsigned char*>>& free_pages() {
  static std::map<size_t, std::vector<unsigned char*>> map;
  return map;
}

unsigned char* take_pages(size_t count) {
  {
    const std::lock_guard<std::mutex> lock(free_mutex);
    std::vector<unsigned char*>& list = free_pages()[count];
    if (!list.empty()) {
      unsigned char* pages = list.back();
      list.pop_back();
      return pages;
    }
  }
  void* mapping = mmap(nullptr, (count + 2) * page_size(), PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  unsigned char* pages = static_cast<unsigned char*>(mapping) + page_size();
  if (mprotect(pages, count * page_size(), PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  return pages;
}

bool all_filled(const unsigned char* from, const unsigned char* to) {
  return std::all_of(from, to, [](unsigned char byte) { return byte == kFill; });
}

}  // namespace

GuardedBuffer::GuardedBuffer(size_t size, Guard guard, size_t alignment) : size_(size) {
  page_count_ = (size + alignment + kMargin + page_size() - 1) / page_size();
  // Few classes of sizes, so that mappings are found again.
  while (page_count_ & (page_count_ - 1)) page_count_ += page_count_ & -page_count_;
  pages_ = take_pages(page_count_);
  const size_t bytes = page_count_ * page_size();
  const size_t offset = guard == Guard::kBefore ? 0 : (bytes - size) / alignment * alignment;
  data_ = pages_ + offset;
  std::memset(pages_ + (offset > kMargin ? offset - kMargin : 0), kFill, std::min(offset, kMargin));
  std::memset(data_ + size, kFill, std::min(bytes - offset - size, kMargin));
}

GuardedBuffer::~GuardedBuffer() {
  const std::lock_guard<std::mutex> lock(free_mutex);
  free_pages()[page_count_].push_back(pages_);
}

bool GuardedBuffer::margin_intact() const {
  const size_t before = std::min(static_cast<size_t>(data_ - pages_), kMargin);
  const unsigned char* end = data_ + size_;
  const size_t after =
      std::min(static_cast<size_t>(pages_ + page_count_ * page_size() - end), kMargin);
  return all_filled(data_ - before, data_) && all_filled(end, end + after);
}

uint64_t GuardedBuffer::checksum() const {
  uint64_t hash = 0xcbf29ce484222325u;
  size_t i = 0;
  for (; i + 8 <= size_; i += 8) {
    uint64_t word;
    std::memcpy(&word, data_ + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (; i < size_; i++) hash = (hash ^ data_[i]) * 0x100000001b3u;
  return hash;
}

}  // namespace attn_test

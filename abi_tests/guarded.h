// guarded.h: memory that ends, or begins, exactly at a page that must not be touched.
#ifndef ATTN_ABI_TESTS_GUARDED_H_
#define ATTN_ABI_TESTS_GUARDED_H_

#include <cstddef>
#include <cstdint>

namespace attn_test {

// Which side of the memory touches the inaccessible page. The other side has a filled margin whose
// changes are noticed.
enum class Guard { kAfter, kBefore };

class GuardedBuffer {
 public:
  // `alignment` is that of data(); with kAfter a size that is no multiple of it leaves less than
  // `alignment` filled bytes between the end and the page.
  GuardedBuffer(size_t size, Guard guard, size_t alignment = 1);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  unsigned char* data() const { return data_; }
  size_t size() const { return size_; }

  // Nothing was written around the buffer.
  bool margin_intact() const;

  // A checksum of the whole content.
  uint64_t checksum() const;

 private:
  unsigned char* pages_;  // readable and writable
  size_t page_count_;
  unsigned char* data_;
  size_t size_;
};

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_GUARDED_H_

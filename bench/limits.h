// limits.h: what the machine itself can do, for the benchmark's fractions.
#ifndef ATTN_BENCH_LIMITS_H_
#define ATTN_BENCH_LIMITS_H_

#include <attn/attn.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace bench {

// Runs body(thread) on `threads` threads that start together. Returns the seconds from the first
// one's start to the last one's end; creating the threads is not in it.
double seconds_on_threads(int threads, const std::function<void(int thread)>& body);

// Floating-point operations of one step of run_fma; 0 for an instruction set that this build does
// not know.
double fma_flops_per_step(attn_isa isa);

// `steps` rounds of independent f32 multiply-adds in registers alone. The machine must have `isa`.
// For SCALAR this is what the compilers' baseline has: SSE2's multiply and add, or NEON.
void run_fma(attn_isa isa, int64_t steps);

// The same for products of bf16: 0 if `isa` has none. A process must have asked for AMX_BF16.
double bf16_flops_per_step(attn_isa isa);
void run_bf16(attn_isa isa, int64_t steps);

struct Free {
  void operator()(void* pointer) const;
};
using Memory = std::unique_ptr<void, Free>;
// In huge pages where they are to be had: 4 KiB pages read some 10% slower.
Memory make_huge_memory(size_t bytes);

// Memory to be read from beginning to end, larger than any cache.
class ReadBuffer {
 public:
  explicit ReadBuffer(size_t bytes);  // a power of two, 2 MiB or more

  // Reads part `part` of `parts` equal ones. Returns a checksum, so that the reads must happen.
  uint64_t read(int part, int parts) const;

  // The same in blocks of that many bytes, a power of two, in an order that no prefetcher foresees:
  // what pages of a cache can be read at.
  uint64_t read_blocks(size_t block, int part, int parts) const;

  size_t size() const { return size_; }

 private:
  size_t size_;
  Memory data_;
};

}  // namespace bench

#endif  // ATTN_BENCH_LIMITS_H_

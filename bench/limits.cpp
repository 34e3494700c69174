// limits.cpp: the FMA peak and the read bandwidth of this machine.
#include "limits.h"

#include <sched.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

namespace bench {

namespace {

// Puts the calling thread on the n-th CPU that it may use. A thread that was just started often
// shares its starter's CPU for some milliseconds, which would be measured as the machine's limit.
void move_to_cpu(const cpu_set_t& allowed, int n) {
  n %= CPU_COUNT(&allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || n-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

}  // namespace

double seconds_on_threads(int threads, const std::function<void(int thread)>& body) {
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> starts(threads), ends(threads);
  std::atomic<int> waiting{threads};
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof(allowed), &allowed);
  auto run = [&](int thread) {
    if (threads > 1) move_to_cpu(allowed, thread);
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    starts[thread] = Clock::now();
    body(thread);
    ends[thread] = Clock::now();
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  sched_setaffinity(0, sizeof(allowed), &allowed);
  return std::chrono::duration<double>(*std::max_element(ends.begin(), ends.end()) -
                                       *std::min_element(starts.begin(), starts.end()))
      .count();
}

namespace {

// The accumulators are operands of inline assembly: a compiler that spills or rearranges them
// would measure itself instead of the machine. Chains needed: latency * units, which is 8 on
// today's x86 cores (4 * 2) and 16 on the widest AArch64 ones (4 * 4).

#define CHAINS_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define CHAINS_24(X) \
  CHAINS_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)

#define DECLARE(i) Vector acc##i = x * static_cast<float>(i);
#define KEEP(i) asm volatile("" : : REGISTER(acc##i));

#if defined(__x86_64__)

#define REGISTER "v"
#define FMA(i) asm volatile("vfmadd231ps %1, %2, %0" : "+v"(acc##i) : "v"(x), "v"(y));

#define DOT(i) asm volatile("vdpbf16ps %1, %2, %0" : "+v"(acc##i) : "v"(x), "v"(y));

__attribute__((target("avx512f"))) void run_bf16_avx512(int64_t steps) {
  typedef float Vector __attribute__((vector_size(64)));
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1.001f;
  CHAINS_12(DECLARE)
  for (int64_t step = 0; step < steps; ++step) {
    CHAINS_12(DOT)
  }
  CHAINS_12(KEEP)
}

// Products of tiles, into four tiles of sums.
__attribute__((target("amx-tile,amx-bf16"))) void run_bf16_amx(int64_t steps) {
  struct alignas(64) {  // eight tiles of 16 rows of 64 bytes
    uint8_t palette = 1;
    uint8_t unused[15] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("ldtilecfg %0" : : "m"(config));
  for (int64_t step = 0; step < steps; step += 4) {
    asm volatile(
        "tdpbf16ps %tmm5, %tmm4, %tmm0\n\t"
        "tdpbf16ps %tmm6, %tmm4, %tmm1\n\t"
        "tdpbf16ps %tmm5, %tmm7, %tmm2\n\t"
        "tdpbf16ps %tmm6, %tmm7, %tmm3");
  }
  asm volatile("tilerelease");
}

__attribute__((target("avx512f"))) void run_fma_avx512(int64_t steps) {
  typedef float Vector __attribute__((vector_size(64)));
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1.001f;
  CHAINS_12(DECLARE)
  for (int64_t step = 0; step < steps; ++step) {
    CHAINS_12(FMA)
  }
  CHAINS_12(KEEP)
}

#undef REGISTER
#define REGISTER "x"
#undef FMA
#define FMA(i) asm volatile("vfmadd231ps %1, %2, %0" : "+x"(acc##i) : "x"(x), "x"(y));

__attribute__((target("avx2,fma"))) void run_fma_avx2(int64_t steps) {
  typedef float Vector __attribute__((vector_size(32)));
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1.001f;
  CHAINS_12(DECLARE)
  for (int64_t step = 0; step < steps; ++step) {
    CHAINS_12(FMA)
  }
  CHAINS_12(KEEP)
}

#undef FMA
// Without FMA: even chains multiply, odd ones add.
#define FMA(i)                                            \
  if (i % 2 == 0)                                         \
    asm volatile("mulps %1, %0" : "+x"(acc##i) : "x"(y)); \
  else                                                    \
    asm volatile("addps %1, %0" : "+x"(acc##i) : "x"(x));

void run_fma_scalar(int64_t steps) {
  typedef float Vector __attribute__((vector_size(16)));
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1.0f;
  CHAINS_12(DECLARE)
  for (int64_t step = 0; step < steps; ++step) {
    CHAINS_12(FMA)
  }
  CHAINS_12(KEEP)
}

#elif defined(__aarch64__)

#define REGISTER "w"
#define FMA(i) asm volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(acc##i) : "w"(x), "w"(y));

void run_fma_neon(int64_t steps) {
  typedef float Vector __attribute__((vector_size(16)));
  const Vector x = Vector{} + 0.999f, y = Vector{} + 1.001f;
  CHAINS_24(DECLARE)
  for (int64_t step = 0; step < steps; ++step) {
    CHAINS_24(FMA)
  }
  CHAINS_24(KEEP)
}

#endif

}  // namespace

double fma_flops_per_step(attn_isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
    case ATTN_ISA_AMX_BF16:
      return 12 * 16 * 2;
    case ATTN_ISA_AVX2:
      return 12 * 8 * 2;
    case ATTN_ISA_SCALAR:
      return 12 * 4;
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
    case ATTN_ISA_SCALAR:
      return 24 * 4 * 2;
#endif
    default:
      return 0;
  }
}

void run_fma(attn_isa isa, int64_t steps) {
  switch (isa) {
#if defined(__x86_64__)
    case ATTN_ISA_AVX512:
    case ATTN_ISA_AVX512_BF16:
    case ATTN_ISA_AMX_BF16:
      return run_fma_avx512(steps);
    case ATTN_ISA_AVX2:
      return run_fma_avx2(steps);
    case ATTN_ISA_SCALAR:
      return run_fma_scalar(steps);
#elif defined(__aarch64__)
    case ATTN_ISA_NEON:
    case ATTN_ISA_SCALAR:
      return run_fma_neon(steps);
#endif
    default:
      return;
  }
}

double bf16_flops_per_step(attn_isa isa) {
  switch (isa) {
    case ATTN_ISA_AVX512_BF16:
      return 12 * 32 * 2;
    case ATTN_ISA_AMX_BF16:
      return 16 * 16 * 32 * 2;
    default:
      return 0;
  }
}

void run_bf16(attn_isa isa, int64_t steps) {
#if defined(__x86_64__)
  isa == ATTN_ISA_AMX_BF16 ? run_bf16_amx(steps) : run_bf16_avx512(steps);
#else
  (void)isa;
  (void)steps;
#endif
}

Memory make_huge_memory(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  Memory buffer(std::aligned_alloc(kHugePage, size));
  if (!buffer) throw std::bad_alloc();
  madvise(buffer.get(), size, MADV_HUGEPAGE);
  return buffer;
}

void Free::operator()(void* pointer) const { std::free(pointer); }

ReadBuffer::ReadBuffer(size_t bytes) : size_(bytes), data_(make_huge_memory(bytes)) {
  std::memset(data_.get(), 1, size_);
}

namespace {

constexpr size_t kStreams = 4, kLine = 64;

class Sum {
 public:
  void add_line(const char* line) {
    for (size_t i = 0; i < kLine / sizeof(Vector); ++i) {
      sums_[i] += reinterpret_cast<const Vector*>(line)[i];
    }
  }
  uint64_t total() const {
    const Vector sum = sums_[0] + sums_[1] + sums_[2] + sums_[3];
    return sum[0] + sum[1];
  }

 private:
  typedef uint64_t Vector __attribute__((vector_size(16)));
  Vector sums_[kLine / sizeof(Vector)] = {};
};

}  // namespace

// Four streams at once, each prefetched: one plain stream reads at half of that on server cores.
uint64_t ReadBuffer::read(int part, int parts) const {
  constexpr size_t kAhead = 16;  // lines
  const char* data = static_cast<const char*>(data_.get());
  const size_t stream_lines = size_ / kLine / kStreams / parts;
  Sum sum;
  for (size_t line = 0; line < stream_lines; ++line) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      const char* at = data + ((part * kStreams + stream) * stream_lines + line) * kLine;
      __builtin_prefetch(at + kAhead * kLine);
      sum.add_line(at);
    }
  }
  return sum.total();
}

// Four blocks at once, prefetched half a block ahead. The number of blocks is a power of two too.
uint64_t ReadBuffer::read_blocks(size_t block, int part, int parts) const {
  const char* data = static_cast<const char*>(data_.get());
  const size_t blocks = size_ / block;
  const auto place = [&](size_t i) { return data + (i * 0x9e3779b1 & (blocks - 1)) * block; };
  const size_t ahead = block / 2;
  Sum sum;
  for (size_t i = blocks * part / parts; i + kStreams <= blocks * (part + 1) / parts;
       i += kStreams) {
    const char* now[kStreams];
    const char* next[kStreams];
    for (size_t stream = 0; stream < kStreams; ++stream) {
      now[stream] = place(i + stream);
      next[stream] = place(i + stream + kStreams);
    }
    for (size_t byte = 0; byte < block; byte += kLine) {
      for (size_t stream = 0; stream < kStreams; ++stream) {
        __builtin_prefetch(byte < block - ahead ? now[stream] + byte + ahead
                                                : next[stream] + byte + ahead - block);
        sum.add_line(now[stream] + byte);
      }
    }
  }
  return sum.total();
}

}  // namespace bench

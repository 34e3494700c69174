// primitives_sm90.cuh: what only sm_90a has - mbarriers, TMA, wgmma, register reallocation - as PTX
// for nvcc and as the emulator's twins for a host compiler.
//
// Shared memory is named by its 32-bit address in the CTA's window (SharedAddress), never by a
// pointer. Whoever writes shared memory with ordinary stores that TMA or wgmma read next calls
// fence_async_shared() and then meets the reader at a barrier.
#ifndef ATTN_CUDA_KERNELS_PRIMITIVES_SM90_CUH_
#define ATTN_CUDA_KERNELS_PRIMITIVES_SM90_CUH_

#include "primitives.cuh"

#if !defined(__CUDACC__)
#include "../emulator/mbarrier.h"
#include "../emulator/proxy.h"
#include "../emulator/tma.h"
#include "../emulator/wgmma.h"
#endif

namespace attn::cuda {

// How a wgmma operand in shared memory lies: rows of 64 elements (128 bytes, 128-byte swizzle), the
// rows being those of the operand (K_MAJOR: A[m][k], B[n][k]) or of its inner dimension
// (MN_MAJOR: B[k][n]).
enum class Major { K, MN };

// Like shuffle(x, 0), but for what all lanes hold alike: it then lies in a uniform register.
__device__ __forceinline__ int uniform(int x) {
  return static_cast<int>(bits_of(shuffle(float_of(static_cast<uint32_t>(x)), 0)));
}

// The 64-bit description of an operand at `address`. Tiles of 64 columns lie `tile_bytes` apart;
// within one, groups of 8 rows lie 1024 bytes apart. K-major operands never leave a tile of 64
// columns in one instruction, so that tile_bytes matters to MN-major ones only.
struct Descriptor {
  uint32_t low;                                           // address and tile_bytes, / 16
  static constexpr uint32_t high = 1024 >> 4 | 1u << 30;  // 8 rows, / 16; 128-byte swizzle

  // The same operand, `bytes` further on.
  __device__ __forceinline__ Descriptor operator+(uint32_t bytes) const {
    return {low + (bytes >> 4)};
  }
  __device__ __forceinline__ uint64_t bits() const {
    return static_cast<uint64_t>(high) << 32 | low;
  }
};

__device__ __forceinline__ Descriptor wgmma_descriptor(SharedAddress address, uint32_t tile_bytes) {
  uint32_t low = (address & 0x3ffff) >> 4 | tile_bytes >> 4 << 16;
#ifdef __CUDACC__
  asm volatile("" : "+r"(low));  // else one for each step is kept in registers through a loop
#endif
  return {low};
}

#ifdef __CUDACC__

// ---- mbarriers ----------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(SharedAddress barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers known to the async proxy; then the CTA meets.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" ::
                   : "memory");
}

__device__ __forceinline__ void barrier_arrive(SharedAddress barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and has the phase wait for `bytes` more of TMA.
__device__ __forceinline__ void barrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ bool barrier_try_wait(SharedAddress barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n .reg .pred p;\n"
      " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      " selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

#ifdef ATTN_CUDA_WATCHDOG
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
#endif

// Waits for the end of the phase of that parity. A build with a watchdog gives up after so many
// nanoseconds and says where; since it calls a function, its matrix products are not overlapped.
// What waits at a named barrier is not bounded itself: it waits for a warp that is.
__device__ __forceinline__ void barrier_wait(SharedAddress barrier, uint32_t parity) {
#ifdef ATTN_CUDA_WATCHDOG
  const uint64_t start = nanoseconds();
  while (!barrier_try_wait(barrier, parity)) {
    if (nanoseconds() - start < ATTN_CUDA_WATCHDOG) continue;
    printf("watchdog: mbarrier at byte %u, phase of parity %u, CTA %u, thread %u\n",
           barrier - shared_base(), parity, blockIdx.x, threadIdx.x);
    __trap();
  }
#else
  while (!barrier_try_wait(barrier, parity)) {
  }
#endif
}

// ---- TMA ----------------------------------------------------------------------------------------

__device__ __forceinline__ void tensor_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// One box from global to shared memory; its bytes, clipped ones included, count at the barrier.
__device__ __forceinline__ void tensor_load(SharedAddress to, const TensorMap* map,
                                            SharedAddress barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// One box from shared to global memory; what lies outside of the tensor is not written.
__device__ __forceinline__ void tensor_store(const TensorMap* map, SharedAddress from, int c0,
                                             int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}],"
      " [%1];" ::"l"(map),
      "r"(from), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

__device__ __forceinline__ void tensor_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until the committed stores of this thread have read their shared memory.
__device__ __forceinline__ void tensor_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Orders this thread's ordinary accesses to shared memory before later ones of TMA and wgmma.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// x, of which the compiler does not know that it has met it before: what is made of it is computed
// again rather than kept in registers from one use to the next.
__device__ __forceinline__ int forget(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The next number of a counter in global memory.
__device__ __forceinline__ uint32_t take_ticket(uint32_t* counter) {
  return atomicAdd(counter, 1u);
}

__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The larger one; a number rather than NaN.
__device__ __forceinline__ float max_fast(float a, float b) { return fmaxf(a, b); }

// ---- warpgroups ---------------------------------------------------------------------------------

template <int Registers>
__device__ __forceinline__ void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// Meets `threads` threads at a named barrier, or only tells that this one has come.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Four 8 x 8 matrices of 16-bit values; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void store_matrix_x4(SharedAddress row, uint32_t r0, uint32_t r1,
                                                uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

// Keeps what `value` is made of in front of what follows: a store that never happens, since `value`
// is never negative. Without it ptxas moves a softmax behind the wait that it should overlap with.
__device__ __forceinline__ void pin_before(float value, SharedAddress scratch) {
  asm volatile(
      "{\n .reg .pred p;\n setp.lt.f32 p, %0, 0f00000000;\n @p st.shared.f32 [%1], %0;\n}" ::"f"(
          value),
      "r"(scratch)
      : "memory");
}

// ---- wgmma --------------------------------------------------------------------------------------

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `Pending` groups are under way. The accumulators that are then ready are
// named, so that no use of them moves in front of the wait.
template <int Pending, int Count>
__device__ __forceinline__ void wgmma_wait(float (&ready)[Count]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(ready[i])::"memory");
}

// Ten registers or accumulators at a time.
#define ATTN_R10(p)                                                                                \
  "%" #p "0, %" #p "1, %" #p "2, %" #p "3, %" #p "4, %" #p "5, %" #p "6, %" #p "7, %" #p "8, %" #p \
  "9"
#define ATTN_R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9"
#define ATTN_R8(p) "%" #p "0, %" #p "1, %" #p "2, %" #p "3, %" #p "4, %" #p "5, %" #p "6, %" #p "7"
#define ATTN_R6(p) "%" #p "0, %" #p "1, %" #p "2, %" #p "3, %" #p "4, %" #p "5"
#define ATTN_R4(p) "%" #p "0, %" #p "1, %" #p "2, %" #p "3"
#define ATTN_R2(p) "%" #p "0, %" #p "1"
#define ATTN_D8(i)                                                                            \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ATTN_D32(i) ATTN_D8(i), ATTN_D8(i + 8), ATTN_D8(i + 16), ATTN_D8(i + 24)

#define ATTN_WGMMA_SS(n, type, registers, oa, ob, flag, major, ...)                            \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #flag                                    \
               ", 0;\n"                                                                        \
               " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers \
               "}, %" #oa ", %" #ob ", p, 1, 1, 0, %" #major ";\n}"                            \
               : __VA_ARGS__                                                                   \
               : "l"(a.bits()), "l"(b.bits()), "r"(accumulate), "n"(BMajor == Major::MN ? 1 : 0))
#define ATTN_WGMMA_RS(n, type, registers, a0, a1, a2, a3, ob, flag, major, ...)                  \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #flag                                      \
               ", 0;\n"                                                                          \
               " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" registers   \
               "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #ob ", p, 1, 1, %" #major ";\n}" \
               : __VA_ARGS__                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits()), "r"(accumulate),     \
                 "n"(BMajor == Major::MN ? 1 : 0))

// d (+)= A B for one warpgroup: A [64][16] of T, B [16][N] of T, d in f32. `d` belongs to the
// tensor cores until wgmma_wait names it, and so do the registers of A.
template <class T, int N, Major BMajor>
struct Wgmma;

#define ATTN_WGMMA_TYPE(T, type, n, registers, o0, o1, o2, o3, o4, o5, o6, ...)              \
  template <Major BMajor>                                                                    \
  struct Wgmma<T, n, BMajor> {                                                               \
    static __device__ __forceinline__ void ss(float (&d)[n / 2], Descriptor a, Descriptor b, \
                                              int accumulate) {                              \
      ATTN_WGMMA_SS(n, type, registers, o0, o1, o2, o3, __VA_ARGS__);                        \
    }                                                                                        \
    static __device__ __forceinline__ void rs(float (&d)[n / 2], const uint32_t (&a)[4],     \
                                              Descriptor b, int accumulate) {                \
      ATTN_WGMMA_RS(n, type, registers, o0, o1, o2, o3, o4, o5, o6, __VA_ARGS__);            \
    }                                                                                        \
  };
#define ATTN_WGMMA(...)                    \
  ATTN_WGMMA_TYPE(F16, "f16", __VA_ARGS__) \
  ATTN_WGMMA_TYPE(BF16, "bf16", __VA_ARGS__)

#define ATTN_R60 \
  ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R10(2) ", " ATTN_R10(3) ", " ATTN_R10(4) ", " ATTN_R10(5)
// clang-format off
ATTN_WGMMA(48, ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R4(2),
           24, 25, 26, 27, 28, 29, 30, ATTN_D8(0), ATTN_D8(8), ATTN_D8(16))
ATTN_WGMMA(64, ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R10(2) ", " ATTN_R2(3),
           32, 33, 34, 35, 36, 37, 38, ATTN_D32(0))
ATTN_WGMMA(80, ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R10(2) ", " ATTN_R10(3),
           40, 41, 42, 43, 44, 45, 46, ATTN_D32(0), ATTN_D8(32))
ATTN_WGMMA(96, ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R10(2) ", " ATTN_R10(3) ", " ATTN_R8(4),
           48, 49, 50, 51, 52, 53, 54, ATTN_D32(0), ATTN_D8(32), ATTN_D8(40))
ATTN_WGMMA(112, ATTN_R0 ", " ATTN_R10(1) ", " ATTN_R10(2) ", " ATTN_R10(3) ", " ATTN_R10(4) ", " ATTN_R6(5),
           56, 57, 58, 59, 60, 61, 62, ATTN_D32(0), ATTN_D8(32), ATTN_D8(40), ATTN_D8(48))
ATTN_WGMMA(128, ATTN_R60 ", " ATTN_R4(6),
           64, 65, 66, 67, 68, 69, 70, ATTN_D32(0), ATTN_D32(32))
ATTN_WGMMA(144, ATTN_R60 ", " ATTN_R10(6) ", " ATTN_R2(7),
           72, 73, 74, 75, 76, 77, 78, ATTN_D32(0), ATTN_D32(32), ATTN_D8(64))
ATTN_WGMMA(176, ATTN_R60 ", " ATTN_R10(6) ", " ATTN_R10(7) ", " ATTN_R8(8),
           88, 89, 90, 91, 92, 93, 94, ATTN_D32(0), ATTN_D32(32), ATTN_D8(64), ATTN_D8(72),
           ATTN_D8(80))
ATTN_WGMMA(192, ATTN_R60 ", " ATTN_R10(6) ", " ATTN_R10(7) ", " ATTN_R10(8) ", " ATTN_R6(9),
           96, 97, 98, 99, 100, 101, 102, ATTN_D32(0), ATTN_D32(32), ATTN_D32(64))
ATTN_WGMMA(256, ATTN_R60 ", " ATTN_R10(6) ", " ATTN_R10(7) ", " ATTN_R10(8) ", " ATTN_R10(9) ", " ATTN_R10(10)
           ", " ATTN_R10(11) ", " ATTN_R8(12),
           128, 129, 130, 131, 132, 133, 134, ATTN_D32(0), ATTN_D32(32), ATTN_D32(64), ATTN_D32(96))
// clang-format on

#undef ATTN_R0
#undef ATTN_R2
#undef ATTN_R4
#undef ATTN_R6
#undef ATTN_R8
#undef ATTN_R10
#undef ATTN_R60
#undef ATTN_D8
#undef ATTN_D32
#undef ATTN_WGMMA
#undef ATTN_WGMMA_TYPE
#undef ATTN_WGMMA_SS
#undef ATTN_WGMMA_RS

#else  // the emulator

inline void barrier_init(SharedAddress barrier, uint32_t arrivals) {
  emulator::current().cta->engine<emulator::Mbarriers>().init(barrier, arrivals);
}
inline void barrier_init_fence() {
  emulator::current().cta->engine<emulator::Mbarriers>().init_fence();
  emulator::current().cta->engine<emulator::Proxy>().fence();
}
inline void barrier_arrive(SharedAddress barrier) {
  emulator::current().cta->engine<emulator::Mbarriers>().arrive(barrier, 0);
}
inline void barrier_arrive_expect(SharedAddress barrier, uint32_t bytes) {
  emulator::current().cta->engine<emulator::Mbarriers>().arrive(barrier, bytes);
}
inline void barrier_wait(SharedAddress barrier, uint32_t parity) {
  emulator::current().cta->engine<emulator::Mbarriers>().wait(barrier, parity);
}

inline emulator::TensorDescription description_of(const TensorMap* map) {
  emulator::TensorDescription description;
  static_assert(sizeof(description) <= sizeof(TensorMap));
  std::memcpy(&description, map, sizeof(description));
  return description;
}
inline void tensor_prefetch(const TensorMap*) {}
inline void tensor_load(SharedAddress to, const TensorMap* map, SharedAddress barrier, int c0,
                        int c1, int c2, int c3) {
  emulator::current().cta->engine<emulator::Tma>().load(to, description_of(map), barrier,
                                                        {c0, c1, c2, c3});
}
inline void tensor_store(const TensorMap* map, SharedAddress from, int c0, int c1, int c2, int c3) {
  emulator::current().cta->engine<emulator::Tma>().store(description_of(map), from,
                                                         {c0, c1, c2, c3});
}
inline void tensor_store_commit() { emulator::current().cta->engine<emulator::Tma>().commit(); }
inline void tensor_store_wait_read() {
  emulator::current().cta->engine<emulator::Tma>().wait_read();
}
inline void fence_async_shared() { emulator::current().cta->engine<emulator::Proxy>().fence(); }

inline int forget(int x) { return x; }
inline uint32_t take_ticket(uint32_t* counter) {
  emulator::preempt();
  return (*counter)++;
}
inline float max_fast(float a, float b) { return std::fmax(a, b); }
inline float log2_fast(float x) { return std::log2(x); }
inline float reciprocal_fast(float x) { return 1 / x; }

template <int Registers>
void registers_increase() {}
template <int Registers>
void registers_decrease() {}

inline void named_barrier_sync(int id, int threads) { emulator::barrier_sync(id, threads); }
inline void named_barrier_arrive(int id, int threads) { emulator::barrier_arrive(id, threads); }

inline void store_matrix_x4(SharedAddress row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  struct Operand {
    SharedAddress row;
    uint32_t r[4];
  } operand{row, {r0, r1, r2, r3}};
  emulator::collective("stmatrix", operand, [](Operand* const* lanes) {
    for (int i = 0; i < 32; ++i) {  // row i % 8 of matrix i / 8: two elements of each of four lanes
      Quad quad;
      for (int j = 0; j < 4; ++j) quad.word[j] = lanes[i % 8 * 4 + j]->r[i / 8];
      store_shared(lanes[i]->row, quad);
    }
  });
}
inline void pin_before(float, SharedAddress) {}

inline void wgmma_fence() { emulator::current().cta->engine<emulator::Wgmma>().fence(); }
inline void wgmma_commit() { emulator::current().cta->engine<emulator::Wgmma>().commit(); }
template <int Pending, int Count>
void wgmma_wait(float (&)[Count]) {
  emulator::current().cta->engine<emulator::Wgmma>().wait(Pending);
}
template <class T, int N, Major BMajor>
struct Wgmma {
  static constexpr emulator::WgmmaType kType =
      SameType<T, F16>::value ? emulator::WgmmaType::kF16 : emulator::WgmmaType::kBF16;
  static void ss(float (&d)[N / 2], Descriptor a, Descriptor b, int accumulate) {
    emulator::current().cta->engine<emulator::Wgmma>().issue(
        {kType, N, false, a.bits(), b.bits(), BMajor == Major::MN, accumulate != 0}, d, nullptr);
  }
  static void rs(float (&d)[N / 2], const uint32_t (&a)[4], Descriptor b, int accumulate) {
    emulator::current().cta->engine<emulator::Wgmma>().issue(
        {kType, N, true, 0, b.bits(), BMajor == Major::MN, accumulate != 0}, d, a);
  }
};

#endif

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_PRIMITIVES_SM90_CUH_

// Device primitives: the one place of the kernels with inline PTX (those of sm_90a are in
// primitives_sm90.cuh). nvcc sees PTX here, a host compiler the emulator's twins, so that the same
// kernels run on both.
//
// Shared memory is named by 32-bit addresses in bytes (SharedAddress); everything else that touches
// it is here. A warp's fragments: group = lane / 4, place = lane % 4.
//   A [16, k]  registers 0, 2: row group, 1, 3: row group + 8; 0, 1: first half of k, 2, 3: second
//   B [k, 8]   registers 0, 1: halves of k; column group
//   D [16, 8]  0, 1: row group, columns 2 place and 2 place + 1; 2, 3: row group + 8
#ifndef ATTN_CUDA_KERNELS_PRIMITIVES_CUH_
#define ATTN_CUDA_KERNELS_PRIMITIVES_CUH_

#include "../params.h"

#if !defined(__CUDACC__)
#include "../emulator/device.h"
#endif

namespace attn::cuda {

using SharedAddress = uint32_t;

constexpr int kWarpSize = 32;
constexpr float kInfinity = __builtin_huge_valf();
constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.693147180559945309417;

// 16 bytes.
struct alignas(16) Quad {
  uint32_t word[4];
};

template <class A, class B>
struct SameType {
  static constexpr bool value = false;
};
template <class A>
struct SameType<A, A> {
  static constexpr bool value = true;
};

// Storage types. Element is what lies in memory; to_float and from_float (to nearest even) convert
// one, pack two of them: `low` at the lower address.
struct F16;
struct BF16;
struct F32;

#if defined(__CUDACC__)

// ---- where the thread is

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }

// threadIdx.x, read anew at each call: what is computed from it does not live in registers from one
// use to the next.
__device__ __forceinline__ int fresh_thread_index() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return static_cast<int>(x);
}

__device__ __forceinline__ void count_exact_row() {}

// ---- shared memory

__device__ __forceinline__ SharedAddress shared_base() {
  extern __shared__ __align__(1024) unsigned char attn_shared[];
  return static_cast<SharedAddress>(__cvta_generic_to_shared(attn_shared));
}

template <class T>
__device__ __forceinline__ T load_shared(SharedAddress address) {
  return *static_cast<const T*>(__cvta_shared_to_generic(address));
}

template <class T>
__device__ __forceinline__ void store_shared(SharedAddress address, const T& value) {
  *static_cast<T*>(__cvta_shared_to_generic(address)) = value;
}

// What store_shared left there, read where it is used and not kept in registers.
template <class T>
__device__ __forceinline__ const T& shared_object(SharedAddress address) {
  return *static_cast<const T*>(__cvta_shared_to_generic(address));
}

// A word, loaded where it is written and not earlier: loads that a compiler gathers in advance take
// registers.
__device__ __forceinline__ uint32_t load_word_here(SharedAddress address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

// Copies 16 bytes from global memory, `bytes` of them and zeros after; with 0 nothing is read. Both
// addresses are multiples of 16.
__device__ __forceinline__ void copy_async(SharedAddress to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's groups except for the latest kPending.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- barriers

__device__ __forceinline__ void cta_sync() { __syncthreads(); }
__device__ __forceinline__ void warp_sync() { __syncwarp(); }

// ---- between lanes

__device__ __forceinline__ float shuffle(float value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
__device__ __forceinline__ float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
__device__ __forceinline__ uint32_t ballot(bool predicate) {
  return __ballot_sync(0xffffffffu, predicate);
}

// ---- matrices

// Four 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

#define ATTN_MMA(instruction)                                                                 \
  asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// D += A B
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  ATTN_MMA("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
}
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  ATTN_MMA("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
}
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  ATTN_MMA("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef ATTN_MMA

// ---- numbers

__device__ __forceinline__ float float_of(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }

// 2^x to 2 ulp; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Rounded to 10 bits after the point.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

struct F16 {
  using Element = uint16_t;
  static constexpr attn_dtype kDtype = ATTN_DTYPE_F16;
  static __device__ __forceinline__ float to_float(Element x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  }
  static __device__ __forceinline__ Element from_float(float x) {
    Element y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
};

struct BF16 {
  using Element = uint16_t;
  static constexpr attn_dtype kDtype = ATTN_DTYPE_BF16;
  static __device__ __forceinline__ float to_float(Element x) {
    return float_of(static_cast<uint32_t>(x) << 16);
  }
  static __device__ __forceinline__ Element from_float(float x) {
    Element y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
  }
};

// ---- global memory

__device__ __forceinline__ void atomic_or(uint32_t* word, uint32_t bits) { atomicOr(word, bits); }

#else  // the emulator

inline int lane_index() { return emulator::current().lane; }

// Tests count the rows that take the exact path: it would hide what spoiled them.
inline void count_exact_row() { ++emulator::exact_rows; }

inline int fresh_thread_index() { return emulator::current().linear; }

inline SharedAddress shared_base() { return emulator::kSharedBase; }

template <class T>
T load_shared(SharedAddress address) {
  T value;
  std::memcpy(&value, emulator::shared_at(address, sizeof(T), alignof(T)), sizeof(T));
  return value;
}

template <class T>
void store_shared(SharedAddress address, const T& value) {
  std::memcpy(emulator::shared_at(address, sizeof(T), alignof(T)), &value, sizeof(T));
  emulator::Thread& self = emulator::current();
  if (self.cta->on_shared_write) self.cta->on_shared_write(address, sizeof(T), self);
}

template <class T>
const T& shared_object(SharedAddress address) {
  return *reinterpret_cast<const T*>(emulator::shared_at(address, sizeof(T), alignof(T)));
}

inline uint32_t load_word_here(SharedAddress address) { return load_shared<uint32_t>(address); }

inline void copy_async(SharedAddress to, const void* from, int bytes) {
  emulator::copy_async(to, from, 16, static_cast<uint32_t>(bytes));
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulator::copy_async_wait(kPending);
}

inline void cta_sync() {
  const emulator::Dim3 block = emulator::block_dim();
  emulator::barrier_sync(0, static_cast<int>(block.x * block.y * block.z));
}
inline void warp_sync() { emulator::warp_sync(); }

inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }

inline float shuffle(float value, int lane) {
  return float_of(emulator::shuffle(bits_of(value), lane));
}
inline float shuffle_xor(float value, int mask) { return shuffle(value, lane_index() ^ mask); }
inline uint32_t ballot(bool predicate) { return emulator::ballot(predicate); }

inline void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  emulator::ldmatrix_x4(r, row, false);
}
inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  emulator::ldmatrix_x4(r, row, true);
}
inline void mma_f16(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  emulator::mma(emulator::MmaType::kF16, d, a, b);
}
inline void mma_bf16(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  emulator::mma(emulator::MmaType::kBF16, d, a, b);
}
inline void mma_tf32(float (&d)[4], const uint32_t* a, const uint32_t* b) {
  emulator::mma(emulator::MmaType::kTF32, d, a, b);
}

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}
inline uint32_t to_tf32(float x) { return emulator::to_tf32(x); }

struct F16 {
  using Element = uint16_t;
  static constexpr attn_dtype kDtype = ATTN_DTYPE_F16;
  static float to_float(Element x) { return emulator::from_half(x); }
  static Element from_float(float x) { return emulator::to_half(x); }
  static uint32_t pack(float low, float high) {
    return from_float(low) | static_cast<uint32_t>(from_float(high)) << 16;
  }
};

struct BF16 {
  using Element = uint16_t;
  static constexpr attn_dtype kDtype = ATTN_DTYPE_BF16;
  static float to_float(Element x) { return emulator::from_bfloat(x); }
  static Element from_float(float x) { return emulator::to_bfloat(x); }
  static uint32_t pack(float low, float high) {
    return from_float(low) | static_cast<uint32_t>(from_float(high)) << 16;
  }
};

inline void atomic_or(uint32_t* word, uint32_t bits) {
  *word |= bits;
  emulator::preempt();
}

#endif

struct F32 {
  using Element = float;
  static constexpr attn_dtype kDtype = ATTN_DTYPE_F32;
  static __device__ __forceinline__ float to_float(Element x) { return x; }
  static __device__ __forceinline__ Element from_float(float x) { return x; }
};

// ---- small things that both compilers read

template <class T>
__device__ __forceinline__ T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
__device__ __forceinline__ T max_of(T a, T b) {
  return a < b ? b : a;
}
template <class T>
__device__ __forceinline__ T clamp_to(T x, T low, T high) {
  return x < low ? low : high < x ? high : x;
}

// False for NaN and infinities.
__device__ __forceinline__ bool is_finite(float x) {
  return (bits_of(x) & 0x7f800000u) != 0x7f800000u;
}
__device__ __forceinline__ float quiet_nan() { return float_of(0x7fffffffu); }

__device__ __forceinline__ float warp_sum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_PRIMITIVES_CUH_

// conformance_sm80.cu: what every GPU from compute capability 8.0 on has, one kernel for each case.
#include "../kernels/mma_traits.cuh"
#include "conformance.h"

namespace attn::cuda {

// A float of each sign and size, denormals and ties between 16-bit numbers included; no NaN, whose
// bits are free.
__device__ __forceinline__ float any_number(uint32_t bits) {
  if (bits % 8 == 0) bits = (bits & 0xffffe000u) | 0x1000u;                 // tie of f16
  if (bits % 8 == 1) bits = (bits & 0xffff0000u) | 0x8000u;                 // tie of bf16
  if (bits % 8 < 6) bits = (bits & 0x807fffffu) | (112 + bits % 31) << 23;  // about f16's range
  if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0xff800000u;             // infinity
  return float_of(bits);
}

// Each thread takes words from the lane and the warp beside it.
__device__ __forceinline__ void cta_sync_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 4; ++round) {
    store_shared(shared_base() + t * 4, p.in[round * 256 + t]);
    cta_sync();
    p.out[round * 256 + t] = load_shared<uint32_t>(shared_base() + (t + 37) % 256 * 4);
    cta_sync();
  }
}

// 0 to 16 bytes, and zeros after them.
__device__ __forceinline__ void copy_async_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  copy_async(shared_base() + t * 16, p.in + t * 4, t % 17);
  copy_async_commit();
  copy_async_wait<0>();
  cta_sync();
  for (int i = t; i < 512; i += 128) p.out[i] = load_shared<uint32_t>(shared_base() + i * 4);
}

// Two groups under way; the older one is used first.
__device__ __forceinline__ void copy_async_groups_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  copy_async(shared_base() + t * 16, p.in + t * 4, 16);
  copy_async_commit();
  for (int n = 1; n <= 8; ++n) {
    if (n < 8) copy_async(shared_base() + n % 2 * 1024 + t * 16, p.in + n * 256 + t * 4, 16);
    copy_async_commit();
    copy_async_wait<1>();
    cta_sync();
    for (int i = 0; i < 4; ++i) {
      p.out[(n - 1) * 256 + i * 64 + t] =
          load_shared<uint32_t>(shared_base() + (n - 1) % 2 * 1024 + (i * 64 + (t + 5) % 64) * 4);
    }
    cta_sync();
  }
}

__device__ __forceinline__ void lanes_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  const float x = float_of(p.in[t] & 0x7f7fffffu);
  int at = t;
  const auto put = [&](uint32_t word) { p.out[at] = word, at += 64; };
  for (int mask = 1; mask < 32; mask *= 2) put(bits_of(shuffle_xor(x, mask)));
  for (int lane = 0; lane < 32; lane += 7) put(bits_of(shuffle(x, lane)));
  put(ballot(p.in[t] & 1));
  put(static_cast<uint32_t>(lane_index()));
  put(static_cast<uint32_t>(fresh_thread_index()));
}

template <bool kTransposed>
__device__ __forceinline__ void ldmatrix_case(const ConformanceParams& p) {
  const int lane = lane_index();
  for (int i = lane; i < 2048; i += 32) store_shared(shared_base() + i * 4, p.in[i]);
  warp_sync();
  for (int n = 0; n < 16; ++n) {
    uint32_t r[4];
    const SharedAddress row = shared_base() + (lane * 7 + n * 29) % 512 * 16;
    if (kTransposed) {
      load_matrices_transposed(r, row);
    } else {
      load_matrices(r, row);
    }
    for (int i = 0; i < 4; ++i) p.out[(n * 4 + i) * 32 + lane] = r[i];
  }
}

// Eight products, each added to the ones before.
template <class T>
__device__ __forceinline__ void mma_case(const ConformanceParams& p) {
  const int lane = lane_index();
  float d[4] = {1, 2, 3, 4};
  for (int n = 0; n < 8; ++n) {
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i) a[i] = p.in[(n * 6 + i) * 32 + lane];
    for (int i = 0; i < 2; ++i) b[i] = p.in[(n * 6 + 4 + i) * 32 + lane];
    if constexpr (kIsF32<T>) {
      mma_tf32(d, a, b);
    } else if constexpr (SameType<T, F16>::value) {
      mma_f16(d, a, b);
    } else {
      mma_bf16(d, a, b);
    }
    for (int i = 0; i < 4; ++i) p.out[(n * 4 + i) * 32 + lane] = bits_of(d[i]);
  }
}

// D [64][64] = A [64][64] B [64][64] as the kernels do it: cp.async into swizzled rows, ldmatrix,
// mma; B is read transposed.
__device__ __forceinline__ void swizzled_product_case(const ConformanceParams& p) {
  using Traits = MmaTraits<BF16, 64, 4, 1, 64, false>;
  const int t = static_cast<int>(threadIdx.x), lane = lane_index(), warp_row = t / 32 * 16;
  const SharedAddress at_a = shared_base(), at_b = at_a + 64 * Traits::kRowBytes;
  for (int i = t; i < 64 * 8; i += 128) {
    copy_async(chunk_address<Traits>(at_a, i / 8, i % 8), p.in + i * 4, 16);
    copy_async(chunk_address<Traits>(at_b, i / 8, i % 8), p.in + 2048 + i * 4, 16);
  }
  copy_async_commit();
  copy_async_wait<0>();
  cta_sync();
  float d[8][4] = {};
  for (int step = 0; step < 4; ++step) {
    uint32_t a[4];
    load_matrices(a, chunk_address<Traits>(at_a, warp_row + lane % 16, step * 2 + lane / 16));
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(b,
                               chunk_address<Traits>(at_b, step * 16 + lane % 16, n + lane / 16));
      mma_bf16(d[n], a, b);
      mma_bf16(d[n + 1], a, b + 2);
    }
  }
  for (int n = 0; n < 8; ++n) {
    for (int i = 0; i < 4; ++i) p.out[(n * 4 + i) * 128 + t] = bits_of(d[n][i]);
  }
}

__device__ __forceinline__ void roundings_case(const ConformanceParams& p) {
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 128) {
    const float x = any_number(p.in[i]), y = any_number(p.in[i + 4096]);
    uint32_t* const out = p.out + i * 7;
    const auto half = static_cast<uint16_t>(p.in[i] & 0xfbffu),
               b = static_cast<uint16_t>(p.in[i] & 0xff7fu);
    out[0] = F16::pack(x, y);
    out[1] = BF16::pack(x, y);
    out[2] = static_cast<uint32_t>(F16::from_float(x)) << 16 | BF16::from_float(y);
    out[3] = bits_of(F16::to_float(half));
    out[4] = bits_of(BF16::to_float(b));
    out[5] = is_finite(x) ? to_tf32(x) & 0xffffe000u : 0;
    out[6] = is_finite(x);
  }
}

__device__ __forceinline__ void exp2_case(const ConformanceParams& p) {
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 128) {
    // Multiples of 2^-20 from -160 to 96; below -126 the result is 0.
    const float x = static_cast<float>(static_cast<int32_t>(p.in[i] >> 4)) * 0x1p-20f - 160.0f;
    p.out[i] = bits_of(exp2_fast(x));
  }
}

__device__ __forceinline__ void atomics_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < 4) p.out[t] = 0;
  cta_sync();
  atomic_or(p.out + t % 4, (p.in[t] & 1) << t / 4);
}

}  // namespace attn::cuda

#define ATTN_CASE(symbol, threads, body)                                \
  extern "C" __global__ void __launch_bounds__(threads)                 \
      symbol(const __grid_constant__ attn::cuda::ConformanceParams p) { \
    attn::cuda::body(p);                                                \
  }
ATTN_CASE(conform_cta_sync, 256, cta_sync_case)
ATTN_CASE(conform_copy_async, 128, copy_async_case)
ATTN_CASE(conform_copy_async_groups, 64, copy_async_groups_case)
ATTN_CASE(conform_lanes, 64, lanes_case)
ATTN_CASE(conform_ldmatrix, 32, ldmatrix_case<false>)
ATTN_CASE(conform_ldmatrix_transposed, 32, ldmatrix_case<true>)
ATTN_CASE(conform_mma_f16, 32, mma_case<attn::cuda::F16>)
ATTN_CASE(conform_mma_bf16, 32, mma_case<attn::cuda::BF16>)
ATTN_CASE(conform_mma_tf32, 32, mma_case<attn::cuda::F32>)
ATTN_CASE(conform_swizzled_product, 128, swizzled_product_case)
ATTN_CASE(conform_roundings, 128, roundings_case)
ATTN_CASE(conform_exp2, 128, exp2_case)
ATTN_CASE(conform_atomics, 128, atomics_case)
#undef ATTN_CASE

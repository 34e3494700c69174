// conformance_sm90.cu: what sm_90a alone has - TMA, mbarriers, wgmma, register reallocation - one
// kernel for each case.
#include "../kernels/primitives_sm90.cuh"
#include "conformance.h"

namespace attn::cuda {

constexpr int kTileBytes16 = 8192;  // of 64 rows of 128 bytes

// Copies shared memory from `at` on to the output.
__device__ __forceinline__ void dump(const ConformanceParams& p, SharedAddress at, int words,
                                     int to) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
    p.out[to + i] = load_shared<uint32_t>(at + i * 4);
  }
}

// One box after the other: whole, clipped at the last column, row, head and outer index, and one
// that lies outside altogether.
struct Place {
  int c0, c1, c2, c3;
};
__device__ __forceinline__ Place place(int i) {
  return {i % 2 * 64, i / 2 % 4 * 20, i % 3, i / 4 % 2};
}

template <int kBytes>
__device__ __forceinline__ void tensor_load_case(const ConformanceParams& p) {
  const SharedAddress barrier = shared_base() + kTileBytes16;
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    barrier_init_fence();
  }
  cta_sync();
  for (int i = 0; i < 12; ++i) {
    if (threadIdx.x == 0) {
      const Place at = place(i);
      barrier_arrive_expect(barrier, kBytes);
      tensor_load(shared_base(), &p.in_map, barrier, at.c0, at.c1, at.c2, at.c3);
    }
    barrier_wait(barrier, i % 2);
    dump(p, shared_base(), kBytes / 4, i * 2048);
    cta_sync();
  }
}

// Four boxes of 16 rows make one swizzled tile of 64, at one barrier.
__device__ __forceinline__ void tensor_load_pieces_case(const ConformanceParams& p) {
  const SharedAddress barrier = shared_base() + kTileBytes16;
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    barrier_init_fence();
    barrier_arrive_expect(barrier, kTileBytes16);
  }
  cta_sync();
  if (threadIdx.x < 4) {
    const int i = static_cast<int>(threadIdx.x);
    tensor_load(shared_base() + i * 2048, &p.in_map, barrier, 64, (3 - i) * 16, i % 3, 1);
  }
  barrier_wait(barrier, 0);
  dump(p, shared_base(), kTileBytes16 / 4, 0);
}

template <int kBytes>
__device__ __forceinline__ void tensor_store_case(const ConformanceParams& p) {
  for (int i = 0; i < 12; ++i) {
    for (int w = static_cast<int>(threadIdx.x); w < kBytes / 4; w += 128) {
      store_shared(shared_base() + w * 4, p.in[(i * 2048 + w) % kInputWords]);
    }
    fence_async_shared();
    cta_sync();
    if (threadIdx.x == 0) {
      // Boxes that do not meet: which of two stores comes last is open.
      const Place at = {i % 2 * 64, 0, i / 2 % 3 * (kBytes == kTileBytes16), i / 6};
      const int row = kBytes == kTileBytes16 ? 0 : i / 2 % 3 * 21;
      tensor_store(&p.out_map, shared_base(), at.c0, row, at.c2, at.c3);
      tensor_store_commit();
      tensor_store_wait_read();
    }
    cta_sync();
  }
}

// A producer and four consumer warps, two stages: each consumer adds up what it finds.
__device__ __forceinline__ void ring_case(const ConformanceParams& p) {
  const SharedAddress full = shared_base() + 2 * kTileBytes16, empty = full + 16;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 4);
    }
    barrier_init_fence();
  }
  cta_sync();
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = lane_index();
  for (int n = 0; n < 12; ++n) {
    const int stage = n % 2, parity = n / 2 % 2;
    if (warp == 0) {
      barrier_wait(empty + 8 * stage, parity ^ 1);
      warp_sync();
      if (lane == 0) {
        barrier_arrive_expect(full + 8 * stage, kTileBytes16);
        const Place at = place(n);
        tensor_load(shared_base() + stage * kTileBytes16, &p.in_map, full + 8 * stage, at.c0, at.c1,
                    at.c2, at.c3);
      }
      warp_sync();
    } else {
      barrier_wait(full + 8 * stage, parity);
      uint32_t sum = 0;
      for (int i = lane; i < 2048; i += kWarpSize) {
        sum = sum * 31 + load_shared<uint32_t>(shared_base() + stage * kTileBytes16 + i * 4);
      }
      p.out[(n * 4 + warp - 1) * 32 + lane] = sum;
      warp_sync();
      if (lane == 0) barrier_arrive(empty + 8 * stage);
    }
  }
}

// Three warpgroups take turns through named barriers; each notes how many turns there were.
__device__ __forceinline__ void turns_case(const ConformanceParams& p) {
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (threadIdx.x == 0) store_shared(shared_base(), uint32_t{0});
  cta_sync();
  if (group == 2) named_barrier_arrive(1, 256);
  for (int n = 0; n < 8; ++n) {
    named_barrier_sync(1 + group, 256);
    if (threadIdx.x % 128 == 5) {
      const uint32_t turn = load_shared<uint32_t>(shared_base());
      p.out[turn] = static_cast<uint32_t>(group);
      store_shared(shared_base(), turn + 1);
    }
    named_barrier_arrive(1 + (group + 1) % 3, 256);
  }
  if (group == 0) named_barrier_sync(1, 256);  // the last turn that was passed
}

__device__ __forceinline__ void stmatrix_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  for (int i = t; i < 2048; i += 128) store_shared(shared_base() + i * 4, uint32_t{0});
  cta_sync();
  for (int n = 0; n < 4; ++n) {
    const int row = warp * 16 + lane % 16, chunk = 2 * n + lane / 16;
    const uint32_t* const in = p.in + (n * 128 + t) * 4;
    store_matrix_x4(shared_base() + row * 128 + ((chunk ^ row % 8) << 4), in[0], in[1], in[2],
                    in[3]);
  }
  cta_sync();
  dump(p, shared_base(), 2048, 0);
}

// Registers move from the first warpgroup to the others; nothing is lost.
__device__ __forceinline__ void registers_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  uint32_t x[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) x[i] = p.in[i * 384 + t];
  if (uniform(t / 128) == 0) {
    registers_decrease<40>();
  } else {
    registers_increase<232>();
  }
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) sum = sum * 31 + x[i];
  p.out[t] = sum;
}

__device__ __forceinline__ void small_things_case(const ConformanceParams& p) {
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) p.out[1024] = 0;
  if (t < 4) store_shared(shared_base() + t * 4, uint32_t{7});
  cta_sync();
  p.out[t] = static_cast<uint32_t>(uniform(static_cast<int>(p.in[t / 32])));
  p.out[128 + t] = static_cast<uint32_t>(forget(t));
  p.out[256 + t] = bits_of(max_fast(float_of(0x7fc00000u), float_of(p.in[t] & 0x7f7fffffu)));
  pin_before(static_cast<float>(t), shared_base());
  p.out[384 + take_ticket(p.out + 1024)] = 1;  // each ticket once
  cta_sync();
  if (t < 4) p.out[512 + t] = load_shared<uint32_t>(shared_base() + t * 4);
}

__device__ __forceinline__ void fast_numbers_case(const ConformanceParams& p) {
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 128) {
    // From 2^-16 to 2^16. Near 1 a logarithm's error is absolute: not there.
    const float x = float_of((p.in[i] & 0x007fffffu) | (111 + p.in[i + 4096] % 32) << 23);
    p.out[2 * i] = bits_of(reciprocal_fast(x));
    p.out[2 * i + 1] = bits_of(x > 0.75f && x < 1.5f ? 1.0f : log2_fast(x));
  }
}

// D [64][N] = A [64][64] B [64][N]: shared memory holds whatever the input says, so that both sides
// must agree on where each element lies.
template <class T, int N, Major kMajor, bool kRegisters>
__device__ __forceinline__ void wgmma_case(const ConformanceParams& p) {
  constexpr int kTile = (kMajor == Major::K ? N : 64) * 128;  // bytes of 64 columns of B
  constexpr int kTiles = kMajor == Major::K ? 1 : (N + 63) / 64;
  const int t = static_cast<int>(threadIdx.x);
  const SharedAddress at_a = shared_base(), at_b = at_a + kTileBytes16;
  for (int i = t; i < (kTileBytes16 + kTile * kTiles) / 4; i += 128) {
    store_shared(at_a + i * 4, p.in[i % (kInputWords - 5)]);
  }
  uint32_t a[4][4];
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = p.in[i * 128 + t];
  fence_async_shared();
  cta_sync();
  float d[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[i] = 0;
  const Descriptor left = wgmma_descriptor(at_a, 0), right = wgmma_descriptor(at_b, kTile);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const Descriptor b = right + step * (kMajor == Major::K ? 32 : 16 * 128);
    if constexpr (kRegisters) {
      Wgmma<T, N, kMajor>::rs(d, a[step], b, step > 0);
    } else {
      Wgmma<T, N, kMajor>::ss(d, left + step * 32, b, step > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>(d);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) p.out[i * 128 + t] = bits_of(d[i]);
}

}  // namespace attn::cuda

#define ATTN_CASE(symbol, threads, body)                                \
  extern "C" __global__ void __launch_bounds__(threads, 1)              \
      symbol(const __grid_constant__ attn::cuda::ConformanceParams p) { \
    attn::cuda::body(p);                                                \
  }
ATTN_CASE(conform_tensor_load, 128, tensor_load_case<8192>)
ATTN_CASE(conform_tensor_load_heads, 128, tensor_load_case<21 * 3 * 128>)
ATTN_CASE(conform_tensor_load_pieces, 128, tensor_load_pieces_case)
ATTN_CASE(conform_tensor_store, 128, tensor_store_case<8192>)
ATTN_CASE(conform_tensor_store_heads, 128, tensor_store_case<21 * 3 * 128>)
ATTN_CASE(conform_ring, 160, ring_case)
ATTN_CASE(conform_turns, 384, turns_case)
ATTN_CASE(conform_stmatrix, 128, stmatrix_case)
ATTN_CASE(conform_registers, 384, registers_case)
ATTN_CASE(conform_small_things, 128, small_things_case)
ATTN_CASE(conform_fast_numbers, 128, fast_numbers_case)
#define ATTN_WGMMA_CASE(symbol, T, n, major, registers)                               \
  extern "C" __global__ void __launch_bounds__(128, 1)                                \
      symbol(const __grid_constant__ attn::cuda::ConformanceParams p) {               \
    attn::cuda::wgmma_case<attn::cuda::T, n, attn::cuda::Major::major, registers>(p); \
  }
ATTN_CONFORMANCE_WGMMA(ATTN_WGMMA_CASE)
#undef ATTN_CASE
#undef ATTN_WGMMA_CASE

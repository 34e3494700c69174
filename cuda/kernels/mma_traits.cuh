// Tiles of the mma.sync family: shapes, where they lie in shared memory, and the products of
// fragments for each storage type.
//
//   Q  [kTileQ, kDim]   K, V  [kTileK, kDim]   rows of kDim elements, in shared memory
//   S  [kTileQ, kTileK]   O  [kTileQ, kDim]    f32, in registers: a warp has kRowBlocks * 16 rows
//
// The 16-byte chunks of row r are permuted by XOR with r % 8, so that the eight rows that ldmatrix
// reads at a time lie in eight different groups of banks.
#ifndef ATTN_CUDA_KERNELS_MMA_TRAITS_CUH_
#define ATTN_CUDA_KERNELS_MMA_TRAITS_CUH_

#include "primitives.cuh"

namespace attn::cuda {

constexpr int kTileBytes = 128;  // of a Tile: see mma_tile.cuh

// What scores and masks need to know of a row of Q; lies in shared memory.
struct alignas(8) RowInfo {
  int32_t begin;  // keys [begin, end) are attended as far as lengths, causality and windows go
  int32_t end;
  int32_t nearest;            // ALiBi: distances are counted from this key
  float slope;                // ALiBi: times -log2(e)
  const char* bias;           // element of key 0, a computed address if the bias has none
  const uint8_t* mask;        // likewise
  const uint8_t* block_mask;  // the block of key 0
};

template <class T>
constexpr bool kIsF32 = SameType<T, F32>::value;

template <class T_, int kDim_, int kWarps_, int kRowBlocks_, int kTileK_, bool kFeatures_>
struct MmaTraits {
  using T = T_;
  using Element = typename T::Element;
  static constexpr int kDim = kDim_;  // head sizes, rounded up
  static constexpr int kWarps = kWarps_;
  static constexpr int kRowBlocks = kRowBlocks_;
  static constexpr int kTileK = kTileK_;
  static constexpr bool kFeatures = kFeatures_;

  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kTileQ = kWarps * kRowBlocks * 16;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kRowBytes = kDim * kElementBytes;
  static constexpr int kChunks = kRowBytes / 16;  // of a row
  static constexpr int kChunkElements = 16 / kElementBytes;
  static constexpr int kStepDims = 32 / kElementBytes;  // k of one mma: 16, tf32: 8
  static constexpr int kKeyBlocks = kTileK / 8;
  static constexpr int kDimBlocks = kDim / 8;

  static constexpr int kOffsetQ = 0;
  static constexpr int kOffsetK = kOffsetQ + kTileQ * kRowBytes;
  static constexpr int kOffsetV = kOffsetK + kTileK * kRowBytes;
  static constexpr int kOffsetRows = kOffsetV + kTileK * kRowBytes;
  static constexpr int kOffsetTile = kOffsetRows + kTileQ * static_cast<int>(sizeof(RowInfo));
  static constexpr int kSharedBytes = kOffsetTile + kTileBytes;

  static_assert(kRowBytes % 128 == 0 && 1024 % kRowBytes == 0 && kThreads % kChunks == 0 &&
                kTileK % 16 == 0);
  static_assert(kSharedBytes <= 163 * 1024, "compute capability 8.0 has no more");
};

// Address of 16-byte chunk `chunk` of row `row` of a tile.
template <class Traits>
__device__ __forceinline__ SharedAddress chunk_address(SharedAddress tile, int row, int chunk) {
  return tile + row * Traits::kRowBytes + ((chunk ^ (row & 7)) << 4);
}

// The same `rows` rows (a multiple of 8) and `chunks` chunks further on, where `chunks` has only
// bits that the lane's own chunk, 0 or 1, lacks: one operation on one register, whatever the
// swizzle.
template <class Traits>
__device__ __forceinline__ SharedAddress move_address(SharedAddress lane, int rows, int chunks) {
  return (lane ^ static_cast<SharedAddress>(chunks << 4)) + rows * Traits::kRowBytes;
}

// ---- products of fragments: D [16, 8] += A [16, kStepDims] B [kStepDims, 8]

template <class T>
struct FragmentA {
  uint32_t r[4];
  __device__ __forceinline__ void set(const uint32_t (&raw)[4]) {
    for (int i = 0; i < 4; ++i) r[i] = raw[i];
  }
};

template <class T>
struct FragmentB {
  uint32_t r[2];
  __device__ __forceinline__ void set(uint32_t r0, uint32_t r1) {
    r[0] = r0;
    r[1] = r1;
  }
};

__device__ __forceinline__ void multiply(float (&d)[4], const FragmentA<F16>& a,
                                         const FragmentB<F16>& b) {
  mma_f16(d, a.r, b.r);
}

__device__ __forceinline__ void multiply(float (&d)[4], const FragmentA<BF16>& a,
                                         const FragmentB<BF16>& b) {
  mma_bf16(d, a.r, b.r);
}

// f32 as the sum of two tf32 numbers, of 11 bits each.
struct Split {
  uint32_t high;
  uint32_t low;
};

__device__ __forceinline__ Split split(uint32_t bits) {
  const uint32_t high = to_tf32(float_of(bits));
  return {high, to_tf32(float_of(bits) - float_of(high))};
}

template <>
struct FragmentA<F32> {
  uint32_t high[4];
  uint32_t low[4];
  __device__ __forceinline__ void set(const uint32_t (&raw)[4]) {
    for (int i = 0; i < 4; ++i) {
      const Split s = split(raw[i]);
      high[i] = s.high;
      low[i] = s.low;
    }
  }
};

template <>
struct FragmentB<F32> {
  uint32_t high[2];
  uint32_t low[2];
  __device__ __forceinline__ void set(uint32_t r0, uint32_t r1) {
    const Split s0 = split(r0), s1 = split(r1);
    high[0] = s0.high, high[1] = s1.high;
    low[0] = s0.low, low[1] = s1.low;
  }
};

// The small terms first; low * low is below f32's last bit. Tensor cores round sums toward zero, so
// a long sum there would drift: each step has its own, and the long one is rounded to nearest.
__device__ __forceinline__ void multiply(float (&d)[4], const FragmentA<F32>& a,
                                         const FragmentB<F32>& b) {
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma_tf32(sum, a.low, b.high);
  mma_tf32(sum, a.high, b.low);
  mma_tf32(sum, a.high, b.high);
  for (int i = 0; i < 4; ++i) d[i] += sum[i];
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_MMA_TRAITS_CUH_

// wgmma_tile.cuh: shapes of the wgmma kernels' tiles, their shared memory, and how registers and
// named barriers are shared out.
#ifndef ATTN_CUDA_KERNELS_WGMMA_TILE_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_TILE_CUH_

#include "primitives_sm90.cuh"

namespace attn::cuda {

constexpr int kWarpgroup = 128;  // threads
constexpr int kRows = 64;        // of Q, for a warpgroup
constexpr int kBoxColumns = 64;  // of 16 bits: the width of a 128-byte swizzle
constexpr int kBoxRowBytes = 128;
constexpr int kMaxShared = 227 * 1024;

// Named barriers; 0 is the whole CTA's. The first two are one for each of up to 3 consumers.
enum NamedBarrier { kTurnBarrier = 1, kStoreBarrier = 4, kTailBarrier = 7 };

// Warps of the producer's warpgroup that have something to do.
enum ProducerWarp { kLoader, kScheduler };

// A stage of a ring and the parity of its current round. One site fills it, one drains it.
template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// T: F16 or BF16. One CTA: 64 rows of Q for each of `Consumers` warpgroups against tiles of `TileK`
// keys. Head sizes are upper bounds: boxes clip to the true ones and fill up with zeros.
template <class T_, int HeadDim_, int HeadDimV_, int TileK_, int Consumers_, bool Features_>
struct Tile {
  using T = T_;
  static constexpr int HeadDim = HeadDim_, HeadDimV = HeadDimV_, TileK = TileK_;
  static constexpr int Consumers = Consumers_;
  static constexpr bool Features = Features_;
  static constexpr int Threads = (Consumers + 1) * kWarpgroup;
  static constexpr int ConsumerWarps = Consumers * kWarpgroup / kWarpSize;

  // Taking turns at the tensor cores pays where a softmax is long beside its matrix products.
#ifdef ATTN_CUDA_NO_TURNS
  static constexpr bool TakeTurns = false;
#else
  static constexpr bool TakeTurns = HeadDim <= 128;
#endif
#ifdef ATTN_CUDA_NO_PIN
  static constexpr bool Pin = false;
#else
  static constexpr bool Pin = true;
#endif

  // setmaxnreg moves registers from the producer to the consumers; LaunchRegisters is what each of
  // the CTA's threads has at first, with one CTA on a multiprocessor.
  static constexpr int ProducerRegisters = Consumers == 2 ? 40 : 32;
  static constexpr int ConsumerRegisters = Consumers == 2 ? 232 : 160;
  static constexpr int LaunchRegisters = Consumers == 2 ? 168 : 128;
  static_assert(ProducerRegisters + Consumers * ConsumerRegisters <=
                (Consumers + 1) * LaunchRegisters);

  // Shared memory. A tile of R rows is cut into boxes of 64 columns: box c, row r, column j lies at
  // (c * R + r) * 128 + 2 * (j % 64) bytes, swizzled. O takes the place of its warpgroup's Q.
  static constexpr int Boxes = (HeadDim + kBoxColumns - 1) / kBoxColumns;
  static constexpr int BoxesV = (HeadDimV + kBoxColumns - 1) / kBoxColumns;
  static constexpr int QBoxBytes = kRows * kBoxRowBytes;
  static constexpr int KBoxBytes = TileK * kBoxRowBytes;
  static constexpr int QBytes = Boxes * QBoxBytes;  // of one warpgroup
  static constexpr int KBytes = Boxes * KBoxBytes;  // of one stage
  static constexpr int VBytes = BoxesV * KBoxBytes;
  static_assert(BoxesV <= Boxes, "O lies where Q was");
  static_assert(QBytes % 1024 == 0 && KBytes % 1024 == 0 && VBytes % 1024 == 0,
                "the 128-byte swizzle repeats every 1024 bytes");
  static_assert(TileK % 16 == 0 && HeadDim % 16 == 0 && HeadDimV % 16 == 0);

  static constexpr int QOffset = 0;
  static constexpr int KOffset = QOffset + Consumers * QBytes;
  static constexpr int VOffset = KOffset + kStages * KBytes;
  static constexpr int BarrierOffset = VOffset + kStages * VBytes;
  enum Barrier {
    kQFull = 0,                    // [Consumers]
    kQEmpty = kQFull + Consumers,  // [Consumers]
    kKFull = kQEmpty + Consumers,  // [kStages], and so on
    kKEmpty = kKFull + kStages,
    kVFull = kKEmpty + kStages,
    kVEmpty = kVFull + kStages,
    kWorkFull = kVEmpty + kStages,
    kWorkEmpty = kWorkFull + kStages,
    kBarriers = kWorkEmpty + kStages
  };
  static constexpr int WorkWords = 16;
  static constexpr int WorkOffset = (BarrierOffset + kBarriers * 8 + 15) / 16 * 16;
  static constexpr int ScratchOffset = WorkOffset + kStages * WorkWords * 4;
  static constexpr int SharedBytes = ScratchOffset + 16;
  static_assert(SharedBytes <= kMaxShared);

  static __device__ __forceinline__ SharedAddress barrier(Barrier which, int index) {
    return shared_base() + BarrierOffset + (which + index) * 8;
  }
  static __device__ __forceinline__ SharedAddress q(int consumer) {
    return shared_base() + QOffset + consumer * QBytes;
  }
  static __device__ __forceinline__ SharedAddress k(int stage) {
    return shared_base() + KOffset + stage * KBytes;
  }
  static __device__ __forceinline__ SharedAddress v(int stage) {
    return shared_base() + VOffset + stage * VBytes;
  }
};

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_TILE_CUH_

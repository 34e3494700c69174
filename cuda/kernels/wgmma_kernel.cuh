// wgmma_kernel.cuh: flash attention for sm_90a: a persistent CTA of one producer warp and two or
// three consumer warpgroups.
#ifndef ATTN_CUDA_KERNELS_WGMMA_KERNEL_CUH_
#define ATTN_CUDA_KERNELS_WGMMA_KERNEL_CUH_

#include "wgmma_epilogue.cuh"
#include "wgmma_mainloop.cuh"

namespace attn::cuda {

template <class Tile>
__device__ __forceinline__ void init_barriers() {
  for (int i = 0; i < Tile::Consumers; ++i) {
    barrier_init(Tile::barrier(Tile::kQFull, i), 1);
    barrier_init(Tile::barrier(Tile::kQEmpty, i), 1);
  }
  for (int i = 0; i < kStages; ++i) {
    barrier_init(Tile::barrier(Tile::kKFull, i), 1);
    barrier_init(Tile::barrier(Tile::kKEmpty, i), Tile::ConsumerWarps);
    barrier_init(Tile::barrier(Tile::kVFull, i), 1);
    barrier_init(Tile::barrier(Tile::kVEmpty, i), Tile::ConsumerWarps);
    barrier_init(Tile::barrier(Tile::kWorkFull, i), 1);
    barrier_init(Tile::barrier(Tile::kWorkEmpty, i), Tile::ConsumerWarps + 1);  // and the loader
  }
  barrier_init_fence();
}

template <class Tile>
__device__ __forceinline__ void consume(const WgmmaParams& params, int index) {
  const AttendParams& attend = params.attend;
  Consumer<Tile> consumer{attend, index, {}, {}, {}};
  Mailbox<Tile> mailbox;
  if (index == Tile::Consumers - 1) consumer.pass_turn();
#pragma unroll 1
  while (true) {
    mailbox.await();
    const Work work = mailbox.read();
    if (work.state == kNoWork) break;
    if (work.first < work.last) {
      float o[Tile::HeadDimV / 2];
#pragma unroll
      for (int i = 0; i < Tile::HeadDimV / 2; ++i) o[i] = 0;
      Softmax<Tile> softmax(attend);
      consumer.attend_tile(mailbox, Limits<Tile>(attend, work, forget(index)), o, softmax);
      Epilogue<Tile>{params, attend, mailbox.read(), forget(index)}.store(o, softmax);
    } else {
      Epilogue<Tile>{params, attend, work, forget(index)}.store_nothing();
    }
    mailbox.release();
  }
}

template <class Tile>
__device__ __forceinline__ void attend_wgmma(const WgmmaParams& params) {
  if (threadIdx.x == 0) init_barriers<Tile>();
  cta_sync();
  const int warpgroup = uniform(static_cast<int>(threadIdx.x) / kWarpgroup);
  if (warpgroup == 0) {
    registers_decrease<Tile::ProducerRegisters>();
    const int warp = uniform(static_cast<int>(threadIdx.x) / kWarpSize);
    if (warp == kLoader) {
      Loader<Tile>{params, box_keys<Tile>(params.attend), {}, {}, {}, {}}.run();
    } else if (warp == kScheduler) {
      schedule<Tile>(params);
    }
  } else {
    registers_increase<Tile::ConsumerRegisters>();
    consume<Tile>(params, warpgroup - 1);
  }
}

}  // namespace attn::cuda

#endif  // ATTN_CUDA_KERNELS_WGMMA_KERNEL_CUH_

// Memory as threads see it: cp.async, and which global writes of other CTAs are visible.
//
// A global write that is to be read by another CTA goes through write_global. Its value is out of
// other CTAs' sight until the writer has fenced it: the writing thread itself, or another thread of
// its CTA after a barrier that both took part in. A reader sees it only after a fence of its own
// (or a barrier behind another thread's fence). Until then it reads NaN.
#ifndef ATTN_CUDA_EMULATOR_MEMORY_H_
#define ATTN_CUDA_EMULATOR_MEMORY_H_

#include <vector>

#include "emulator.h"

namespace attn::emulator {

// cp.async of 4, 8 or 16 bytes, the first `source_bytes` of them from global memory and the rest 0.
// The destination holds NaN until the copy lands.
void copy_async(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes);
void copy_async_commit();
// All groups that this thread has committed, except for the latest `pending`, land.
void copy_async_wait(int pending);

void write_global(uint32_t* address, uint32_t value);
uint32_t read_global(const uint32_t* address);
void thread_fence();

// ---- for the scheduler

void begin_launch();
void end_launch();
// A barrier makes a thread's global writes known to its CTA.
void publish_to_cta(Thread& thread);

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_MEMORY_H_

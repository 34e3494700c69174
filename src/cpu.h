// What this machine's CPU and operating system offer.
#ifndef ATTN_SRC_CPU_H_
#define ATTN_SRC_CPU_H_

#include <attn/attn.h>

namespace attn {

// One instruction set that the library knows.
struct IsaEntry {
  attn_isa isa;
  const char* name;
  const char* reason;  // why it is not available; "" if it is
};

inline constexpr int kIsaCount = 6;

struct Cpu {
  IsaEntry isas[kIsaCount];  // from the plainest to the widest
  attn_isa best_isa;         // the fastest one that the process need not ask for
  int num_cpus;              // that this process may run on
  size_t l1_cache_size;      // bytes of data cache for one core; 0 if unknown
  size_t l2_cache_size;
  size_t l3_cache_size;
};

Cpu detect_cpu();

// Asks the operating system for what the process may use only then; "" or why it may not.
const char* ask_for_isa(attn_isa isa);

// "avx2"; "" for one that the library does not know.
const char* isa_name(attn_isa isa);

}  // namespace attn

#endif  // ATTN_SRC_CPU_H_

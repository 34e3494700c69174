// The twins of sm_90a's primitives on the emulator: right uses work for every seed, wrong ones are
// noticed.
#include <cmath>
#include <cstring>
#include <vector>

#include "../kernels/primitives_sm90.cuh"
#include "check.h"

namespace {

using namespace attn::cuda;
using attn::emulator::Launch;
using attn::emulator::TensorDescription;
using attn_test::Results;

constexpr int kSeeds = 30;
constexpr int kN = 64;  // columns of B

// bf16 numbers that products of do not round.
uint16_t small(int i) { return BF16::from_float(static_cast<float>(i * 37 % 13 - 6)); }

TensorMap map_of(void* data, int columns, int rows, int box_rows, int stride) {
  const TensorDescription d{
      static_cast<char*>(data), {stride * 2, 16, 16}, {columns, rows, 1, 1}, {64, box_rows, 1, 1}};
  TensorMap map{};
  std::memcpy(&map, &d, sizeof(d));
  return map;
}

enum Mistake {
  kNone,
  kNoWait,       // for the loads
  kTooFewBytes,  // expected
  kTooManyBytes,
  kWrongParity,
  kNoFence,  // wgmma.fence
  kNoWgmmaWait,
  kTouchA,        // registers of A while wgmma reads them
  kNoProxyFence,  // after ordinary writes
  kNoStoreWait,   // before the source is written again
  kWrongStride,   // of the descriptor
  kNoInitFence,
};

// D [64][64] = A [64][64] B, A through TMA or registers, B [64][64] through TMA, read as B[k][n] or
// as B[n][k]; D through shared memory and TMA to global memory, rows past 50 cut off.
std::string product(bool a_in_registers, bool mn_major, Mistake mistake) {
  int wrong = 0;
  std::string words;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    alignas(64) static uint16_t a[64][72], b[70][72], d[64][72];
    for (int i = 0; i < 64; ++i) {
      for (int j = 0; j < 64; ++j) a[i][j] = small(i * 64 + j + seed);
    }
    for (auto& row : b) {
      for (int j = 0; j < 72; ++j) row[j] = small((&row - b) * 31 + j * 7);
    }
    std::memset(d, 0xff, sizeof(d));
    const int rows_b = 60;  // the rest is zeros
    const TensorMap a_map = map_of(a, 64, 64, 64, 72), b_map = map_of(b, 64, rows_b, 64, 72),
                    d_map = map_of(d, 64, 50, 64, 72);
    const Launch launch{
        .block = {128}, .shared_bytes = 3 * 8192 + 64, .seed = static_cast<uint64_t>(seed)};
    const std::string error = attn::emulator::run(launch, [&] {
      const SharedAddress at_a = shared_base(), at_b = at_a + 8192, at_d = at_b + 8192,
                          barrier = at_d + 8192;
      const int t = static_cast<int>(threadIdx.x);
      if (t == 0) {
        barrier_init(barrier, 1);
        if (mistake != kNoInitFence) barrier_init_fence();
      }
      cta_sync();
      if (t == 0) {
        barrier_arrive_expect(barrier, mistake == kTooFewBytes    ? 8192
                                       : mistake == kTooManyBytes ? 16384 + 128
                                                                  : 16384);
        tensor_load(at_a, &a_map, barrier, 0, 0, 0, 0);
        tensor_load(at_b, &b_map, barrier, 0, 0, 0, 0);
      }
      if (mistake != kNoWait) barrier_wait(barrier, mistake == kWrongParity ? 1 : 0);
      float acc[kN / 2] = {};
      uint32_t registers[4][4];
      for (int k = 0; k < 4; ++k) {
        for (int i = 0; i < 4; ++i) {
          const int row = t / 32 * 16 + t % 32 / 4 + i % 2 * 8,
                    column = k * 16 + i / 2 * 8 + t % 4 * 2;
          registers[k][i] = a[row][column] | static_cast<uint32_t>(a[row][column + 1]) << 16;
        }
      }
      if (mistake != kNoFence) wgmma_fence();
      const Descriptor left = wgmma_descriptor(at_a, 0);
      Descriptor right = wgmma_descriptor(at_b, 8192);
      if (mistake == kWrongStride) right.low += 2;
      for (int k = 0; k < 4; ++k) {
        if (a_in_registers && mn_major) {
          Wgmma<BF16, kN, Major::MN>::rs(acc, registers[k], right + k * 2048, k > 0);
        } else if (a_in_registers) {
          Wgmma<BF16, kN, Major::K>::rs(acc, registers[k], right + k * 32, k > 0);
        } else if (mn_major) {
          Wgmma<BF16, kN, Major::MN>::ss(acc, left + k * 32, right + k * 2048, k > 0);
        } else {
          Wgmma<BF16, kN, Major::K>::ss(acc, left + k * 32, right + k * 32, k > 0);
        }
      }
      wgmma_commit();
      if (mistake == kTouchA) registers[2][1] += 1;
      if (mistake != kNoWgmmaWait) wgmma_wait<0>(acc);
      for (int c = 0; c < kN / 16; ++c) {
        const uint32_t row = static_cast<uint32_t>(t / 32 * 16 + t % 16),
                       chunk = static_cast<uint32_t>(2 * c + t % 32 / 16);
        store_matrix_x4(
            at_d + row * 128 + ((chunk ^ (row & 7)) << 4), BF16::pack(acc[8 * c], acc[8 * c + 1]),
            BF16::pack(acc[8 * c + 2], acc[8 * c + 3]), BF16::pack(acc[8 * c + 4], acc[8 * c + 5]),
            BF16::pack(acc[8 * c + 6], acc[8 * c + 7]));
      }
      if (mistake != kNoProxyFence) fence_async_shared();
      cta_sync();
      if (t == 0) {
        tensor_store(&d_map, at_d, 0, 0, 0, 0);
        tensor_store_commit();
        if (mistake != kNoStoreWait) tensor_store_wait_read();
      }
      cta_sync();
      if (t < 64) store_shared(at_d + static_cast<SharedAddress>(t) * 128, Quad{});
    });
    bool same = error.empty();
    for (int i = 0; i < 64 && same; ++i) {
      for (int j = 0; j < 72 && same; ++j) {
        float sum = 0;
        for (int k = 0; k < 64; ++k) {
          const int row = mn_major ? k : j, column = mn_major ? j : k;
          if (row < rows_b && j < 64)
            sum += BF16::to_float(a[i][k]) * BF16::to_float(b[row][column]);
        }
        same = d[i][j] == (i < 50 && j < 64 ? BF16::from_float(sum) : 0xffff);
      }
    }
    wrong += !same;
    if (!same && words.empty()) words = error.empty() ? "wrong numbers" : error;
  }
  if (mistake == kNone) return wrong == 0 ? "" : std::to_string(wrong) + " seeds: " + words;
  return wrong > 0 ? "" : "not noticed";
}

}  // namespace

int main() {
  Results results;
  for (bool registers : {false, true}) {
    for (bool mn_major : {false, true}) {
      results.check(std::string(registers ? "RS" : "SS") + (mn_major ? " MN-major" : " K-major"),
                    product(registers, mn_major, kNone));
    }
  }
  const char* names[] = {
      "no wait for the loads",  "too few bytes expected", "too many bytes expected",
      "the wrong parity",       "no wgmma.fence",         "no wgmma wait",
      "registers of A touched", "no proxy fence",         "source of a store overwritten",
      "a wrong descriptor",     "barriers not fenced"};
  for (int m = kNoWait; m <= kNoInitFence; ++m) {
    results.check(names[m - 1], product(true, true, static_cast<Mistake>(m)));
  }
  return results.report();
}

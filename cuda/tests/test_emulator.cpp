// The emulator itself: that right kernels work for every seed, and that wrong ones are noticed.
#include <cmath>
#include <cstring>
#include <vector>

#include "../emulator/device.h"
#include "check.h"

namespace {

using namespace attn::emulator;

constexpr int kSeeds = 40;

// How many of the seeds went wrong: an error of the launch, or a result that is not as expected.
template <class Kernel, class Expected>
int wrong(Launch launch, const Kernel& kernel, const Expected& as_expected) {
  int count = 0;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    launch.seed = static_cast<uint64_t>(seed);
    const std::string error = run(launch, kernel);
    count += !error.empty() || !as_expected();
  }
  return count;
}

std::string never(int count) {
  return count == 0 ? "" : "wrong for " + std::to_string(count) + " seeds";
}
std::string noticed(int count) { return count > 0 ? "" : "not noticed"; }

void store(uint32_t address, float value) { std::memcpy(shared_at(address, 4, 4), &value, 4); }
float load(uint32_t address) {
  float value;
  std::memcpy(&value, shared_at(address, 4, 4), 4);
  return value;
}

// Each thread hands its number to the next one through shared memory.
std::string exchange(bool with_barrier) {
  std::vector<float> out(128);
  const Launch launch{.block = {128}, .shared_bytes = 512};
  const int count = wrong(
      launch,
      [&] {
        const unsigned t = threadIdx.x;
        store(kSharedBase + 4 * t, static_cast<float>(t));
        if (with_barrier) barrier_sync(0, 128);
        out[t] = load(kSharedBase + 4 * ((t + 40) % 128));
      },
      [&] {
        for (unsigned t = 0; t < 128; ++t) {
          if (!(out[t] == static_cast<float>((t + 40) % 128))) return false;
        }
        return true;
      });
  return with_barrier ? never(count) : noticed(count);
}

// cp.async in two groups; the first one is used while the second may be under way.
std::string copies(int pending, bool with_barrier) {
  std::vector<float> in(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  std::vector<float> out(64);
  const Launch launch{.block = {64}, .shared_bytes = 2048};
  const int count = wrong(
      launch,
      [&] {
        const unsigned t = threadIdx.x;
        for (unsigned group = 0; group < 2; ++group) {
          copy_async(kSharedBase + group * 1024 + 16 * t, in.data() + 4 * t, 16, 16);
          copy_async_commit();
        }
        copy_async_wait(pending);
        if (with_barrier) barrier_sync(0, 64);
        out[t] = load(kSharedBase + 16 * ((t + 32) % 64));
      },
      [&] {
        for (unsigned t = 0; t < 64; ++t) {
          if (!(out[t] == in[4 * ((t + 32) % 64)])) return false;
        }
        return true;
      });
  return pending == 1 && with_barrier ? never(count) : noticed(count);
}

enum class Handover { kRight, kNoWriterFence, kNoReaderFence };

// Several CTAs leave a number each; the last one to arrive adds them.
std::string handover(Handover kind) {
  constexpr unsigned kCtas = 5;
  std::vector<uint32_t> parts(kCtas * 32);
  uint32_t counter = 0;
  std::vector<uint32_t> sums(32);
  const Launch launch{.grid = {kCtas}, .block = {32}, .shared_bytes = 64, .resident = 4};
  int count = 0;
  for (int seed = 1; seed <= kSeeds; ++seed) {
    std::fill(parts.begin(), parts.end(), 0u);
    std::fill(sums.begin(), sums.end(), 0u);
    counter = 0;
    Launch seeded = launch;
    seeded.seed = static_cast<uint64_t>(seed);
    const std::string error = run(seeded, [&] {
      const unsigned t = threadIdx.x;
      write_global(&parts[blockIdx.x * 32 + t], 1 + blockIdx.x);
      barrier_sync(0, 32);
      if (t == 0) {
        if (kind != Handover::kNoWriterFence) thread_fence();
        const uint32_t before = counter++;
        std::memcpy(shared_at(kSharedBase, 4, 4), &before, 4);
        if (kind != Handover::kNoReaderFence) thread_fence();
      }
      barrier_sync(0, 32);
      uint32_t before;
      std::memcpy(&before, shared_at(kSharedBase, 4, 4), 4);
      if (before != kCtas - 1) return;
      for (unsigned cta = 0; cta < kCtas; ++cta) sums[t] += read_global(&parts[cta * 32 + t]);
    });
    bool right = error.empty();
    for (const uint32_t sum : sums) right = right && sum == 15;
    count += !right;
  }
  return kind == Handover::kRight ? never(count) : noticed(count);
}

std::string deadlock() {
  const Launch launch{.block = {64}, .shared_bytes = 64};
  const std::string error = run(launch, [] {
    if (threadIdx.x < 32) barrier_sync(3, 64);
  });
  for (const char* part : {"deadlock", "32 threads from 0 on: barrier 3", "has 32 of 64"}) {
    if (error.find(part) == std::string::npos)
      return "the report lacks '" + std::string(part) + "': " + error;
  }
  return "";
}

std::string out_of_bounds() {
  const Launch launch{.block = {32}, .shared_bytes = 64};
  const std::string error = run(launch, [] { store(kSharedBase + 64, 0); });
  return error.find("shared address 64 + 4 of 64") == std::string::npos ? error + "?" : "";
}

// D = A B with fragments loaded by ldmatrix, against a plain product.
std::string matrix_product(MmaType type, bool b_transposed) {
  constexpr int kN = 8, kM = 16, kK = 16;
  float a[kM][kK], b[kK][kN], d[kM][kN];
  Random random(7);
  for (auto& row : a)
    for (float& x : row) x = static_cast<float>(random.below(17)) - 8;
  for (auto& row : b)
    for (float& x : row) x = static_cast<float>(random.below(17)) - 8;
  const auto bits = [&](float x) { return type == MmaType::kF16 ? to_half(x) : to_bfloat(x); };
  const Launch launch{.block = {32}, .shared_bytes = 2048};
  const std::string error = run(launch, [&] {
    const auto t = static_cast<int>(threadIdx.x);
    const uint32_t at_b = kSharedBase + 1024;
    const auto put = [&](uint32_t address, float x) {
      const uint16_t value = bits(x);
      std::memcpy(shared_at(address, 2, 2), &value, 2);
    };
    for (int i = t; i < kM * kK; i += 32)
      put(kSharedBase + 2 * static_cast<uint32_t>(i), a[i / kK][i % kK]);
    for (int i = t; i < 16 * 16; i += 32) put(at_b + 2 * static_cast<uint32_t>(i), 0);
    warp_sync();
    // B [k, n] in rows of 16 elements, or B^T [n, k].
    for (int i = t; i < kK * kN; i += 32) {
      const int k = i / kN, n = i % kN;
      put(at_b + 2 * static_cast<uint32_t>(b_transposed ? k * 16 + n : n * 16 + k), b[k][n]);
    }
    warp_sync();
    uint32_t fa[4], fb[4];
    const auto row = static_cast<uint32_t>(t % 16), half = static_cast<uint32_t>(t / 16);
    ldmatrix_x4(fa, kSharedBase + row * 32 + half * 16, false);
    // Matrices 0 and 1 of four: k 0-7 and 8-15.
    const uint32_t b_address =
        b_transposed ? row * 32 + half * 16
                     : static_cast<uint32_t>(t % 8) * 32 + static_cast<uint32_t>(t / 8 % 2) * 16;
    ldmatrix_x4(fb, at_b + b_address, b_transposed);
    float fd[4] = {0, 0, 0, 0};
    mma(type, fd, fa, fb);
    for (int i = 0; i < 4; ++i) d[t / 4 + i / 2 * 8][t % 4 * 2 + i % 2] = fd[i];
  });
  if (!error.empty()) return error;
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      float sum = 0;
      for (int k = 0; k < kK; ++k) sum += a[m][k] * b[k][n];
      if (!(sum == d[m][n])) return "D[" + std::to_string(m) + "][" + std::to_string(n) + "]";
    }
  }
  return "";
}

std::string half_round_trip() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = from_half(half);
    if (std::isnan(value) ? !std::isnan(from_half(to_half(value))) : to_half(value) != half) {
      return "half " + std::to_string(bits);
    }
    const float b = from_bfloat(half);
    if (std::isnan(b) ? !std::isnan(from_bfloat(to_bfloat(b))) : to_bfloat(b) != half) {
      return "bfloat " + std::to_string(bits);
    }
  }
  if (to_half(1.0f + 0x1p-11f) != 0x3c00 || to_half(1.0f + 3 * 0x1p-11f) != 0x3c02) return "ties";
  return "";
}

}  // namespace

int main() {
  attn_test::Results results;
  results.check("exchange", exchange(true));
  results.check("exchange without a barrier", exchange(false));
  results.check("cp.async", copies(1, true));
  results.check("cp.async, wait for too little", copies(2, true));
  results.check("cp.async without a barrier", copies(1, false));
  results.check("handover", handover(Handover::kRight));
  results.check("handover without the writer's fence", handover(Handover::kNoWriterFence));
  results.check("handover without the reader's fence", handover(Handover::kNoReaderFence));
  results.check("deadlock", deadlock());
  results.check("out of bounds", out_of_bounds());
  for (const bool transposed : {false, true}) {
    results.check("f16 product", matrix_product(MmaType::kF16, transposed));
    results.check("bf16 product", matrix_product(MmaType::kBF16, transposed));
  }
  results.check("16-bit floats", half_round_trip());
  return results.report();
}

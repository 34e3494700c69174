// What the 32 lanes of a warp do together: shuffles, votes, ldmatrix and mma.sync.
//
// Fragments are as the PTX manual lays them out; `lane` below is 0 to 31, group = lane / 4, place =
// lane % 4.
#ifndef ATTN_CUDA_EMULATOR_WARP_H_
#define ATTN_CUDA_EMULATOR_WARP_H_

#include <cstdint>

namespace attn::emulator {

// The value of another lane.
uint32_t shuffle(uint32_t value, int source_lane);
// A bit for each lane whose predicate holds.
uint32_t ballot(bool predicate);
void warp_sync();

// Four 8x8 matrices of 16-bit elements: lane i holds the address of row i % 8 of matrix i / 8, and
// gets elements 2 place and 2 place + 1 of row group of each; transposed: of column group.
void ldmatrix_x4(uint32_t registers[4], uint32_t address, bool transposed);

enum class MmaType { kF16, kBF16, kTF32 };

// D = A B + D: A [16, k] row-major, B [k, 8] column-major, D [16, 8] in f32. k is 16 for 16-bit
// types and 8 for tf32. Sums are rounded toward zero, as tensor cores do.
void mma(MmaType type, float d[4], const uint32_t a[4], const uint32_t b[2]);

// 16-bit floats; to_half and to_bfloat round to nearest even.
float from_half(uint16_t bits);
float from_bfloat(uint16_t bits);
uint16_t to_half(float value);
uint16_t to_bfloat(float value);
// cvt.rna.tf32: 10 bits after the point, ties away from zero.
uint32_t to_tf32(float value);

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_WARP_H_

// TMA: boxes of tensors of 16-bit elements, between global and shared memory, with the 128-byte
// swizzle. Loads land late and in any order; until then their destination is NaN. Stores read their
// source late, and write later still.
#ifndef ATTN_CUDA_EMULATOR_TMA_H_
#define ATTN_CUDA_EMULATOR_TMA_H_

#include <vector>

#include "emulator.h"

namespace attn::emulator {

// What a CUtensorMap says, as far as it is used here. Rank 4; strides in bytes, that of dimension 0
// is 2; boxes have at most 64 elements in dimension 0.
struct TensorDescription {
  char* data;
  int64_t strides[3];  // of dimensions 1 to 3
  int32_t dims[4];
  int32_t box[4];

  // As cuTensorMapEncodeTiled: "" or what it would refuse.
  std::string check() const;
};

class Tma : public Engine {
 public:
  explicit Tma(Cta& cta);
  ~Tma() override;
  bool land_one(Random& random) override;
  std::string describe() const override;

  void load(uint32_t to, const TensorDescription& tensor, uint32_t barrier, const int (&at)[4]);
  void store(const TensorDescription& tensor, uint32_t from, const int (&at)[4]);
  void commit();     // this thread's stores make a group
  void wait_read();  // until its groups have read their sources
  void wait();       // until they have written

 private:
  struct Load {
    TensorDescription tensor;
    uint32_t to, barrier;
    int at[4];
  };
  struct Store {
    TensorDescription tensor;
    uint32_t from;
    int at[4];
    int thread;
    bool committed = false;
    bool has_read = false;
    std::vector<uint16_t> data;
  };
  void land(const Load& load);
  void read(Store& store);
  static void write(const Store& store);
  uint16_t* element(uint32_t tile, uint32_t index_in_box) const;

  Cta& cta_;
  std::vector<Load> loads_;
  std::vector<Store> stores_;
};

}  // namespace attn::emulator

#endif  // ATTN_CUDA_EMULATOR_TMA_H_

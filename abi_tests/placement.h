// placement.h: a problem's tensors in guarded memory, and its run on one backend.
#ifndef ATTN_ABI_TESTS_PLACEMENT_H_
#define ATTN_ABI_TESTS_PLACEMENT_H_

#include <deque>
#include <memory>

#include "problem.h"

namespace attn_test {

// A tensor in memory of its own, which touches an inaccessible page. Whatever is not set holds
// 0xff bytes: NaN as a float, -1 as an integer, true as a mask.
class Placed {
 public:
  Placed(attn_dtype dtype, const std::vector<int64_t>& shape, const Order& order, Guard guard);

  const attn_tensor* view() const { return &view_; }
  attn_tensor* view() { return &view_; }

  void set(const std::vector<int64_t>& index, double value) {
    set(element(index.data(), static_cast<int>(index.size())), value);
  }
  double get(const std::vector<int64_t>& index) const;
  void set(unsigned char* element, double value);
  unsigned char* element(const int64_t* index, int rank) const;
  unsigned char* element(int64_t i0, int64_t i1, int64_t i2, int64_t i3) const {
    const int64_t index[] = {i0, i1, i2, i3};
    return element(index, 4);
  }

  const GuardedBuffer& memory() const { return *memory_; }
  // Every byte outside of the view's elements holds 0xff still.
  bool gaps_intact() const;

 private:
  std::unique_ptr<GuardedBuffer> memory_;
  attn_tensor view_;
};

// The bits of a result, by meaning: [b, heads_q, i, x] and [b, heads_q, i].
struct Outcome {
  attn_status status;
  attn_error error;
  std::vector<double> o;
  std::vector<double> lse;
};
// Equal in bits, but that any NaN equals any other.
bool same_bits(const Outcome& a, const Outcome& b);

// All tensors of one problem, ready to run.
class Placement {
 public:
  Placement(const Problem& problem, const Data& data);
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;

  attn_plan_config config() const;         // without a backend
  attn_run_args& args() { return args_; }  // without a workspace

  // Values at the outputs, as the caller finds them; padded rows included.
  double o(int64_t b, int64_t h, int64_t i, int64_t x) const;
  double lse(int64_t b, int64_t h, int64_t i) const;
  // Rows that Problem's padded O has beyond the sequences' lengths.
  int64_t extent_q() const { return extent_q_; }

  // Nothing was written but the outputs' own elements; if not, says where.
  std::string damage() const;
  // Remembers the inputs for damage(); called by the constructor and after a change by hand.
  void seal();

  Outcome outcome(attn_status status, const attn_error& error) const;

 private:
  Placed& add(attn_dtype dtype, const std::vector<int64_t>& shape, const Order& order);
  Placed& add_list(attn_dtype dtype, const std::vector<int64_t>& values);
  void place_q(const Data& data);
  void place_kv(const Data& data);
  Placed* add_scales(attn_dtype dtype, const Scaling& scaling, const Order& order,
                     std::vector<int64_t> shape);
  void place_overlays(const Data& data);
  void place_block_table();

  const Problem& problem_;
  int64_t extent_q_ = 0;
  int64_t extent_k_ = 0;
  std::vector<std::vector<int64_t>> pages_;  // paged: page of (sequence, block)
  std::deque<Placed> tensors_;
  std::vector<uint64_t> checksums_;
  Placed* o_ = nullptr;
  Placed* lse_ = nullptr;
  attn_run_args args_ = ATTN_RUN_ARGS_INIT;
};

// A backend on an instruction set, with a context that has it forced.
struct Target {
  std::string backend;
  attn_isa isa;
  std::string isa_name;
  attn_context* context;
  std::string label() const { return backend + "/" + isa_name; }
};
// Every available CPU backend on every available instruction set. The contexts have 3 threads.
const std::vector<Target>& targets();

// Plans (backend NULL: the library's choice), takes a workspace beside a guard page, and runs.
// `damage`, if not NULL, receives what was written where it must not be.
Outcome execute(attn_context* context, const char* backend, const Problem& problem,
                Placement& placement, std::string* damage);
Outcome execute(attn_context* context, const char* backend, const Problem& problem,
                const Data& data);

}  // namespace attn_test

#endif  // ATTN_ABI_TESTS_PLACEMENT_H_

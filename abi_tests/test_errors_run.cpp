// test_errors_run.cpp: every field of attn_run_args and of each of its tensors with values that it
// must not have; outputs stay as they were.
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "compare.h"
#include "expect.h"
#include "host.h"
#include "storage.h"

namespace attn_test {
namespace {

constexpr attn_status kInvalid = ATTN_ERROR_INVALID_ARGUMENT;
constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

using TensorField = const attn_tensor* attn_run_args::*;

struct NamedField {
  const char* name;
  TensorField field;
  bool optional;  // may be NULL even if its feature is there
};
constexpr NamedField kTensors[] = {
    {"q", &attn_run_args::q, false},
    {"k", &attn_run_args::k, false},
    {"v", &attn_run_args::v, false},
    {"o", &attn_run_args::o, false},
    {"lse", &attn_run_args::lse, true},
    {"seqlens_q", &attn_run_args::seqlens_q, false},
    {"seqlens_k", &attn_run_args::seqlens_k, false},
    {"cu_seqlens_q", &attn_run_args::cu_seqlens_q, false},
    {"cu_seqlens_k", &attn_run_args::cu_seqlens_k, false},
    {"block_table", &attn_run_args::block_table, false},
    {"q_start", &attn_run_args::q_start, false},
    {"k_start", &attn_run_args::k_start, false},
    {"bias", &attn_run_args::bias, false},
    {"bias_k0", &attn_run_args::bias_k0, true},
    {"mask", &attn_run_args::mask, false},
    {"mask_k0", &attn_run_args::mask_k0, true},
    {"alibi_slopes", &attn_run_args::alibi_slopes, false},
    {"sink", &attn_run_args::sink, false},
    {"block_mask", &attn_run_args::block_mask, false},
    {"k_scale", &attn_run_args::k_scale, false},
    {"v_scale", &attn_run_args::v_scale, false},
};

// Problems that between them carry every tensor.
std::vector<Problem> problems() {
  Problem p;
  p.seed = 2;
  p.heads_q = 4;
  p.heads_kv = 2;
  p.seqlens_q = {9, 12};
  p.seqlens_k = {20, 30};
  std::vector<Problem> list;
  p.name = "padded";
  p.q_rows = p.k_rows = Rows::kPaddedLengths;
  p.slack_q = p.slack_k = 2;
  p.bias.present = p.bias.ranged = p.mask.present = p.mask.ranged = true;
  p.bias.range_n = p.mask.range_n = 7;
  p.bias.k0 = {1, 3};
  p.mask.k0 = {2, 0};
  p.q_start = {11, 18};
  p.k_start = {0, 1};
  p.alibi = 2;
  p.sink = true;
  p.block_mask.present = true;
  p.block_q = p.block_k = 4;
  list.push_back(p);
  Problem plain;
  plain.seed = 3;
  plain.heads_q = 4;
  plain.heads_kv = 2;
  plain.seqlens_q = {9, 12};
  plain.seqlens_k = {20, 30};
  plain.name = "packed";
  plain.q_rows = plain.k_rows = Rows::kPacked;
  plain.causal = true;
  list.push_back(plain);
  plain.name = "paged";
  plain.k_rows = Rows::kPaged;
  list.push_back(plain);
  plain.name = "whole overlays";
  plain.q_rows = plain.k_rows = Rows::kPadded;
  plain.seqlens_q = {12, 12};
  plain.seqlens_k = {30, 30};
  plain.bias.present = plain.mask.present = true;
  list.push_back(plain);
  plain.bias.present = plain.mask.present = false;
  plain.name = "quantised";
  plain.k_dtype = ATTN_DTYPE_I8;
  plain.v_dtype = ATTN_DTYPE_F8E4M3;
  plain.k_scaling.block = plain.v_scaling.block = 2;
  list.push_back(plain);
  plain.name = "quantised and paged";
  plain.k_rows = Rows::kPaged;
  list.push_back(plain);
  return list;
}

// A problem with its plan, ready to be spoiled in one place after another.
class Spoilable {
 public:
  explicit Spoilable(const Problem& problem, const char* backend = nullptr)
      : problem_(problem), data_(make_data(problem_)), placement_(problem_, data_) {
    attn_plan_config config = placement_.config();
    config.backend = backend;
    if (!CHECK_OK(attn_plan_create(targets()[0].context, &config, &plan_, nullptr))) return;
    size_t size = 0;
    CHECK_OK(attn_plan_workspace_size(plan_, &size, nullptr));
    workspace_ = std::make_unique<GuardedBuffer>(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
    placement_.args().workspace = workspace_->data();
    placement_.args().workspace_size = size;
  }
  ~Spoilable() { attn_plan_destroy(plan_); }
  Spoilable(const Spoilable&) = delete;
  Spoilable& operator=(const Spoilable&) = delete;

  const Problem& problem() const { return problem_; }
  Placement& placement() { return placement_; }
  const attn_plan* plan() const { return plan_; }
  attn_run_args args() { return placement_.args(); }

  // Runs; the outputs' memory has to be as it was, and the message has to name one of the fields.
  void expect(const std::string& what, const attn_run_args& args,
              const std::initializer_list<attn_status>& statuses,
              const std::initializer_list<const char*>& fields, const std::string& held = "") {
    attn_error error;
    std::memset(&error, 0xcd, sizeof error);
    const attn_run_args before = args;
    const attn_status status = attn_run(plan_, &args, &error);
    const std::string name = problem_.name + ": " + what;
    check_failure(name.c_str(), status, error, statuses, fields, held);
    CHECK(std::memcmp(&before, &args, sizeof args) == 0, "%s: args were written", name.c_str());
    if (status != ATTN_OK) {
      const std::string damage = placement_.damage();
      CHECK(damage.empty() && untouched(), "%s: outputs were touched %s", name.c_str(),
            damage.c_str());
      count("refused runs");
    } else {
      reset_outputs();
    }
  }

  // The same with one tensor in another's place.
  void expect(const std::string& what, TensorField field, const attn_tensor& tensor,
              const std::initializer_list<attn_status>& statuses,
              const std::initializer_list<const char*>& fields, const std::string& held = "") {
    attn_run_args args = placement_.args();
    args.*field = &tensor;
    expect(what, args, statuses, fields, held);
  }

  bool untouched() const {
    for (int64_t b = 0; b < problem_.batch(); b++)
      for (int64_t h = 0; h < problem_.heads_q; h++)
        for (int64_t i = 0; i < problem_.seqlens_q[static_cast<size_t>(b)]; i++) {
          if (!std::isnan(placement_.lse(b, h, i))) return false;
          for (int64_t x = 0; x < problem_.head_dim_v; x++) {
            if (!std::isnan(placement_.o(b, h, i, x))) return false;
          }
        }
    return true;
  }

  void reset_outputs() {
    for (const attn_tensor* tensor : {placement_.args().o, placement_.args().lse}) {
      const int64_t n = tensor->shape[0] * tensor->shape[1] * tensor->shape[2] *
                        (tensor->rank == 4 ? tensor->shape[3] : 1);
      std::memset(tensor->data, 0xff, static_cast<size_t>(n) * 4);  // contiguous here
    }
  }

 private:
  Problem problem_;
  Data data_;
  Placement placement_;
  attn_plan* plan_ = nullptr;
  std::unique_ptr<GuardedBuffer> workspace_;
};

// The unspoiled runs are right, so that what is refused below is refused for what was spoiled.
void unspoiled() {
  for (const Problem& p : problems()) {
    Spoilable run(p);
    const attn_run_args args = run.args();
    CHECK_OK(attn_run(run.plan(), &args, nullptr));
    const Data data = make_data(p);
    CHECK(difference(p, run.placement(), reference(p, data)).empty());
  }
}

// A tensor that must be there and is not, or is there and must not be.
void presence() {
  for (const Problem& p : problems()) {
    Spoilable run(p);
    for (const NamedField& tensor : kTensors) {
      attn_run_args args = run.args();
      if (args.*tensor.field) {
        if (tensor.optional) continue;
        args.*tensor.field = nullptr;
        run.expect(std::string("no ") + tensor.name, args, {kInvalid}, {tensor.name});
      } else {
        int64_t shape[] = {1, 1, 1, 1};
        int64_t zeros[8] = {};
        attn_tensor extra;
        attn_tensor_init(&extra, zeros, ATTN_DTYPE_I32, 1, shape);
        args.*tensor.field = &extra;
        run.expect(std::string("a surplus ") + tensor.name, args, {kInvalid}, {tensor.name});
      }
    }
  }
}

// Fields that every tensor has.
void fields_of_every_tensor() {
  for (const Problem& p : problems()) {
    Spoilable run(p);
    for (const NamedField& named : kTensors) {
      const attn_tensor* original = run.args().*named.field;
      if (!original) continue;
      const std::string name = named.name;
      const auto spoil = [&](const char* what, const std::function<void(attn_tensor&)>& change,
                             const std::string& held = "") {
        attn_tensor tensor = *original;
        change(tensor);
        run.expect(name + " with " + what, named.field, tensor, {kInvalid}, {named.name}, held);
      };
      spoil("no data", [](attn_tensor& t) { t.data = nullptr; });
      spoil("dtype 0", [](attn_tensor& t) { t.dtype = 0; });
      spoil("dtype 9", [](attn_tensor& t) { t.dtype = 9; });
      spoil("dtype -1", [](attn_tensor& t) { t.dtype = -1; });
      spoil("another dtype", [](attn_tensor& t) {
        t.dtype = t.dtype == ATTN_DTYPE_I8 ? ATTN_DTYPE_U8 : ATTN_DTYPE_I8;
      });
      spoil(
          "rank 0", [](attn_tensor& t) { t.rank = 0; }, "0");
      spoil(
          "rank -1", [](attn_tensor& t) { t.rank = -1; }, "-1");
      spoil(
          "rank 7", [](attn_tensor& t) { t.rank = 7; }, "7");
      spoil("a rank too many", [](attn_tensor& t) {
        t.shape[t.rank] = 1;
        t.strides[t.rank] = 1;
        t.rank++;
        if (t.rank == 2) t.shape[0] += 9;  // alibi_slopes may have rank 2
      });
      spoil("device_type 2", [](attn_tensor& t) { t.device_type = ATTN_DEVICE_CUDA; });
      spoil("device_type 77", [](attn_tensor& t) { t.device_type = 77; });
      spoil("device_type -1", [](attn_tensor& t) { t.device_type = -1; });
      spoil("device_id 1", [](attn_tensor& t) { t.device_id = 1; });
      spoil("reserved[0]", [](attn_tensor& t) { t.reserved[0] = 1; });
      spoil("reserved[1]", [](attn_tensor& t) { t.reserved[1] = uint64_t{1} << 63; });
      if (element_size(original->dtype) > 1) {
        spoil("an odd byte_offset", [](attn_tensor& t) { t.byte_offset++; });
        spoil("an odd address", [](attn_tensor& t) { t.data = static_cast<char*>(t.data) + 1; });
      }
      spoil("a byte_offset that wraps around",
            [](attn_tensor& t) { t.byte_offset = ~uint64_t{0} - 7; });
      for (int d = 0; d < original->rank; d++) {
        const std::string dimension = "shape[" + std::to_string(d) + "] ";
        spoil((dimension + "-1").c_str(), [&](attn_tensor& t) { t.shape[d] = -1; }, "-1");
        if (d < 3 || original->dtype != ATTN_DTYPE_U8) {  // masks may have any number of columns
          spoil((dimension + "of 2^62").c_str(),
                [&](attn_tensor& t) { t.shape[d] = int64_t{1} << 62; });
        }
        // Only what leaves 64 bits: the library cannot know what is mapped.
        if ((original->shape[d] - 1) * static_cast<int64_t>(element_size(original->dtype)) < 4) {
          continue;
        }
        spoil("a stride that overflows", [&](attn_tensor& t) { t.strides[d] = kHuge / 2; });
        spoil("a stride that overflows downwards",
              [&](attn_tensor& t) { t.strides[d] = std::numeric_limits<int64_t>::min(); });
      }
    }
  }
}

// One element more or less in any dimension agrees with nothing else; the message names one side.
void shapes_that_disagree() {
  for (const Problem& p : problems()) {
    Spoilable run(p);
    for (const NamedField& named : kTensors) {
      const attn_tensor* original = run.args().*named.field;
      if (!original) continue;
      for (int d = 0; d < original->rank; d++) {
        const std::string name = named.name;
        // What may be larger than need be, or have any number of columns.
        const bool columns = d == 3 && (name == "bias" || name == "mask");
        const bool blocks = d >= 2 && name == "block_mask";
        const bool table = d == 1 && name == "block_table";
        if (blocks || table || (columns && p.bias.ranged)) continue;  // see too_few_blocks
        for (const int64_t change : {-1, 1}) {
          if (change > 0 && columns) continue;
          if (original->shape[d] + change == 1) continue;
          attn_tensor tensor = *original;
          tensor.shape[d] += change;
          run.expect(name + " with shape[" + std::to_string(d) + "] " +
                         (change < 0 ? "one less" : "one more"),
                     named.field, tensor, {kInvalid},
                     {"q",
                      "k",
                      "v",
                      "o",
                      "lse",
                      "seqlens_q",
                      "seqlens_k",
                      "cu_seqlens_q",
                      "cu_seqlens_k",
                      "block_table",
                      "q_start",
                      "k_start",
                      "bias",
                      "bias_k0",
                      "mask",
                      "mask_k0",
                      "alibi_slopes",
                      "sink",
                      "block_mask",
                      "k_scale",
                      "v_scale",
                      "max_batch"});
        }
      }
    }
  }
}

// Block masks and block tables may be larger than the lengths need, but not smaller.
void too_few_blocks() {
  for (const Problem& p : problems()) {
    const auto check = [&](const char* name, TensorField field, int dim, int64_t length,
                           int64_t block, const std::initializer_list<const char*>& fields) {
      Spoilable run(p);
      if (!(run.args().*field)) return;
      const int64_t needed = (length + block - 1) / block;
      attn_tensor tensor = *(run.args().*field);
      attn_run_args args = run.args();
      args.*field = &tensor;
      tensor.shape[dim] = needed;
      CHECK(attn_run(run.plan(), &args, nullptr) == ATTN_OK, "%s: %s: %s", p.name.c_str(), name,
            attn_last_error());
      run.reset_outputs();
      for (const int64_t few : {needed - 1, int64_t{0}}) {
        tensor.shape[dim] = few;
        if (few == 1 && dim >= 2) continue;  // broadcasts
        run.expect(std::string("too small a ") + name, args, {kInvalid}, fields,
                   few > 0 ? std::to_string(few) : "");
        count("too few blocks");
      }
    };
    check("block_mask", &attn_run_args::block_mask, 2, p.longest_q(), p.block_q, {"block_mask"});
    check("block_mask", &attn_run_args::block_mask, 3, p.longest_k(), p.block_k, {"block_mask"});
    check("block_table", &attn_run_args::block_table, 1, p.longest_k(), p.page_size,
          {"block_table", "seqlens_k"});
  }
  CHECK(counted("too few blocks") >= 8, "%d", counted("too few blocks"));
}

// Numbers in the lists: each entry below and above what is allowed.
void lengths_and_offsets() {
  struct Entry {
    const char* problem;
    const char* name;
    TensorField field;
    int64_t at;
    double value;
  };
  constexpr double kMaxInt = 2147483647;
  const Entry entries[] = {
      {"padded", "seqlens_q", &attn_run_args::seqlens_q, 0, -1},
      {"padded", "seqlens_q", &attn_run_args::seqlens_q, 1, 15},
      {"padded", "seqlens_q", &attn_run_args::seqlens_q, 1, kMaxInt},
      {"padded", "seqlens_q", &attn_run_args::seqlens_q, 1, -kMaxInt - 1},
      {"padded", "seqlens_k", &attn_run_args::seqlens_k, 1, -1},
      {"padded", "seqlens_k", &attn_run_args::seqlens_k, 0, 33},
      {"padded", "seqlens_k", &attn_run_args::seqlens_k, 0, kMaxInt},
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 0, -1},
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 1, -9},
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 1, 22},  // then it decreases
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 2, 22},  // beyond the rows
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 2, kMaxInt},
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 0, -kMaxInt - 1},
      {"packed", "cu_seqlens_q", &attn_run_args::cu_seqlens_q, 1, 3},  // 18 rows of at most 12
      {"packed", "cu_seqlens_k", &attn_run_args::cu_seqlens_k, 0, -1},
      {"packed", "cu_seqlens_k", &attn_run_args::cu_seqlens_k, 1, 51},
      {"packed", "cu_seqlens_k", &attn_run_args::cu_seqlens_k, 2, 51},
      {"packed", "cu_seqlens_k", &attn_run_args::cu_seqlens_k, 2, 5},
      {"paged", "seqlens_k", &attn_run_args::seqlens_k, 0, -1},
      {"paged", "seqlens_k", &attn_run_args::seqlens_k, 0, 31},  // the plan's bound is 30
      {"paged", "seqlens_k", &attn_run_args::seqlens_k, 1, kMaxInt},
      {"paged", "block_table", &attn_run_args::block_table, 0, -1},
      {"paged", "block_table", &attn_run_args::block_table, 0, 1000},
      {"paged", "block_table", &attn_run_args::block_table, 4, kMaxInt},
  };
  for (const Problem& p : problems()) {
    for (const Entry& entry : entries) {
      if (p.name != entry.problem) continue;
      Spoilable run(p);
      const attn_tensor* tensor = run.args().*entry.field;
      const int64_t stride = tensor->strides[tensor->rank - 1];
      char* element = static_cast<char*>(tensor->data) + static_cast<size_t>(entry.at * stride) * 4;
      store(tensor->dtype, element, entry.value);
      run.placement().seal();
      // The table has the entry after the one that became too long, too.
      run.expect(std::string(entry.name) + "[" + std::to_string(entry.at) + "] " +
                     std::to_string(static_cast<int64_t>(entry.value)),
                 run.args(), {kInvalid}, {entry.name, "block_table"});
    }
  }
}

// One scale that is no scale, at the corners and the edges of what is read; the message has its
// name and its indices.
void bad_scales() {
  struct Bad {
    double value;
    const char* words;
  };
  const Bad bad[] = {{0.0, "0"},   {-0.0, "-0"},      {-1.5, "-1.5"},
                     {NAN, "nan"}, {INFINITY, "inf"}, {-INFINITY, "-inf"}};
  for (const Rows rows : {Rows::kPaddedLengths, Rows::kPacked, Rows::kPaged}) {
    for (const unsigned broadcast : {0u, 2u, 4u, 5u}) {
      for (const int64_t block : {0, 2, 8}) {
        Problem p;
        p.name = "bad scale";
        p.seed = 5;
        p.heads_q = 4;
        p.heads_kv = 2;
        p.seqlens_q = {3, 2};
        p.seqlens_k = {30, 21};
        p.k_rows = rows;
        p.q_rows = Rows::kPacked;
        p.slack_k = 6;
        p.k_dtype = ATTN_DTYPE_F8E4M3;
        p.v_dtype = ATTN_DTYPE_I8;
        p.k_scaling = p.v_scaling = {block, broadcast, block == 2};
        if (block == 8) p.k_order = p.v_order = {{0, 3, 2, 1}, 1, 4, 0, false};
        Spoilable run(p);
        for (const bool of_v : {false, true}) {
          const attn_tensor& scale = *(of_v ? run.args().v_scale : run.args().k_scale);
          for (const int64_t b : {0, 1}) {
            for (const int64_t h : {0, 1}) {
              for (const int64_t j : {int64_t{0}, int64_t{7}, p.seqlens_k[b ? 1 : 0] - 1}) {
                // The place of key j: 3 for the indices, and the last block.
                int64_t index[] = {b, h, j, p.k_scaling.blocks(8) - 1};
                if (rows == Rows::kPacked) index[0] = 0, index[2] = p.packed_row_k(b) + j;
                if (rows == Rows::kPaged) {
                  const attn_tensor& table = *run.args().block_table;
                  index[0] = static_cast<const int32_t*>(
                      table.data)[b * table.strides[0] + j / p.page_size];
                  index[2] = j % p.page_size;
                }
                int64_t offset = 0;
                for (int d = 0; d < scale.rank; d++) {
                  if (scale.shape[d] == 1) index[d] = 0;
                  offset += index[d] * scale.strides[d];
                }
                float* element = static_cast<float*>(scale.data) + scale.byte_offset / 4 + offset;
                const float before = *element;
                const Bad& one = bad[static_cast<size_t>(b * 3 + h * 2 + j) % 6];
                store(ATTN_DTYPE_F32, element, one.value);
                run.placement().seal();
                run.expect("a scale of " + std::string(one.words), run.args(), {kInvalid},
                           {of_v ? "v_scale" : "k_scale"}, one.words);
                if (broadcast == 0) {
                  std::string place = "[" + std::to_string(index[0]);
                  for (int d = 1; d < scale.rank; d++) place += ", " + std::to_string(index[d]);
                  CHECK(std::strstr(attn_last_error(), (place + "] is").c_str()), "%s: \"%s\"",
                        place.c_str(), attn_last_error());
                }
                *element = before;
              }
            }
          }
        }
        // As small and as large as floats go.
        for (const double value : {0x1p-149, 0x1.fffffep127}) {
          float* element =
              static_cast<float*>(run.args().k_scale->data) + run.args().k_scale->byte_offset / 4;
          if (std::isnan(*element)) continue;  // the place of no key
          store(ATTN_DTYPE_F32, element, value);
          const attn_run_args args = run.args();
          CHECK_OK(attn_run(run.plan(), &args, nullptr));
          run.reset_outputs();
        }
      }
    }
  }
}

// Positions so far out that their differences leave 64 bits.
void extreme_positions() {
  Problem p = problems()[1];
  p.q_start = {kHuge, std::numeric_limits<int64_t>::min()};
  p.k_start = {std::numeric_limits<int64_t>::min(), kHuge};
  p.q_start[0] = (int64_t{1} << 62) + 1;
  for (const char* backend : {"standard", "flash"}) {
    Spoilable run(p, backend);
    const auto set = [&](const attn_tensor* tensor, int64_t i, int64_t value) {
      std::memcpy(static_cast<char*>(tensor->data) + 8 * i, &value, 8);
    };
    for (const int64_t value : {kHuge, -kHuge - 1, kHuge - 5, int64_t{1} << 61}) {
      set(run.args().q_start, 0, value);
      set(run.args().k_start, 0, -value - 1);
      run.placement().seal();
      attn_error error;
      const attn_run_args args = run.args();
      const attn_status status = attn_run(run.plan(), &args, &error);
      CHECK(status == ATTN_OK || status == kInvalid, "%s", attn_status_name(status));
      if (status == kInvalid) {
        CHECK(mentions_any(error.message, {"q_start", "k_start"}), "%s", error.message);
      }
      run.reset_outputs();
    }
  }
}

// The plan's bounds hold for each run.
void beyond_the_plan() {
  struct Bound {
    const char* name;
    void (*grow)(Problem& p);
    std::initializer_list<const char*> fields;
  };
  const Bound bounds[] = {
      {"batch",
       [](Problem& p) { p.seqlens_q.push_back(12), p.seqlens_k.push_back(30); },
       {"max_batch", "batch"}},
      {"queries",
       [](Problem& p) {
         p.seqlens_q = {13, 13};
       },
       {"max_seqlen_q"}},
      {"keys",
       [](Problem& p) {
         p.seqlens_k = {31, 31};
       },
       {"max_seqlen_k"}},
  };
  Problem small = problems()[3];
  small.bias.present = small.mask.present = false;
  for (const Rows rows : {Rows::kPadded, Rows::kPacked}) {
    for (const Bound& bound : bounds) {
      Problem p = small;
      p.q_rows = p.k_rows = rows;
      Spoilable planned(p);
      bound.grow(p);
      Spoilable larger(p);
      attn_run_args args = larger.args();
      args.workspace = planned.args().workspace;
      args.workspace_size = planned.args().workspace_size;
      attn_error error;
      const attn_status status = attn_run(planned.plan(), &args, &error);
      check_failure(bound.name, status, error, {kInvalid});
      if (rows == Rows::kPadded) {
        CHECK(mentions_any(error.message, bound.fields), "%s", error.message);
      }
      CHECK(larger.untouched());
    }
  }
}

void workspace() {
  for (const char* backend : {"standard", "flash"}) {
    Problem p = problems()[1];
    Spoilable run(p, backend);
    attn_run_args args = run.args();
    CHECK(args.workspace_size > 0);
    args.workspace = nullptr;
    run.expect("no workspace", args, {ATTN_ERROR_WORKSPACE}, {"workspace"});
    args = run.args();
    args.workspace_size = 0;
    run.expect("workspace of 0", args, {ATTN_ERROR_WORKSPACE}, {"workspace_size"}, "0");
    args = run.args();
    args.workspace_size--;
    run.expect("workspace one byte short", args, {ATTN_ERROR_WORKSPACE}, {"workspace_size"},
               std::to_string(args.workspace_size));
    for (const size_t offset : {1, 4, 32}) {
      args = run.args();
      args.workspace = static_cast<char*>(args.workspace) + offset;
      run.expect("workspace off its alignment", args, {ATTN_ERROR_WORKSPACE}, {"workspace"});
    }
  }
}

// Outputs that lie over themselves, an input or one another.
void overlaps() {
  Problem p = problems()[1];
  p.q_rows = p.k_rows = Rows::kPadded;
  p.seqlens_q = {12, 12};
  p.seqlens_k = {30, 30};
  Spoilable run(p);
  const attn_tensor o = *run.args().o, lse = *run.args().lse;
  for (int d = 0; d < 4; d++) {
    attn_tensor tensor = o;
    tensor.strides[d] = 0;
    run.expect("o with stride 0", &attn_run_args::o, tensor, {kInvalid}, {"o"});
  }
  attn_tensor tensor = o;
  tensor.strides[2] = 7;  // rows of 8
  run.expect("o with rows over one another", &attn_run_args::o, tensor, {kInvalid}, {"o"});
  tensor = o;
  tensor.strides[1] = tensor.strides[2];
  run.expect("o with heads over rows", &attn_run_args::o, tensor, {kInvalid}, {"o"});
  for (int d = 0; d < 3; d++) {
    tensor = lse;
    tensor.strides[d] = 0;
    run.expect("lse with stride 0", &attn_run_args::lse, tensor, {kInvalid}, {"lse"});
  }
  tensor = o;
  tensor.data = run.args().q->data;
  run.expect("o over q", &attn_run_args::o, tensor, {kInvalid}, {"o"});
  for (const TensorField input : {&attn_run_args::k, &attn_run_args::v}) {
    tensor = o;  // its last element is the input's first
    tensor.data = static_cast<char*>((run.args().*input)->data) - (2 * 4 * 12 * 8 - 1) * 4;
    run.expect("o that ends in an input", &attn_run_args::o, tensor, {kInvalid}, {"o"});
  }
  tensor = lse;
  tensor.data = run.args().o->data;
  run.expect("lse over o", &attn_run_args::lse, tensor, {kInvalid}, {"lse", "o"});
  tensor.data = run.args().k->data;
  run.expect("lse over k", &attn_run_args::lse, tensor, {kInvalid}, {"lse"});

  // Over each of the inputs, whatever it is.
  for (const Problem& problem : problems()) {
    Spoilable spoilable(problem);
    for (const NamedField& named : kTensors) {
      const attn_tensor* input = spoilable.args().*named.field;
      if (!input || input == spoilable.args().o || input == spoilable.args().lse) continue;
      for (const TensorField output : {&attn_run_args::o, &attn_run_args::lse}) {
        attn_tensor over = *(spoilable.args().*output);
        over.data =
            reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(input->data) & ~uintptr_t{3});
        const char* name = output == &attn_run_args::o ? "o" : "lse";
        spoilable.expect(std::string(name) + " over " + named.name, output, over, {kInvalid},
                         {name});
      }
    }
  }

  // Heads between rows are no overlap: [batch, seqlen, heads, dim].
  std::vector<float> buffer(2 * 4 * 12 * 8);
  attn_run_args args = run.args();
  attn_tensor swapped = o;
  swapped.data = buffer.data();
  swapped.strides[2] = 8 * 4;
  swapped.strides[1] = 8;
  args.o = &swapped;
  CHECK_OK(attn_run(run.plan(), &args, nullptr));
}

void other_fields() {
  Spoilable run(problems()[1]);
  attn_run_args args = run.args();
  args.reserved = 1;
  run.expect("reserved", args, {kInvalid}, {"reserved"}, "1");
  args = run.args();
  args.stream = &args;
  run.expect("a stream on a CPU", args, {kInvalid}, {"stream"});
  attn_error error = {ATTN_OK, ""};
  args = run.args();
  check_failure("no plan", attn_run(nullptr, &args, &error), error, {kInvalid}, {"plan"});
  check_failure("no args", attn_run(run.plan(), nullptr, &error), error, {kInvalid},
                {"args", "attn_run_args"});
}

void one_call() {
  Problem p = problems()[3];
  p.bias.present = p.mask.present = false;
  Spoilable run(p);
  const attn_run_args& args = run.args();
  attn_error error;
  const attn_tensor* good[] = {args.q, args.k, args.v, args.o};
  const char* const names[] = {"q", "k", "v", "o"};
  for (size_t i = 0; i < 4; i++) {
    const auto call = [&](const attn_tensor* tensor) {
      const attn_tensor* t[] = {good[0], good[1], good[2], good[3]};
      t[i] = tensor;
      return attn_attention(t[0], t[1], t[2], t[3], 0, &error);
    };
    check_failure(names[i], call(nullptr), error, {kInvalid}, {names[i]});
    attn_tensor tensor = *good[i];
    tensor.rank = 3;
    check_failure(names[i], call(&tensor), error, {kInvalid}, {names[i]});
    tensor = *good[i];
    tensor.dtype = 0;
    check_failure(names[i], call(&tensor), error, {kInvalid});
    tensor = *good[i];
    tensor.data = nullptr;
    check_failure(names[i], call(&tensor), error, {kInvalid}, {names[i]});
    tensor = *good[i];
    tensor.shape[0] = -3;
    check_failure(names[i], call(&tensor), error, {kInvalid});
    tensor = *good[i];
    tensor.shape[1] = 3;
    check_failure(names[i], call(&tensor), error, {kInvalid});
  }
  check_failure("features", attn_attention(good[0], good[1], good[2], good[3], ATTN_MASK, &error),
                error, {kInvalid}, {"features"});
  CHECK(run.untouched());
}

void enough_was_refused() { CHECK(counted("refused runs") > 1200, "%d", counted("refused runs")); }

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(unspoiled),
      TEST(presence),
      TEST(fields_of_every_tensor),
      TEST(shapes_that_disagree),
      TEST(too_few_blocks),
      TEST(lengths_and_offsets),
      TEST(bad_scales),
      TEST(extreme_positions),
      TEST(beyond_the_plan),
      TEST(workspace),
      TEST(overlaps),
      TEST(other_fields),
      TEST(one_call),
      TEST(enough_was_refused),
  };
  return run_tests("errors_run", argc, argv, tests);
}

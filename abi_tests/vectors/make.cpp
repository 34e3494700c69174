// make.cpp: writes vectors.txt, the test vectors of every language, from the float64 reference.
//
//   make_vectors > abi_tests/vectors/vectors.txt
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "../placement.h"
#include "../reference.h"
#include "../storage.h"

namespace attn_test {
namespace {

constexpr char kFormat[] =
    "# Test vectors of attention, made by abi_tests/vectors/make.cpp from the float64 reference.\n"
    "#\n"
    "#   case NAME\n"
    "#   plan FIELD VALUE         a field of attn_plan_config; all others are 0\n"
    "#   input FIELD VIEW BYTES   a tensor of attn_run_args; BYTES: its memory\n"
    "#   output FIELD VIEW        an output; its memory is all zero bytes before the run\n"
    "#   expect FIELD ROWS COLUMNS VALUES TOLERANCES\n"
    "#   end\n"
    "#\n"
    "# VIEW is DTYPE RANK SHAPE... STRIDES... FIRST COUNT: numbers of attn.h, strides in "
    "elements,\n"
    "# the memory's COUNT elements, of which element FIRST is the view's (0, 0, ...).\n"
    "# BYTES are hexadecimal and little-endian, \"-\" if there are none. VALUES and TOLERANCES "
    "are\n"
    "# such bytes of float64: what is expected of the output's elements in row-major order,\n"
    "# ROWS x COLUMNS (lse: COLUMNS 1), and how far those of a row may be from it, |a - e| <= t.\n"
    "# An infinity is expected as it is.\n"
    "#\n"
    "# A runner computes each case with every available backend on every available instruction "
    "set,\n"
    "# and writes into the folder that ATTN_VECTORS_OUT names, if it does, LANGUAGE.txt with "
    "lines\n"
    "#   NAME BACKEND ISA HASH    or \"unsupported\" for HASH where the plan was refused so\n"
    "# HASH is FNV-1a, 64 bits, 16 hexadecimal digits, over the bytes of the memory of the "
    "outputs\n"
    "# in their order here. same_bits.py compares these files.\n";

void print_hex(const void* memory, size_t size) {
  const unsigned char* bytes = static_cast<const unsigned char*>(memory);
  std::putchar(' ');
  if (size == 0) std::putchar('-');
  for (size_t i = 0; i < size; i++) std::printf("%02x", bytes[i]);
}

void print_plan(const attn_plan_config& c) {
  const auto field = [](const char* name, int64_t value) {
    if (value != 0) std::printf("plan %s %" PRId64 "\n", name, value);
  };
  const auto real = [](const char* name, float value) {
    if (value != 0) std::printf("plan %s %.9g\n", name, static_cast<double>(value));
  };
  field("features", c.features);
  field("q_dtype", c.q_dtype);
  field("k_dtype", c.k_dtype);
  field("v_dtype", c.v_dtype);
  field("o_dtype", c.o_dtype);
  field("bias_dtype", c.bias_dtype);
  field("q_layout", c.q_layout);
  field("kv_layout", c.kv_layout);
  field("alignment", c.alignment);
  real("scale", c.scale);
  real("softcap", c.softcap);
  field("page_size", c.page_size);
  field("block_q", c.block_q);
  field("block_k", c.block_k);
  field("heads_q", c.heads_q);
  field("heads_kv", c.heads_kv);
  field("head_dim", c.head_dim);
  field("head_dim_v", c.head_dim_v);
  field("max_batch", c.max_batch);
  field("max_seqlen_q", c.max_seqlen_q);
  field("max_seqlen_k", c.max_seqlen_k);
  field("max_total_q", c.max_total_q);
  field("max_total_k", c.max_total_k);
  field("window_left", c.window_left);
  field("window_right", c.window_right);
}

void print_tensor(const char* name, const attn_tensor* tensor, bool output) {
  if (!tensor) return;
  int64_t first = 0, count = 1;
  for (int32_t d = 0; d < tensor->rank; d++) {
    const int64_t reach = (tensor->shape[d] - 1) * tensor->strides[d];
    first += reach < 0 ? -reach : 0;
    count += reach < 0 ? -reach : reach;
  }
  for (int32_t d = 0; d < tensor->rank; d++) {
    if (tensor->shape[d] == 0) first = count = 0;
  }
  std::printf("%s %s %d %d", output ? "output" : "input", name, tensor->dtype, tensor->rank);
  for (int32_t d = 0; d < tensor->rank; d++) std::printf(" %" PRId64, tensor->shape[d]);
  for (int32_t d = 0; d < tensor->rank; d++) std::printf(" %" PRId64, tensor->strides[d]);
  std::printf(" %" PRId64 " %" PRId64, first, count);
  const size_t size = element_size(tensor->dtype);
  const unsigned char* zero = static_cast<unsigned char*>(tensor->data) + tensor->byte_offset;
  if (!output)
    print_hex(count ? zero - first * static_cast<int64_t>(size) : nullptr,
              static_cast<size_t>(count) * size);
  std::printf("\n");
}

void print_expected(const Problem& p, const Placement& placement, const Expected& expected) {
  const bool packed = p.q_rows == Rows::kPacked;
  std::vector<double> o, o_tolerance, lse, lse_tolerances;
  const auto row = [&](int64_t b, int64_t h, int64_t i) {
    const bool there = i < p.seqlens_q[static_cast<size_t>(b)];
    for (int64_t x = 0; x < p.head_dim_v; x++) o.push_back(there ? expected.o.at(b, h, i, x) : 0);
    o_tolerance.push_back(there ? expected.tolerance.at(b, h, i, 0) : 0);
    lse.push_back(there ? expected.lse.at(b, h, i, 0) : -INFINITY);
    lse_tolerances.push_back(std::isinf(lse.back()) ? 0 : lse_tolerance(lse.back()));
  };
  if (packed) {
    for (int64_t h = 0; h < p.heads_q; h++)
      for (int64_t b = 0; b < p.batch(); b++)
        for (int64_t i = 0; i < p.seqlens_q[static_cast<size_t>(b)]; i++) row(b, h, i);
  } else {
    for (int64_t b = 0; b < p.batch(); b++)
      for (int64_t h = 0; h < p.heads_q; h++)
        for (int64_t i = 0; i < placement.extent_q(); i++) row(b, h, i);
  }
  const auto print = [](const char* name, int64_t columns, const std::vector<double>& values,
                        const std::vector<double>& tolerances) {
    std::printf("expect %s %zu %" PRId64, name, tolerances.size(), columns);
    print_hex(values.data(), values.size() * sizeof(double));
    print_hex(tolerances.data(), tolerances.size() * sizeof(double));
    std::printf("\n");
  };
  print("o", p.head_dim_v, o, o_tolerance);
  if (p.lse) print("lse", 1, lse, lse_tolerances);
}

void print_case(const Problem& p) {
  const Data data = make_data(p);
  Placement placement(p, data);
  const attn_run_args& a = placement.args();
  std::printf("\ncase %s\n", p.name.c_str());
  print_plan(placement.config());
  const struct {
    const char* name;
    const attn_tensor* tensor;
  } inputs[] = {
      {"q", a.q},
      {"k", a.k},
      {"v", a.v},
      {"seqlens_q", a.seqlens_q},
      {"seqlens_k", a.seqlens_k},
      {"cu_seqlens_q", a.cu_seqlens_q},
      {"cu_seqlens_k", a.cu_seqlens_k},
      {"block_table", a.block_table},
      {"q_start", a.q_start},
      {"k_start", a.k_start},
      {"bias", a.bias},
      {"bias_k0", a.bias_k0},
      {"mask", a.mask},
      {"mask_k0", a.mask_k0},
      {"alibi_slopes", a.alibi_slopes},
      {"sink", a.sink},
      {"block_mask", a.block_mask},
      {"k_scale", a.k_scale},
      {"v_scale", a.v_scale},
  };
  for (const auto& input : inputs) print_tensor(input.name, input.tensor, false);
  print_tensor("o", a.o, true);
  print_tensor("lse", a.lse, true);
  print_expected(p, placement, reference(p, data));
  std::printf("end\n");
}

Problem problem(const char* name, std::vector<int64_t> seqlens_q, std::vector<int64_t> seqlens_k) {
  Problem p;
  p.name = name;
  for (const char* c = name; *c; c++) p.seed = p.seed * 31 + static_cast<unsigned char>(*c);
  p.seqlens_q = std::move(seqlens_q);
  p.seqlens_k = std::move(seqlens_k);
  p.heads_q = 4;
  p.heads_kv = 2;
  return p;
}

void types(Problem& p, attn_dtype q, attn_dtype k, attn_dtype v, attn_dtype o) {
  p.q_dtype = q, p.k_dtype = k, p.v_dtype = v, p.o_dtype = o;
}

Overlay overlay(unsigned broadcast = 0, bool zero_stride = false) {
  Overlay overlay;
  overlay.present = true;
  overlay.broadcast = broadcast;
  overlay.zero_stride = zero_stride;
  return overlay;
}

// Every layout, every feature and every type at least once; a few KiB each.
std::vector<Problem> problems() {
  constexpr attn_dtype F32 = ATTN_DTYPE_F32, F16 = ATTN_DTYPE_F16, BF16 = ATTN_DTYPE_BF16,
                       F8 = ATTN_DTYPE_F8E4M3, I8 = ATTN_DTYPE_I8;
  std::vector<Problem> list;
  const auto add = [&](Problem p, auto change) {
    change(p);
    list.push_back(std::move(p));
  };
  add(problem("plain", {5, 5}, {7, 7}), [](Problem& p) { p.heads_kv = 4, p.lse = false; });
  add(problem("causal", {6}, {9}), [](Problem& p) { p.causal = true, p.head_dim_v = 12; });
  add(problem("top_left", {6}, {4}),
      [](Problem& p) { p.causal = true, p.alignment = ATTN_ALIGN_TOP_LEFT; });
  add(problem("tiles", {70}, {150}),
      [](Problem& p) { p.heads_q = 1, p.heads_kv = 1, p.causal = true; });
  add(problem("strides", {5, 5}, {7, 7}), [](Problem& p) {
    p.q_order.outer_to_inner = p.o_order.outer_to_inner = {0, 2, 1, 3};
    p.q_order.gap = 3, p.o_order.gap = 2;
    p.k_order.reversed = 0b0100, p.k_order.offset = true;
    p.v_order.broadcast = 0b0010;
  });
  add(problem("window", {9}, {14}),
      [](Problem& p) { p.window_left = 3, p.window_right = 1, p.scale = 0.5f, p.softcap = 2; });
  add(problem("lengths", {3, 0, 6}, {5, 4, 0}),
      [](Problem& p) { p.q_rows = p.k_rows = Rows::kPaddedLengths, p.slack_q = 1, p.slack_k = 2; });
  add(problem("packed", {4, 1, 7}, {9, 0, 5}),
      [](Problem& p) { p.q_rows = p.k_rows = Rows::kPacked, p.causal = true; });
  add(problem("paged", {2, 2, 2}, {10, 3, 17}),
      [](Problem& p) { p.k_rows = Rows::kPaged, p.causal = true; });
  add(problem("packed_queries_of_pages", {2, 5}, {11, 5}),
      [](Problem& p) { p.q_rows = Rows::kPacked, p.k_rows = Rows::kPaged, p.window_left = 6; });
  add(problem("positions", {5, 5}, {8, 8}), [](Problem& p) {
    p.causal = true, p.q_start = {20, 3}, p.k_start = {16, -1};
  });
  add(problem("bias", {5, 5}, {8, 8}),
      [](Problem& p) { p.bias = overlay(0b0011, true), p.bias_has_inf = true, p.lse = false; });
  add(problem("bias_range", {4}, {12}), [](Problem& p) {
    p.bias = overlay(), p.bias.ranged = true, p.bias.range_n = 5, p.bias.k0 = {4};
  });
  add(problem("mask", {6, 6}, {9, 9}), [](Problem& p) { p.mask = overlay(0b0010); });
  add(problem("mask_range", {4, 4}, {12, 12}), [](Problem& p) {
    p.mask = overlay(), p.mask.ranged = true, p.mask.range_n = 6, p.mask.k0 = {0, 9};
  });
  add(problem("block_mask", {9}, {20}),
      [](Problem& p) { p.block_mask = overlay(), p.block_q = 4, p.block_k = 8; });
  add(problem("alibi", {6, 6}, {6, 6}), [](Problem& p) { p.alibi = 2, p.causal = true; });
  add(problem("sink", {5}, {7}), [](Problem& p) {
    p.sink = true, p.causal = true, p.alibi = 1, p.alignment = ATTN_ALIGN_TOP_LEFT;
  });
  add(problem("f16", {5}, {9}), [](Problem& p) {
    types(p, F16, F16, F16, F16), p.bias = overlay(0b0111), p.bias_dtype = F16;
  });
  add(problem("bf16", {5}, {9}), [](Problem& p) { types(p, BF16, BF16, BF16, BF16); });
  add(problem("bf16_to_f32", {5}, {9}), [](Problem& p) { types(p, BF16, BF16, F16, F32); });
  add(problem("i8", {4}, {10}),
      [](Problem& p) { types(p, F32, I8, I8, F32), p.k_scaling.broadcast = 0b0101; });
  add(problem("f8e4m3", {4, 4}, {6, 6}), [](Problem& p) {
    types(p, BF16, F8, F8, F32), p.k_scaling.block = 4, p.v_scaling.block = 2;
  });
  add(problem("i8_pages", {1, 1}, {7, 2}),
      [](Problem& p) { types(p, F32, I8, F8, F32), p.k_rows = Rows::kPaged; });
  add(problem("no_keys", {3}, {0}), [](Problem&) {});
  add(problem("no_queries", {0}, {3}), [](Problem&) {});
  return list;
}

}  // namespace
}  // namespace attn_test

int main() {
  std::fputs(attn_test::kFormat, stdout);
  for (const attn_test::Problem& problem : attn_test::problems()) attn_test::print_case(problem);
}

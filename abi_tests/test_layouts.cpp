// test_layouts.cpp: tensors that share memory, odd strides, and views that are no views at all.
#include <cstring>

#include "compare.h"
#include "storage.h"

namespace attn_test {
namespace {

Problem small_problem() {
  Problem p;
  p.name = "layouts";
  p.seed = 4;
  p.seqlens_q = {13, 13};
  p.seqlens_k = {21, 21};
  p.heads_q = 4;
  p.heads_kv = 2;
  p.head_dim = p.head_dim_v = 24;
  p.causal = true;
  return p;
}

attn_tensor view(float* data, std::initializer_list<int64_t> shape,
                 std::initializer_list<int64_t> strides) {
  attn_tensor tensor;
  attn_tensor_init(&tensor, data, ATTN_DTYPE_F32, static_cast<int32_t>(shape.size()),
                   shape.begin());
  std::copy(strides.begin(), strides.end(), tensor.strides);
  return tensor;
}

void run_and_compare(const Problem& p, const Data& data, Placement& placement) {
  const Expected expected = reference(p, data);
  for (const Target& target : targets()) {
    if (!must_serve(target.backend, p)) continue;
    const Outcome outcome = execute(target.context, target.backend.c_str(), p, placement, nullptr);
    CHECK(outcome.status == ATTN_OK, "%s: %s", target.label().c_str(), outcome.error.message);
    const std::string wrong = difference(p, placement, expected);
    CHECK(wrong.empty(), "%s: %s", target.label().c_str(), wrong.c_str());
    count(target.label());
  }
}

// One buffer [batch, seqlen, 3, heads, dim] with Q, K and V side by side, as projections leave it.
void fused_qkv() {
  Problem p = small_problem();
  p.heads_kv = 4;
  p.seqlens_k = p.seqlens_q;
  const Data data = make_data(p);
  const int64_t s = 13, h = 4, d = 24;
  std::vector<float> buffer(static_cast<size_t>(2 * s * 3 * h * d));
  attn_tensor views[3];
  const Values* values[] = {&data.q, &data.k, &data.v};
  for (int64_t n = 0; n < 3; n++) {
    views[n] = view(buffer.data() + n * h * d, {2, h, s, d}, {s * 3 * h * d, d, 3 * h * d, 1});
    for (int64_t b = 0; b < 2; b++)
      for (int64_t i = 0; i < s; i++)
        for (int64_t head = 0; head < h; head++)
          for (int64_t x = 0; x < d; x++)
            buffer[static_cast<size_t>((((b * s + i) * 3 + n) * h + head) * d + x)] =
                static_cast<float>(values[n]->at(b, head, i, x));
  }
  Placement placement(p, data);
  placement.args().q = &views[0];
  placement.args().k = &views[1];
  placement.args().v = &views[2];
  run_and_compare(p, data, placement);
}

// K and V may share memory: entirely, and V as the first part of K (as latent attention has it).
void k_and_v_in_one() {
  for (const Rows rows : {Rows::kPadded, Rows::kPacked, Rows::kPaged}) {
    for (const int64_t dim_v : {24, 16}) {
      Problem p = small_problem();
      p.k_rows = rows;
      p.head_dim_v = dim_v;
      Data data = make_data(p);
      for (int64_t b = 0; b < 2; b++)
        for (int64_t h = 0; h < 2; h++)
          for (int64_t j = 0; j < 21; j++)
            for (int64_t x = 0; x < dim_v; x++) data.v.at(b, h, j, x) = data.k.at(b, h, j, x);
      Placement placement(p, data);
      attn_tensor v = *placement.args().k;
      v.shape[3] = dim_v;
      placement.args().v = &v;
      run_and_compare(p, data, placement);
    }
  }
}

// Multi-head latent attention: one K and V head of 576 and 512, V the first part of K's rows, for
// all query heads; prefill and decode, across key blocks, padded and paged.
void latent_attention() {
  for (const attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_BF16}) {
    for (const Rows rows : {Rows::kPadded, Rows::kPaged}) {
      for (const int64_t queries : {1, 3, 40}) {
        Problem p = small_problem();
        p.name = "latent attention";
        p.k_rows = rows;
        p.page_size = 64;
        p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = dtype;
        p.heads_q = 16;
        p.heads_kv = 1;
        p.head_dim = 576;
        p.head_dim_v = 512;
        p.seqlens_q = {queries};
        p.seqlens_k = {300};
        p.causal = true;
        Data data = make_data(p);
        for (int64_t j = 0; j < 300; j++)
          for (int64_t x = 0; x < 512; x++) data.v.at(0, 0, j, x) = data.k.at(0, 0, j, x);
        Placement placement(p, data);
        attn_tensor v = *placement.args().k;
        v.shape[3] = 512;
        placement.args().v = &v;
        run_and_compare(p, data, placement);
      }
    }
  }
}

// The stride of a dimension with one element is of no account, nor what lies past the rank.
void strides_that_do_not_matter() {
  Problem p = small_problem();
  p.seqlens_q = {1};
  p.seqlens_k = {1};
  p.heads_q = p.heads_kv = 1;
  p.head_dim = p.head_dim_v = 1;
  const Data data = make_data(p);
  Placement placement(p, data);
  attn_tensor q = *placement.args().q, k = *placement.args().k, v = *placement.args().v,
              o = *placement.args().o, lse = *placement.args().lse;
  for (attn_tensor* tensor : {&q, &k, &v, &o, &lse}) {
    for (int i = 0; i < ATTN_MAX_RANK; i++) {
      tensor->strides[i] = i % 2 ? INT64_MAX : INT64_MIN;
      if (i >= tensor->rank) tensor->shape[i] = -1;
    }
  }
  placement.args().q = &q;
  placement.args().k = &k;
  placement.args().v = &v;
  placement.args().o = &o;
  placement.args().lse = &lse;
  run_and_compare(p, data, placement);
}

// attn_tensor_init: every field, and strides of a row-major array, also of an empty one.
void tensor_init() {
  attn_tensor tensor;
  std::memset(&tensor, 0xee, sizeof tensor);
  float element = 0;
  const int64_t shape[] = {2, 3, 5, 7};
  attn_tensor_init(&tensor, &element, ATTN_DTYPE_BF16, 4, shape);
  CHECK(tensor.data == &element && tensor.byte_offset == 0 && tensor.dtype == ATTN_DTYPE_BF16);
  CHECK(tensor.device_type == ATTN_DEVICE_CPU && tensor.device_id == 0 && tensor.rank == 4);
  const int64_t strides[] = {105, 35, 7, 1};
  for (int i = 0; i < 4; i++) CHECK(tensor.shape[i] == shape[i] && tensor.strides[i] == strides[i]);
  CHECK(tensor.reserved[0] == 0 && tensor.reserved[1] == 0);
  const int64_t empty[] = {2, 0, 3};
  attn_tensor_init(&tensor, nullptr, ATTN_DTYPE_F32, 3, empty);
  CHECK(tensor.rank == 3 && tensor.shape[1] == 0 && tensor.strides[2] == 1);
}

// The one-call form agrees with a plan, also on shapes that are no rows at all.
void one_call() {
  Problem p = small_problem();
  p.lse = false;
  for (const attn_dtype dtype : {ATTN_DTYPE_F32, ATTN_DTYPE_F16, ATTN_DTYPE_BF16}) {
    Problem typed = p;
    typed.q_dtype = typed.k_dtype = typed.v_dtype = typed.o_dtype = dtype;
    const Data typed_data = make_data(typed);
    Placement placement(typed, typed_data);
    const attn_run_args& args = placement.args();
    CHECK_OK(attn_attention(args.q, args.k, args.v, args.o, ATTN_CAUSAL, nullptr));
    const std::string wrong = difference(typed, placement, reference(typed, typed_data));
    CHECK(wrong.empty(), "%s: %s", attn_dtype_name(dtype), wrong.c_str());
    CHECK(placement.damage().empty());
  }
  Problem empty = small_problem();
  empty.lse = false;
  empty.causal = false;
  empty.seqlens_k = {0, 0};
  const Data empty_data = make_data(empty);
  Placement placement(empty, empty_data);
  const attn_run_args& args = placement.args();
  CHECK_OK(attn_attention(args.q, args.k, args.v, args.o, 0, nullptr));
  CHECK(difference(empty, placement, reference(empty, empty_data)).empty());
}

// With one tensor for scores [1, 1, 1, n] both kinds of overlays reach every head and row.
void tiny_overlays() {
  Problem p = small_problem();
  p.bias.present = p.mask.present = p.block_mask.present = true;
  p.block_q = p.block_k = 4;
  for (const unsigned broadcast : {7u, 15u, 8u, 1u, 4u}) {
    for (const bool zero_stride : {false, true}) {
      for (Overlay* overlay : {&p.bias, &p.mask, &p.block_mask}) {
        overlay->broadcast = broadcast;
        overlay->zero_stride = zero_stride;
      }
      check_everywhere(p);
    }
  }
}

// Heads of sizes beyond what flash serves are standard's.
void wide_heads() {
  for (const int64_t dim : {513, 576, 1000, 1024, 1025}) {
    Problem p = small_problem();
    p.head_dim = dim;
    check_everywhere(p);
    p.head_dim = 24;
    p.head_dim_v = dim;
    check_everywhere(p);
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(fused_qkv),        TEST(k_and_v_in_one),
      TEST(latent_attention), TEST(strides_that_do_not_matter),
      TEST(tensor_init),      TEST(one_call),
      TEST(tiny_overlays),    TEST(wide_heads),
  };
  return run_tests("layouts", argc, argv, tests);
}

// test_hpp.cpp: attn.hpp: spans, ownership, and failures with and without exceptions.
#include <array>
#include <attn/attn.hpp>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "expect.h"
#include "harness.h"

// The version that the library seems to have: a program's own function comes before a library's.
static int32_t seeming_version = ATTN_VERSION;
extern "C" int32_t attn_version(void) { return seeming_version; }

namespace attn_test {
namespace {

// Both forms of a span's view fail, with INVALID_ARGUMENT and that word.
template <class... Arguments>
void check_outside(const char* word, Arguments&&... arguments) {
  const auto result = attn::Tensor::create(arguments...);
  CHECK(!result && result.error().status() == ATTN_ERROR_INVALID_ARGUMENT);
  CHECK(std::strstr(result.error().what(), word) != nullptr, "%s", result.error().what());
  bool thrown = false;
  try {
    const attn::Tensor tensor(arguments...);
  } catch (const attn::Error& error) {
    thrown = error.status() == ATTN_ERROR_INVALID_ARGUMENT && std::strstr(error.what(), word);
  }
  CHECK(thrown);
}

using Extents = attn::Tensor::Extents;

void spans() {
  std::vector<float> vector(24);
  const std::array<float, 24> array{};
  const std::span<const float> span(array);
  for (const attn::Tensor& t :
       {attn::Tensor(vector, {2, 3, 4}), attn::Tensor(array, {2, 3, 4}),
        attn::Tensor(span, {2, 3, 4}), attn::Tensor(vector.data(), {2, 3, 4})}) {
    CHECK(t.dtype == ATTN_DTYPE_F32 && t.rank == 3 && t.byte_offset == 0);
    CHECK(t.shape[0] == 2 && t.shape[1] == 3 && t.shape[2] == 4);
    CHECK(t.strides[0] == 12 && t.strides[1] == 4 && t.strides[2] == 1);
  }
  CHECK(attn::Tensor(vector, {2, 3, 4}).data == vector.data());
  CHECK(attn::Tensor::create(vector, {4, 6}).value().data == vector.data());

  check_outside("24 elements; the shape has 25", vector, Extents{5, 5});
  check_outside("24 elements; the shape has 23", span, Extents{23});
  check_outside("the shape has", vector, Extents{int64_t{1} << 62, 4, 24});  // wraps to 0

  // With strides: a transposed view, a part, a broadcast; not one element further.
  CHECK(attn::Tensor(vector, {6, 4}, {1, 6}).strides[1] == 6);
  CHECK(attn::Tensor(vector, {3, 4}, {8, 1}).shape[0] == 3);
  CHECK(attn::Tensor(vector, {100, 24}, {0, 1}).shape[0] == 100);
  CHECK(attn::Tensor::create(vector, {0, 1000}, {1, 1}).ok());
  check_outside("from 0 to 26", vector, Extents{6, 4}, Extents{1, 7});
  check_outside("from -1 to 0", vector, Extents{2}, Extents{-1});
}

static_assert(!std::is_copy_constructible_v<attn::Context>);
static_assert(std::is_nothrow_move_constructible_v<attn::Plan>);
static_assert(std::is_nothrow_move_assignable_v<attn::Workspace>);

attn::PlanConfig problem() {
  attn::PlanConfig config;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = 2;
  config.head_dim = 8;
  config.max_seqlen_q = config.max_seqlen_k = 6;
  return config;
}

// A moved object is the one that owns; a plan outlives its context.
void ownership() {
  attn::Context first;
  attn_context* handle = first.get();
  attn::Context context(std::move(first));
  CHECK(context.get() == handle);
  attn::Plan plan(context, problem());
  {
    attn::Plan other(context, problem());
    attn_plan* const kept = other.get();
    plan = std::move(other);
    CHECK(plan.get() == kept);
  }
  { const attn::Context gone(std::move(context)); }
  attn::Workspace workspace(1), empty(0);
  workspace = attn::Workspace(plan.workspace_size());
  CHECK(workspace.size() == plan.workspace_size() && empty.data() == nullptr);
  CHECK(reinterpret_cast<uintptr_t>(workspace.data()) % ATTN_WORKSPACE_ALIGNMENT == 0);

  std::vector<float> q(2 * 6 * 8, 0.5f), o(q.size()), once(q.size());
  const attn::Tensor tq(q, {1, 2, 6, 8}), to(o, {1, 2, 6, 8}), tonce(once, {1, 2, 6, 8});
  attn::RunArgs args;
  args.q = args.k = args.v = &tq;
  args.o = &to;
  args.set_workspace(workspace);
  plan.run(args);
  attn::attention(tq, tq, tq, tonce);
  CHECK(o == once && o[0] == 0.5f);
}

// The same failure as a result and as an exception, with the library's words.
void failures() {
  attn::Context context;
  attn::PlanConfig config = problem();
  config.heads_kv = 5;
  const auto result = attn::Plan::create(context, config);
  CHECK(!result.ok() && result.error().status() == ATTN_ERROR_INVALID_ARGUMENT);
  CHECK(std::strstr(result.error().what(), "heads_kv") != nullptr);
  bool thrown = false;
  try {
    const attn::Plan plan(context, config);
  } catch (const std::exception& error) {
    thrown = std::strcmp(error.what(), result.error().what()) == 0;
  }
  CHECK(thrown);

  const attn::Plan plan(context, problem());
  attn::RunArgs args;  // without tensors
  const auto run = plan.try_run(args);
  CHECK(!run && std::strstr(run.error().what(), "q is NULL") != nullptr, "%s", run.error().what());
}

// Each wrong use is refused with the library's words, and o stays as it is.
void bad_input() {
  std::vector<float> q(2 * 6 * 8, 0.5f), o(q.size(), 7.0f);
  const std::vector<uint8_t> bytes(q.size());
  const attn::Tensor tq(q, {1, 2, 6, 8}), to(o, {1, 2, 6, 8});
  const attn::Context context;
  attn::Plan plan(context, problem());
  const attn::Workspace workspace(plan.workspace_size());
  const auto refused = [&](const attn::Tensor& query, const attn::Tensor& out, const char* words) {
    attn::RunArgs args;
    args.q = &query, args.k = args.v = &tq, args.o = &out;
    args.set_workspace(workspace);
    const auto result = plan.try_run(args);
    CHECK(result.error().status() == ATTN_ERROR_INVALID_ARGUMENT);
    CHECK(std::strstr(result.error().what(), words) != nullptr, "%s", result.error().what());
  };
  refused(attn::Tensor(bytes, {1, 2, 6, 8}), to, "q.dtype");
  refused(attn::Tensor(q, {1, 6, 2, 8}), to, "q.shape");
  refused(tq, attn::Tensor(o, {1, 2, 6, 8}, {48, 24, 4, 0}), "o.strides");
  attn::Tensor elsewhere = tq;
  elsewhere.device_type = ATTN_DEVICE_CUDA;
  refused(elsewhere, to, "q is on device");

  const attn::Plan moved(std::move(plan));
  refused(tq, to, "plan is NULL");
  CHECK(plan.try_info().error().status() == ATTN_ERROR_INVALID_ARGUMENT);
  CHECK(plan.describe().empty());
  for (const float x : o) CHECK(x == 7.0f);
}

void older_library() {
  const std::vector<float> q(1);
  std::vector<float> o(1);
  const attn::Tensor tq(q, {1, 1, 1, 1}), to(o, {1, 1, 1, 1});
  seeming_version = 9;
  const attn::Error context = attn::Context::create().error();
  const attn::Error attention = attn::try_attention(tq, tq, tq, to).error();
  seeming_version = ATTN_VERSION;
  for (const attn::Error& error : {context, attention}) {
    CHECK(error.status() == ATTN_ERROR_VERSION);
    CHECK(std::strstr(error.what(), "libattn is version 0.0.9; this program was compiled for"));
  }
  CHECK(attn::Context::create().ok() && attn::try_attention(tq, tq, tq, to).ok());
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {TEST(spans), TEST(ownership), TEST(failures), TEST(bad_input),
                        TEST(older_library)};
  return run_tests("hpp", argc, argv, tests);
}

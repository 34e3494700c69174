// test_abi.cpp: what programs compiled earlier and later rely on: sizes, values, INIT macros,
// struct_size, versions, names.
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "compare.h"
#include "expect.h"
#include "host.h"

namespace attn_test {
namespace {

// Frozen layouts.
static_assert(sizeof(attn_tensor) == 144);
static_assert(offsetof(attn_tensor, data) == 0 && offsetof(attn_tensor, byte_offset) == 8);
static_assert(offsetof(attn_tensor, dtype) == 16 && offsetof(attn_tensor, device_type) == 20);
static_assert(offsetof(attn_tensor, device_id) == 24 && offsetof(attn_tensor, rank) == 28);
static_assert(offsetof(attn_tensor, shape) == 32 && offsetof(attn_tensor, strides) == 80);
static_assert(offsetof(attn_tensor, reserved) == 128);
static_assert(sizeof(attn_error) == 512 && offsetof(attn_error, message) == 4);
static_assert(ATTN_MAX_RANK == 6 && ATTN_WORKSPACE_ALIGNMENT == 64);

// Config structs open with their size.
static_assert(offsetof(attn_allocator, struct_size) == 0);
static_assert(offsetof(attn_executor, struct_size) == 0);
static_assert(offsetof(attn_context_config, struct_size) == 0);
static_assert(offsetof(attn_plan_config, struct_size) == 0);
static_assert(offsetof(attn_run_args, struct_size) == 0);
static_assert(offsetof(attn_merge_args, struct_size) == 0);

// Pinned values.
static_assert(ATTN_OK == 0 && ATTN_ERROR_INVALID_ARGUMENT == 1 && ATTN_ERROR_UNSUPPORTED == 2);
static_assert(ATTN_ERROR_UNAVAILABLE == 3 && ATTN_ERROR_OUT_OF_MEMORY == 4);
static_assert(ATTN_ERROR_WORKSPACE == 5 && ATTN_ERROR_VERSION == 6 && ATTN_ERROR_EXECUTOR == 7);
static_assert(ATTN_ERROR_DEVICE == 8 && ATTN_ERROR_INTERNAL == 9);
static_assert(ATTN_DTYPE_INVALID == 0 && ATTN_DTYPE_F32 == 1 && ATTN_DTYPE_F16 == 2);
static_assert(ATTN_DTYPE_BF16 == 3 && ATTN_DTYPE_F8E4M3 == 4 && ATTN_DTYPE_I8 == 5);
static_assert(ATTN_DTYPE_U8 == 6 && ATTN_DTYPE_I32 == 7 && ATTN_DTYPE_I64 == 8);
static_assert(ATTN_DEVICE_CPU == 1 && ATTN_DEVICE_CUDA == 2);
static_assert(ATTN_CAUSAL == 1 && ATTN_WINDOW_LEFT == 2 && ATTN_WINDOW_RIGHT == 4);
static_assert(ATTN_SEQLENS_Q == 8 && ATTN_SEQLENS_K == 16 && ATTN_Q_START == 32);
static_assert(ATTN_K_START == 64 && ATTN_BIAS == 128 && ATTN_BIAS_RANGE == 256);
static_assert(ATTN_MASK == 512 && ATTN_MASK_RANGE == 1024 && ATTN_ALIBI == 2048);
static_assert(ATTN_SINK == 4096 && ATTN_BLOCK_MASK == 8192);
static_assert(ATTN_ISA_AUTO == 0 && ATTN_ISA_SCALAR == 1 && ATTN_ISA_AVX2 == 2);
static_assert(ATTN_ISA_AVX512 == 3 && ATTN_ISA_NEON == 4 && ATTN_ISA_AVX512_BF16 == 5 &&
              ATTN_ISA_AMX_BF16 == 6);
static_assert(ATTN_LOG_DEBUG == 1 && ATTN_LOG_INFO == 2 && ATTN_LOG_WARNING == 3);
static_assert(ATTN_PLAN_FORWARD == 0 && ATTN_LAYOUT_PADDED == 0 && ATTN_LAYOUT_PACKED == 1);
static_assert(ATTN_LAYOUT_PAGED == 2 && ATTN_ALIGN_BOTTOM_RIGHT == 0 && ATTN_ALIGN_TOP_LEFT == 1);
static_assert(ATTN_MAKE_VERSION(1, 2, 3) == 1002003);

void versions_and_names() {
  CHECK(attn_version() == ATTN_VERSION, "%d", attn_version());
  char text[32];
  std::snprintf(text, sizeof text, "%d.%d.%d", ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR,
                ATTN_VERSION_PATCH);
  CHECK(std::strcmp(attn_version_string(), text) == 0, "%s", attn_version_string());
  const char* const statuses[] = {"ATTN_OK",
                                  "ATTN_ERROR_INVALID_ARGUMENT",
                                  "ATTN_ERROR_UNSUPPORTED",
                                  "ATTN_ERROR_UNAVAILABLE",
                                  "ATTN_ERROR_OUT_OF_MEMORY",
                                  "ATTN_ERROR_WORKSPACE",
                                  "ATTN_ERROR_VERSION",
                                  "ATTN_ERROR_EXECUTOR",
                                  "ATTN_ERROR_DEVICE",
                                  "ATTN_ERROR_INTERNAL"};
  for (attn_status status = 0; status < 10; status++) {
    CHECK(std::strcmp(attn_status_name(status), statuses[status]) == 0, "%s",
          attn_status_name(status));
  }
  for (const attn_status status : {-1, 10, INT32_MAX, INT32_MIN}) {
    CHECK(std::strcmp(attn_status_name(status), "unknown status") == 0);
  }
  struct Dtype {
    attn_dtype dtype;
    size_t size;
    const char* name;
  };
  const Dtype dtypes[] = {{0, 0, "invalid"}, {1, 4, "f32"},     {2, 2, "f16"},     {3, 2, "bf16"},
                          {4, 1, "f8e4m3"},  {5, 1, "i8"},      {6, 1, "u8"},      {7, 4, "i32"},
                          {8, 8, "i64"},     {9, 0, "invalid"}, {-1, 0, "invalid"}};
  for (const Dtype& dtype : dtypes) {
    CHECK(attn_dtype_size(dtype.dtype) == dtype.size, "dtype %d", dtype.dtype);
    CHECK(std::strcmp(attn_dtype_name(dtype.dtype), dtype.name) == 0, "%s",
          attn_dtype_name(dtype.dtype));
  }
}

// The macro and the function agree, byte for byte; the function stays within `size`.
template <typename T>
void check_init(const char* name, const T& macro, void (*init)(T*, size_t)) {
  T from_function;
  std::memset(&from_function, 0xee, sizeof from_function);
  init(&from_function, sizeof from_function);
  CHECK(from_function.struct_size == sizeof(T), "%s", name);
  CHECK(std::memcmp(&macro, &from_function, sizeof(T)) == 0, "%s: macro and function differ", name);

  // A program with an older, shorter struct, and one with a newer, longer one.
  std::vector<unsigned char> memory(sizeof(T) + 64);
  for (const size_t size : {size_t{8}, sizeof(T) - 8, sizeof(T), sizeof(T) + 32}) {
    std::memset(memory.data(), 0xee, memory.size());
    init(reinterpret_cast<T*>(memory.data()), size);
    uint32_t struct_size;
    std::memcpy(&struct_size, memory.data(), sizeof struct_size);
    CHECK(struct_size == size, "%s: struct_size %u of %zu", name, struct_size, size);
    for (size_t i = 4; i < memory.size(); i++) {
      CHECK(memory[i] == (i < size ? 0 : 0xee), "%s of %zu bytes: byte %zu is %#x", name, size, i,
            memory[i]);
    }
  }
}

void init_macros() {
  const attn_allocator allocator = ATTN_ALLOCATOR_INIT;
  const attn_executor executor = ATTN_EXECUTOR_INIT;
  const attn_context_config context_config = ATTN_CONTEXT_CONFIG_INIT;
  const attn_plan_config plan_config = ATTN_PLAN_CONFIG_INIT;
  const attn_run_args run_args = ATTN_RUN_ARGS_INIT;
  const attn_merge_args merge_args = ATTN_MERGE_ARGS_INIT;
  const attn_context_info context_info = ATTN_CONTEXT_INFO_INIT;
  const attn_isa_info isa_info = ATTN_ISA_INFO_INIT;
  const attn_backend_info backend_info = ATTN_BACKEND_INFO_INIT;
  const attn_plan_info plan_info = ATTN_PLAN_INFO_INIT;
  const attn_autotune_info autotune_info = ATTN_AUTOTUNE_INFO_INIT;
  check_init("attn_allocator", allocator, attn_allocator_init);
  check_init("attn_executor", executor, attn_executor_init);
  check_init("attn_context_config", context_config, attn_context_config_init);
  check_init("attn_plan_config", plan_config, attn_plan_config_init);
  check_init("attn_run_args", run_args, attn_run_args_init);
  check_init("attn_merge_args", merge_args, attn_merge_args_init);
  check_init("attn_context_info", context_info, attn_context_info_init);
  check_init("attn_isa_info", isa_info, attn_isa_info_init);
  check_init("attn_backend_info", backend_info, attn_backend_info_init);
  check_init("attn_plan_info", plan_info, attn_plan_info_init);
  check_init("attn_autotune_info", autotune_info, attn_autotune_info_init);
}

// Calls with copies of `good` under other struct_sizes, in memory that ends where they end.
// `older` is the size of a struct that lacks the last fields, which then hold rubbish.
template <typename T>
void check_struct_size(const char* name, const T& good, size_t older,
                       const std::function<attn_status(const T*, attn_error*)>& call) {
  attn_error error = {ATTN_OK, ""};
  CHECK(call(&good, &error) == ATTN_OK, "%s: %s", name, error.message);
  const auto sized = [&](size_t struct_size, size_t bytes, unsigned char tail) {
    GuardedBuffer memory(bytes, Guard::kAfter, alignof(T));
    std::memset(memory.data(), tail, bytes);
    std::memcpy(memory.data(), &good, std::min(bytes, std::min(struct_size, sizeof good)));
    const uint32_t size = static_cast<uint32_t>(struct_size);
    std::memcpy(memory.data(), &size, sizeof size);
    return call(reinterpret_cast<const T*>(memory.data()), &error);
  };
  for (const size_t size : {0u, 1u, 3u}) {
    const attn_status status = sized(size, sizeof(T), 0);
    check_failure(name, status, error, {ATTN_ERROR_INVALID_ARGUMENT, ATTN_ERROR_VERSION},
                  {"struct_size"}, std::to_string(size));
  }
  CHECK(sized(older, sizeof(T), 0xcc) == ATTN_OK, "%s, an older one: %s", name, error.message);
  CHECK(sized(older, older, 0) == ATTN_OK, "%s, older and no longer: %s", name, error.message);
  for (const size_t extra : {8u, 64u, 1000u}) {
    CHECK(sized(sizeof(T) + extra, sizeof(T) + extra, 0) == ATTN_OK, "%s, newer: %s", name,
          error.message);
    const attn_status status = sized(sizeof(T) + extra, sizeof(T) + extra, 1);
    check_failure(name, status, error, {ATTN_ERROR_VERSION}, {name, "struct_size"});
  }
}

// Rubbish where the size should be is not believed: nothing is read where no struct can reach.
void sizes_that_cannot_be() {
  const attn_context_config good = ATTN_CONTEXT_CONFIG_INIT;
  for (const uint32_t size : {UINT32_MAX, 0xccccccccu, 1u << 24}) {
    GuardedBuffer memory(sizeof good, Guard::kAfter, alignof(attn_context_config));
    std::memcpy(memory.data(), &good, sizeof good);
    std::memcpy(memory.data(), &size, sizeof size);
    attn_context* context = nullptr;
    attn_error error = {ATTN_OK, ""};
    const attn_status status = attn_context_create(
        reinterpret_cast<const attn_context_config*>(memory.data()), &context, &error);
    check_failure("attn_context_config", status, error,
                  {ATTN_ERROR_INVALID_ARGUMENT, ATTN_ERROR_VERSION}, {"struct_size"},
                  std::to_string(size));
  }
}

void struct_sizes_of_contexts() {
  SerialExecutor serial{false, 1};
  CountingAllocator counter;
  const attn_executor executor = serial.executor();
  const attn_allocator allocator = counter.allocator();
  const auto create = [](const attn_context_config& config, attn_error* error) {
    attn_context* context = nullptr;
    const attn_status status = attn_context_create(&config, &context, error);
    attn_context_destroy(context);
    return status;
  };
  const attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  check_struct_size<attn_context_config>(
      "attn_context_config", config, offsetof(attn_context_config, allocator),
      [&](const attn_context_config* c, attn_error* error) {
        attn_context* context = nullptr;
        const attn_status status = attn_context_create(c, &context, error);
        attn_context_destroy(context);
        return status;
      });
  check_struct_size<attn_executor>("attn_executor", executor, sizeof executor,
                                   [&](const attn_executor* e, attn_error* error) {
                                     attn_context_config c = ATTN_CONTEXT_CONFIG_INIT;
                                     c.executor = e;
                                     return create(c, error);
                                   });
  check_struct_size<attn_allocator>("attn_allocator", allocator, sizeof allocator,
                                    [&](const attn_allocator* a, attn_error* error) {
                                      attn_context_config c = ATTN_CONTEXT_CONFIG_INIT;
                                      c.allocator = a;
                                      return create(c, error);
                                    });
  CHECK(counter.live == 0);
}

void struct_sizes_of_runs() {
  attn_context* context = targets().at(0).context;
  Problem p;
  const Data data = make_data(p);
  Placement placement(p, data);
  attn_plan* plan = nullptr;
  const attn_plan_config config = placement.config();
  check_struct_size<attn_plan_config>(
      "attn_plan_config", config, offsetof(attn_plan_config, backend),
      [&](const attn_plan_config* c, attn_error* error) {
        attn_plan* made = nullptr;
        const attn_status status = attn_plan_create(context, c, &made, error);
        attn_plan_destroy(made);
        return status;
      });
  if (!CHECK_OK(attn_plan_create(context, &config, &plan, nullptr))) return;
  size_t size = 0;
  CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
  GuardedBuffer workspace(size, Guard::kAfter, ATTN_WORKSPACE_ALIGNMENT);
  placement.args().workspace = workspace.data();
  placement.args().workspace_size = size;
  check_struct_size<attn_run_args>(
      "attn_run_args", placement.args(), offsetof(attn_run_args, stream),
      [&](const attn_run_args* args, attn_error* error) { return attn_run(plan, args, error); });
  attn_plan_destroy(plan);

  const int64_t shape[] = {1, 1, 1, 1};
  float o_value = 1, lse_value = 0, out = 0;
  attn_tensor o_part, lse_part, o;
  attn_tensor_init(&o_part, &o_value, ATTN_DTYPE_F32, 4, shape);
  attn_tensor_init(&lse_part, &lse_value, ATTN_DTYPE_F32, 3, shape);
  attn_tensor_init(&o, &out, ATTN_DTYPE_F32, 4, shape);
  const attn_tensor *o_parts[] = {&o_part}, *lse_parts[] = {&lse_part};
  attn_merge_args merge = ATTN_MERGE_ARGS_INIT;
  merge.count = 1;
  merge.o_parts = o_parts;
  merge.lse_parts = lse_parts;
  merge.o = &o;
  check_struct_size<attn_merge_args>("attn_merge_args", merge, offsetof(attn_merge_args, lse),
                                     [&](const attn_merge_args* args, attn_error* error) {
                                       return attn_merge(context, args, error);
                                     });
}

// Structs that the library fills: up to the caller's size, and not a byte further.
template <typename T>
void check_filled(const char* name, const std::function<attn_status(T*, attn_error*)>& call) {
  T whole;
  std::memset(&whole, 0, sizeof whole);
  whole.struct_size = sizeof whole;
  attn_error error = {ATTN_OK, ""};
  CHECK(call(&whole, &error) == ATTN_OK, "%s: %s", name, error.message);
  CHECK(whole.struct_size == sizeof whole, "%s: struct_size was written", name);
  std::vector<unsigned char> memory(sizeof(T) + 64);
  for (const size_t size : {size_t{8}, size_t{16}, sizeof(T), sizeof(T) + 32}) {
    std::memset(memory.data(), 0, memory.size());
    std::memset(memory.data() + size, 0xee, memory.size() - size);
    const uint32_t struct_size = static_cast<uint32_t>(size);
    std::memcpy(memory.data(), &struct_size, sizeof struct_size);
    CHECK(call(reinterpret_cast<T*>(memory.data()), &error) == ATTN_OK, "%s of %zu: %s", name, size,
          error.message);
    CHECK(std::memcmp(memory.data() + 4, reinterpret_cast<unsigned char*>(&whole) + 4,
                      std::min(size, sizeof whole) - 4) == 0,
          "%s of %zu bytes is filled otherwise", name, size);
    for (size_t i = size; i < memory.size(); i++) {
      CHECK(memory[i] == 0xee, "%s of %zu bytes: byte %zu was written", name, size, i);
    }
  }
  for (const uint32_t size : {0u, 3u}) {
    T copy = whole;
    copy.struct_size = size;
    const T before = copy;
    check_failure(name, call(&copy, &error), error,
                  {ATTN_ERROR_INVALID_ARGUMENT, ATTN_ERROR_VERSION}, {"struct_size"});
    CHECK(std::memcmp(&before, &copy, sizeof copy) == 0, "%s was written on failure", name);
  }
  check_failure(name, call(nullptr, &error), error, {ATTN_ERROR_INVALID_ARGUMENT}, {name, "info"});
}

void filled_structs() {
  attn_context* context = targets().at(0).context;
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = config.head_dim = config.max_seqlen_q = config.max_seqlen_k = 16;
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(context, &config, &plan, nullptr));
  check_filled<attn_context_info>("attn_context_info", [&](auto* info, attn_error* error) {
    return attn_context_get_info(context, info, error);
  });
  check_filled<attn_isa_info>("attn_isa_info", [&](auto* info, attn_error* error) {
    return attn_context_get_isa(context, 0, info, error);
  });
  check_filled<attn_backend_info>("attn_backend_info", [&](auto* info, attn_error* error) {
    return attn_context_get_backend(context, 0, info, error);
  });
  check_filled<attn_plan_info>("attn_plan_info", [&](auto* info, attn_error* error) {
    return attn_plan_get_info(plan, info, error);
  });
  attn_plan_destroy(plan);
}

// The error is written on failure only, and a failure without one is in the last error.
void errors() {
  attn_error error;
  std::memset(&error, 0xcd, sizeof error);
  const attn_error before = error;
  attn_context* context = nullptr;
  CHECK_OK(attn_context_create(nullptr, &context, &error));
  CHECK_OK(attn_context_warmup(context, &error));
  CHECK(std::memcmp(&before, &error, sizeof error) == 0, "the error was written on success");
  check_failure("no context", attn_context_warmup(nullptr, &error), error,
                {ATTN_ERROR_INVALID_ARGUMENT}, {"context"});
  const std::string first = attn_last_error();
  attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
  config.num_threads = 4711;
  attn_context* other = nullptr;
  CHECK(attn_context_create(&config, &other, nullptr) == ATTN_ERROR_INVALID_ARGUMENT);
  CHECK(first != attn_last_error() && mentions(attn_last_error(), "4711"), "%s", attn_last_error());
  CHECK_OK(attn_context_warmup(context, nullptr));
  CHECK(mentions(attn_last_error(), "4711"), "a success changed the last error");
  attn_context_destroy(context);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(versions_and_names),
      TEST(init_macros),
      TEST(struct_sizes_of_contexts),
      TEST(struct_sizes_of_runs),
      TEST(sizes_that_cannot_be),
      TEST(filled_structs),
      TEST(errors),
  };
  return run_tests("abi", argc, argv, tests);
}

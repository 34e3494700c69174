// test_errors_plan.cpp: every field of attn_plan_config with values it must not have.
#include <cstring>
#include <limits>
#include <vector>

#include "compare.h"
#include "expect.h"
#include "host.h"

namespace attn_test {
namespace {

constexpr attn_status kInvalid = ATTN_ERROR_INVALID_ARGUMENT;
constexpr attn_status kUnsupported = ATTN_ERROR_UNSUPPORTED;
constexpr attn_status kUnavailable = ATTN_ERROR_UNAVAILABLE;
constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

attn_plan_config good_config() {
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = 4;
  config.heads_kv = 2;
  config.head_dim = 16;
  config.max_seqlen_q = 64;
  config.max_seqlen_k = 96;
  return config;
}

attn_context* context() { return targets().at(0).context; }

struct Case {
  const char* name;
  void (*spoil)(attn_plan_config& c);
  std::initializer_list<attn_status> statuses;
  std::initializer_list<const char*> fields;
  const char* held;
};

#define SPOIL(statement) [](attn_plan_config& c) { statement; }

void check_cases(const Case* cases, size_t count) {
  attn_plan_config config = good_config();
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  attn_plan_destroy(plan);
  for (size_t i = 0; i < count; i++) {
    config = good_config();
    cases[i].spoil(config);
    const attn_plan_config before = config;
    attn_error error;
    std::memset(&error, 0xcd, sizeof error);
    attn_plan* const untouched = reinterpret_cast<attn_plan*>(&error);
    plan = untouched;
    const attn_status status = attn_plan_create(context(), &config, &plan, &error);
    check_failure(cases[i].name, status, error, cases[i].statuses, cases[i].fields, cases[i].held);
    CHECK(std::memcmp(&before, &config, sizeof config) == 0, "%s: the config was written",
          cases[i].name);
    if (status == ATTN_OK) {
      attn_plan_destroy(plan);
    } else {
      CHECK(plan == untouched, "%s: the plan was set on failure", cases[i].name);
    }
    attn_plan* other = nullptr;
    CHECK(attn_plan_create(context(), &config, &other, nullptr) == status, "%s", cases[i].name);
    if (status == ATTN_OK) attn_plan_destroy(other);
  }
}

void enums_and_types() {
  const Case cases[] = {
      {"kind 1", SPOIL(c.kind = 1), {kInvalid}, {"kind"}, "1"},
      {"kind -1", SPOIL(c.kind = -1), {kInvalid}, {"kind"}, "-1"},
      {"a feature of tomorrow", SPOIL(c.features = 1u << 14), {kInvalid}, {"features"}, ""},
      {"a flag of tomorrow", SPOIL(c.flags = 1u << 1), {kInvalid}, {"flags"}, "0x2"},
      {"reserved", SPOIL(c.reserved = 7), {kInvalid}, {"reserved"}, "7"},
      {"the last feature bit", SPOIL(c.features = 1u << 31), {kInvalid}, {"features"}, ""},
      {"device_type 77",
       SPOIL(c.device_type = 77),
       {kInvalid, kUnsupported},
       {"device_type"},
       "77"},
      {"device_type -1",
       SPOIL(c.device_type = -1),
       {kInvalid, kUnsupported},
       {"device_type"},
       "-1"},
      {"device_type cuda",
       SPOIL(c.device_type = ATTN_DEVICE_CUDA),
       {kUnsupported, kUnavailable},
       {"device_type", "cuda", "CUDA"},
       ""},
      {"device_id -1", SPOIL(c.device_id = -1), {kInvalid}, {"device_id"}, "-1"},
      {"device_id 3", SPOIL(c.device_id = 3), {kInvalid, kUnsupported}, {"device_id"}, "3"},
      {"no q_dtype", SPOIL(c.q_dtype = 0), {kInvalid}, {"q_dtype"}, ""},
      {"q_dtype 9", SPOIL(c.q_dtype = 9), {kInvalid}, {"q_dtype"}, "9"},
      {"q_dtype -1", SPOIL(c.q_dtype = -1), {kInvalid}, {"q_dtype"}, "-1"},
      {"q_dtype i32", SPOIL(c.q_dtype = ATTN_DTYPE_I32), {kInvalid}, {"q_dtype"}, "i32"},
      {"q_dtype i8", SPOIL(c.q_dtype = ATTN_DTYPE_I8), {kInvalid, kUnsupported}, {"q_dtype"}, "i8"},
      {"k_dtype 9", SPOIL(c.k_dtype = 9), {kInvalid}, {"k_dtype"}, "9"},
      {"k_dtype i64", SPOIL(c.k_dtype = ATTN_DTYPE_I64), {kInvalid}, {"k_dtype"}, "i64"},
      {"k_dtype u8", SPOIL(c.k_dtype = ATTN_DTYPE_U8), {kInvalid}, {"k_dtype"}, "u8"},
      {"v_dtype 9", SPOIL(c.v_dtype = 9), {kInvalid}, {"v_dtype"}, "9"},
      {"v_dtype i32", SPOIL(c.v_dtype = ATTN_DTYPE_I32), {kInvalid}, {"v_dtype"}, "i32"},
      {"o_dtype 9", SPOIL(c.o_dtype = 9), {kInvalid}, {"o_dtype"}, "9"},
      {"o_dtype u8", SPOIL(c.o_dtype = ATTN_DTYPE_U8), {kInvalid}, {"o_dtype"}, "u8"},
      {"o_dtype i8", SPOIL(c.o_dtype = ATTN_DTYPE_I8), {kInvalid}, {"o_dtype"}, "i8"},
      {"bias_dtype without a bias",
       SPOIL(c.bias_dtype = ATTN_DTYPE_F32),
       {kInvalid},
       {"bias_dtype"},
       ""},
      {"bias_dtype that is neither",
       SPOIL(c.features = ATTN_BIAS; c.bias_dtype = ATTN_DTYPE_BF16),
       {kInvalid},
       {"bias_dtype"},
       "bf16"},
      {"bias_dtype 9",
       SPOIL(c.features = ATTN_BIAS; c.bias_dtype = 9),
       {kInvalid},
       {"bias_dtype"},
       "9"},
      {"q_layout paged", SPOIL(c.q_layout = ATTN_LAYOUT_PAGED), {kInvalid}, {"q_layout"}, ""},
      {"q_layout 3", SPOIL(c.q_layout = 3), {kInvalid}, {"q_layout"}, "3"},
      {"q_layout -1", SPOIL(c.q_layout = -1), {kInvalid}, {"q_layout"}, "-1"},
      {"kv_layout 3", SPOIL(c.kv_layout = 3), {kInvalid}, {"kv_layout"}, "3"},
      {"kv_layout -1", SPOIL(c.kv_layout = -1), {kInvalid}, {"kv_layout"}, "-1"},
      {"alignment 2", SPOIL(c.alignment = 2), {kInvalid}, {"alignment"}, "2"},
      {"alignment -1", SPOIL(c.alignment = -1), {kInvalid}, {"alignment"}, "-1"},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

void numbers() {
  const Case cases[] = {
      {"scale NaN", SPOIL(c.scale = NAN), {kInvalid}, {"scale"}, ""},
      {"scale Inf", SPOIL(c.scale = INFINITY), {kInvalid}, {"scale"}, ""},
      {"scale -Inf", SPOIL(c.scale = -INFINITY), {kInvalid}, {"scale"}, ""},
      {"softcap -1", SPOIL(c.softcap = -1), {kInvalid}, {"softcap"}, "-1"},
      {"softcap NaN", SPOIL(c.softcap = NAN), {kInvalid}, {"softcap"}, ""},
      {"softcap Inf", SPOIL(c.softcap = INFINITY), {kInvalid}, {"softcap"}, ""},
      {"heads_q 0", SPOIL(c.heads_q = 0; c.heads_kv = 0), {kInvalid}, {"heads_q"}, "0"},
      {"heads_q -4", SPOIL(c.heads_q = -4), {kInvalid}, {"heads_q"}, "-4"},
      {"heads_kv -1", SPOIL(c.heads_kv = -1), {kInvalid}, {"heads_kv"}, "-1"},
      {"heads_kv 3 of 4", SPOIL(c.heads_kv = 3), {kInvalid}, {"heads_kv"}, "3"},
      {"heads_kv 8 of 4", SPOIL(c.heads_kv = 8), {kInvalid}, {"heads_kv"}, "8"},
      {"head_dim 0", SPOIL(c.head_dim = 0), {kInvalid}, {"head_dim"}, "0"},
      {"head_dim -1", SPOIL(c.head_dim = -1), {kInvalid}, {"head_dim"}, "-1"},
      {"head_dim_v -1", SPOIL(c.head_dim_v = -1), {kInvalid}, {"head_dim_v"}, "-1"},
      {"max_batch -1", SPOIL(c.max_batch = -1), {kInvalid}, {"max_batch"}, "-1"},
      {"max_seqlen_q 0", SPOIL(c.max_seqlen_q = 0), {kInvalid}, {"max_seqlen_q"}, "0"},
      {"max_seqlen_q -1", SPOIL(c.max_seqlen_q = -1), {kInvalid}, {"max_seqlen_q"}, "-1"},
      {"max_seqlen_k 0", SPOIL(c.max_seqlen_k = 0), {kInvalid}, {"max_seqlen_k"}, "0"},
      {"max_seqlen_k -1", SPOIL(c.max_seqlen_k = -1), {kInvalid}, {"max_seqlen_k"}, "-1"},
      {"tile_k -1", SPOIL(c.tile_k = -1), {kInvalid}, {"tile_k"}, "-1"},
      {"kv_chunk -1", SPOIL(c.kv_chunk = -1), {kInvalid}, {"kv_chunk"}, "-1"},
      {"window_left -1",
       SPOIL(c.features = ATTN_WINDOW_LEFT; c.window_left = -1),
       {kInvalid},
       {"window_left"},
       "-1"},
      {"window_right -1",
       SPOIL(c.features = ATTN_WINDOW_RIGHT; c.window_right = -1),
       {kInvalid},
       {"window_right"},
       "-1"},
      {"max_total_q -1",
       SPOIL(c.q_layout = ATTN_LAYOUT_PACKED; c.max_total_q = -1),
       {kInvalid},
       {"max_total_q"},
       "-1"},
      {"max_total_k -1",
       SPOIL(c.kv_layout = ATTN_LAYOUT_PACKED; c.max_total_k = -1),
       {kInvalid},
       {"max_total_k"},
       "-1"},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

void values_without_their_flag() {
  const Case cases[] = {
      {"window_left", SPOIL(c.window_left = 5), {kInvalid}, {"window_left"}, "5"},
      {"window_right", SPOIL(c.window_right = 5), {kInvalid}, {"window_right"}, "5"},
      {"page_size", SPOIL(c.page_size = 16), {kInvalid}, {"page_size"}, "16"},
      {"no page_size",
       SPOIL(c.kv_layout = ATTN_LAYOUT_PAGED; c.features = ATTN_SEQLENS_K),
       {kInvalid},
       {"page_size"},
       "0"},
      {"page_size -2",
       SPOIL(c.kv_layout = ATTN_LAYOUT_PAGED; c.features = ATTN_SEQLENS_K; c.page_size = -2),
       {kInvalid},
       {"page_size"},
       "-2"},
      {"block_q", SPOIL(c.block_q = 8), {kInvalid}, {"block_q"}, "8"},
      {"block_k", SPOIL(c.block_k = 8), {kInvalid}, {"block_k"}, "8"},
      {"no block_q",
       SPOIL(c.features = ATTN_BLOCK_MASK; c.block_k = 8),
       {kInvalid},
       {"block_q"},
       "0"},
      {"no block_k",
       SPOIL(c.features = ATTN_BLOCK_MASK; c.block_q = 8),
       {kInvalid},
       {"block_k"},
       "0"},
      {"block_k -1",
       SPOIL(c.features = ATTN_BLOCK_MASK; c.block_q = 8; c.block_k = -1),
       {kInvalid},
       {"block_k"},
       "-1"},
      {"max_total_q of a padded q", SPOIL(c.max_total_q = 9), {kInvalid}, {"max_total_q"}, "9"},
      {"max_total_k of a padded k", SPOIL(c.max_total_k = 9), {kInvalid}, {"max_total_k"}, "9"},
      {"lengths of a packed q",
       SPOIL(c.q_layout = ATTN_LAYOUT_PACKED; c.features = ATTN_SEQLENS_Q),
       {kInvalid},
       {"features", "ATTN_SEQLENS_Q", "seqlens_q"},
       ""},
      {"lengths of a packed k",
       SPOIL(c.kv_layout = ATTN_LAYOUT_PACKED; c.features = ATTN_SEQLENS_K),
       {kInvalid},
       {"features", "ATTN_SEQLENS_K", "seqlens_k"},
       ""},
      {"a bias range without a bias",
       SPOIL(c.features = ATTN_BIAS_RANGE),
       {kInvalid},
       {"features", "ATTN_BIAS_RANGE"},
       ""},
      {"a mask range without a mask",
       SPOIL(c.features = ATTN_MASK_RANGE),
       {kInvalid},
       {"features", "ATTN_MASK_RANGE"},
       ""},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

// Shapes whose products leave 64 bits, in every pairing of large factors; nothing may wrap around
// into a small workspace.
void overflow() {
  int64_t attn_plan_config::*const factors[] = {
      &attn_plan_config::heads_q,      &attn_plan_config::head_dim,
      &attn_plan_config::head_dim_v,   &attn_plan_config::max_batch,
      &attn_plan_config::max_seqlen_q, &attn_plan_config::max_seqlen_k};
  for (const char* backend : {static_cast<const char*>(nullptr), "standard", "flash"})
    for (const auto first : factors)
      for (const auto second : factors)
        for (const int64_t large : {int64_t{1} << 32, int64_t{1} << 40, kHuge, kHuge - 63}) {
          attn_plan_config config = good_config();
          config.backend = backend;
          config.heads_kv = 0;
          config.*first = large;
          config.*second = large;
          attn_plan* plan = nullptr;
          attn_error error = {ATTN_OK, ""};
          const attn_status status = attn_plan_create(context(), &config, &plan, &error);
          if (status != ATTN_OK) {
            check_failure("overflow", status, error,
                          {kInvalid, kUnsupported, ATTN_ERROR_OUT_OF_MEMORY});
            continue;
          }
          size_t size = 0;
          CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
          attn_plan_info info = ATTN_PLAN_INFO_INIT;
          CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
          // A standard plan holds a row of scores at the least.
          if (std::strcmp(info.backend, "standard") == 0) {
            CHECK(size / 4 >= static_cast<size_t>(config.max_seqlen_k), "%zu bytes", size);
          }
          attn_plan_destroy(plan);
        }
}

void defaults() {
  attn_plan_config config = good_config();
  config.heads_kv = 0;
  config.max_batch = 0;
  config.head_dim_v = 0;
  config.device_type = ATTN_DEVICE_CPU;
  config.k_dtype = config.v_dtype = config.o_dtype = ATTN_DTYPE_F32;
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  attn_plan_destroy(plan);
  // f32 outputs are legal for every type of Q.
  config.q_dtype = config.k_dtype = config.v_dtype = ATTN_DTYPE_BF16;
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  attn_plan_destroy(plan);
  // A window of 0 and a window as large as can be are bounds like others.
  config.features = ATTN_WINDOW_LEFT | ATTN_WINDOW_RIGHT | ATTN_CAUSAL;
  config.window_right = INT64_MAX;
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  attn_plan_destroy(plan);
}

void null_pointers() {
  attn_plan_config config = good_config();
  attn_plan* plan = nullptr;
  attn_error error = {ATTN_OK, ""};
  check_failure("no context", attn_plan_create(nullptr, &config, &plan, &error), error, {kInvalid},
                {"context"});
  check_failure("no config", attn_plan_create(context(), nullptr, &plan, &error), error, {kInvalid},
                {"config", "attn_plan_config"});
  check_failure("no plan", attn_plan_create(context(), &config, nullptr, &error), error, {kInvalid},
                {"plan"});
  size_t size = 7;
  check_failure("no plan", attn_plan_workspace_size(nullptr, &size, &error), error, {kInvalid},
                {"plan"});
  CHECK(size == 7);
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  check_failure("no size", attn_plan_workspace_size(plan, nullptr, &error), error, {kInvalid},
                {"size"});
  attn_plan_info info = ATTN_PLAN_INFO_INIT;
  check_failure("no plan", attn_plan_get_info(nullptr, &info, &error), error, {kInvalid}, {"plan"});
  check_failure("no info", attn_plan_get_info(plan, nullptr, &error), error, {kInvalid},
                {"info", "attn_plan_info"});
  attn_plan_destroy(plan);
}

// A backend that was asked for never gives way to another, and says what it cannot.
void forced_backends() {
  const Case cases[] = {
      {"a backend that nobody knows",
       SPOIL(c.backend = "fast"),
       {kInvalid, kUnavailable},
       {"fast"},
       ""},
      {"no backend's name", SPOIL(c.backend = ""), {kInvalid, kUnavailable}, {"backend"}, ""},
      {"half a name", SPOIL(c.backend = "flas"), {kInvalid, kUnavailable}, {"flas"}, ""},
      {"a backend that is not here", SPOIL(c.backend = "cuda"), {kUnavailable}, {"cuda"}, ""},
  };
  check_cases(cases, sizeof cases / sizeof *cases);
}

// Types, layouts and features alone never take a problem from flash.
void auto_takes_flash() {
  struct Extra {
    const char* name;
    void (*add)(attn_plan_config& c);
  };
  const Extra extras[] = {
      {"nothing", SPOIL((void)c)},
      {"bias", SPOIL(c.features = ATTN_BIAS)},
      {"mask", SPOIL(c.features = ATTN_MASK)},
      {"alibi", SPOIL(c.features = ATTN_ALIBI)},
      {"sink", SPOIL(c.features = ATTN_SINK)},
      {"block mask", SPOIL(c.features = ATTN_BLOCK_MASK; c.block_q = c.block_k = 16)},
      {"softcap", SPOIL(c.softcap = 30)},
      {"paged",
       SPOIL(c.kv_layout = ATTN_LAYOUT_PAGED; c.features = ATTN_SEQLENS_K; c.page_size = 16)},
      {"f16", SPOIL(c.q_dtype = ATTN_DTYPE_F16)},
      {"bf16", SPOIL(c.q_dtype = ATTN_DTYPE_BF16)},
      {"mixed", SPOIL(c.k_dtype = ATTN_DTYPE_BF16; c.v_dtype = ATTN_DTYPE_F16)},
      {"i8 and f8e4m3", SPOIL(c.k_dtype = ATTN_DTYPE_I8; c.v_dtype = ATTN_DTYPE_F8E4M3)},
      {"head_dim 1024", SPOIL(c.head_dim = c.head_dim_v = 1024)},
  };
  for (const Extra& extra : extras) {
    attn_plan_config config = good_config();
    extra.add(config);
    attn_plan* plan = nullptr;
    if (!CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr))) continue;
    attn_plan_info info = ATTN_PLAN_INFO_INIT;
    CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
    CHECK(std::strcmp(info.backend, "flash") == 0, "%s: auto took %s", extra.name, info.backend);
    attn_plan_destroy(plan);
  }
}

// What flash does not serve goes to standard, and the plan says why; forced, it is an error with
// the same reason.
void fallback_and_reasons() {
  struct Extra {
    const char* name;
    void (*add)(attn_plan_config& c);
    std::initializer_list<const char*> words;
  };
  const Extra extras[] = {
      {"head_dim 1025", SPOIL(c.head_dim = 1025), {"head_dim"}},
      {"head_dim_v 1025", SPOIL(c.head_dim_v = 1025), {"head_dim_v"}},
      {"tile_k 32", SPOIL(c.tile_k = 32), {"tile_k"}},
  };
  int32_t flash = -1, standard = -1;
  for (int32_t i = 0; i < attn_context_backend_count(context()); i++) {
    attn_backend_info info = ATTN_BACKEND_INFO_INIT;
    CHECK_OK(attn_context_get_backend(context(), i, &info, nullptr));
    if (std::strcmp(info.name, "flash") == 0) flash = i;
    if (std::strcmp(info.name, "standard") == 0) standard = i;
  }
  CHECK(flash >= 0 && standard > flash, "flash is %d, standard %d", flash, standard);

  attn_plan_config config = good_config();
  attn_plan* plan = nullptr;
  CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
  attn_plan_info info = ATTN_PLAN_INFO_INIT;
  CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
  CHECK(std::strcmp(info.backend, "flash") == 0, "auto took %s", info.backend);
  CHECK(std::strcmp(attn_plan_refusal(plan, flash), "") == 0);
  CHECK(attn_plan_refusal(plan, -1) == nullptr);
  CHECK(attn_plan_refusal(plan, attn_context_backend_count(context())) == nullptr);
  attn_plan_destroy(plan);

  for (const Extra& extra : extras) {
    config = good_config();
    extra.add(config);
    config.backend = "standard";
    CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr));
    CHECK(attn_plan_refusal(plan, flash) != nullptr && *attn_plan_refusal(plan, flash) != '\0',
          "%s: no reason why flash was not chosen", extra.name);
    attn_plan_destroy(plan);

    config.backend = "flash";
    attn_error error = {ATTN_OK, ""};
    const attn_status forced = attn_plan_create(context(), &config, &plan, &error);
    if (forced == ATTN_OK) {  // the numeric tests see to it that it is right
      attn_plan_destroy(plan);
      count(std::string("flash serves ") + extra.name);
      continue;
    }
    count(std::string("flash refuses ") + extra.name);
    check_failure(extra.name, forced, error, {kUnsupported}, extra.words);
    config.backend = nullptr;
    if (!CHECK_OK(attn_plan_create(context(), &config, &plan, nullptr))) continue;
    CHECK_OK(attn_plan_get_info(plan, &info, nullptr));
    CHECK(std::strcmp(info.backend, "standard") == 0, "%s: auto took %s", extra.name, info.backend);
    const char* reason = attn_plan_refusal(plan, flash);
    CHECK(reason && mentions_any(reason, extra.words), "%s: flash was refused with \"%s\"",
          extra.name, reason ? reason : "NULL");
    CHECK(std::strcmp(attn_plan_refusal(plan, standard), "") == 0);
    attn_plan_destroy(plan);
  }
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const Test tests[] = {
      TEST(enums_and_types), TEST(numbers),          TEST(values_without_their_flag),
      TEST(overflow),        TEST(defaults),         TEST(null_pointers),
      TEST(forced_backends), TEST(auto_takes_flash), TEST(fallback_and_reasons),
  };
  return run_tests("errors_plan", argc, argv, tests);
}

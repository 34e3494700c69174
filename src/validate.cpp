// Checks of plans, runs and merges.
#include "validate.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>

#include "error.h"
#include "sequence.h"
#include "tensor.h"
#include "tensor_check.h"

namespace attn {
namespace {

constexpr attn_features kAllFeatures = (ATTN_BLOCK_MASK << 1) - 1;
constexpr int64_t kMaxHeads = int64_t{1} << 20;
constexpr int64_t kMaxHeadDim = int64_t{1} << 16;
constexpr int64_t kMaxSeqlen = int64_t{1} << 40;
// Positions and windows: sums of a few of them cannot overflow.
constexpr int64_t kMaxPosition = int64_t{1} << 60;
constexpr int64_t kMinScaleKeys = 1024;  // whose scales a task looks into

long long ll(int64_t value) { return value; }

bool is_float(attn_dtype dtype) {
  return dtype == ATTN_DTYPE_F32 || dtype == ATTN_DTYPE_F16 || dtype == ATTN_DTYPE_BF16;
}

bool is_quantised(attn_dtype dtype) { return dtype == ATTN_DTYPE_I8 || dtype == ATTN_DTYPE_F8E4M3; }

// Where a checker writes what it found.
class Checker {
 protected:
  explicit Checker(attn_error* error) : error_(error) {}

  [[gnu::format(printf, 2, 3)]] attn_status bad(const char* format, ...) {
    va_list args;
    va_start(args, format);
    vfail(error_, ATTN_ERROR_INVALID_ARGUMENT, format, args);
    va_end(args);
    return ATTN_ERROR_INVALID_ARGUMENT;
  }

  attn_error* error_;
};

// Checks of the fields of an attn_plan_config. Messages call a field by its name.
class ProblemChecker : Checker {
 public:
  ProblemChecker(attn_plan_config* problem, attn_error* error) : Checker(error), p_(*problem) {}

  attn_status check() {
    ATTN_TRY(
        one_of("kind", p_.kind, ATTN_PLAN_FORWARD, ATTN_PLAN_FORWARD, "ATTN_PLAN_FORWARD (0)"));
    if (p_.features & ~kAllFeatures) {
      return bad("features has the unknown bits 0x%x", p_.features & ~kAllFeatures);
    }
    if (p_.flags & ~attn_plan_flags{ATTN_PLAN_TRUST_POINTERS}) {
      return bad("flags has the unknown bits 0x%x",
                 p_.flags & ~attn_plan_flags{ATTN_PLAN_TRUST_POINTERS});
    }
    if (p_.reserved != 0) return bad("attn_plan_config.reserved is %u; must be 0", p_.reserved);
    ATTN_TRY(device());
    ATTN_TRY(dtypes());
    ATTN_TRY(layouts());
    ATTN_TRY(numbers());
    ATTN_TRY(sizes());
    return feature_fields();
  }

 private:
  bool has(attn_features feature) const { return (p_.features & feature) != 0; }

  attn_status one_of(const char* field, int32_t value, int32_t low, int32_t high,
                     const char* allowed) {
    if (value >= low && value <= high) return ATTN_OK;
    return bad("%s is %d; allowed: %s", field, value, allowed);
  }

  attn_status in_range(const char* field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return ATTN_OK;
    return bad("%s is %lld; allowed: %lld to %lld", field, ll(value), ll(low), ll(high));
  }

  // A field that is read only under a condition.
  attn_status unused(const char* field, int64_t value, const char* condition) {
    if (value == 0) return ATTN_OK;
    return bad("%s is %lld, but %s; must be 0", field, ll(value), condition);
  }

  attn_status device() {
    if (p_.device_type == 0) p_.device_type = ATTN_DEVICE_CPU;
    ATTN_TRY(in_range("device_type", p_.device_type, 1, 255));
    if (p_.device_type == ATTN_DEVICE_CPU) {
      return unused("device_id", p_.device_id, "device_type is the CPU");
    }
    return in_range("device_id", p_.device_id, 0, INT32_MAX);
  }

  attn_status dtypes() {
    if (p_.k_dtype == 0) p_.k_dtype = p_.q_dtype;
    if (p_.v_dtype == 0) p_.v_dtype = p_.k_dtype;
    if (p_.o_dtype == 0) p_.o_dtype = p_.q_dtype;
    if (!is_float(p_.q_dtype)) {
      return bad("q_dtype is %d (%s); required: f32, f16 or bf16", p_.q_dtype,
                 attn_dtype_name(p_.q_dtype));
    }
    if (!is_float(p_.o_dtype)) {
      return bad("o_dtype is %d (%s); allowed: f32, f16 or bf16", p_.o_dtype,
                 attn_dtype_name(p_.o_dtype));
    }
    const struct {
      const char* field;
      attn_dtype dtype;
    } kv[] = {{"k_dtype", p_.k_dtype}, {"v_dtype", p_.v_dtype}};
    for (const auto& [field, dtype] : kv) {
      if (!is_float(dtype) && !is_quantised(dtype)) {
        return bad("%s is %d (%s); allowed: f32, f16, bf16, i8 or f8e4m3", field, dtype,
                   attn_dtype_name(dtype));
      }
    }
    if (!has(ATTN_BIAS)) {
      return unused("bias_dtype", p_.bias_dtype, "features lacks ATTN_BIAS");
    }
    if (p_.bias_dtype == 0) p_.bias_dtype = ATTN_DTYPE_F32;
    if (p_.bias_dtype != ATTN_DTYPE_F32 && p_.bias_dtype != p_.q_dtype) {
      return bad("bias_dtype is %d (%s); allowed: f32 or q_dtype (%s)", p_.bias_dtype,
                 attn_dtype_name(p_.bias_dtype), attn_dtype_name(p_.q_dtype));
    }
    return ATTN_OK;
  }

  attn_status layouts() {
    ATTN_TRY(one_of("q_layout", p_.q_layout, ATTN_LAYOUT_PADDED, ATTN_LAYOUT_PACKED,
                    "ATTN_LAYOUT_PADDED (0) or ATTN_LAYOUT_PACKED (1)"));
    ATTN_TRY(one_of("kv_layout", p_.kv_layout, ATTN_LAYOUT_PADDED, ATTN_LAYOUT_PAGED,
                    "ATTN_LAYOUT_PADDED (0), ATTN_LAYOUT_PACKED (1) or ATTN_LAYOUT_PAGED (2)"));
    ATTN_TRY(one_of("alignment", p_.alignment, ATTN_ALIGN_BOTTOM_RIGHT, ATTN_ALIGN_TOP_LEFT,
                    "ATTN_ALIGN_BOTTOM_RIGHT (0) or ATTN_ALIGN_TOP_LEFT (1)"));
    if (p_.kv_layout == ATTN_LAYOUT_PAGED) {
      p_.features |= ATTN_SEQLENS_K;
      return in_range("page_size", p_.page_size, 1, INT32_MAX);
    }
    return unused("page_size", p_.page_size, "kv_layout is not ATTN_LAYOUT_PAGED");
  }

  attn_status numbers() {
    if (!std::isfinite(p_.scale)) {
      return bad("scale is %g; must be finite, 0 for 1/sqrt(head_dim)",
                 static_cast<double>(p_.scale));
    }
    if (!std::isfinite(p_.softcap) || p_.softcap < 0) {
      return bad("softcap is %g; must be finite and positive, 0 for none",
                 static_cast<double>(p_.softcap));
    }
    return ATTN_OK;
  }

  attn_status sizes() {
    if (p_.heads_kv == 0) p_.heads_kv = p_.heads_q;
    if (p_.head_dim_v == 0) p_.head_dim_v = p_.head_dim;
    if (p_.max_batch == 0) p_.max_batch = 1;
    ATTN_TRY(in_range("heads_q", p_.heads_q, 1, kMaxHeads));
    ATTN_TRY(in_range("heads_kv", p_.heads_kv, 1, kMaxHeads));
    if (p_.heads_q % p_.heads_kv != 0) {
      return bad("heads_q is %lld; must be a multiple of heads_kv (%lld)", ll(p_.heads_q),
                 ll(p_.heads_kv));
    }
    ATTN_TRY(in_range("head_dim", p_.head_dim, 1, kMaxHeadDim));
    ATTN_TRY(in_range("head_dim_v", p_.head_dim_v, 1, kMaxHeadDim));
    ATTN_TRY(in_range("max_batch", p_.max_batch, 1, kMaxSeqlen));
    ATTN_TRY(in_range("max_seqlen_q", p_.max_seqlen_q, 1, kMaxSeqlen));
    ATTN_TRY(in_range("max_seqlen_k", p_.max_seqlen_k, 1, kMaxSeqlen));
    ATTN_TRY(total("max_total_q", p_.q_layout, p_.max_seqlen_q, &p_.max_total_q));
    ATTN_TRY(total("max_total_k", p_.kv_layout, p_.max_seqlen_k, &p_.max_total_k));
    ATTN_TRY(in_range("tile_k", p_.tile_k, 0, kMaxSeqlen));
    ATTN_TRY(in_range("kv_chunk", p_.kv_chunk, 0, kMaxSeqlen));
    if (p_.scale == 0) {
      p_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p_.head_dim)));
    }
    return ATTN_OK;
  }

  // Packed: a bound on all rows together, by default max_batch * max_seqlen.
  attn_status total(const char* field, attn_layout layout, int64_t max_seqlen, int64_t* value) {
    if (layout != ATTN_LAYOUT_PACKED) return unused(field, *value, "its layout is not packed");
    int64_t all;
    if (__builtin_mul_overflow(p_.max_batch, max_seqlen, &all)) all = INT64_MAX;
    if (*value == 0) *value = all;
    return in_range(field, *value, 1, INT64_MAX);
  }

  attn_status feature_fields() {
    if (has(ATTN_SEQLENS_Q) && p_.q_layout == ATTN_LAYOUT_PACKED) {
      return bad(
          "features has ATTN_SEQLENS_Q, but q_layout is packed; its lengths are cu_seqlens_q");
    }
    if (has(ATTN_SEQLENS_K) && p_.kv_layout == ATTN_LAYOUT_PACKED) {
      return bad(
          "features has ATTN_SEQLENS_K, but kv_layout is packed; its lengths are cu_seqlens_k");
    }
    if (has(ATTN_BIAS_RANGE) && !has(ATTN_BIAS)) {
      return bad("features has ATTN_BIAS_RANGE, but lacks ATTN_BIAS");
    }
    if (has(ATTN_MASK_RANGE) && !has(ATTN_MASK)) {
      return bad("features has ATTN_MASK_RANGE, but lacks ATTN_MASK");
    }
    ATTN_TRY(window("window_left", &p_.window_left, ATTN_WINDOW_LEFT,
                    "features lacks ATTN_WINDOW_LEFT"));
    ATTN_TRY(window("window_right", &p_.window_right, ATTN_WINDOW_RIGHT,
                    "features lacks ATTN_WINDOW_RIGHT"));
    if (!has(ATTN_BLOCK_MASK)) {
      ATTN_TRY(unused("block_q", p_.block_q, "features lacks ATTN_BLOCK_MASK"));
      return unused("block_k", p_.block_k, "features lacks ATTN_BLOCK_MASK");
    }
    ATTN_TRY(in_range("block_q", p_.block_q, 1, INT32_MAX));
    return in_range("block_k", p_.block_k, 1, INT32_MAX);
  }

  attn_status window(const char* field, int64_t* value, attn_features feature,
                     const char* condition) {
    if (!has(feature)) return unused(field, *value, condition);
    ATTN_TRY(in_range(field, *value, 0, INT64_MAX));
    *value = std::min(*value, 2 * kMaxPosition);  // no two positions are further apart
    return ATTN_OK;
  }

  attn_plan_config& p_;
};

attn_status check_stream(attn_device_type device_type, const void* stream, attn_error* error) {
  if (!stream || device_type != ATTN_DEVICE_CPU) return ATTN_OK;
  return fail(error, ATTN_ERROR_INVALID_ARGUMENT,
              "stream is given, but CPUs have none; must be NULL");
}

// Checks of an attn_run_args against its plan's problem.
class RunChecker : Checker {
 public:
  RunChecker(const attn_host& host, const attn_plan_config& problem, const attn_run_args& args,
             attn_run_shape* shape, attn_error* error)
      : Checker(error), host_(host), p_(problem), a_(args), s_(*shape) {}

  attn_status check() {
    s_ = attn_run_shape{};
    s_.struct_size = sizeof(attn_run_shape);
    if (a_.reserved != 0) return bad("reserved is %u; must be 0", a_.reserved);
    ATTN_TRY(check_stream(p_.device_type, a_.stream, error_));
    ATTN_TRY(queries());
    ATTN_TRY(keys_and_values());
    ATTN_TRY(outputs());
    ATTN_TRY(lengths());
    ATTN_TRY(positions("q_start", a_.q_start, ATTN_Q_START, "ATTN_Q_START"));
    ATTN_TRY(positions("k_start", a_.k_start, ATTN_K_START, "ATTN_K_START"));
    ATTN_TRY(score_map({"bias", a_.bias}, {"bias_k0", a_.bias_k0}, p_.bias_dtype, ATTN_BIAS,
                       ATTN_BIAS_RANGE, "ATTN_BIAS", "ATTN_BIAS_RANGE"));
    ATTN_TRY(score_map({"mask", a_.mask}, {"mask_k0", a_.mask_k0}, ATTN_DTYPE_U8, ATTN_MASK,
                       ATTN_MASK_RANGE, "ATTN_MASK", "ATTN_MASK_RANGE"));
    ATTN_TRY(alibi_slopes());
    ATTN_TRY(sink());
    ATTN_TRY(block_mask());
    ATTN_TRY(scale({"k_scale", a_.k_scale}, p_.k_dtype, {"k", a_.k}));
    ATTN_TRY(scale({"v_scale", a_.v_scale}, p_.v_dtype, {"v", a_.v}));
    return overlaps();
  }

 private:
  bool has(attn_features feature) const { return (p_.features & feature) != 0; }
  bool q_packed() const { return p_.q_layout == ATTN_LAYOUT_PACKED; }
  bool kv_packed() const { return p_.kv_layout == ATTN_LAYOUT_PACKED; }
  bool kv_paged() const { return p_.kv_layout == ATTN_LAYOUT_PAGED; }
  // Whether the host may look into the tensors.
  bool is_readable() const { return p_.device_type == ATTN_DEVICE_CPU; }

  attn_status tensor(const Argument& arg, attn_dtype dtype, int rank,
                     Access access = Access::kRead) {
    return check_tensor(arg, dtype, rank, Device{p_.device_type, p_.device_id}, access, error_);
  }
  attn_status extent(const Argument& arg, int dim, int64_t expected, const char* meaning) {
    return check_extent(arg, dim, expected, meaning, error_);
  }
  attn_status broadcast(const Argument& arg, int dim, int64_t expected, const char* meaning) {
    return check_broadcast_extent(arg, dim, expected, meaning, error_);
  }
  attn_status at_most(const char* what, int64_t value, const char* field, int64_t bound) {
    if (value <= bound) return ATTN_OK;
    return bad("%s is %lld; the plan's %s is %lld", what, ll(value), field, ll(bound));
  }
  // A tensor is given if and only if the plan asks for it. Sets *given.
  attn_status presence(const Argument& arg, bool wanted, const char* condition, bool* given) {
    *given = arg.tensor != nullptr;
    if (*given == wanted) return ATTN_OK;
    return wanted ? bad("%s is NULL, but the plan has %s", arg.name, condition)
                  : bad("%s is given, but the plan does not have %s", arg.name, condition);
  }

  attn_status queries() {
    const Argument q{"q", a_.q};
    ATTN_TRY(tensor(q, p_.q_dtype, 4));
    ATTN_TRY(extent(q, 1, p_.heads_q, "heads_q"));
    ATTN_TRY(extent(q, 3, p_.head_dim, "head_dim"));
    const Argument cu{"cu_seqlens_q", a_.cu_seqlens_q};
    bool given;
    ATTN_TRY(presence(cu, q_packed(), "a packed q_layout", &given));
    if (given) {
      ATTN_TRY(extent(q, 0, 1, "packed"));
      ATTN_TRY(cu_seqlens_extent(cu));
      s_.batch = cu.tensor->shape[0] - 1;
      s_.seqlen_q = p_.max_seqlen_q;
      s_.total_q = a_.q->shape[2];
      ATTN_TRY(at_most("q.shape[2]", s_.total_q, "max_total_q", p_.max_total_q));
    } else {
      s_.batch = a_.q->shape[0];
      s_.seqlen_q = a_.q->shape[2];
      ATTN_TRY(at_most("q.shape[2]", s_.seqlen_q, "max_seqlen_q", p_.max_seqlen_q));
    }
    return at_most(given ? "cu_seqlens_q.shape[0] - 1" : "q.shape[0]", s_.batch, "max_batch",
                   p_.max_batch);
  }

  attn_status cu_seqlens_extent(const Argument& cu) {
    ATTN_TRY(tensor(cu, ATTN_DTYPE_I32, 1));
    if (cu.tensor->shape[0] >= 1) return ATTN_OK;
    return bad("%s.shape[0] is 0; must be batch + 1", cu.name);
  }

  attn_status keys_and_values() {
    const Argument k{"k", a_.k}, v{"v", a_.v};
    ATTN_TRY(tensor(k, p_.k_dtype, 4));
    ATTN_TRY(tensor(v, p_.v_dtype, 4));
    ATTN_TRY(extent(k, 1, p_.heads_kv, "heads_kv"));
    ATTN_TRY(extent(k, 3, p_.head_dim, "head_dim"));
    ATTN_TRY(extent(v, 0, a_.k->shape[0], "k.shape[0]"));
    ATTN_TRY(extent(v, 1, p_.heads_kv, "heads_kv"));
    ATTN_TRY(extent(v, 2, a_.k->shape[2], "k.shape[2]"));
    ATTN_TRY(extent(v, 3, p_.head_dim_v, "head_dim_v"));

    const Argument cu{"cu_seqlens_k", a_.cu_seqlens_k}, table{"block_table", a_.block_table};
    bool packed, paged;
    ATTN_TRY(presence(cu, kv_packed(), "a packed kv_layout", &packed));
    ATTN_TRY(presence(table, kv_paged(), "a paged kv_layout", &paged));
    if (packed) {
      ATTN_TRY(extent(k, 0, 1, "packed"));
      ATTN_TRY(cu_seqlens_extent(cu));
      ATTN_TRY(extent(cu, 0, s_.batch + 1, "batch + 1"));
      s_.seqlen_k = p_.max_seqlen_k;
      s_.total_k = a_.k->shape[2];
      return at_most("k.shape[2]", s_.total_k, "max_total_k", p_.max_total_k);
    }
    if (paged) {
      ATTN_TRY(extent(k, 2, p_.page_size, "page_size"));
      ATTN_TRY(tensor(table, ATTN_DTYPE_I32, 2));
      ATTN_TRY(extent(table, 0, s_.batch, "batch"));
      s_.seqlen_k = p_.max_seqlen_k;
      s_.num_pages = a_.k->shape[0];
      return ATTN_OK;
    }
    ATTN_TRY(extent(k, 0, s_.batch, "batch"));
    s_.seqlen_k = a_.k->shape[2];
    return at_most("k.shape[2]", s_.seqlen_k, "max_seqlen_k", p_.max_seqlen_k);
  }

  attn_status outputs() {
    const Argument o{"o", a_.o}, lse{"lse", a_.lse};
    ATTN_TRY(tensor(o, p_.o_dtype, 4, Access::kWrite));
    for (int i = 0; i < 3; ++i) ATTN_TRY(extent(o, i, a_.q->shape[i], kQueryDims[i]));
    ATTN_TRY(extent(o, 3, p_.head_dim_v, "head_dim_v"));
    if (!lse.tensor) return ATTN_OK;
    ATTN_TRY(tensor(lse, ATTN_DTYPE_F32, 3, Access::kWrite));
    for (int i = 0; i < 3; ++i) ATTN_TRY(extent(lse, i, a_.q->shape[i], kQueryDims[i]));
    return ATTN_OK;
  }

  attn_status lengths() {
    ATTN_TRY(seqlens({"seqlens_q", a_.seqlens_q}, ATTN_SEQLENS_Q, "ATTN_SEQLENS_Q", s_.seqlen_q,
                     "q.shape[2]", &longest_q_));
    ATTN_TRY(seqlens({"seqlens_k", a_.seqlens_k}, ATTN_SEQLENS_K,
                     kv_paged() ? "a paged kv_layout" : "ATTN_SEQLENS_K", s_.seqlen_k,
                     kv_paged() ? "the plan's max_seqlen_k" : "k.shape[2]", &longest_k_));
    ATTN_TRY(cu_seqlens({"cu_seqlens_q", a_.cu_seqlens_q}, s_.total_q, "q.shape[2]",
                        p_.max_seqlen_q, "max_seqlen_q", &longest_q_));
    ATTN_TRY(cu_seqlens({"cu_seqlens_k", a_.cu_seqlens_k}, s_.total_k, "k.shape[2]",
                        p_.max_seqlen_k, "max_seqlen_k", &longest_k_));
    return block_table();
  }

  // Sets *longest to the longest length of the call, or to `max` where it cannot be known.
  attn_status seqlens(const Argument& arg, attn_features feature, const char* feature_name,
                      int64_t max, const char* max_name, int64_t* longest) {
    bool given;
    ATTN_TRY(presence(arg, has(feature), feature_name, &given));
    *longest = max;
    if (!given) return ATTN_OK;
    ATTN_TRY(tensor(arg, ATTN_DTYPE_I32, 1));
    ATTN_TRY(extent(arg, 0, s_.batch, "batch"));
    if (!is_readable()) return ATTN_OK;
    *longest = 0;
    for (int64_t b = 0; b < s_.batch; ++b) {
      const int32_t length = vector_at<int32_t>(*arg.tensor, b);
      if (length < 0 || length > max) {
        return bad("%s[%lld] is %d; allowed: 0 to %lld (%s)", arg.name, ll(b), length, ll(max),
                   max_name);
      }
      *longest = std::max<int64_t>(*longest, length);
    }
    return ATTN_OK;
  }

  attn_status cu_seqlens(const Argument& arg, int64_t total, const char* total_name,
                         int64_t max_seqlen, const char* max_name, int64_t* longest) {
    if (!arg.tensor || !is_readable()) return ATTN_OK;
    *longest = 0;
    int32_t begin = vector_at<int32_t>(*arg.tensor, 0);
    if (begin < 0) return bad("%s[0] is %d; must be at least 0", arg.name, begin);
    for (int64_t b = 0; b < s_.batch; ++b) {
      const int32_t end = vector_at<int32_t>(*arg.tensor, b + 1);
      if (end < begin) {
        return bad("%s[%lld] is %d; must be at least %d, the entry before it", arg.name, ll(b + 1),
                   end, begin);
      }
      if (end - begin > max_seqlen) {
        return bad("%s gives sequence %lld %d rows; the plan's %s is %lld", arg.name, ll(b),
                   end - begin, max_name, ll(max_seqlen));
      }
      *longest = std::max<int64_t>(*longest, end - begin);
      begin = end;
    }
    if (begin <= total) return ATTN_OK;
    return bad("%s[%lld] is %d; must be at most %lld (%s)", arg.name, ll(s_.batch), begin,
               ll(total), total_name);
  }

  attn_status block_table() {
    if (!a_.block_table || !is_readable()) return ATTN_OK;
    const attn_tensor& table = *a_.block_table;
    for (int64_t b = 0; b < s_.batch; ++b) {
      const int64_t length = vector_at<int32_t>(*a_.seqlens_k, b);
      const int64_t pages = (length + p_.page_size - 1) / p_.page_size;
      if (pages > table.shape[1]) {
        return bad("block_table.shape[1] is %lld; seqlens_k[%lld] = %lld needs %lld pages",
                   ll(table.shape[1]), ll(b), ll(length), ll(pages));
      }
      for (int64_t i = 0; i < pages; ++i) {
        int32_t page;
        std::memcpy(&page, tensor_at(table, b, i), sizeof(page));
        if (page < 0 || page >= s_.num_pages) {
          return bad("block_table[%lld][%lld] is %d; allowed: 0 to %lld (k.shape[0] - 1)", ll(b),
                     ll(i), page, ll(s_.num_pages - 1));
        }
      }
    }
    return ATTN_OK;
  }

  attn_status positions(const char* name, const attn_tensor* t, attn_features feature,
                        const char* feature_name) {
    bool given;
    const Argument arg{name, t};
    ATTN_TRY(presence(arg, has(feature), feature_name, &given));
    return given ? position_vector(arg) : ATTN_OK;
  }

  // int64 [batch], each within +-kMaxPosition.
  attn_status position_vector(const Argument& arg) {
    ATTN_TRY(tensor(arg, ATTN_DTYPE_I64, 1));
    ATTN_TRY(broadcast(arg, 0, s_.batch, "batch"));
    if (!is_readable()) return ATTN_OK;
    for (int64_t b = 0; b < arg.tensor->shape[0]; ++b) {
      const int64_t position = vector_at<int64_t>(*arg.tensor, b);
      if (position < -kMaxPosition || position > kMaxPosition) {
        return bad("%s[%lld] is %lld; allowed: -2^60 to 2^60", arg.name, ll(b), ll(position));
      }
    }
    return ATTN_OK;
  }

  // Bias and mask: [b, hq, rows of q, keys].
  attn_status score_map(const Argument& map, const Argument& k0, attn_dtype dtype,
                        attn_features feature, attn_features range_feature,
                        const char* feature_name, const char* range_name) {
    bool given;
    ATTN_TRY(presence(map, has(feature), feature_name, &given));
    if (k0.tensor && !has(range_feature)) {
      return bad("%s is given, but the plan does not have %s", k0.name, range_name);
    }
    if (!given) return ATTN_OK;
    ATTN_TRY(tensor(map, dtype, 4));
    ATTN_TRY(broadcast(map, 0, a_.q->shape[0], kQueryDims[0]));
    ATTN_TRY(broadcast(map, 1, p_.heads_q, kQueryDims[1]));
    ATTN_TRY(broadcast(map, 2, a_.q->shape[2], kQueryDims[2]));
    if (has(range_feature)) return k0.tensor ? position_vector(k0) : ATTN_OK;
    const int64_t n = map.tensor->shape[3];
    if (n == 1 || n >= longest_k_) return ATTN_OK;
    return bad(
        "%s.shape[3] is %lld; must be 1, at least %lld (the longest seqlen_k), or a range (%s)",
        map.name, ll(n), ll(longest_k_), range_name);
  }

  attn_status alibi_slopes() {
    const Argument slopes{"alibi_slopes", a_.alibi_slopes};
    bool given;
    ATTN_TRY(presence(slopes, has(ATTN_ALIBI), "ATTN_ALIBI", &given));
    if (!given) return ATTN_OK;
    const int rank = slopes.tensor->rank == 2 ? 2 : 1;
    ATTN_TRY(tensor(slopes, ATTN_DTYPE_F32, rank));
    if (rank == 2) ATTN_TRY(broadcast(slopes, 0, s_.batch, "batch"));
    return extent(slopes, rank - 1, p_.heads_q, "heads_q");
  }

  attn_status sink() {
    const Argument sink{"sink", a_.sink};
    bool given;
    ATTN_TRY(presence(sink, has(ATTN_SINK), "ATTN_SINK", &given));
    if (!given) return ATTN_OK;
    ATTN_TRY(tensor(sink, ATTN_DTYPE_F32, 1));
    return extent(sink, 0, p_.heads_q, "heads_q");
  }

  attn_status block_mask() {
    const Argument mask{"block_mask", a_.block_mask};
    bool given;
    ATTN_TRY(presence(mask, has(ATTN_BLOCK_MASK), "ATTN_BLOCK_MASK", &given));
    if (!given) return ATTN_OK;
    ATTN_TRY(tensor(mask, ATTN_DTYPE_U8, 4));
    ATTN_TRY(broadcast(mask, 0, s_.batch, "batch"));
    ATTN_TRY(broadcast(mask, 1, p_.heads_q, "heads_q"));
    ATTN_TRY(blocks(mask, 2, longest_q_, p_.block_q, "seqlen_q", "block_q"));
    return blocks(mask, 3, longest_k_, p_.block_k, "seqlen_k", "block_k");
  }

  attn_status blocks(const Argument& mask, int dim, int64_t longest, int64_t block,
                     const char* length_name, const char* block_name) {
    const int64_t needed = (longest + block - 1) / block;
    const int64_t extent = mask.tensor->shape[dim];
    if (extent == 1 || extent >= needed) return ATTN_OK;
    return bad(
        "%s.shape[%d] is %lld; must be 1 or at least %lld: the longest %s (%lld) / %s (%lld)",
        mask.name, dim, ll(extent), ll(needed), length_name, ll(longest), block_name, ll(block));
  }

  // One f32 for each token and head, or for each block of head_dim.
  attn_status scale(const Argument& arg, attn_dtype dtype, const Argument& of) {
    bool given;
    ATTN_TRY(presence(arg, is_quantised(dtype), "an i8 or f8e4m3 type for it", &given));
    if (!given) return ATTN_OK;
    const int rank = arg.tensor->rank == 4 ? 4 : 3;
    ATTN_TRY(tensor(arg, ATTN_DTYPE_F32, rank));
    for (int i = 0; i < 3; ++i) {
      ATTN_TRY(broadcast(arg, i, of.tensor->shape[i], "as in the tensor that it scales"));
    }
    const int64_t blocks = rank == 4 ? arg.tensor->shape[3] : 1;
    if (blocks == 0 || of.tensor->shape[3] % blocks != 0) {
      return bad("%s.shape[3] is %lld; must divide %s.shape[3] (%lld)", arg.name, ll(blocks),
                 of.name, ll(of.tensor->shape[3]));
    }
    return is_readable() ? scale_values(arg) : ATTN_OK;
  }

  // The scales of all keys, and of nothing beyond the lengths. All workers look, since it is a few
  // percent of what a step of decoding reads; the first part that has a bad one reports it.
  attn_status scale_values(const Argument& arg) {
    if (s_.seqlen_k == 0) return ATTN_OK;
    const int64_t share = (s_.seqlen_k + host_.concurrency - 1) / host_.concurrency;
    const int64_t keys = std::max(share, kMinScaleKeys);
    const int64_t of_sequence = (s_.seqlen_k + keys - 1) / keys;
    const int64_t count = s_.batch * of_sequence;
    ScaleParts parts{*this, arg, keys, of_sequence, {count}};
    ATTN_TRY(host_.parallel_for(&host_, count, ScaleParts::look, &parts, error_));
    return parts.first_bad < count ? scale_part(parts, parts.first_bad) : ATTN_OK;
  }

  struct ScaleParts {
    const RunChecker& checker;
    const Argument& arg;
    int64_t keys;         // of a part
    int64_t of_sequence;  // parts
    std::atomic<int64_t> first_bad;

    static void look(void* arg, int64_t part, int32_t) {
      auto& parts = *static_cast<ScaleParts*>(arg);
      attn_error error;
      RunChecker checker = parts.checker;
      checker.error_ = &error;
      if (checker.scale_part(parts, part) == ATTN_OK) return;
      int64_t first = parts.first_bad.load();
      while (part < first && !parts.first_bad.compare_exchange_weak(first, part)) {
      }
    }
  };

  attn_status scale_part(const ScaleParts& parts, int64_t part) {
    const Sequence sequence = sequence_at(p_, a_, s_, part / parts.of_sequence);
    const int64_t begin = part % parts.of_sequence * parts.keys;
    const int64_t end = std::min(begin + parts.keys, sequence.seqlen_k);
    for (int64_t j = begin, next; j < end; j = next) {
      next = kv_paged() ? std::min<int64_t>(end, (j / p_.page_size + 1) * p_.page_size) : end;
      ATTN_TRY(scale_rows(parts.arg, key_place(p_, a_, sequence, j), next - j));
    }
    return ATTN_OK;
  }

  // The scales of `rows` keys from `first` on, for all heads and blocks. What a broadcast repeats
  // is read once.
  attn_status scale_rows(const Argument& arg, KeyPlace first, int64_t rows) {
    if (rows == 0) return ATTN_OK;  // and the data may be null
    const attn_tensor& t = *arg.tensor;
    const auto once = [&](int dim, int64_t extent) {
      return broadcast_stride(t, dim) == 0 ? std::min<int64_t>(extent, 1) : extent;
    };
    const int64_t heads = once(1, p_.heads_kv);
    const int64_t row_stride = broadcast_stride(t, 2);
    rows = once(2, rows);
    const int64_t blocks = t.rank == 4 ? once(3, t.shape[3]) : 1;
    const int64_t block_stride = t.rank == 4 ? broadcast_stride(t, 3) : 0;
    int64_t columns = blocks;  // that are looked through one after the other, each with n scales
    int64_t n = rows;
    int64_t stride = row_stride;
    if (row_stride == blocks * block_stride) {  // one line holds them all
      columns = 1;
      n = rows * blocks;
      stride = block_stride;
    }
    for (int64_t head = 0; head < heads; ++head) {
      const char* data = tensor_data(t) + (first.outer * broadcast_stride(t, 0) +
                                           head * broadcast_stride(t, 1) + first.row * row_stride) *
                                              int64_t{sizeof(float)};
      for (int64_t column = 0; column < columns; ++column) {
        const float* scale = reinterpret_cast<const float*>(data) + column * block_stride;
        if (all_scales_valid(scale, n, stride)) continue;
        int64_t i = 0;
        while (all_scales_valid(scale + i * stride, 1, 0)) ++i;
        const int64_t row = first.row + (columns == blocks ? i : i / blocks);
        return bad_scale(arg, first.outer, head, row, columns == blocks ? column : i % blocks,
                         scale[i * stride]);
      }
    }
    return ATTN_OK;
  }

  // Finite and above 0, which of all bit patterns, read as signed numbers, are those of [1,
  // infinity's).
  static bool all_scales_valid(const float* scale, int64_t n, int64_t stride) {
    const auto invalid = [](float x) -> int32_t {
      constexpr int32_t kInfinity = 0x7f800000;
      const int32_t bits = std::bit_cast<int32_t>(x);
      return (bits < 1) | (bits >= kInfinity);
    };
    int32_t found = 0;
    if (stride == 1) {
      for (int64_t i = 0; i < n; ++i) found |= invalid(scale[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) found |= invalid(scale[i * stride]);
    }
    return found == 0;
  }

  attn_status bad_scale(const Argument& arg, int64_t outer, int64_t head, int64_t row,
                        int64_t block, float value) {
    const attn_tensor& t = *arg.tensor;
    const auto index = [&](int dim, int64_t i) { return ll(t.shape[dim] == 1 ? 0 : i); };
    const double held = static_cast<double>(value);
    if (t.rank == 3) {
      return bad("%s[%lld, %lld, %lld] is %g; must be finite and > 0", arg.name, index(0, outer),
                 index(1, head), index(2, row), held);
    }
    return bad("%s[%lld, %lld, %lld, %lld] is %g; must be finite and > 0", arg.name,
               index(0, outer), index(1, head), index(2, row), ll(block), held);
  }

  attn_status overlaps() {
    const Argument outputs[] = {{"o", a_.o}, {"lse", a_.lse}};
    const Argument inputs[] = {{"q", a_.q},
                               {"k", a_.k},
                               {"v", a_.v},
                               {"seqlens_q", a_.seqlens_q},
                               {"seqlens_k", a_.seqlens_k},
                               {"cu_seqlens_q", a_.cu_seqlens_q},
                               {"cu_seqlens_k", a_.cu_seqlens_k},
                               {"block_table", a_.block_table},
                               {"q_start", a_.q_start},
                               {"k_start", a_.k_start},
                               {"bias", a_.bias},
                               {"bias_k0", a_.bias_k0},
                               {"mask", a_.mask},
                               {"mask_k0", a_.mask_k0},
                               {"alibi_slopes", a_.alibi_slopes},
                               {"sink", a_.sink},
                               {"block_mask", a_.block_mask},
                               {"k_scale", a_.k_scale},
                               {"v_scale", a_.v_scale}};
    for (const Argument& output : outputs) {
      for (const Argument& input : inputs) ATTN_TRY(check_disjoint(output, input, error_));
    }
    return check_disjoint(outputs[0], outputs[1], error_);
  }

  static constexpr const char* kQueryDims[3] = {"q.shape[0]", "heads_q", "q.shape[2]"};

  const attn_host& host_;
  const attn_plan_config& p_;
  const attn_run_args& a_;
  attn_run_shape& s_;
  int64_t longest_q_ = 0;
  int64_t longest_k_ = 0;
};

// Two tensors that are the very same view.
bool is_same_view(const attn_tensor& a, const attn_tensor& b) {
  return tensor_data(a) == tensor_data(b) && a.dtype == b.dtype && a.rank == b.rank &&
         std::equal(a.shape, a.shape + a.rank, b.shape) &&
         std::equal(a.strides, a.strides + a.rank, b.strides);
}

attn_status check_output_of_merge(const Argument& output, const Argument& part, attn_error* error) {
  if (output.tensor && is_same_view(*output.tensor, *part.tensor)) return ATTN_OK;
  return check_disjoint(output, part, error);
}

}  // namespace

attn_status resolve_problem(attn_plan_config* problem, attn_error* error) {
  return ProblemChecker(problem, error).check();
}

attn_status check_run(const attn_host& host, const attn_plan_config& problem,
                      const attn_run_args& args, attn_run_shape* shape, attn_error* error) {
  return RunChecker(host, problem, args, shape, error).check();
}

attn_status check_merge(const attn_merge_args& args, attn_error* error) {
  if (args.count < 1) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "count is %d; must be at least 1", args.count);
  }
  if (!args.o_parts || !args.lse_parts) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "%s is NULL",
                args.o_parts ? "lse_parts" : "o_parts");
  }
  if (!args.o) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "o is NULL");
  const Argument o{"o", args.o}, lse{"lse", args.lse};
  if (!is_float(o.tensor->dtype)) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "o.dtype is %s; allowed: f32, f16 or bf16",
                attn_dtype_name(o.tensor->dtype));
  }
  const Device device{o.tensor->device_type ? o.tensor->device_type : ATTN_DEVICE_CPU,
                      o.tensor->device_id};
  ATTN_TRY(check_stream(device.type, args.stream, error));
  const auto shape_like_o = [&](const Argument& arg, int rank) -> attn_status {
    for (int i = 0; i < rank; ++i) {
      ATTN_TRY(check_extent(arg, i, o.tensor->shape[i], "as in o", error));
    }
    return ATTN_OK;
  };
  ATTN_TRY(check_tensor(o, o.tensor->dtype, 4, device, Access::kWrite, error));
  if (lse.tensor) {
    ATTN_TRY(check_tensor(lse, ATTN_DTYPE_F32, 3, device, Access::kWrite, error));
    ATTN_TRY(shape_like_o(lse, 3));
    ATTN_TRY(check_disjoint(o, lse, error));
  }
  for (int32_t i = 0; i < args.count; ++i) {
    char o_name[32], lse_name[32];
    std::snprintf(o_name, sizeof(o_name), "o_parts[%d]", i);
    std::snprintf(lse_name, sizeof(lse_name), "lse_parts[%d]", i);
    const Argument o_part{o_name, args.o_parts[i]}, lse_part{lse_name, args.lse_parts[i]};
    ATTN_TRY(check_tensor(o_part, ATTN_DTYPE_F32, 4, device, Access::kRead, error));
    ATTN_TRY(check_tensor(lse_part, ATTN_DTYPE_F32, 3, device, Access::kRead, error));
    ATTN_TRY(shape_like_o(o_part, 4));
    ATTN_TRY(shape_like_o(lse_part, 3));
    ATTN_TRY(check_output_of_merge(o, o_part, error));
    ATTN_TRY(check_output_of_merge(lse, lse_part, error));
    ATTN_TRY(check_disjoint(o, lse_part, error));
    ATTN_TRY(check_disjoint(lse, o_part, error));
  }
  if (!args.sink) return ATTN_OK;
  const Argument sink{"sink", args.sink};
  ATTN_TRY(check_tensor(sink, ATTN_DTYPE_F32, 1, device, Access::kRead, error));
  return check_extent(sink, 0, o.tensor->shape[1], "heads", error);
}

}  // namespace attn

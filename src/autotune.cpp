// Measuring which tile_k and kv_chunk are fastest for a plan's problem on this machine.
//
// One field after the other, since they hardly depend on one another. The candidates of a field are
// run in turns, the plan's own value first in every round, and each is judged by its time over that
// of the plan's own value in the same round: what disturbs the machine disturbs both.
#include "autotune.h"

#include <time.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "config.h"
#include "error.h"
#include "tensor.h"
#include "validate.h"

namespace attn {
namespace {

constexpr int64_t kTileK[] = {64, 128, 256, 384, 512, 768, 1024, 2048};
constexpr int64_t kKvChunk[] = {256, 512, 1024, 2048, 4096, 8192, 16384};
constexpr int kMaxRounds = 31;
constexpr int64_t kSampleNs = 1'000'000;  // shorter runs are repeated: the clock is too coarse
constexpr int kRoundsToJudge = 3;
constexpr double kHopeless = 1.25;  // a candidate that takes so much longer is given up
constexpr double kWorthIt = 0.99;   // what a candidate has to reach, lest noise decide

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// A piece of the context's memory; data is NULL if there is none, or if size is 0.
class Memory {
 public:
  explicit Memory(const attn_host& host) : host_(host) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { host_.deallocate(&host_, data_, size_, ATTN_WORKSPACE_ALIGNMENT); }

  // At least `size` bytes; what was there before is lost.
  attn_status reserve(size_t size, const char* what, attn_error* error) {
    if (size <= size_) return ATTN_OK;
    host_.deallocate(&host_, data_, size_, ATTN_WORKSPACE_ALIGNMENT);
    data_ = host_.allocate(&host_, size, ATTN_WORKSPACE_ALIGNMENT);
    size_ = data_ ? size : 0;
    if (data_) return ATTN_OK;
    return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for %s of %zu bytes", what, size);
  }
  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const attn_host& host_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// A row-major tensor of the same type and shape in memory of our own.
attn_status replace_output(const attn_tensor& user, const char* what, Memory* memory,
                           attn_tensor* own, attn_error* error) {
  size_t size = dtype_size(user.dtype);
  for (int32_t i = 0; i < user.rank; ++i) {
    if (__builtin_mul_overflow(size, static_cast<size_t>(user.shape[i]), &size)) {
      return fail(error, ATTN_ERROR_OUT_OF_MEMORY, "no memory for a second %s", what);
    }
  }
  ATTN_TRY(memory->reserve(size, what, error));
  attn_tensor_init(own, memory->data(), user.dtype, user.rank, user.shape);
  return ATTN_OK;
}

// The plan's problem with one field changed, and how long it takes.
struct Candidate {
  attn_plan_config problem;
  attn_backend_plan plan;
  int rounds;
  int64_t ns[kMaxRounds];  // of one run, round by round
};

class Tuner {
 public:
  Tuner(const attn_plan& plan, const attn_run_args& args, const attn_run_shape& shape,
        int64_t budget_ns)
      : plan_(plan),
        host_(plan.context->host),
        problem_(plan.problem),
        args_(args),
        shape_(shape),
        deadline_(now_ns() + budget_ns),
        workspace_(host_) {
    // As the plan has them; a field that the backend has no use for is 0.
    info_.tile_k = plan.backend_plan.tile_k;
    info_.kv_chunk = plan.backend_plan.kv_chunk;
  }
  Tuner(const Tuner&) = delete;
  Tuner& operator=(const Tuner&) = delete;
  ~Tuner() { destroy_candidates(); }

  attn_status tune(attn_error* error) {
    const bool tunes_tile = info_.tile_k != 0 && problem_.tile_k == 0;
    const bool tunes_chunk = info_.kv_chunk != 0 && problem_.kv_chunk == 0;
    const int64_t start = now_ns();
    const int64_t end_tile = tunes_chunk ? start + (deadline_ - start) / 2 : deadline_;
    ATTN_TRY(tune_field(&attn_plan_config::tile_k, &attn_backend_plan::tile_k,
                        tunes_tile ? Values(kTileK) : Values(), end_tile, error));
    if (!tunes_chunk) return ATTN_OK;
    return tune_field(&attn_plan_config::kv_chunk, &attn_backend_plan::kv_chunk, kKvChunk,
                      deadline_, error);
  }

  const attn_autotune_info& info() const { return info_; }

 private:
  using Values = std::span<const int64_t>;
  using Field = int64_t attn_plan_config::*;
  using ChosenField = int64_t attn_backend_plan::*;

  // Measures the value at hand and those others until the deadline, and takes the best one over
  // into problem_ and info_.
  attn_status tune_field(Field field, ChosenField chosen, Values values, int64_t deadline,
                         attn_error* error) {
    const int64_t own = chosen == &attn_backend_plan::tile_k ? info_.tile_k : info_.kv_chunk;
    destroy_candidates();
    ATTN_TRY(add(field, chosen, problem_.*field, error));
    int64_t before = 0;
    for (const int64_t value : values) {
      if (before >= problem_.max_seqlen_k) break;  // from here on all are the same
      before = value;
      if (value == own) continue;
      attn_error why{};
      const attn_status status = add(field, chosen, value, &why);
      if (status != ATTN_OK && status != ATTN_ERROR_UNSUPPORTED) {
        return fail(error, status, "%s", why.message);
      }
    }
    for (int i = 0; i < count_; ++i) {
      ATTN_TRY(workspace_.reserve(candidates_[i].plan.workspace_size, "a workspace", error));
    }
    ATTN_TRY(measure(deadline, error));
    const Candidate* best = &candidates_[0];
    double least = kWorthIt;
    for (int i = 1; i < count_; ++i) {
      const double relative = relative_time(candidates_[i]);
      if (relative >= least) continue;
      least = relative;
      best = &candidates_[i];
    }
    if (info_.default_ns == 0) {
      info_.default_ns = info_.tuned_ns = median(candidates_[0].ns, candidates_[0].rounds);
    }
    if (best != &candidates_[0]) {
      const double tuned = static_cast<double>(info_.tuned_ns) * least;
      info_.tuned_ns = std::max<int64_t>(static_cast<int64_t>(tuned), 1);
    }
    problem_.*field = best->problem.*field;
    info_.tile_k = best->plan.tile_k;
    info_.kv_chunk = best->plan.kv_chunk;
    return ATTN_OK;
  }

  // A candidate with that value of the field; none if the backend takes another one.
  attn_status add(Field field, ChosenField chosen, int64_t value, attn_error* error) {
    Candidate& c = candidates_[count_];
    c = Candidate{};
    c.problem = problem_;
    c.problem.*field = value;
    c.plan.struct_size = sizeof(attn_backend_plan);
    ATTN_TRY(plan_.backend->plan_create(&host_, &c.problem, &c.plan, error));
    if (value == problem_.*field || value == c.plan.*chosen) {
      ++count_;
      return ATTN_OK;
    }
    plan_.backend->plan_destroy(&host_, &c.problem, &c.plan);
    return fail(error, ATTN_ERROR_UNSUPPORTED, "backend '%s' takes another value than %lld",
                plan_.backend->name, static_cast<long long>(value));
  }

  void destroy_candidates() {
    for (int i = 0; i < count_; ++i) {
      Candidate& c = candidates_[i];
      plan_.backend->plan_destroy(&host_, &c.problem, &c.plan);
    }
    count_ = 0;
  }

  // Rounds over the candidates. The first of them is measured at least once.
  attn_status measure(int64_t deadline, attn_error* error) {
    int64_t repeats = 1;
    for (int i = 0; i < count_; ++i) {  // unmeasured: memory and caches are touched first
      const int64_t start = now_ns();
      if (i > 0 && start >= deadline) break;
      ATTN_TRY(run(candidates_[i], error));
      if (i == 0) {
        repeats = std::clamp<int64_t>(kSampleNs / std::max<int64_t>(now_ns() - start, 1), 1, 1000);
      }
    }
    for (int round = 0; round < kMaxRounds; ++round) {
      for (int i = 0; i < count_; ++i) {
        Candidate& c = candidates_[i];
        const int64_t start = now_ns();
        if (start >= deadline && !(round == 0 && i == 0)) return ATTN_OK;
        if (c.rounds < round) continue;  // given up
        for (int64_t repeat = 0; repeat < repeats; ++repeat) ATTN_TRY(run(c, error));
        c.ns[c.rounds++] = std::max<int64_t>((now_ns() - start) / repeats, 1);
        if (round == 0) ++info_.measured;
        if (c.rounds == kRoundsToJudge && relative_time(c) > kHopeless) c.rounds = 0;
      }
    }
    return ATTN_OK;
  }

  attn_status run(const Candidate& candidate, attn_error* error) {
    attn_run_args args = args_;
    args.workspace = workspace_.data();
    args.workspace_size = candidate.plan.workspace_size;
    return plan_.backend->run(&host_, &candidate.problem, &candidate.plan, &args, &shape_, error);
  }

  // The candidate's time over the first one's: the median over the rounds. Never measured: 1.
  double relative_time(const Candidate& candidate) const {
    if (candidate.rounds == 0) return 1;
    double ratios[kMaxRounds];
    for (int i = 0; i < candidate.rounds; ++i) {
      ratios[i] = static_cast<double>(candidate.ns[i]) / static_cast<double>(candidates_[0].ns[i]);
    }
    return median(ratios, candidate.rounds);
  }

  template <typename T>
  static T median(const T* values, int n) {
    T sorted[kMaxRounds];
    std::copy_n(values, n, sorted);
    std::nth_element(sorted, sorted + n / 2, sorted + n);
    return sorted[n / 2];
  }

  const attn_plan& plan_;
  const attn_host& host_;
  attn_plan_config problem_;
  const attn_run_args& args_;
  const attn_run_shape& shape_;
  const int64_t deadline_;
  Memory workspace_;
  attn_autotune_info info_{};
  Candidate candidates_[1 + std::max(std::size(kTileK), std::size(kKvChunk))];
  int count_ = 0;
};

}  // namespace

attn_status autotune_plan(const attn_plan& plan, const attn_run_args* user_args, int64_t budget_ns,
                          attn_autotune_info* info, attn_error* error) {
  if (!info) return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "attn_autotune_info is NULL");
  ATTN_TRY(check_plausible_size("attn_autotune_info", info->struct_size, error));
  if (budget_ns < 1) {
    return fail(error, ATTN_ERROR_INVALID_ARGUMENT, "budget_ns is %lld; allowed: 1 and more",
                static_cast<long long>(budget_ns));
  }
  if (plan.problem.device_type != ATTN_DEVICE_CPU) {
    return fail(error, ATTN_ERROR_UNSUPPORTED,
                "device_type is %d; attn_plan_autotune serves plans for CPUs only",
                plan.problem.device_type);
  }
  attn_run_args args;
  attn_run_shape shape;
  ATTN_TRY(read_config(user_args, "attn_run_args", &args, error));
  ATTN_TRY(check_run(plan.context->host, plan.problem, args, &shape, error));

  Memory o_memory(plan.context->host);
  Memory lse_memory(plan.context->host);
  attn_tensor o;
  attn_tensor lse;
  ATTN_TRY(replace_output(*args.o, "o", &o_memory, &o, error));
  args.o = &o;
  if (args.lse) {
    ATTN_TRY(replace_output(*args.lse, "lse", &lse_memory, &lse, error));
    args.lse = &lse;
  }
  constexpr int64_t kLongest = int64_t{1} << 60;
  Tuner tuner(plan, args, shape, std::min(budget_ns, kLongest));
  ATTN_TRY(tuner.tune(error));
  return write_info(tuner.info(), "attn_autotune_info", info, error);
}

}  // namespace attn

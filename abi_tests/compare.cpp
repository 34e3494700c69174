// compare.cpp: the comparison of a run with the reference.
#include "compare.h"

#include <cstdio>
#include <cstring>

#include "storage.h"

namespace attn_test {
namespace {

struct Optional {
  bool used;
  const char* words[3];  // any of them names it
};

// What flash need not serve, as far as the problem uses it.
std::vector<Optional> optional_parts(const Problem& p) {
  return {
      {p.head_dim > 1024, {"head_dim", nullptr, nullptr}},
      {p.head_dim_v > 1024, {"head_dim_v", nullptr, nullptr}},
      {p.tile_k % 64 != 0, {"tile_k", nullptr, nullptr}},
      {p.kv_chunk % 64 != 0, {"kv_chunk", nullptr, nullptr}},
  };
}

std::string text(const char* what, int64_t b, int64_t h, int64_t i, int64_t x, double actual,
                 double expected, double tolerance) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer,
                "%s[%lld, %lld, %lld, %lld] is %.9g, expected %.9g, off by %.3g, allowed %.3g",
                what, static_cast<long long>(b), static_cast<long long>(h),
                static_cast<long long>(i), static_cast<long long>(x), actual, expected,
                std::fabs(actual - expected), tolerance);
  return buffer;
}

}  // namespace

bool must_serve(const std::string& backend, const Problem& problem) {
  if (backend == "standard") return true;
  if (backend != "flash") return false;
  for (const Optional& part : optional_parts(problem)) {
    if (part.used) return false;
  }
  return true;
}

bool refusal_names_a_reason(const std::string& message, const Problem& problem) {
  for (const Optional& part : optional_parts(problem)) {
    for (const char* word : part.words) {
      if (part.used && word && message.find(word) != std::string::npos) return true;
    }
  }
  return false;
}

std::string difference(const Problem& p, const Placement& placement, const Expected& expected) {
  const int64_t padded_rows = p.q_rows == Rows::kPacked ? 0 : placement.extent_q();
  for (int64_t b = 0; b < p.batch(); b++)
    for (int64_t h = 0; h < p.heads_q; h++) {
      const int64_t length = p.seqlens_q[static_cast<size_t>(b)];
      for (int64_t i = 0; i < length; i++) {
        const double tolerance = expected.tolerance.at(b, h, i, 0);
        for (int64_t x = 0; x < p.head_dim_v; x++) {
          const double actual = placement.o(b, h, i, x), right = expected.o.at(b, h, i, x);
          if (!close(actual, right, tolerance)) {
            return text("o", b, h, i, x, actual, right, tolerance);
          }
        }
        if (!p.lse) continue;
        const double actual = placement.lse(b, h, i), right = expected.lse.at(b, h, i, 0);
        if (!close(actual, right, lse_tolerance(right))) {
          return text("lse", b, h, i, 0, actual, right, lse_tolerance(right));
        }
      }
      for (int64_t i = length; i < padded_rows; i++) {
        for (int64_t x = 0; x < p.head_dim_v; x++) {
          const double actual = placement.o(b, h, i, x);
          if (!close(actual, 0, 0)) return text("padded row o", b, h, i, x, actual, 0, 0);
        }
        if (p.lse && !close(placement.lse(b, h, i), -INFINITY, 0)) {
          return text("padded row lse", b, h, i, 0, placement.lse(b, h, i), -INFINITY, 0);
        }
      }
    }
  return "";
}

std::vector<Target> targets_in_turn() {
  static int turn = 0;
  int number = turn++;
  std::vector<Target> list;
  for (const Target& target : targets()) {
    if (number++ % kTurns == 0) list.push_back(target);
  }
  return list;
}

void check_everywhere(const Problem& problem) { check_everywhere(problem, make_data(problem)); }

void check_everywhere(const Problem& problem, const Data& data) {
  const Expected expected = reference(problem, data);
  for (const Target& target : targets_in_turn()) {
    Placement placement(problem, data);
    std::string damage;
    const Outcome outcome =
        execute(target.context, target.backend.c_str(), problem, placement, &damage);
    if (outcome.status == ATTN_ERROR_UNSUPPORTED && !must_serve(target.backend, problem)) {
      CHECK(refusal_names_a_reason(outcome.error.message, problem), "%s refused %s with \"%s\"",
            target.label().c_str(), describe(problem).c_str(), outcome.error.message);
      count(target.label() + " refused");
      continue;
    }
    count(target.label());
    if (!CHECK(outcome.status == ATTN_OK, "%s on %s: %s", target.label().c_str(),
               describe(problem).c_str(), outcome.error.message)) {
      continue;
    }
    const std::string wrong = difference(problem, placement, expected);
    CHECK(wrong.empty(), "%s on %s: %s", target.label().c_str(), describe(problem).c_str(),
          wrong.c_str());
    CHECK(damage.empty(), "%s on %s: %s", target.label().c_str(), describe(problem).c_str(),
          damage.c_str());
  }
}

}  // namespace attn_test

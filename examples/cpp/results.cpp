// results.cpp: attn.hpp without exceptions; compile with -fno-exceptions.
//
// A problem that no backend can serve is refused with a status and words, and nothing is thrown.
#include <attn/attn.hpp>
#include <cstdio>

int main() {
  auto context = attn::Context::create();
  if (!context) return std::fprintf(stderr, "%s\n", context.error().what());

  attn::PlanConfig config;
  config.q_dtype = ATTN_DTYPE_F32;
  config.heads_q = 8;
  config.heads_kv = 3;  // does not divide 8
  config.head_dim = 64;
  config.max_seqlen_q = config.max_seqlen_k = 128;
  const auto refused = attn::Plan::create(context.value(), config);
  std::printf("%s: %s\n", attn_status_name(refused.error().status()), refused.error().what());

  config.heads_kv = 2;
  const auto plan = attn::Plan::create(context.value(), config);
  if (!plan) return std::fprintf(stderr, "%s\n", plan.error().what());
  std::printf("%s\n", plan.error().status() == ATTN_OK ? "accepted" : "refused");
}

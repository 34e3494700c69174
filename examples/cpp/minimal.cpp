// minimal.cpp: the attention of 4 queries over 6 keys, in 2 heads of 8
#include <attn/attn.hpp>
#include <cstdio>
#include <vector>

int main() {
  std::vector<float> q(64), k(96), v(96), o(64);
  q[0] = 1, k[0] = 2, v[0] = 3;
  attn::attention(attn::Tensor(q.data(), {1, 2, 4, 8}),  // [batch, heads, seqlen, head_dim]
                  attn::Tensor(k.data(), {1, 2, 6, 8}), attn::Tensor(v.data(), {1, 2, 6, 8}),
                  attn::Tensor(o.data(), {1, 2, 4, 8}));
  std::printf("%.6f %.6f\n", o[0], o[8]);
}

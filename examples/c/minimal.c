/* minimal.c: the attention of 4 queries over 6 keys, in 2 heads of 8 */
#include <attn/attn.h>
#include <stdio.h>

int main(void) {
  float q[2][4][8] = {{{1}}}, k[2][6][8] = {{{2}}}, v[2][6][8] = {{{3}}}, o[2][4][8];
  attn_tensor tq, tk, tv, to;
  attn_error error;
  attn_tensor_init(&tq, q, ATTN_DTYPE_F32, 4, (int64_t[]){1, 2, 4, 8});
  attn_tensor_init(&tk, k, ATTN_DTYPE_F32, 4, (int64_t[]){1, 2, 6, 8});
  attn_tensor_init(&tv, v, ATTN_DTYPE_F32, 4, (int64_t[]){1, 2, 6, 8});
  attn_tensor_init(&to, o, ATTN_DTYPE_F32, 4, (int64_t[]){1, 2, 4, 8});
  if (attn_attention(&tq, &tk, &tv, &to, 0, &error)) return fprintf(stderr, "%s\n", error.message);
  printf("%.6f %.6f\n", o[0][0][0], o[0][1][0]);
}

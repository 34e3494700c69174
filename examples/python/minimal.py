import attn
import numpy as np

q, k, v = np.random.default_rng(0).standard_normal((3, 1, 8, 128, 64), dtype=np.float32)
o = attn.attention(q, k, v, causal=True)  # [batch, heads, seqlen, head_dim]
print(o.shape, o.dtype, np.array_equal(o[:, :, 0], v[:, :, 0]))  # query 0 sees key 0 alone

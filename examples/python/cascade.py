"""cascade.py: many sequences over one shared prefix, whose keys are read once for all of them.

The queries of all sequences attend to the prefix as one sequence, then each to its own keys; merge
combines the two. That is attention over prefix and own keys together, up to rounding.
"""

import attn
import numpy as np

BATCH, HEADS_Q, HEADS_KV, DIM = 16, 8, 2, 64
PREFIX, OWN = 512, 24  # keys

rng = np.random.default_rng(0)
q = rng.standard_normal((BATCH, HEADS_Q, 1, DIM), np.float32)
k_prefix, v_prefix = rng.standard_normal((2, 1, HEADS_KV, PREFIX, DIM), np.float32)
k_own, v_own = rng.standard_normal((2, BATCH, HEADS_KV, OWN, DIM), np.float32)

# [batch, heads, 1, dim] as one sequence of `batch` queries: views, no copies.
as_one = q.transpose(2, 1, 0, 3)
o, lse = attn.attention(as_one, k_prefix, v_prefix, lse=True)
prefix_part = o.transpose(2, 1, 0, 3), lse.transpose(2, 1, 0)
own_part = attn.attention(q, k_own, v_own, lse=True)
merged, _ = attn.merge([prefix_part, own_part])

repeated = (np.broadcast_to(x, (BATCH, *x.shape[1:])) for x in (k_prefix, v_prefix))
k, v = (np.concatenate(pair, axis=2) for pair in zip(repeated, (k_own, v_own)))
difference = np.abs(merged - attn.attention(q, k, v)).max()
assert difference <= 2e-5 * np.abs(v).max(), difference
print(f"prefix of {PREFIX} keys read once for {BATCH} sequences: merged as computed whole")

"""paged.py: decoding with a paged cache of keys and values, as paged.cpp does it."""

import attn
import numpy as np

HEADS_Q, HEADS_KV, DIM = 8, 2, 64
PAGE_SIZE, PAGES, TABLE_PAGES = 16, 24, 8
PROMPTS, STEPS = [40, 3, 17], 20
BATCH = len(PROMPTS)

rng = np.random.default_rng(1)
k_pages = np.zeros((PAGES, HEADS_KV, PAGE_SIZE, DIM), np.float32)
v_pages = np.zeros_like(k_pages)
table = np.full((BATCH, TABLE_PAGES), -1, np.int32)  # -1: entries past a length are never read
lengths = np.zeros(BATCH, np.int32)
pages_used = 0
history = [[] for _ in PROMPTS]  # (key, value) of each token, to compare


def add_token(sequence):
    """Puts a token's key and value, [heads_kv, dim] each, behind those that the sequence has."""
    global pages_used
    key, value = rng.standard_normal((2, HEADS_KV, DIM), np.float32)  # a model's projections
    page, slot = divmod(lengths[sequence], PAGE_SIZE)
    if slot == 0:
        table[sequence, page] = pages_used
        pages_used += 1
    k_pages[table[sequence, page], :, slot] = key
    v_pages[table[sequence, page], :, slot] = value
    lengths[sequence] += 1
    history[sequence].append((key, value))


plan = attn.Plan(
    heads_q=HEADS_Q,
    heads_kv=HEADS_KV,
    head_dim=DIM,
    max_seqlen_q=1,
    max_seqlen_k=TABLE_PAGES * PAGE_SIZE,
    max_batch=BATCH,
    kv_layout="paged",
    page_size=PAGE_SIZE,
)
# All arrays are bound once: a step changes what they hold, and nothing is allocated any more.
q = np.empty((BATCH, HEADS_Q, 1, DIM), np.float32)
step = plan.bind(q, k_pages, v_pages, block_table=table, seqlens_k=lengths)

for sequence, prompt in enumerate(PROMPTS):
    for _ in range(prompt):
        add_token(sequence)
for _ in range(STEPS):
    for sequence in range(BATCH):
        add_token(sequence)
    q[:] = rng.standard_normal(q.shape, np.float32)
    o = step()
    for sequence in range(BATCH):
        k, v = np.array(history[sequence]).transpose(1, 2, 0, 3)  # [heads_kv, seqlen, dim] each
        assert np.array_equal(o[sequence], attn.attention(q[sequence], k, v))
print(f"{STEPS} steps of {BATCH} sequences in {pages_used} pages: the same bits as each alone")

"""refused.py: finding out which backend took a problem, and why another did not."""

import attn

problem = dict(heads_q=8, heads_kv=2, head_dim=2048, max_seqlen_q=128, max_seqlen_k=4096)
plan = attn.Plan(**problem)
print(plan.describe())
print("chosen:", plan.info.backend)
for name, reason in plan.refusals.items():
    print(f"not {name}: {reason}")

try:
    attn.Plan(**problem, backend="flash")  # forced means forced: there is no fall-back
except attn.Unsupported as error:
    print(f"{error.status}: {error}")

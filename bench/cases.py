"""A case of the benchmark: its name, its shape and its work."""

import dataclasses
import re

_NAME = re.compile(
    r"prefill_(?P<dtype>[a-z0-9]+)_d(?P<head_dim>\d+)_s(?P<seqlen>\d+)"
    r"_(?P<mask>full|causal)_(?P<threads>\d+)t(?:_(?P<isa>[a-z0-9]+))?"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """prefill_{dtype}_d{head_dim}_s{seqlen}_{full|causal}_{threads}t[_{isa}].

    Batch 1, queries and keys of the same length; `isa` is a forced instruction set or "".
    """

    dtype: str
    head_dim: int
    seqlen: int
    causal: bool
    threads: int
    isa: str = ""

    @staticmethod
    def parse(name):
        """The case of that name, or None if the name is not a case's."""
        match = _NAME.fullmatch(name)
        if not match:
            return None
        return Case(
            match["dtype"],
            int(match["head_dim"]),
            int(match["seqlen"]),
            match["mask"] == "causal",
            int(match["threads"]),
            match["isa"] or "",
        )

    def __str__(self):
        mask = "causal" if self.causal else "full"
        name = f"prefill_{self.dtype}_d{self.head_dim}_s{self.seqlen}_{mask}_{self.threads}t"
        return f"{name}_{self.isa}" if self.isa else name

    @property
    def heads(self):
        """As attn_bench chooses them; measure.py checks that the two agree."""
        return self.threads * max(1, 4096 // self.seqlen)

    @property
    def flops(self):
        """Two products of 2 * seqlen^2 * head_dim operations a head; causal counts half."""
        work = 4 * self.heads * self.seqlen**2 * self.head_dim
        return work // 2 if self.causal else work

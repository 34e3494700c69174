"""A case of the benchmark: its name, its shape and its work."""

import dataclasses
import re

_FEATURES = r"(?:_(?P<feature>softcap|bias|mask|alibi|page\d+|window\d+|i8))?"
_NAME = re.compile(
    r"(?:prefill_(?P<dtype>[a-z0-9]+)_d(?P<head_dim>\d+)_s(?P<seqlen>\d+)_(?P<mask>full|causal)"
    r"|decode_(?P<decode_dtype>[a-z0-9]+)_h(?P<heads_q>\d+)_(?P<heads_kv>\d+)"
    r"_d(?P<decode_head_dim>\d+)_s(?P<decode_seqlen>\d+))"
    + _FEATURES
    + r"_(?P<threads>\d+)t(?:_(?P<isa>[a-z0-9]+))?"
)
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}


@dataclasses.dataclass(frozen=True)
class Case:
    """prefill_{dtype}_d{head_dim}_s{seqlen}_{full|causal}[_{feature}]_{threads}t[_{isa}], or
    decode_{dtype}_h{heads_q}_{heads_kv}_d{head_dim}_s{seqlen}[_{feature}]_{threads}t.

    Batch 1. Prefill: queries and keys of the same length; decode: one query over `seqlen` keys.
    `feature` is what the row has beyond that, or ""; `isa` is a forced instruction set or "".
    """

    dtype: str
    head_dim: int
    seqlen: int
    causal: bool
    threads: int
    isa: str = ""
    feature: str = ""
    decode: tuple = ()  # (heads_q, heads_kv) of a decode row

    @staticmethod
    def parse(name):
        """The case of that name, or None if the name is not a case's."""
        match = _NAME.fullmatch(name)
        if not match:
            return None
        decode = ()
        prefix = ""
        if match["decode_dtype"]:
            decode = (int(match["heads_q"]), int(match["heads_kv"]))
            prefix = "decode_"
        return Case(
            match[prefix + "dtype"],
            int(match[prefix + "head_dim"]),
            int(match[prefix + "seqlen"]),
            match["mask"] == "causal",
            int(match["threads"]),
            match["isa"] or "",
            match["feature"] or "",
            decode,
        )

    def __str__(self):
        if self.decode:
            heads = "_".join(map(str, self.decode))
            name = f"decode_{self.dtype}_h{heads}_d{self.head_dim}_s{self.seqlen}"
        else:
            mask = "causal" if self.causal else "full"
            name = f"prefill_{self.dtype}_d{self.head_dim}_s{self.seqlen}_{mask}"
        parts = [name, self.feature, f"{self.threads}t", self.isa]
        return "_".join(part for part in parts if part)

    @property
    def heads(self):
        """As attn_bench chooses them; measure.py checks that the two agree."""
        return self.decode[0] if self.decode else self.threads * max(1, 4096 // self.seqlen)

    @property
    def flops(self):
        """Two products of 2 * head_dim operations for each pair of query and key, and each head.
        Causal counts half of all pairs."""
        pairs = self.seqlen if self.decode else self.seqlen**2
        if self.causal:
            pairs //= 2
        if self.feature.startswith("window"):  # keys to the left; none to the right
            keys = int(self.feature.removeprefix("window")) + 1
            pairs = keys * self.seqlen - keys * (keys - 1) // 2
        return 4 * self.heads * self.head_dim * pairs

    @property
    def kv_bytes(self):
        """Of K and V: what a decode step has to read."""
        heads_kv = self.decode[1] if self.decode else self.heads
        dtype = "i8" if self.feature == "i8" else self.dtype
        return 2 * heads_kv * self.seqlen * self.head_dim * _BYTES[dtype]

    @property
    def work(self):
        """What a row's fraction counts: operations, of decode rows bytes."""
        return self.kv_bytes if self.decode else self.flops

    @property
    def plain(self):
        """The row without the feature beside which this one is read; itself if it has none."""
        # Windows count what they attend to only, so that any length will do.
        seqlen = 4096 if self.feature.startswith("window") else self.seqlen
        return dataclasses.replace(self, feature="", seqlen=seqlen)

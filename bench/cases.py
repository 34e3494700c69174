"""A case of the benchmark: its name, its shape and its work."""

import dataclasses
import re

_FEATURES = (
    r"(?:_(?P<feature>softcap|bias|biasbf16|mask|alibi|page\d+|packed64|window\d+|i8|tree))?"
)
_NAME = re.compile(
    r"(?P<kind>prefill|block|decode)_(?P<dtype>[a-z0-9]+)"
    r"(?:_h(?P<heads_q>\d+)(?:_(?P<heads_kv>\d+))?)?_d(?P<head_dim>\d+)(?:_q(?P<seqlen_q>\d+))?"
    r"_s(?P<seqlen>\d+)(?:_(?P<mask>full|causal))?"
    + _FEATURES
    + r"_(?P<threads>\d+)t(?:_(?P<isa>avx2|amx_bf16))?"
)
_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}
_PACKED_LENGTHS = [50 + i * 29 % 64 * 11 for i in range(64)]  # as attn_bench has them


@dataclasses.dataclass(frozen=True)
class Case:
    """{kind}_{dtype}[_h{heads_q}[_{heads_kv}]]_d{head_dim}[_q{seqlen_q}]_s{seqlen}[_{full|causal}]
    [_{feature}]_{threads}t[_{isa}]: heads in blocks, decode and some prefill rows, seqlen_q in
    blocks, full or causal in all but decode rows.

    Batch 1. Prefill: queries and keys of the same length; block: `seqlen_q` queries, the last of
    `seqlen` tokens; decode: one query over `seqlen` keys. `feature` is what the row has beyond
    that, or ""; `isa` is a forced instruction set or "".
    """

    kind: str
    dtype: str
    head_dim: int
    seqlen: int
    causal: bool
    threads: int
    isa: str = ""
    feature: str = ""
    own_heads: tuple = ()  # (heads_q, heads_kv), if the name tells them
    seqlen_q: int = 0  # 0: seqlen

    @staticmethod
    def parse(name):
        """The case of that name, or None if the name is not a case's."""
        match = _NAME.fullmatch(name)
        if not match:
            return None
        heads = ()
        if match["heads_q"]:
            heads = (int(match["heads_q"]), int(match["heads_kv"] or match["heads_q"]))
        case = Case(
            match["kind"],
            match["dtype"],
            int(match["head_dim"]),
            int(match["seqlen"]),
            match["mask"] == "causal",
            int(match["threads"]),
            match["isa"] or "",
            match["feature"] or "",
            heads,
            1 if match["kind"] == "decode" else int(match["seqlen_q"] or 0),
        )
        return case if str(case) == name else None

    def __str__(self):
        heads = "_".join(map(str, dict.fromkeys(self.own_heads)))
        if self.kind == "decode":  # tells both even if they are the same
            heads = "_".join(map(str, self.own_heads))
        parts = [self.kind, self.dtype, heads and f"h{heads}", f"d{self.head_dim}"]
        if self.kind == "block":
            parts.append(f"q{self.seqlen_q}")
        parts.append(f"s{self.seqlen}")
        if self.kind != "decode":
            parts.append("causal" if self.causal else "full")
        parts += [self.feature, f"{self.threads}t", self.isa]
        return "_".join(part for part in parts if part)

    @property
    def heads(self):
        """As attn_bench chooses them; measure.py checks that the two agree."""
        return self.own_heads[0] if self.own_heads else self.threads * max(1, 4096 // self.seqlen)

    @property
    def heads_kv(self):
        return self.own_heads[1] if self.own_heads else self.heads

    @property
    def flops(self):
        """Two products of 2 * head_dim operations for each pair of query and key, and each head.
        Causal counts half of all pairs, in a block those that are attended."""
        queries = self.seqlen_q or self.seqlen
        pairs = queries * self.seqlen
        if self.kind == "block":
            pairs -= queries * (queries - 1) // 2
        elif self.causal:
            pairs //= 2
        if self.feature.startswith("window"):  # keys to the left; none to the right
            keys = int(self.feature.removeprefix("window")) + 1
            pairs = keys * self.seqlen - keys * (keys - 1) // 2
        if self.feature == "packed64":
            pairs = sum(length**2 for length in _PACKED_LENGTHS)
        return 4 * self.heads * self.head_dim * pairs

    @property
    def kv_bytes(self):
        """Of K and V: what a decode step has to read."""
        dtype = "i8" if self.feature == "i8" else self.dtype
        return 2 * self.heads_kv * self.seqlen * self.head_dim * _BYTES[dtype]

    @property
    def work(self):
        """What a row's fraction counts: operations, of decode rows bytes."""
        return self.kv_bytes if self.kind == "decode" else self.flops

    @property
    def plain(self):
        """The row without the feature beside which this one is read; itself if it has none."""
        # Windows count what they attend to only, so that any length will do.
        seqlen = 4096 if self.feature.startswith("window") else self.seqlen
        return dataclasses.replace(self, feature="", seqlen=seqlen)

"""As much of attn as measure.py calls: plans that are checked, and runs that only take time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import cuda


class Unsupported(Exception):
    pass


class Context:
    def __init__(self, *, backend_dir: Path) -> None:
        assert (backend_dir / "libattn_cuda.so").exists()
        self.name = backend_dir.name


class Plan:
    def __init__(self, *, context: Context | None = None, **problem: Any) -> None:
        assert problem["backend"] == "cuda" and problem["device"] == "cuda:0"
        self.problem = problem
        if context and context.name == "refused":
            raise Unsupported("the wgmma family has no code for this device")
        self.what = "attn"
        if context and context.name != "base":
            self.what = f"attn {context.name}"
        if problem.get("q_layout") == "packed":
            self.what = "attn packed"

    def bind(self, q: Any, k: Any, v: Any, **tensors: Any) -> Callable[[], None]:
        p = self.problem
        packed = "q_layout" in p
        assert q.shape[1] == p["heads_q"] and q.shape[3] == p["head_dim"]
        assert q.shape[0] == (1 if packed else p["max_batch"])
        assert q.shape[2] == p["max_total_q" if packed else "max_seqlen_q"]
        assert not packed or tensors["cu_seqlens_q"].shape == (p["max_batch"] + 1,)
        assert p["dtype"] in q.dtype.replace("bfloat", "bf").replace("float", "f")
        return lambda: cuda.work(self.what)

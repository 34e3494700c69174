"""What a run from Python costs over the call from C: overhead.py PREFIX.

Both run the same plan on the same arrays, in turns; the line printed is JSON, in nanoseconds.
PREFIX is where the library is installed.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import attn
from attn._native import ffi, lib

SEQLEN, HEADS, HEAD_DIM = 16, 4, 64
ROUNDS = 501
RUNS = 20  # of each kind in a round


def compile_loop(prefix: Path, folder: Path) -> Callable[[int, int, int, int], int]:
    library = folder / "loop.so"
    source = Path(__file__).with_name("loop.c")
    command = ["cc", "-O2", "-shared", "-fPIC", f"-I{prefix}/include"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).run_loop
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function.restype = ctypes.c_int64
    return function


def address(pointer: object) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def main() -> None:
    context = attn.Context(num_threads=1)
    problem = {
        "heads_q": HEADS,
        "head_dim": HEAD_DIM,
        "max_seqlen_q": SEQLEN,
        "max_seqlen_k": SEQLEN,
    }
    plan = attn.Plan(**problem, context=context)
    q = k = v = np.full((1, HEADS, SEQLEN, HEAD_DIM), 0.5, np.float32)
    out = np.empty_like(q)
    bound = plan.bind(q, k, v, out=out)
    kinds: dict[str, Callable[[], object]] = {
        "attention": lambda: attn.attention(q, k, v, out=out, context=context),
        "plan": lambda: plan.run(q, k, v, out=out),
        "bound": bound,
    }
    with tempfile.TemporaryDirectory() as folder:
        run_loop = compile_loop(Path(sys.argv[1]), Path(folder))
    # The very arguments that the bound run hands to C.
    arguments = (
        address(ffi.addressof(lib, "attn_run")),
        address(bound._handle),
        address(bound._args),
    )

    def in_c() -> float:
        nanoseconds = run_loop(*arguments, RUNS)
        assert nanoseconds > 0
        return nanoseconds / RUNS

    def in_python(run: Callable[[], object]) -> float:
        start = time.perf_counter_ns()
        for _ in range(RUNS):
            run()
        return (time.perf_counter_ns() - start) / RUNS

    from_c: list[float] = []
    overheads: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, run in kinds.items():
            before, python, after = in_c(), in_python(run), in_c()
            from_c.append((before + after) / 2)
            overheads[name].append(python - (before + after) / 2)
    answer = {"language": "python", "c_ns": statistics.median(from_c)}
    print(
        json.dumps(answer | {f"{name}_ns": statistics.median(x) for name, x in overheads.items()})
    )


if __name__ == "__main__":
    main()

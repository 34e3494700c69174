"""Measurements on a GPU, for gpu.py: attention beside PyTorch's backends, variants, ceilings.

measure.py list PART
measure.py PART CASE       prints one line of JSON with the figures
measure.py serve SECONDS   does that for each line "PART CASE" of its input, in a process of its
                           own, which ends after so long; PyTorch is imported once for all

ATTN_CUDA_VARIANTS names the folder of the plugins that "sweep" compares.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS = 16384  # in all
WIDTH = 2048  # heads * head_dim
REPETITIONS = 15
BUSY_CYCLES = 1_000_000  # about half a millisecond


def bench_cases() -> list[str]:
    """The table's rows come first: the time may be over before the last one."""
    return [
        f"{dtype}-d{dim}-{mask}-{rows}"
        for dtype in ("bf16", "f16")
        for rows in ("4096", "16384", "8192", "packed", "2048", "1024", "512")
        for dim in (128, 64, 256)
        for mask in ("full", "causal")
    ]


def variants() -> Path:
    return Path(os.environ.get("ATTN_CUDA_VARIANTS", "build/release/variants"))


def sweep_cases() -> list[str]:
    names = sorted(path.parent.name for path in variants().glob("*/libattn_cuda.so"))
    return [
        f"bf16-d{dim}-{mask}-8192-{name}"
        for dim in (128, 64, 256)
        for mask in ("causal", "full")
        for name in names
        if name != "base"
    ]


CASES: dict[str, Callable[[], list[str]]] = {
    "bench": bench_cases,
    "sweep": sweep_cases,
    "ceilings": lambda: ["matrix-product", "reduction", "host-time"],
}


Run = Callable[[], Any]


def interleaved(
    runs: dict[str, Run], within: dict[str, Callable[[], Any]] | None = None
) -> dict[str, float]:
    """Median seconds of each; one of every kind in turn, so that clocks and heat are shared.

    `within` makes the context that a run needs. The GPU is kept busy until the run has been
    launched, so that no time of the host is counted.
    """
    import torch

    contexts = within or {}

    times: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(-3, REPETITIONS):  # three to warm up
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with contexts.get(name, contextlib.nullcontext)():
                torch.cuda._sleep(BUSY_CYCLES)
                begin.record()
                run()
                end.record()
            end.synchronize()
            if repetition >= 0:
                times[name].append(begin.elapsed_time(end) / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def problem(case: str) -> tuple[Any, Any, Any, bool, float]:
    """q, k, v, causal and the work in TFLOP of a case."""
    import torch

    dtype, dim, mask, seqlen = case.split("-")[:4]
    head_dim, length, causal = int(dim[1:]), int(seqlen), mask == "causal"
    shape = (TOKENS // length, WIDTH // head_dim, length, head_dim)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float16
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape, device="cuda", dtype=kind) for _ in range(3))
    work = 4 * shape[0] * shape[1] * length * length * head_dim / (2 if causal else 1)
    return q, k, v, causal, work / 1e12


def bound_run(q: Any, k: Any, v: Any, causal: bool, **options: Any) -> Any:
    import attn

    plan = attn.Plan(
        heads_q=q.shape[1], head_dim=q.shape[3], max_batch=q.shape[0], max_seqlen_q=q.shape[2],
        max_seqlen_k=k.shape[2], dtype="bf16" if "bfloat" in str(q.dtype) else "f16",
        causal=causal, backend="cuda", device="cuda:0", trust_pointers=True, **options,
    )  # fmt: skip
    return plan.bind(q, k, v)


def packed_lengths() -> list[int]:
    """Eight uneven lengths, TOKENS in all."""
    cuts = sorted(random.Random(0).sample(range(1, TOKENS // 64), 7))
    ends = [*(64 * cut for cut in cuts), TOKENS]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def packed(case: str) -> dict[str, float]:
    """A packed batch of uneven lengths beside an equal-length one of the same work."""
    import attn
    import torch

    dtype, dim, mask = case.split("-")[:3]
    head_dim, causal = int(dim[1:]), mask == "causal"
    heads, lengths = WIDTH // head_dim, packed_lengths()
    kind = torch.bfloat16 if dtype == "bf16" else torch.float16
    torch.manual_seed(0)

    def tensors(*shape: int) -> list[Any]:
        return [torch.randn(shape, device="cuda", dtype=kind) for _ in range(3)]

    def work(of: list[int]) -> float:
        squares = sum(length * length for length in of)
        return 4 * heads * head_dim * squares / (2 if causal else 1) / 1e12

    q, k, v = tensors(1, heads, TOKENS, head_dim)
    starts = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    cu_seqlens = torch.tensor(starts, device="cuda", dtype=torch.int32)
    plan = attn.Plan(
        heads_q=heads, head_dim=head_dim, max_batch=len(lengths), max_seqlen_q=max(lengths),
        max_seqlen_k=max(lengths), max_total_q=TOKENS, max_total_k=TOKENS, q_layout="packed",
        kv_layout="packed", dtype=dtype, causal=causal, backend="cuda", device="cuda:0",
        trust_pointers=True,
    )  # fmt: skip
    uneven = plan.bind(q, k, v, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens)
    length = round(math.sqrt(sum(n * n for n in lengths) / len(lengths)))
    equal = bound_run(*tensors(len(lengths), heads, length, head_dim), causal)
    times = interleaved({"packed": uneven, "equal": equal})
    return {
        "packed": work(lengths) / times["packed"],
        "equal": work([length] * len(lengths)) / times["equal"],
    }


def bench(case: str) -> dict[str, float]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if case.endswith("-packed"):
        return packed(case)
    q, k, v, causal, work = problem(case)
    attention = torch.nn.functional.scaled_dot_product_attention

    runs: dict[str, Run] = {"attn": bound_run(q, k, v, causal)}
    within: dict[str, Callable[[], Any]] = {}
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        backend = getattr(SDPBackend, name, None)
        if backend is None or (name == "MATH" and q.shape[2] > 8192):  # scores fill the memory
            continue
        try:
            with sdpa_kernel(backend):
                attention(q, k, v, is_causal=causal)
        except RuntimeError:  # that backend does not take this problem
            continue
        peer = name.partition("_")[0].lower()
        runs[peer] = lambda: attention(q, k, v, is_causal=causal)
        within[peer] = functools.partial(sdpa_kernel, backend)
    return {name: work / seconds for name, seconds in interleaved(runs, within).items()}


def sweep(case: str) -> dict[str, float]:
    import attn

    plain, _, variant = case.rpartition("-")
    q, k, v, causal, work = problem(plain)
    runs: dict[str, Run] = {}
    for name in ("base", variant):
        context = attn.Context(backend_dir=variants() / name)
        try:
            runs[name] = bound_run(q, k, v, causal, context=context)
        except attn.Unsupported:
            return {}
    return {name: work / seconds for name, seconds in interleaved(runs).items()}


def host_time() -> float:
    """Microseconds of the host that a small run takes, by the median of bursts that fit a queue."""
    import torch

    q, k, v = (torch.randn((1, 4, 16, 64), device="cuda", dtype=torch.bfloat16) for _ in range(3))
    run = bound_run(q, k, v, causal=True)
    times = []
    for _ in range(REPETITIONS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(200):
            run()
        times.append((time.perf_counter() - begin) / 200)
    torch.cuda.synchronize()
    return statistics.median(times) * 1e6


def ceilings(case: str) -> dict[str, float]:
    import torch

    if case == "host-time":
        return {"us": host_time()}
    if case == "matrix-product":
        n = 8192
        a, b = (torch.randn((n, n), device="cuda", dtype=torch.bfloat16) for _ in range(2))
        times = interleaved({"TFLOP/s": lambda: a @ b})
        return {"TFLOP/s": 2 * n**3 / times["TFLOP/s"] / 1e12}
    x = torch.ones(1 << 30, device="cuda", dtype=torch.float32)  # 4 GiB, far beyond the caches
    times = interleaved({"TB/s": lambda: x.sum()})
    return {"TB/s": x.numel() * 4 / times["TB/s"] / 1e12}


PARTS: dict[str, Callable[[str], dict[str, float]]] = {
    "bench": bench,
    "sweep": sweep,
    "ceilings": ceilings,
}


def tell(status: str, words: str = "", figures: dict[str, float] | None = None) -> None:
    print(json.dumps({"status": status, "words": words, "figures": figures or {}}), flush=True)


def measure(part: str, case: str) -> None:
    figures = PARTS[part](case)
    tell("measured" if figures else "refused", "", figures)


def serve(limit: float) -> None:
    """Forks for each case: CUDA begins in the child, and what the child breaks ends with it."""
    import torch  # noqa: F401  # before the forks, since it takes seconds

    for line in sys.stdin:
        part, case = line.split()
        child = os.fork()
        if child == 0:
            try:
                measure(part, case)
            except BaseException as error:
                traceback.print_exc()
                tell("error", f"{type(error).__name__}: {error}"[:500])
            sys.stdout.flush()
            os._exit(0)
        end = time.monotonic() + limit
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.01)
        if done == (0, 0):
            os.kill(child, signal.SIGKILL)  # not waited for: a hung device may hold it
            tell("timeout", f"no end after {limit:.0f} s")
        elif done[1] != 0:
            tell("error", f"ended by {signal.Signals(os.WTERMSIG(done[1])).name}")


def main() -> int:
    what, which = sys.argv[1:] if len(sys.argv) == 3 else ("", "")
    if what == "list" and which in CASES:
        print("\n".join(CASES[which]()))
    elif what == "serve" and which:
        serve(float(which))
    elif what in PARTS:
        measure(what, which)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

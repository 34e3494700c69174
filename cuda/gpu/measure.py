"""One measurement on a GPU, for gpu.py: attention beside PyTorch's backends, tiles, ceilings.

measure.py list PART
measure.py PART CASE     prints one line of JSON with the figures
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

TOKENS = 16384  # in all
WIDTH = 2048  # heads * head_dim
REPETITIONS = 15


def bench_cases() -> list[str]:
    return [
        f"{dtype}-d{dim}-{'causal' if causal else 'full'}-{seqlen}"
        for dtype in ("bf16", "f16")
        for dim in (64, 128, 256)
        for causal in (False, True)
        for seqlen in (512, 1024, 2048, 4096, 8192, 16384)
    ]


def sweep_cases() -> list[str]:
    return [
        f"{case}-k{tile_k}"
        for case in bench_cases()
        if case.startswith("bf16") and case.endswith("8192")
        for tile_k in (16, 32, 48, 64, 80, 96, 112, 128, 176, 192)
    ]


CASES: dict[str, Callable[[], list[str]]] = {
    "bench": bench_cases,
    "sweep": sweep_cases,
    "ceilings": lambda: ["matrix-product", "reduction"],
}


def interleaved(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each; one of every kind in turn, so that clocks and heat are shared."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(REPETITIONS):
        for name, run in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
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


def bench(case: str) -> dict[str, float]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v, causal, work = problem(case)
    attention = torch.nn.functional.scaled_dot_product_attention

    def peer(backend: Any) -> Callable[[], Any]:
        def run() -> Any:
            with sdpa_kernel(backend):
                return attention(q, k, v, is_causal=causal)

        return run

    runs: dict[str, Callable[[], Any]] = {"attn": bound_run(q, k, v, causal)}
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        backend = getattr(SDPBackend, name, None)
        if backend is None or (name == "MATH" and q.shape[2] > 8192):  # scores fill the memory
            continue
        try:
            peer(backend)()
        except RuntimeError:  # that backend does not take this problem
            continue
        runs[name.partition("_")[0].lower()] = peer(backend)
    return {name: work / seconds for name, seconds in interleaved(runs).items()}


def sweep(case: str) -> dict[str, float]:
    import attn

    plain, _, tile_k = case.rpartition("-k")
    q, k, v, causal, work = problem(plain)
    try:
        run = bound_run(q, k, v, causal, tile_k=int(tile_k))
    except attn.Unsupported:
        return {}
    default = bound_run(q, k, v, causal)
    times = interleaved({"tile": run, "default": default})
    return {name: work / seconds for name, seconds in times.items()}


def ceilings(case: str) -> dict[str, float]:
    import torch

    if case == "matrix-product":
        n = 8192
        a, b = (torch.randn((n, n), device="cuda", dtype=torch.bfloat16) for _ in range(2))
        times = interleaved({"TFLOP/s": lambda: a @ b})
        return {"TFLOP/s": 2 * n**3 / times["TFLOP/s"] / 1e12}
    x = torch.ones(1 << 30, device="cuda", dtype=torch.float32)
    times = interleaved({"TB/s": lambda: x.sum()})
    return {"TB/s": x.numel() * 4 / times["TB/s"] / 1e12}


def main() -> int:
    if len(sys.argv) != 3 or (sys.argv[2] if sys.argv[1] == "list" else sys.argv[1]) not in CASES:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == "list":
        print("\n".join(CASES[sys.argv[2]]()))
        return 0
    part, case = sys.argv[1:]
    figures = {"bench": bench, "sweep": sweep, "ceilings": ceilings}[part](case)
    status = "measured" if figures else "refused"
    print(json.dumps({"status": status, "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

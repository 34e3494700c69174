"""./dev gpu: tests and measures the CUDA plugin on this machine's GPU, without a network.

Each case runs in a process of its own with a limit of 20 seconds, so that a kernel that hangs costs
one case. After every case the results are written: build/gpu/results.json and results.txt, at the
end also results.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
LIMIT_S = 20
GOOD = ("pass", "refused", "measured")

PARTS = {
    "conformance": "each device primitive against its twin in the emulator (not built yet)",
    "numerics": "the numeric grid against the float64 reference",
    "graph": "first-ever runs inside a graph capture, replayed",
    "streams": "several threads and streams at once",
    "sanitizer": "small shapes under compute-sanitizer",
    "ceilings": "matrix product and read-only reduction (needs PyTorch)",
    "sweep": "every tile_k that the table has (needs PyTorch)",
    "bench": "beside PyTorch's attention backends, interleaved (needs PyTorch)",
}


@dataclass
class Result:
    part: str
    case: str
    status: str  # pass, fail, refused, measured, missing, error or timeout
    words: str = ""
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


class Results:
    """What was found so far; on disk after each case."""

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.device = device
        self.all: list[Result] = []

    def add(self, result: Result) -> None:
        self.all.append(result)
        self._write("results.json", json.dumps(self.as_json(), indent=1) + "\n")
        self._write("results.txt", self.as_text())

    def as_json(self) -> dict[str, object]:
        return {"device": self.device, "results": [asdict(result) for result in self.all]}

    def as_text(self) -> str:
        lines = [self.device]
        for r in self.all:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in r.figures.items())
            lines.append(f"{r.status:8} {r.part:12} {r.case:36} {figures}{r.words}".rstrip())
        return "\n".join(lines) + "\n"

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all: the process may be stopped at any time."""
        new = self.folder / (name + ".new")
        new.write_text(text)
        new.replace(self.folder / name)


def run_case(part: str, case: str, command: list[str], env: dict[str, str]) -> Result:
    """One process; what it prints last is a line of JSON."""
    start = time.monotonic()
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=env)
    except subprocess.TimeoutExpired:
        return Result(part, case, "timeout", f"no end after {LIMIT_S} s", LIMIT_S)
    seconds = round(time.monotonic() - start, 3)
    lines = run.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
        status, words = found["status"], found.get("words", "")
        figures = found.get("figures", {})
    except (IndexError, ValueError, KeyError):
        said = (run.stderr.strip().splitlines() or ["nothing"])[-1]
        return Result(part, case, "error", f"exit code {run.returncode}: {said}", seconds)
    if run.returncode != 0 and status in GOOD:  # a sanitizer, or a crash at the end
        status, words = "fail", f"exit code {run.returncode}"
    return Result(part, case, status, words, seconds, figures)


def sanitizers(case: str, runner: Path) -> Iterator[tuple[str, list[str]]]:
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        yield f"{tool}-{case}", [*command, str(runner), "sanitizer", case]


def cases_of(part: str, runner: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each case of a part."""
    if part in ("ceilings", "sweep", "bench"):
        worker = [sys.executable, str(HERE / "measure.py")]
        listed = subprocess.run(
            [*worker, "list", part], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        for case in listed.stdout.split():
            yield case, [*worker, part, case]
        return
    if part == "conformance":
        return
    listed = subprocess.run(
        [str(runner), "list", part], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    for case in listed.stdout.split():
        if part == "sanitizer":
            yield from sanitizers(case, runner)
        else:
            yield case, [str(runner), part, case]


def missing(part: str) -> str:
    """What a part lacks on this machine, or ""."""
    if part == "conformance":
        return "no cases are built yet"
    if part == "sanitizer":
        from shutil import which

        return "" if which("compute-sanitizer") else "compute-sanitizer is not installed"
    if part in ("ceilings", "sweep", "bench"):
        code = "import torch; raise SystemExit(not torch.cuda.is_available())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True)
        return "" if run.returncode == 0 else "PyTorch with CUDA is not installed"
    return ""


def draw(results: Results) -> None:
    """results.svg: TFLOP/s of the benchmark's rows, if matplotlib is there."""
    rows = [r for r in results.all if r.part == "bench" and r.status == "measured"]
    if not rows:
        return
    try:
        import matplotlib  # type: ignore[import-not-found]

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    names = list(dict.fromkeys(name for r in rows for name in r.figures))
    figure, axes = pyplot.subplots(figsize=(10, 0.35 * len(rows) * len(names) / 2 + 1.5))
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [row + index * height for row in range(len(rows))]
        axes.barh(places, [r.figures.get(name, 0) for r in rows], height, label=name)
    axes.set_yticks([row + 0.4 for row in range(len(rows))], [r.case for r in rows])
    axes.set_xlabel(f"TFLOP/s on {results.device}; causal rows count half the work")
    axes.legend()
    figure.tight_layout()
    figure.savefig(results.folder / "results.svg")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev gpu",
        description="Tests and measures the CUDA plugin on this machine's GPU.",
        epilog="parts: " + "; ".join(f"{name}: {words}" for name, words in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="default: all, in order")
    parser.add_argument("--prefix", type=Path, default=ROOT / "build/prefix", help="installed into")
    parser.add_argument("--runner", type=Path, default=ROOT / "build/cuda_tests/release/gpu_runner")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/gpu", help="folder of the results"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no such part: {part}")

    env = {**os.environ, "ATTN_BACKEND_DIR": str(options.prefix / "lib")}
    probe = run_case("", "device", [str(options.runner), "device"], env)
    if probe.status != "pass":
        print(f"./dev gpu needs an NVIDIA GPU: {probe.words}", file=sys.stderr)
        return 3
    text = subprocess.run([str(options.runner), "device"], capture_output=True, text=True).stdout
    found = json.loads(text)
    results = Results(options.out, f"{found['device']}, driver for CUDA {found['cuda']}")
    print(results.device)
    for part in options.parts or PARTS:
        if lacks := missing(part):
            results.add(Result(part, "", "missing", lacks))
            print(f"{'missing':8} {part}: {lacks}")
            continue
        for case, command in cases_of(part, options.runner):
            if options.only not in case:
                continue
            result = run_case(part, case, command, env)
            results.add(result)
            if result.status != "pass":
                print(results.as_text().splitlines()[-1], flush=True)
    draw(results)
    counts: dict[str, int] = {}
    for result in results.all:
        counts[result.status] = counts.get(result.status, 0) + 1
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    print(f"results in {options.out}")
    # A part that could not run is no success either.
    ran = any(result.status in ("pass", "measured") for result in results.all)
    return 0 if ran and all(result.status in GOOD for result in results.all) else 1


if __name__ == "__main__":
    sys.exit(main())

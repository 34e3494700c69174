"""./dev gpu: tests and measures the CUDA plugin on this machine's GPU, without a network.

Each case runs in a process of its own with a limit of 20 seconds, so that a kernel that hangs costs
one case. After every case the results are written: build/gpu/results.json, results.txt and, of the
benchmark, results.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
LIMIT_S = 20
GOOD = ("pass", "refused", "measured")

# In the order in which they make sense on a GPU that nothing has run on yet.
PARTS = {
    "conformance": "each device primitive against its twin in the emulator",
    "numerics": "the numeric grid against the float64 reference",
    "ceilings": "matrix product and read-only reduction (needs PyTorch)",
    "bench": "beside PyTorch's attention backends, interleaved (needs PyTorch)",
    "sweep": "variants of tile, pin, turns and stages, each beside the usual one (needs PyTorch)",
    "graph": "first-ever runs inside a graph capture, replayed",
    "streams": "several threads and streams at once",
    "sanitizer": "small shapes under compute-sanitizer",
}
NEED_TORCH = ("ceilings", "bench", "sweep")


@dataclass
class Result:
    part: str
    case: str
    status: str  # pass, fail, refused, measured, missing, error, timeout or skipped
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
        if result.part == "bench":
            self._write("results.svg", self.as_picture())

    def as_json(self) -> dict[str, object]:
        return {"device": self.device, "results": [asdict(result) for result in self.all]}

    def as_text(self) -> str:
        lines = [self.device]
        for r in self.all:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in r.figures.items())
            lines.append(f"{r.status:8} {r.part:12} {r.case:36} {figures}{r.words}".rstrip())
        return "\n".join(lines) + "\n"

    def as_picture(self) -> str:
        """TFLOP/s of the benchmark's rows: a group of bars for each."""
        rows = [r for r in self.all if r.part == "bench" and r.figures]
        names = list(dict.fromkeys(name for r in rows for name in r.figures))
        most = max((value for r in rows for value in r.figures.values()), default=0) or 1.0
        colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
        parts = []

        def text(x: int, y: int, words: str) -> None:
            parts.append(f'<text x="{x}" y="{y}">{escape(words)}</text>')

        def bar(x: int, y: int, width: float, name: str) -> None:
            colour = colours[names.index(name) % len(colours)]
            parts.append(f'<rect x="{x}" y="{y}" width="{width:.1f}" height="10" fill="{colour}"/>')

        text(10, 20, f"TFLOP/s on {self.device}; causal rows count half the work")
        for index, name in enumerate(names):
            bar(10 + 140 * index, 32, 10, name)
            text(24 + 140 * index, 41, name)
        y = 60
        for row in rows:
            text(10, y + 9, row.case)
            for name, value in row.figures.items():
                bar(200, y, 500 * value / most, name)
                text(206 + int(500 * value / most), y + 9, f"{value:.4g}")
                y += 12
            y += 8
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="780" height="{y}"'
        style = '<rect width="100%" height="100%" fill="white"/>'
        return f'{head} font-family="sans-serif" font-size="11">{style}{"".join(parts)}</svg>\n'

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
        words = "; ".join([f"exit code {run.returncode}: {said}", *watchdog(run.stdout)])
        return Result(part, case, "error", words, seconds)
    words = "; ".join([words, *watchdog(run.stdout)]).removeprefix("; ")
    if run.returncode != 0 and status in GOOD:  # a sanitizer, or a crash at the end
        status, words = "fail", f"exit code {run.returncode}"
    return Result(part, case, status, words, seconds, figures)


def watchdog(output: str) -> list[str]:
    """What kernels of a build with a watchdog said: one line, of perhaps thousands."""
    return [line for line in output.splitlines() if line.startswith("watchdog: ")][:1]


def sanitizers(case: str, runner: Path) -> Iterator[tuple[str, list[str]]]:
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        yield f"{tool}-{case}", [*command, str(runner), "sanitizer", case]


def cases_of(part: str, runner: Path, env: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each case of a part."""
    if part in NEED_TORCH:
        worker = [sys.executable, str(HERE / "measure.py")]
        listed = subprocess.run(
            [*worker, "list", part],
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
            env=env,
        )
        for case in listed.stdout.split():
            yield case, [*worker, part, case]
        return
    listed = subprocess.run(
        [str(runner), "list", part], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    for case in listed.stdout.split():
        if part == "sanitizer":
            yield from sanitizers(case, runner)
        else:
            yield case, [str(runner), part, case]


def missing(part: str, images: Path, variants: Path) -> str:
    """What a part lacks on this machine, or ""."""
    if part == "conformance" and not list(images.glob("conformance_*")):
        return f"no kernels in {images}; ./dev build cuda makes them"
    if part == "sanitizer":
        return "" if shutil.which("compute-sanitizer") else "compute-sanitizer is not installed"
    if part == "sweep" and not list(variants.glob("*/libattn_cuda.so")):
        return f"no variants in {variants}; the CMake target attn_cuda_variants makes them"
    if part in NEED_TORCH:
        code = "import torch; raise SystemExit(not torch.cuda.is_available())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True)
        return "" if run.returncode == 0 else "PyTorch with CUDA is not installed"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev gpu",
        description="Tests and measures the CUDA plugin on this machine's GPU.",
        epilog="With --watchdog it takes a build whose kernels give up long waits and say where. "
        "Parts: " + "; ".join(f"{name}: {words}" for name, words in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="default: all, in order")
    parser.add_argument("--prefix", type=Path, default=ROOT / "build/prefix", help="installed into")
    parser.add_argument("--runner", type=Path, default=ROOT / "build/cuda_tests/release/gpu_runner")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/gpu", help="folder of the results"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seconds", type=float, help="start no case after so long, in words")
    build = ROOT / "build/release"
    parser.add_argument("--images", type=Path, default=build / "cuda/images", help="of conformance")
    parser.add_argument("--variants", type=Path, default=build / "variants", help="of sweep")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no such part: {part}")

    start = time.monotonic()
    env = {
        **os.environ,
        "ATTN_BACKEND_DIR": str(options.prefix / "lib"),
        "ATTN_CUDA_IMAGE_DIR": str(options.images),
        "ATTN_CUDA_VARIANTS": str(options.variants),
    }
    probe = run_case("", "device", [str(options.runner), "device"], env)
    if probe.status != "pass":
        print(f"./dev gpu needs an NVIDIA GPU: {probe.words}", file=sys.stderr)
        return 3
    text = subprocess.run([str(options.runner), "device"], capture_output=True, text=True).stdout
    found = json.loads(text)
    results = Results(options.out, f"{found['device']}, driver for CUDA {found['cuda']}")
    print(results.device)
    for part in options.parts or PARTS:
        if lacks := missing(part, options.images, options.variants):
            results.add(Result(part, "", "missing", lacks))
            print(f"{'missing':8} {part}: {lacks}")
            continue
        for case, command in cases_of(part, options.runner, env):
            if options.only not in case:
                continue
            if options.seconds and time.monotonic() - start > options.seconds:
                result = Result(part, case, "skipped", "no time left")
            else:
                result = run_case(part, case, command, env)
            results.add(result)
            if result.status != "pass":
                print(results.as_text().splitlines()[-1], flush=True)
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

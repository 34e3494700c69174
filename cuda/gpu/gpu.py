"""./dev gpu: tests and measures the CUDA plugin on this machine's GPU, without a network.

Each case runs in a process of its own with a limit of 20 seconds, so that a kernel that hangs costs
one case. After every case the results are written, all into one folder:

    results.json, results.txt   every case; results.svg: the benchmark
    profile.csv                 what ncu says of the main kernels
    log.txt                     the whole output of each case that went wrong
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
LIMIT_S = 20
IMPORT_LIMIT_S = 120  # PyTorch, read from a disk for the first time
GOOD = ("pass", "refused", "measured", "reported")


@dataclass(frozen=True)
class Part:
    words: str
    seconds: float  # that a case takes, by estimate
    at_once: int = 1  # cases that run beside each other
    needs: str = ""  # modules of Python


# In the order in which they make sense on a GPU that nothing has run on yet.
PARTS = {
    "conformance": Part("each device primitive against its twin in the emulator", 1.5, 8),
    "numerics": Part("the numeric grid against the float64 reference", 2, 8),
    "ceilings": Part("matrix product, read-only reduction, the host's time of a run", 3,
                     needs="torch"),
    "bench": Part("beside PyTorch's attention backends, interleaved", 4, needs="torch attn"),
    "sweep": Part("variants of tile, pin, turns and stages, each beside the usual one", 3,
                  needs="torch attn"),
    "profile": Part("the main kernels under ncu", 8),
    "graph": Part("first-ever runs inside a graph capture, replayed", 2, 4),
    "streams": Part("several threads and streams at once", 2),
    "sanitizer": Part("small shapes under compute-sanitizer; races are reported only, since "
                      "racecheck misjudges asynchronous copies", 8, 4),
}  # fmt: skip


@dataclass
class Result:
    part: str
    case: str
    status: str  # pass, refused, measured, reported; fail, missing, error, timeout, skipped
    words: str = ""
    kernel: str = ""
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
            kernel = r.kernel.partition(" ")[0]
            words = "  ".join(part for part in (kernel, figures, r.words) if part)
            lines.append(f"{r.status:8} {r.part:12} {r.case:36} {words}".rstrip())
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

    def log(self, command: list[str], output: str) -> None:
        with (self.folder / "log.txt").open("a") as file:
            file.write(f"$ {' '.join(command)}\n{output[:20_000]}\n")

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all: the process may be stopped at any time."""
        new = self.folder / (name + ".new")
        new.write_text(text)
        new.replace(self.folder / name)


@dataclass
class Run:
    """What became of a process."""

    timed_out: bool
    code: int
    stdout: str
    stderr: str
    seconds: float


def run_process(command: list[str], env: dict[str, str], limit: int = 0) -> Run:
    """Ends the process and all that it started after `limit` seconds. What it says goes through
    files, so that one which cannot be killed holds up nothing."""
    limit = limit or LIMIT_S
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        bounded = ["timeout", "--signal=KILL", str(limit), *command]
        code = subprocess.run(
            bounded, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env
        ).returncode
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        timed_out = code != 0 and seconds >= limit
        return Run(timed_out, code, out.read(), err.read(), round(seconds, 3))


def judge(part: str, case: str, run: Run) -> Result:
    """By the last line of JSON that the process printed."""
    if run.timed_out:
        return Result(part, case, "timeout", f"no end after {run.seconds:.0f} s", "", run.seconds)
    said = [line for line in run.stdout.splitlines() if line.startswith("{")]
    try:
        found = json.loads(said[-1])
        status, words = found["status"], found.get("words", "")
    except (IndexError, ValueError, KeyError):
        last = (run.stderr.strip().splitlines() or ["nothing"])[-1]
        words = "; ".join([f"exit code {run.code}: {last}", *watchdog(run.stdout)])
        return Result(part, case, "error", words, "", run.seconds)
    words = "; ".join([words, *watchdog(run.stdout)]).removeprefix("; ")
    if run.code != 0 and status in GOOD:  # a crash at the end
        status, words = "fail", f"exit code {run.code}"
    return Result(
        part, case, status, words, found.get("kernel", ""), run.seconds, found.get("figures", {})
    )


def watchdog(output: str) -> list[str]:
    """What kernels of a build with a watchdog said: one line, of perhaps thousands."""
    return [line for line in output.splitlines() if line.startswith("watchdog: ")][:1]


def find_tool(name: str) -> str:
    """One of CUDA's tools, in the path or where it is usually installed; "" if it is not there."""
    places = [
        *Path("/usr/local").glob(f"cuda*/bin/{name}"),
        *Path("/opt/nvidia/nsight-compute").glob(f"*/{name}"),
    ]
    return shutil.which(name) or str(max(places, default=""))


# ---- sanitizers

SANITIZER_CODE = 9
# Of compute-sanitizer where it cannot work at all.
NO_SANITIZER = ("not supported", "Unable to", "Failed to initialize")


def judge_sanitizer(case: str, run: Run) -> Result:
    """What compute-sanitizer found counts, unless it looked for races."""
    said = [line[9:].strip() for line in run.stdout.splitlines() if line.startswith("=" * 9)]
    for line in said:
        if any(words in line for words in NO_SANITIZER):
            return Result("sanitizer", case, "missing", f"compute-sanitizer: {line}")
    advisory = case.startswith("racecheck")
    if advisory and run.timed_out:
        return Result("sanitizer", case, "reported", f"no end after {run.seconds:.0f} s")
    found = run.code == SANITIZER_CODE
    result = judge("sanitizer", case, Run(run.timed_out, 0 if found else run.code, run.stdout,
                                          run.stderr, run.seconds))  # fmt: skip
    summary = next((line for line in reversed(said) if "SUMMARY" in line), "")
    if result.status == "pass" and not summary:
        result.status, result.words = "error", "compute-sanitizer gave no summary"
    elif result.status == "pass" and found:
        result.status, result.words = ("reported" if advisory else "fail"), summary
    return result


# ---- the profiler

SECTIONS = (
    "SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "SchedulerStats",
    "WarpStateStats", "Occupancy", "LaunchStats",
)  # fmt: skip
# Of the table's rows, what goes into the results; units as ncu gives them.
FIGURES = {
    ("Speed Of Light", "Duration"): "time",
    ("Speed Of Light", "Compute (SM) Throughput"): "compute %",
    ("Speed Of Light", "Memory Throughput"): "memory %",
    ("Speed Of Light", "DRAM Throughput"): "DRAM %",
    ("Occupancy", "Achieved Occupancy"): "occupancy %",
    ("Launch Statistics", "Registers Per Thread"): "registers",
}


def profile_command(ncu: str, log: Path) -> list[str]:
    """Clocks stay as they are; what ncu says goes into a file."""
    sections = [word for section in SECTIONS for word in ("--section", section)]
    return [
        ncu, "--clock-control", "none", "--kernel-name", "regex:^attn_", *sections,
        "--print-details", "all", "--csv", "--log-file", str(log),
    ]  # fmt: skip


def judge_profile(case: str, run: Run, said: str) -> Result:
    """`said` is ncu's own log: messages, then a table."""
    result = judge("profile", case, run)
    errors = [line for line in said.splitlines() if line.startswith("==ERROR==")]
    table = said.find('"ID",')
    if table < 0 and errors and not run.timed_out:
        # It cannot work here: no permission for the counters, say.
        result.status, result.words = "missing", f"ncu: {errors[0][9:].strip()}"
    if result.status != "pass":
        return result
    kernels = []
    for row in csv.DictReader(said[table:].splitlines()) if table >= 0 else ():
        kernel = row.get("Kernel Name") or ""
        if kernel and kernel not in kernels:
            kernels.append(kernel)
        for (section, metric), figure in FIGURES.items():
            if section in (row.get("Section Name") or "") and row.get("Metric Name") == metric:
                unit = row.get("Metric Unit") or ""
                name = f"{figure} {unit}" if figure == "time" else figure
                name = name if len(kernels) < 2 else f"{name} of {kernel}"
                result.figures[name] = float((row.get("Metric Value") or "nan").replace(",", ""))
    if result.figures:
        result.status = "measured"
    else:
        result.status, result.words = "error", "no figures in what ncu said"
    return result


# ---- parts


class Measurer:
    """measure.py, which imports PyTorch once and forks for each case."""

    def __init__(self, env: dict[str, str], log: TextIO) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "measure.py"), "serve", str(LIMIT_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
        )

    def run(self, part: str, case: str) -> Result:
        assert self.process.stdin and self.process.stdout
        start = time.monotonic()
        try:
            self.process.stdin.write(f"{part} {case}\n")
            self.process.stdin.flush()
            line = next(line for line in self.process.stdout if line.startswith("{"))
        except (BrokenPipeError, StopIteration):
            return Result(part, case, "error", "measure.py has ended; log.txt may say why")
        seconds = round(time.monotonic() - start, 3)
        return judge(part, case, Run(False, 0, line, "", seconds))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def lacks_module(module: str, env: dict[str, str]) -> str:
    code = f"import {module}"
    if module == "torch":
        code += "; raise SystemExit(None if torch.cuda.is_available() else 'it sees no GPU')"
    run = run_process([sys.executable, "-c", code], env, IMPORT_LIMIT_S)
    if run.code == 0:
        return ""
    last = (run.stderr.strip().splitlines() or [f"exit code {run.code}"])[-1]
    name = {"torch": "PyTorch", "attn": "attn's Python package"}[module]
    return f"{name} cannot be used by {sys.executable}: {last}"


@dataclass
class Setting:
    """Where everything is."""

    runner: Path
    env: dict[str, str]
    images: Path
    variants: Path
    results: Results
    only: str = ""
    modules: dict[str, str] = field(default_factory=dict)  # what Python's modules lack, asked once

    def missing(self, part: str) -> str:
        """What a part lacks on this machine, or ""."""
        if part == "conformance" and not list(self.images.glob("conformance_*")):
            return f"no kernels in {self.images}; ./dev build gpu makes them"
        if part == "sanitizer" and not find_tool("compute-sanitizer"):
            return "compute-sanitizer is not installed"
        if part == "profile" and not find_tool("ncu"):
            return "ncu (Nsight Compute) is not installed"
        if part == "sweep" and not list(self.variants.glob("*/libattn_cuda.so")):
            return f"no variants in {self.variants}; ./dev build gpu makes them"
        for module in PARTS[part].needs.split():
            if module not in self.modules:
                self.modules[module] = lacks_module(module, self.env)
            if self.modules[module]:
                return self.modules[module]
        return ""

    def cases(self, part: str) -> list[str]:
        worker = [sys.executable, str(HERE / "measure.py")]
        by = worker if PARTS[part].needs else [str(self.runner)]
        run = run_process([*by, "list", part], self.env)
        if run.code != 0:
            raise RuntimeError(f"no list of cases: exit code {run.code}: {run.stderr.strip()}")
        names = run.stdout.split()
        if part == "sanitizer":
            tools = ("memcheck", "synccheck", "initcheck", "racecheck")
            names = [f"{tool}-{name}" for tool in tools for name in names]
        return [name for name in names if self.only in name]

    def run_case(self, part: str, case: str) -> Result:
        command = [str(self.runner), part, case]
        if part == "sanitizer":
            tool, _, name = case.partition("-")
            command = [
                find_tool("compute-sanitizer"), "--tool", tool, "--print-limit", "20",
                "--error-exitcode", str(SANITIZER_CODE), str(self.runner), part, name,
            ]  # fmt: skip
            run = run_process(command, self.env)
            result = judge_sanitizer(case, run)
        elif part == "profile":
            with tempfile.TemporaryDirectory() as folder:
                log = Path(folder) / "ncu.csv"
                command = [*profile_command(find_tool("ncu"), log), *command]
                run = run_process(command, self.env)
                said = log.read_text() if log.exists() else run.stdout
            result = judge_profile(case, run, said)
            with (self.results.folder / "profile.csv").open("a") as file:
                file.write(f"# {case}\n{said}\n")
        else:
            run = run_process(command, self.env)
            result = judge(part, case, run)
        if result.status not in ("pass", "refused", "measured"):
            self.results.log(command, run.stdout + run.stderr)
        return result

    def run_part(self, part: str, cases: list[str], end: float) -> Iterator[Result]:
        """Starts no case after `end`; where a tool cannot work, one case says so for all."""
        lacks = ""
        measurer = None

        def run(case: str) -> Result:
            nonlocal lacks
            if lacks or time.monotonic() > end:
                return Result(part, case, "skipped", lacks or "no time left")
            result = measurer.run(part, case) if measurer else self.run_case(part, case)
            if result.status == "missing":
                lacks = result.words
            return result

        if PARTS[part].needs:
            with (self.results.folder / "log.txt").open("a") as log:
                measurer = Measurer(self.env, log)
                yield from map(run, cases)
                measurer.close()
            return
        with ThreadPoolExecutor(min(PARTS[part].at_once, os.cpu_count() or 1)) as pool:
            for done in as_completed([pool.submit(run, case) for case in cases]):
                yield done.result()


def estimate(part: str, cases: list[str]) -> float:
    at_once = min(PARTS[part].at_once, os.cpu_count() or 1)
    return PARTS[part].seconds * len(cases) / at_once


def environment(kit: Path, watchdog: bool) -> dict[str, str]:
    """The kit's library, plugin and Python package before any others."""

    def before(name: str, folder: str) -> str:
        return os.pathsep.join([str(kit / folder), *filter(None, [os.environ.get(name)])])

    plugin = kit / ("watchdog" if watchdog else "lib")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", "lib"),
        "PYTHONPATH": before("PYTHONPATH", "python"),
        "ATTN_BACKEND_DIR": str(plugin),
        "ATTN_CUDA_IMAGE_DIR": str(plugin / "images"),
        "ATTN_CUDA_VARIANTS": str(kit / "variants"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./dev gpu",
        description="Tests and measures the CUDA plugin on this machine's GPU.",
        epilog="Parts: " + "; ".join(f"{name}: {part.words}" for name, part in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="default: all, in order")
    kit = ROOT / "build/gpu-kit"
    parser.add_argument("--kit", type=Path, default=kit, help="what ./dev build gpu made")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="of the results")
    parser.add_argument(
        "--watchdog", action="store_true", help="kernels that give up long waits and say where"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--seconds", type=float, help="for all parts, which share them as their estimates are"
    )
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no such part: {part}")

    start = time.monotonic()
    options.kit = options.kit.resolve()
    env = environment(options.kit, options.watchdog)
    runner = options.kit / "gpu_runner"
    run = run_process([str(runner), "device"], env, IMPORT_LIMIT_S)
    probe = judge("", "device", run)
    if probe.status != "pass":
        print(f"./dev gpu needs an NVIDIA GPU: {probe.words}", file=sys.stderr)
        return 3
    results = Results(options.out, probe.words)
    print(results.device)
    setting = Setting(
        runner,
        env,
        Path(env["ATTN_CUDA_IMAGE_DIR"]),
        options.kit / "variants",
        results,
        options.only,
    )
    todo: dict[str, list[str]] = {}
    for part in options.parts or PARTS:
        try:
            lacks = setting.missing(part)
            todo[part] = [] if lacks else setting.cases(part)
        except RuntimeError as error:
            lacks = str(error)
        if lacks:
            results.add(Result(part, "", "missing", lacks))
            print(f"{'missing':8} {part}: {lacks}")
    for part, cases in todo.items():
        if cases:
            print(f"{part}: {len(cases)} cases, {estimate(part, cases):.0f} s by estimate")

    left = {part: estimate(part, cases) for part, cases in todo.items() if cases}
    for part in list(left):
        now = time.monotonic()
        share = left[part] / sum(left.values())
        end = now + (start + options.seconds - now) * share if options.seconds else float("inf")
        try:
            for result in setting.run_part(part, todo[part], end):
                results.add(result)
                if result.status != "pass":
                    print(results.as_text().splitlines()[-1], flush=True)
        except Exception as error:  # whatever it is: the other parts go on
            results.add(Result(part, "", "error", repr(error)))
            print(results.as_text().splitlines()[-1], flush=True)
        print(f"{part}: {time.monotonic() - now:.0f} s", flush=True)
        del left[part]
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

"""What a run costs in Rust, Go and Python beyond the same run in C: ./dev bench bindings.

S = 16, 4 heads of 64, f32, one thread. Each language's own program runs its binding and the C call
in turns over the same memory and tells the median difference; the programs run in turns too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3


class Row(NamedTuple):
    what: str
    language: str
    key: str  # in what the language's program tells
    floor: float | None
    unit: str


ROWS = (
    Row("Rust: Plan::run", "rust", "overhead_ns", 50, "ns"),
    Row("Rust: the same with the views made for it", "rust", "with_views_ns", None, "ns"),
    Row("Rust: allocations", "rust", "allocations", 0, ""),
    Row("Go: Plan.Run", "go", "overhead_ns", 200, "ns"),
    Row("Go: allocations", "go", "allocations", 0, ""),
    Row("Python: attention", "python", "attention_ns", 8000, "ns"),
    Row("Python: Plan.run", "python", "plan_ns", 8000, "ns"),
    Row("Python: Plan.bind, then the call", "python", "bound_ns", 1000, "ns"),
)


def run(*command: str | Path, folder: Path = ROOT) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{command}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def measure_rust() -> dict[str, float]:
    command = ["cargo", "bench", "--quiet", "--locked", "--no-default-features"]
    command += ["--package", "libattn", "--bench", "overhead"]
    return dict(json.loads(run(*command, folder=ROOT / "bindings/rust")))


def measure_go() -> dict[str, float]:
    command = ["go", "test", "-run", "^$", "-bench", "Overhead/16x64", "-benchtime", "2s", "."]
    output = run(*command, folder=ROOT / "bindings/go")
    found = {unit: float(value) for value, unit in re.findall(r"([\d.-]+) (\S+)/run", output)}
    return {
        "c_ns": found["c-ns"],
        "overhead_ns": found["overhead-ns"],
        "allocations": found["allocs"],
    }


def measure_python(prefix: Path) -> dict[str, float]:
    program = ROOT / "bindings/python/benches/overhead.py"
    return dict(json.loads(run(sys.executable, program, prefix)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bindings.py", description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True, help="where the library is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    os.environ["PKG_CONFIG_PATH"] = f"{arguments.prefix}/lib/pkgconfig"
    os.environ["LD_LIBRARY_PATH"] = f"{arguments.prefix}/lib"

    rounds: dict[str, list[dict[str, float]]] = {"rust": [], "go": [], "python": []}
    for _ in range(ROUNDS):
        rounds["rust"].append(measure_rust())
        rounds["go"].append(measure_go())
        rounds["python"].append(measure_python(arguments.prefix))

    document = []
    print(f"{'over the C call, of a run':<44}{'median':>10}{'floor':>10}  verdict")
    for row in ROWS:
        value = statistics.median(answer[row.key] for answer in rounds[row.language])
        c_ns = statistics.median(answer["c_ns"] for answer in rounds[row.language])
        floor = verdict = ""
        if row.floor is not None:
            floor = f"{row.floor:.0f} {row.unit}"
            verdict = "floor met" if value <= row.floor else "not met"
        median = f"{value:.0f} {row.unit}"
        print(f"{row.what:<44}{median:>10}{floor:>10}  {verdict}")
        document.append(
            {"what": row.what, "median": value, "floor": row.floor, "unit": row.unit or "count"}
            | {"c_ns": c_ns, "verdict": verdict}
        )
    c_calls = (
        f"{name} {statistics.median(a['c_ns'] for a in got):.0f} ns" for name, got in rounds.items()
    )
    print(f"the C call beside each: {', '.join(c_calls)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": ROUNDS, "rows": document}, indent=1) + "\n")


if __name__ == "__main__":
    main()

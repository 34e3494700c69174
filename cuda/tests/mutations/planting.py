"""Plants mistakes in a copy of a family's kernels, one at a time, and expects the emulator tests to
notice: what mma.py and wgmma.py share.

    FAMILY.py [--only REGEX] [--compiler CXX] [-j JOBS] [--seconds N] [--least N]

Exits with 1 if a mistake goes unnoticed without a reason or does not apply any more, or if the copy
without mistakes does not pass.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
NO_TIME = "SKIPPED, no time left"
FLAGS = ["-std=c++20", "-w", "-ffp-contract=off", "-DATTN_TEST_FEW_KERNELS"]


class Mistake(NamedTuple):
    what: str
    file: str  # in cuda/kernels
    old: str  # stands exactly once
    new: str
    survives: str = ""  # why the tests may miss it


class Family(NamedTuple):
    name: str
    tests: list[str]  # sources in cuda/tests without mistakes
    kernels: str  # the one source in cuda/tests that includes the kernels
    arguments: list[str]  # of the test program
    limit: int  # seconds for one run of the tests
    hang_is_noticed: bool  # a mistake that keeps the tests from ending


def build_objects(compiler: str, objects: Path, family: Family, jobs: int) -> None:
    """Objects of what has no mistakes, for all copies."""
    cuda = ROOT / "cuda"
    files = [*sorted((cuda / "emulator").glob("*.cpp"))]
    files += [cuda / "tests" / name for name in family.tests]

    def build_one(file: Path) -> None:
        command = [compiler, *FLAGS, "-O3", "-I", str(ROOT / "include"), "-c", str(file)]
        subprocess.run([*command, "-o", str(objects / f"{file.stem}.o")], check=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(build_one, files))


def build(compiler: str, objects: Path, tree: Path, family: Family) -> Path | None:
    """The test program of a tree."""
    program = tree / "test"
    command = [compiler, *FLAGS, "-O1", "-I", str(ROOT / "include"), "-x", "c++"]
    command += [str(tree / "cuda/tests" / family.kernels), "-x", "none"]
    command += [*map(str, sorted(objects.glob("*.o"))), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr)
        return None
    return program


def complaint(program: Path, family: Family) -> str:
    """What the tests say first; "" if they pass."""
    environment = {**os.environ, "ATTN_TEST_FIRST_FAILURE": "1"}
    try:
        done = subprocess.run(
            [str(program), *family.arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=family.limit,
        )
    except subprocess.TimeoutExpired:
        return "no end in sight" if family.hang_is_noticed else "DOES NOT END"
    if done.returncode == 0:
        return ""
    lines = done.stdout.splitlines()
    return lines[0] if lines else f"exit status {done.returncode}"


def run(family: Family, all_mistakes: list[Mistake]) -> int:
    parser = argparse.ArgumentParser(description=f"Plants mistakes in the {family.name} kernels.")
    parser.add_argument("--only", default="", help="only mistakes whose name matches this")
    parser.add_argument("--compiler", default=os.environ.get("CXX", "c++"))
    parser.add_argument("-j", type=int, default=2, help="at a time")
    parser.add_argument("--seconds", type=int, help="skip what is left after so long, in words")
    parser.add_argument("--least", type=int, default=0, help="so many take the time they need")
    options = parser.parse_args()
    start = time.monotonic()
    deadline = start + options.seconds if options.seconds else float("inf")
    mistakes = [m for m in all_mistakes if re.search(options.only, m.what)]
    with tempfile.TemporaryDirectory(prefix=f"attn-{family.name}-mutations-") as name:
        folder = Path(name)
        objects = folder / "objects"
        objects.mkdir()
        build_objects(options.compiler, objects, family, options.j)

        def judge(number: int, mistake: Mistake | None) -> str:
            tree = folder / str(number)
            shutil.copytree(ROOT / "cuda", tree / "cuda", ignore=shutil.ignore_patterns("build"))
            if mistake:
                path = tree / "cuda/kernels" / mistake.file
                text = path.read_text()
                if text.count(mistake.old) != 1:
                    return "DOES NOT APPLY"
                if number > options.least and time.monotonic() > deadline:
                    shutil.rmtree(tree)
                    return NO_TIME
                path.write_text(text.replace(mistake.old, mistake.new))
            program = build(options.compiler, objects, tree, family)
            words = complaint(program, family) if program else "DOES NOT BUILD"
            shutil.rmtree(tree)
            return words

        clean = judge(0, None)
        if clean:
            sys.exit(f"the tests fail without any mistake: {clean}")
        failures: list[str] = []
        skipped = 0
        with ThreadPoolExecutor(options.j) as pool:
            results = pool.map(judge, range(1, len(mistakes) + 1), mistakes)
            for mistake, words in zip(mistakes, results, strict=True):
                if words == NO_TIME:
                    print(f"{NO_TIME}: {mistake.what}", flush=True)
                    skipped += 1
                    continue
                noticed = words and not words.startswith("DOES NOT")
                explained = not words and bool(mistake.survives)
                verdict = "noticed" if noticed else words or "NOT NOTICED"
                if not noticed and not explained:
                    failures.append(f"{verdict}: {mistake.what}")
                if explained:
                    verdict, words = "explained", mistake.survives
                seconds = time.monotonic() - start
                print(f"{verdict:14} {seconds:5.0f} s  {mistake.what}: {words[:150]}", flush=True)
    for failure in failures:  # once more, where a shortened log still shows them
        print(failure)
    passed = len(mistakes) - len(failures) - skipped
    print(f"{passed} passed, {len(failures)} failed, {skipped} skipped in {len(mistakes)} mistakes")
    return 1 if failures else 0

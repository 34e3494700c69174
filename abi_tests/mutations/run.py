#!/usr/bin/env python3
"""Plants mistakes in a copy of the library, one at a time, and expects the tests to notice.

    run.py --programs DIR [--only REGEX] [--seconds N]

DIR is where the test programs (test_numerics and so on) were built. The library is copied to a
scratch folder, built there, and put in the programs' way with LD_LIBRARY_PATH. Exits with 1 if a
mistake goes unnoticed or does not apply any more, or if the copy without mistakes does not pass.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from planted import MISTAKES, Mistake

ROOT = Path(__file__).resolve().parents[2]
PROGRAM_LIMIT = 300  # seconds


class Copy:
    """The library's source in a scratch folder, with its build beside it."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.build = folder / "build"
        for name in ("src", "include", "pkgconfig"):
            shutil.copytree(ROOT / name, self.source / name)
        shutil.copy(ROOT / "CMakeLists.txt", self.source)
        configure = ["cmake", "-S", str(self.source), "-B", str(self.build), "-G", "Ninja"]
        subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=Release"], check=True, capture_output=True)

    def builds(self) -> bool:
        command = ["cmake", "--build", str(self.build), "--target", "attn", "attn-info"]
        done = subprocess.run(
            [*command, "-j", str(os.cpu_count() or 1)], capture_output=True, text=True
        )
        if done.returncode != 0:
            print(done.stdout + done.stderr)
        return done.returncode == 0

    def instruction_sets(self) -> set[str]:
        """The ones that this machine has."""
        info = subprocess.run(
            [str(self.build / "attn-info")], check=True, capture_output=True, text=True
        )
        return set(re.findall(r"^  (\w+) +yes", info.stdout, re.MULTILINE))

    def notices(self, program: Path) -> bool:
        """Whether a test of the program fails with this library; stops at the first that does."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.build)}
        process = subprocess.Popen(
            [str(program)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        limit = threading.Timer(PROGRAM_LIMIT, process.kill)  # one that hangs says nothing
        limit.start()
        started = False
        assert process.stdout
        for line in process.stdout:
            started = started or "[ RUN      ]" in line
            if "[  FAILED  ]" in line:
                process.kill()
                break
        code = process.wait()
        limit.cancel()
        if not started:
            sys.exit(f"{program} did not start: {code}")
        return code != 0


def plant(copy: Copy, mistake: Mistake) -> str | None:
    """The file's text before the mistake, or None if it does not apply."""
    path = copy.source / mistake.file
    text = path.read_text()
    if text.count(mistake.old) != 1:
        return None
    path.write_text(text.replace(mistake.old, mistake.new))
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True, help="folder of the test programs")
    parser.add_argument("--only", default="", help="only mistakes whose name matches this")
    parser.add_argument("--seconds", type=int, help="skip what is left after so long, in words")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds if options.seconds else float("inf")
    mistakes = [mistake for mistake in MISTAKES if re.search(options.only, mistake.what)]
    failures: list[str] = []
    skipped = 0
    with tempfile.TemporaryDirectory(prefix="attn-mutations-") as folder:
        copy = Copy(Path(folder))
        if not copy.builds():
            return 1
        available = copy.instruction_sets()
        for name in sorted({mistake.program for mistake in mistakes}):
            if copy.notices(options.programs / f"test_{name}"):
                sys.exit(f"test_{name} fails without any mistake")
        for mistake in mistakes:
            start = time.monotonic()
            if mistake.isa and mistake.isa not in available:
                print(f"SKIPPED, no {mistake.isa} here: {mistake.what}", flush=True)
                skipped += 1
                continue
            before = plant(copy, mistake)
            if before is not None and start > deadline:
                print(f"SKIPPED, no time left: {mistake.what}", flush=True)
                skipped += 1
                (copy.source / mistake.file).write_text(before)
                continue
            if before is None:
                verdict = "DOES NOT APPLY"
            else:
                if not copy.builds():
                    verdict = "DOES NOT BUILD"
                elif copy.notices(options.programs / f"test_{mistake.program}"):
                    verdict = "noticed"
                else:
                    verdict = "NOT NOTICED"
                (copy.source / mistake.file).write_text(before)
            seconds = time.monotonic() - start
            print(f"{verdict:14} {seconds:5.1f} s  {mistake.what} ({mistake.program})", flush=True)
            if verdict != "noticed":
                failures.append(f"{verdict}: {mistake.what} ({mistake.program})")
    passed = len(mistakes) - len(failures) - skipped
    for failure in failures:  # once more, where nobody overlooks it
        print(failure)
    print(f"{passed} passed, {len(failures)} failed, {skipped} skipped in {len(mistakes)} mistakes")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The examples build against the installed library and do what they say, and the README shows them.

ATTN_PREFIX names the prefix that the library was installed into.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent
ROOT = EXAMPLES.parent
PREFIX = Path(os.environ["ATTN_PREFIX"])


def run(*command: str | Path, **environment: str) -> str:
    """Runs a command that must succeed without a word on stderr; returns its stdout."""
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0 and result.stderr == "", f"{result.stdout}\n{result.stderr}"
    return result.stdout


def pkg_config(*arguments: str) -> list[str]:
    path = PREFIX / "lib" / "pkgconfig"
    return run("pkg-config", *arguments, "attn", PKG_CONFIG_PATH=str(path)).split()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples as CMake builds them with find_package(attn)."""
    build = tmp_path_factory.mktemp("examples")
    run("cmake", "-S", EXAMPLES, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={PREFIX}")
    run("cmake", "--build", build)
    return build


def check_minimal(output: str) -> None:
    """Query 0 weighs the value 3 by a score of 2 / sqrt(8) against five of 0, query 1 by 0."""
    weight = math.exp(2 / math.sqrt(8))
    expected = [3 * weight / (weight + 5), 3 / 6]
    assert [float(x) for x in output.split()] == pytest.approx(expected, abs=1e-5)


def test_minimal_c_by_pkg_config(tmp_path: Path) -> None:
    program = tmp_path / "minimal"
    source = EXAMPLES / "c" / "minimal.c"
    run("cc", "-std=c99", source, "-o", program, *pkg_config("--cflags", "--libs"))
    check_minimal(run(program, LD_LIBRARY_PATH=str(PREFIX / "lib")))


def test_minimal_c_static(tmp_path: Path) -> None:
    """Into the program itself, by the C compiler alone: there is no C++ run-time library to add."""
    program = tmp_path / "minimal"
    source = EXAMPLES / "c" / "minimal.c"
    flags = pkg_config("--static", "--cflags", "--libs")
    flags[flags.index("-lattn")] = "-l:libattn.a"
    run("cc", "-std=c99", source, "-o", program, *flags)
    check_minimal(run(program))


def test_minimal_c_by_cmake(programs: Path) -> None:
    check_minimal(run(programs / "minimal"))


def test_minimal_cpp(programs: Path) -> None:
    check_minimal(run(programs / "minimal_cpp"))


def test_plan(programs: Path) -> None:
    assert run(programs / "plan") == "1 0\n"


def test_dlopen(programs: Path) -> None:
    output = run(programs / "dlopen", PREFIX / "lib" / "libattn.so")
    assert re.match(
        r"libattn \d+\.\d+\.\d+, instruction set \w+\nthe mean of 1 and 2 is 1.5\n", output
    )
    assert output == run(programs / "dlopen", LD_LIBRARY_PATH=str(PREFIX / "lib"))


def test_dlopen_tells_what_is_missing(programs: Path) -> None:
    absent = subprocess.run([programs / "dlopen", "/nowhere/libattn.so"], capture_output=True)
    assert absent.returncode == 1 and b"/nowhere/libattn.so" in absent.stderr
    foreign = subprocess.run([programs / "dlopen", "libm.so.6"], capture_output=True, text=True)
    assert foreign.returncode == 1
    assert "lacks attn_attention" in foreign.stderr and "too old" in foreign.stderr


def test_decode(programs: Path) -> None:
    assert "prefill of 100 and decode of 16 tokens" in run(programs / "decode")


def test_paged(programs: Path) -> None:
    expected = "20 steps of 3 sequences in 9 pages: the same bits as each alone\n"
    assert run(programs / "paged") == expected
    assert run(sys.executable, EXAMPLES / "python" / "paged.py") == expected


def test_executor(programs: Path) -> None:
    assert run(programs / "executor") == "3 workers of the host: the same bits as one thread\n"


def test_results(programs: Path) -> None:
    refused, accepted = run(programs / "results").splitlines()
    assert refused.startswith("ATTN_ERROR_INVALID_ARGUMENT: ") and "heads_kv" in refused
    assert accepted == "accepted"


def test_minimal_python() -> None:
    output = run(sys.executable, EXAMPLES / "python" / "minimal.py")
    assert output == "(1, 8, 128, 64) float32 True\n"


def test_cascade() -> None:
    output = run(sys.executable, EXAMPLES / "python" / "cascade.py")
    assert output == "prefix of 512 keys read once for 16 sequences: merged as computed whole\n"


def test_refused() -> None:
    output = run(sys.executable, EXAMPLES / "python" / "refused.py")
    assert "\nchosen: standard\n" in output
    reason = "head_dim is 2048; flash serves 1 to 1024"
    assert f"\nnot flash: {reason}\n" in output
    assert output.endswith(
        f"ATTN_ERROR_UNSUPPORTED: backend 'flash' was asked for, but: {reason}\n"
    )


def test_minimal_rust() -> None:
    program = ["cargo", "run", "--quiet", "--locked", "--package", "attn-examples"]
    lib = PREFIX / "lib"
    path = {"PKG_CONFIG_PATH": str(lib / "pkgconfig"), "LD_LIBRARY_PATH": str(lib)}
    check_minimal(run("env", "-C", ROOT / "bindings" / "rust", *program, **path))


def test_minimal_go() -> None:
    lib = PREFIX / "lib"
    path = {"PKG_CONFIG_PATH": str(lib / "pkgconfig"), "LD_LIBRARY_PATH": str(lib)}
    program = run("env", "-C", EXAMPLES / "go", "go", "run", ".", GOTOOLCHAIN="local", **path)
    check_minimal(program)


def test_attn_info() -> None:
    info = PREFIX / "bin" / "attn-info"
    version = run(info, "--version").strip()
    header = (PREFIX / "include" / "attn" / "attn.h").read_text()
    assert version == ".".join(
        re.findall(r"#define ATTN_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    )
    output = run(info)
    assert f"libattn {version}" in output
    for name in ("scalar", "avx512", "neon", "standard", "flash"):
        assert re.search(rf"^  {name} +(yes|no  +\S)", output, re.MULTILINE), name
    assert "usage" in run(info, "--help")
    assert subprocess.run([info, "--nonsense"], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    "name", ["c/minimal.c", "python/minimal.py", "rust/minimal.rs", "go/minimal.go"]
)
def test_readme_shows_the_tested_file(name: str) -> None:
    blocks = re.findall(r"```\w*\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert (EXAMPLES / name).read_text() in blocks


def test_readme_programs_are_short() -> None:
    assert len((EXAMPLES / "c" / "minimal.c").read_text().splitlines()) <= 15
    python = (EXAMPLES / "python" / "minimal.py").read_text().splitlines()
    assert sum(line != "" for line in python) <= 5

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

import attn
import numpy as np
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
    assert foreign.returncode == 1 and "is no libattn" in foreign.stderr


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("ATTN_VERSION", ["lacks attn_context_create", "lacks attn_attention", "too old"]),
        ("ATTN_VERSION + 1000", ["is version ", "; this program was compiled for "]),
    ],
)
def test_dlopen_of_another_version(
    programs: Path, tmp_path: Path, version: str, words: list[str]
) -> None:
    source, library = tmp_path / "other.c", tmp_path / "libattn.so"
    source.write_text(
        f"#include <attn/attn.h>\nint32_t attn_version(void) {{ return {version}; }}\n"
    )
    run("cc", "-shared", "-fPIC", source, "-o", library, *pkg_config("--cflags"))
    other = subprocess.run([programs / "dlopen", library], capture_output=True, text=True)
    assert other.returncode == 1
    for part in words:
        assert part in other.stderr


def test_decode(programs: Path) -> None:
    assert "prefill of 100 and decode of 16 tokens" in run(programs / "decode")


def test_paged(programs: Path) -> None:
    expected = "20 steps of 3 sequences in 9 pages: the same bits as each alone\n"
    assert run(programs / "paged") == expected
    assert run(sys.executable, EXAMPLES / "python" / "paged.py") == expected


def test_executor(programs: Path) -> None:
    assert run(programs / "executor") == "3 workers of the host: the same bits as one thread\n"


def test_cascade(programs: Path) -> None:
    """It compares its result with the plain call's itself."""
    first, second = run(programs / "cascade").splitlines()
    assert re.match(r"16 requests, a prefix of 4096 keys shared: largest difference \S+$", first)
    assert re.match(r"a step takes [\d.]+ ms plainly, [\d.]+ ms with the prefix read once$", second)
    output = run(sys.executable, EXAMPLES / "python" / "cascade.py")
    assert output == "prefix of 512 keys read once for 16 sequences: merged as computed whole\n"


def test_results(programs: Path) -> None:
    refused, accepted = run(programs / "results").splitlines()
    assert refused.startswith("ATTN_ERROR_INVALID_ARGUMENT: ") and "heads_kv" in refused
    assert accepted == "accepted"


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of libattn_plain.so, as its own project builds it."""
    build = tmp_path_factory.mktemp("plugin")
    source = EXAMPLES / "plugin"
    run("cmake", "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={PREFIX}")
    run("cmake", "--build", build)
    return build


def test_plugin_stands_alone(plugins: Path) -> None:
    plugin = plugins / "libattn_plain.so"
    assert "libattn" not in "".join(re.findall(r"NEEDED.*", run("readelf", "-d", plugin)))
    symbols = run("nm", "-D", "--defined-only", plugin).split("\n")
    assert [line.split()[-1] for line in symbols if line] == ["attn_backend_v1"]
    header = (EXAMPLES / "plugin" / "plain.c").read_text()
    assert re.findall(r"#include <(attn/.*)>", header) == ["attn/backend.h"]


def test_plugin_is_listed(plugins: Path) -> None:
    output = run(PREFIX / "bin" / "attn-info", ATTN_BACKEND_DIR=str(plugins))
    assert re.search(r"^  plain +yes +an example", output, re.MULTILINE)
    assert "plain" not in run(PREFIX / "bin" / "attn-info")


def test_plugin_computes(plugins: Path) -> None:
    """Forced, it gives what flash gives: grouped heads, strides, LSE, one key and none."""
    context = attn.Context(backend_dir=plugins, num_threads=2)
    rng = np.random.default_rng(1)
    for seqlen_q, seqlen_k in ((5, 33), (1, 1), (3, 0), (40, 100)):
        q = rng.standard_normal((2, seqlen_q, 6, 24), np.float32).transpose(0, 2, 1, 3)
        k = rng.standard_normal((2, 2, seqlen_k, 24), np.float32)[:, :, ::-1]
        v = rng.standard_normal((2, 2, seqlen_k, 7), np.float32)
        expected, expected_lse = attn.attention(q, k, v, lse=True, backend="flash")
        out, lse = attn.attention(q, k, v, lse=True, context=context, backend="plain")
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-5)


def test_plugin_refuses_in_words(plugins: Path) -> None:
    context = attn.Context(backend_dir=plugins)
    problem = {"heads_q": 2, "head_dim": 8, "max_seqlen_q": 4, "max_seqlen_k": 4}
    assert attn.Plan(**problem, backend="plain", context=context).info.backend == "plain"
    for options, words in (
        ({"causal": True}, "features are 0x1"),
        ({"dtype": "bf16"}, "q_dtype is 3"),
        ({"out_dtype": "f16"}, "o_dtype is 2"),
        ({"softcap": 2.5}, "softcap is 2.5"),
        ({"kv_layout": "packed"}, "kv_layout 1"),
        ({"max_seqlen_k": 2**33}, "max_seqlen_k is 8589934592"),
    ):
        with pytest.raises(attn.Unsupported, match=words):
            attn.Plan(**{**problem, **options}, backend="plain", context=context)
    # Where another one is taken first, its turn did not come; where it is refused, it says why.
    wide = attn.Plan(**{**problem, "head_dim": 2000}, causal=True, context=context)
    assert wide.info.backend == "standard" and "0x1" in wide.refusals["plain"]


def test_minimal_python() -> None:
    output = run(sys.executable, EXAMPLES / "python" / "minimal.py")
    assert output == "(1, 8, 128, 64) float32 True\n"


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

"""measure.py without a GPU: on stand-ins for PyTorch and attn whose runs only move a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MEASURE = HERE.parent / "gpu" / "measure.py"
GPU = HERE.parent / "gpu" / "gpu.py"
FOLDER = Path(os.environ.get("ATTN_CUDA_TESTS", "build/cuda_tests/release")).resolve()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name in ("base", "no_pin", "refused"):
        (tmp_path / "variants" / name).mkdir(parents=True)
        (tmp_path / "variants" / name / "libattn_cuda.so").touch()
    return {
        **os.environ,
        "PYTHONPATH": str(HERE / "stubs"),
        "ATTN_CUDA_VARIANTS": str(tmp_path / "variants"),
        "STUB_LOG": str(tmp_path / "log"),
    }


def measure(env: dict[str, str], *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, MEASURE, *arguments], env=env, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def figures(env: dict[str, str], part: str, case: str) -> dict[str, float]:
    found = json.loads(measure(env, part, case).splitlines()[-1])
    assert found["status"] == ("measured" if found["figures"] else "refused")
    return found["figures"]


@pytest.mark.parametrize("mask", ("full", "causal"))
def test_work_and_time(env: dict[str, str], mask: str) -> None:
    """4 B H S^2 D operations, half of them with a causal mask; 1, 2, 4 and 8 ms."""
    found = figures(env, "bench", f"bf16-d128-{mask}-4096")
    work = 4 * 4 * 16 * 4096**2 * 128 / (2 if mask == "causal" else 1) / 1e12
    expected = {
        "attn": work / 1e-3,
        "cudnn": work / 2e-3,
        "flash": work / 4e-3,
        "math": work / 8e-3,
    }
    assert found == pytest.approx(expected)


def test_runs_take_turns(env: dict[str, str]) -> None:
    figures(env, "bench", "f16-d64-full-1024")
    log = Path(env["STUB_LOG"]).read_text().split("\n")[:-1]
    turn = ["attn", "CUDNN_ATTENTION", "FLASH_ATTENTION", "MATH"]
    assert log == turn[1:] + turn * 18  # each peer was tried once


def test_scores_that_fill_the_memory_are_left_out(env: dict[str, str]) -> None:
    assert set(figures(env, "bench", "bf16-d256-full-16384")) == {"attn", "cudnn", "flash"}


def test_packed_beside_equal_lengths(env: dict[str, str]) -> None:
    """Twice the time for the same work."""
    found = figures(env, "bench", "bf16-d128-causal-packed")
    assert found["packed"] / found["equal"] == pytest.approx(0.5, rel=1e-3)


def test_sweep(env: dict[str, str]) -> None:
    cases = measure(env, "list", "sweep").split()
    assert "bf16-d128-causal-8192-no_pin" in cases and len(cases) == 3 * 2 * 2
    found = figures(env, "sweep", "bf16-d128-causal-8192-no_pin")
    assert found["base"] / found["no_pin"] == pytest.approx(2)
    assert figures(env, "sweep", "bf16-d128-causal-8192-refused") == {}


def test_ceilings(env: dict[str, str]) -> None:
    product = figures(env, "ceilings", "matrix-product")
    assert product == pytest.approx({"TFLOP/s": 2 * 8192**3 / 1e-3 / 1e12})
    assert figures(env, "ceilings", "reduction") == pytest.approx({"TB/s": 2**32 / 1e-3 / 1e12})
    assert figures(env, "ceilings", "host-time")["us"] > 0


def test_every_case_is_named_once(env: dict[str, str]) -> None:
    for part in ("bench", "sweep", "ceilings"):
        cases = measure(env, "list", part).split()
        assert cases and len(cases) == len(set(cases))


def test_bad_arguments(env: dict[str, str]) -> None:
    for arguments in ([], ["list", "nothing"], ["nothing", "case"], ["bench"]):
        run = subprocess.run([sys.executable, MEASURE, *arguments], env=env, capture_output=True)
        assert run.returncode == 2


def test_serving_goes_on_whatever_becomes_of_a_case(env: dict[str, str]) -> None:
    """Cases that raise, hang and crash are told apart; the next one is measured."""
    cases = ["bench nonsense", "ceilings matrix-product", "bench bf16-d64-full-1024"]
    cases += ["ceilings reduction"]
    run = subprocess.run(
        [sys.executable, MEASURE, "serve", "1"],
        input="\n".join(cases) + "\n",
        env={**env, "STUB_HANGS": "matmul", "STUB_CRASHES": "attn"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [f["status"] for f in found] == ["error", "timeout", "error", "measured"]
    assert "ValueError" in found[0]["words"] and "SIGSEGV" in found[2]["words"]


def test_the_whole_command(env: dict[str, str], tmp_path: Path) -> None:
    """./dev gpu with two parts: all results, in the text, the JSON and the picture."""
    (tmp_path / "gpu_runner").symlink_to(FOLDER / "gpu/gpu_runner")
    command = [sys.executable, GPU, "--kit", tmp_path, "--out", tmp_path / "out"]
    command += ["--only", "d128-full-8192"]
    run = subprocess.run(
        [*command, "bench", "sweep"],
        env={**env, "LD_LIBRARY_PATH": str(FOLDER / "driver")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 measured, 1 refused" in run.stdout
    found = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert [r["part"] for r in found] == ["bench", "bench", "sweep", "sweep"]
    assert "cudnn" in (tmp_path / "out/results.txt").read_text()
    picture = (tmp_path / "out/results.svg").read_text()
    assert picture.count("<rect") == 1 + 4 + 2 * 4 and "bf16-d128-full-8192" in picture

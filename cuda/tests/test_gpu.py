"""./dev gpu where there is no GPU: it says so; cases that hang, crash or are wrong are told apart.

ATTN_CUDA_TESTS names the build folder of cuda/tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

GPU = Path(__file__).resolve().parent.parent / "gpu" / "gpu.py"
FOLDER = Path(os.environ.get("ATTN_CUDA_TESTS", "build/cuda_tests/release"))
RUNNER = FOLDER / "gpu_runner"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", GPU)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    module.LIMIT_S = 2
    return module


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library\n")
    run = subprocess.run(
        [sys.executable, GPU, "--runner", RUNNER, "--out", tmp_path],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "results in" in run.stdout:
        pytest.skip("this machine has a GPU")
    assert run.returncode != 0
    assert "needs an NVIDIA GPU: no NVIDIA driver" in run.stderr


def test_on_a_driver_that_computes_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, GPU, "--runner", RUNNER, "--out", tmp_path, "--only", "f16-d64", "graph"],
        env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "driver")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1, run.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["device"] == "fake GPU 0, driver for CUDA 13.0"
    assert [r["part"] for r in found["results"]] == ["graph"]
    assert found["results"][0]["status"] in ("fail", "refused")
    assert "f16-d64-causal-600" in (tmp_path / "results.txt").read_text()


CASES = {
    "pass": 'echo \'{"status": "pass"}\'',
    "fail": 'echo \'{"status": "fail", "words": "row 3"}\'; exit 1',
    "timeout": "sleep 30",
    "error": "kill -SEGV $$",
}


@pytest.mark.parametrize("status", CASES)
def test_what_becomes_of_a_case(gpu: ModuleType, status: str) -> None:
    result = gpu.run_case("part", "case", ["sh", "-c", CASES[status]], dict(os.environ))
    assert result.status == status
    assert result.words or status == "pass"


def test_a_crash_after_good_words_is_no_pass(gpu: ModuleType) -> None:
    command = ["sh", "-c", CASES["pass"] + "; exit 9"]
    assert gpu.run_case("part", "case", command, dict(os.environ)).status == "fail"


def test_results_are_there_after_each_case(gpu: ModuleType, tmp_path: Path) -> None:
    results = gpu.Results(tmp_path, "a GPU")
    for number in range(3):
        results.add(gpu.Result("bench", f"case {number}", "measured", figures={"attn": number}))
        assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == number + 1
    assert (tmp_path / "results.txt").read_text().count("measured") == 3


def test_every_part_is_described(gpu: ModuleType) -> None:
    wanted = ["conformance", "numerics", "graph", "streams", "sanitizer", "ceilings", "sweep"]
    assert list(gpu.PARTS) == [*wanted, "bench"]

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
    wanted = ["conformance", "numerics", "ceilings", "bench", "sweep", "graph", "streams"]
    assert list(gpu.PARTS) == [*wanted, "sanitizer"]


def test_what_the_watchdog_said_is_kept(gpu: ModuleType) -> None:
    line = "watchdog: mbarrier at byte 82032, phase of parity 1, CTA 3, thread 5"
    for end in ('echo \'{"status": "error", "words": "lost"}\'; exit 2', "kill -SEGV $$"):
        command = ["sh", "-c", f"echo '{line}'; echo '{line}'; {end}"]
        result = gpu.run_case("part", "case", command, dict(os.environ))
        assert result.status == "error" and result.words.endswith(line)
        assert result.words.count("watchdog") == 1


def run_gpu(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, GPU, "--runner", RUNNER, "--out", tmp_path, *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "driver")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_time_left(tmp_path: Path) -> None:
    run = run_gpu(tmp_path, "--seconds", "0.001", "graph")
    assert run.returncode == 1 and "5 skipped" in run.stdout
    assert (tmp_path / "results.txt").read_text().count("no time left") == 5


def test_no_such_part(tmp_path: Path) -> None:
    run = run_gpu(tmp_path, "everything")
    assert run.returncode == 2 and "no such part: everything" in run.stderr


def test_what_a_part_lacks(tmp_path: Path) -> None:
    empty = str(tmp_path / "nothing")
    run = run_gpu(tmp_path, "--images", empty, "--variants", empty, "conformance", "sweep")
    assert run.returncode == 1 and "2 missing" in run.stdout
    assert "./dev build cuda" in run.stdout and "attn_cuda_variants" in run.stdout


def test_primitives_of_a_driver_that_computes_nothing(tmp_path: Path) -> None:
    """Each one differs, and none is good by chance."""
    images = Path(os.environ.get("ATTN_CUDA_BUILD", "build/release/cuda")) / "images"
    run = run_gpu(tmp_path, "--images", str(images), "conformance")
    assert run.returncode == 1, run.stderr
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert len(found) > 40 and {r["status"] for r in found} == {"fail"}
    assert all("words differ" in r["words"] for r in found)

"""./dev gpu where there is no GPU: it says so; cases that hang, crash or are wrong are told apart.

ATTN_CUDA_TESTS names the build folder of cuda/tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GPU = Path(__file__).resolve().parent.parent / "gpu" / "gpu.py"
FOLDER = Path(os.environ.get("ATTN_CUDA_TESTS", "build/cuda_tests/release")).resolve()
BUILD = Path(os.environ.get("ATTN_CUDA_BUILD", "build/release/cuda")).resolve()
PREFIX = Path(os.environ.get("ATTN_PREFIX", "build/prefix")).resolve()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", GPU)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    module.LIMIT_S = 2
    return module


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """As ./dev build gpu makes it, but for what Python needs."""
    folder = tmp_path / "kit"
    (folder / "lib").mkdir(parents=True)
    for file in (*(PREFIX / "lib").glob("libattn.so.*"), PREFIX / "lib/libattn_cuda.so"):
        (folder / "lib" / file.name).symlink_to(file)
    (folder / "gpu_runner").symlink_to(FOLDER / "gpu/gpu_runner")
    return folder


def run_gpu(kit: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, GPU, "--kit", kit, "--out", kit.parent / "out", *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(FOLDER / "driver"), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def results(kit: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((kit.parent / "out/results.json").read_text())[
        "results"
    ]
    return found


def test_attn_info_tells_the_plugins_state(tmp_path: Path) -> None:
    """On any machine: without a driver, with one that does not load, with one, without a plugin."""
    (tmp_path / "libcuda.so.1").write_text("no library\n")
    states = {
        (str(tmp_path), str(PREFIX / "lib")): "no   the NVIDIA driver does not load: ",
        (str(FOLDER / "driver"), str(PREFIX / "lib")): "yes  NVIDIA GPUs from compute capability",
        (str(FOLDER / "driver"), str(tmp_path)): "no   ",
    }
    for (driver, backends), words in states.items():
        run = subprocess.run(
            [PREFIX / "bin/attn-info"],
            env={**os.environ, "LD_LIBRARY_PATH": driver, "ATTN_BACKEND_DIR": backends},
            capture_output=True,
            text=True,
            timeout=60,
        )
        (line,) = [line for line in run.stdout.splitlines() if line.startswith("  cuda ")]
        assert line.partition("cuda")[2].strip().startswith(words), run.stdout
        assert len(line.split()) > 4  # a reason


def test_without_a_driver_it_says_so(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library\n")
    run = run_gpu(kit, LD_LIBRARY_PATH=str(tmp_path))
    if "results in" in run.stdout:
        pytest.skip("this machine has a GPU")
    assert run.returncode != 0
    assert "needs an NVIDIA GPU: no NVIDIA driver" in run.stderr


def test_without_a_kit_it_says_so(tmp_path: Path) -> None:
    run = run_gpu(tmp_path / "nothing")
    assert run.returncode == 3
    assert "gpu_runner" in run.stderr


def test_on_a_driver_that_computes_nothing(kit: Path) -> None:
    run = run_gpu(kit, "--only", "f16-d64", "graph")
    assert run.returncode == 1, run.stderr
    out = kit.parent / "out"
    assert json.loads((out / "results.json").read_text())["device"] == (
        "fake GPU 0, driver for CUDA 13.0"
    )
    (found,) = results(kit)
    assert found["part"] == "graph" and found["status"] == "fail"
    assert str(found["kernel"]).startswith("attn_wgmma_f16_d64_plain")
    assert "f16-d64-causal-600" in (out / "results.txt").read_text()
    assert "gpu_runner graph f16-d64-causal-600" in (out / "log.txt").read_text()


CASES = {
    "pass": 'echo \'{"status": "pass"}\'',
    "fail": 'echo \'{"status": "fail", "words": "row 3"}\'; exit 1',
    "timeout": "sleep 300",
    "error": "kill -SEGV $$",
}


def shell(gpu: ModuleType, script: str) -> Any:
    return gpu.run_process(["sh", "-c", script], dict(os.environ))


@pytest.mark.parametrize("status", CASES)
def test_what_becomes_of_a_case(gpu: ModuleType, status: str) -> None:
    result = gpu.judge("part", "case", shell(gpu, CASES[status]))
    assert result.status == status
    assert result.words or status == "pass"


def test_a_case_that_hangs_ends_with_all_that_it_started(gpu: ModuleType) -> None:
    """As a profiler does, which leaves the program that it runs behind."""
    run = shell(gpu, "sleep 300 & echo $!; sleep 300")
    assert run.timed_out
    state = Path(f"/proc/{int(run.stdout)}/stat")
    end = time.monotonic() + 100
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_crash_after_good_words_is_no_pass(gpu: ModuleType) -> None:
    assert gpu.judge("part", "case", shell(gpu, CASES["pass"] + "; exit 9")).status == "fail"


def test_results_are_there_after_each_case(gpu: ModuleType, tmp_path: Path) -> None:
    results = gpu.Results(tmp_path, "a GPU")
    for number in range(3):
        results.add(gpu.Result("bench", f"case {number}", "measured", figures={"attn": number}))
        assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == number + 1
    assert (tmp_path / "results.txt").read_text().count("measured") == 3


def test_what_the_watchdog_said_is_kept(gpu: ModuleType) -> None:
    line = "watchdog: mbarrier at byte 82032, phase of parity 1, CTA 3, thread 5"
    for end in ('echo \'{"status": "error", "words": "lost"}\'; exit 2', "kill -SEGV $$"):
        result = gpu.judge("part", "case", shell(gpu, f"echo '{line}'; echo '{line}'; {end}"))
        assert result.status == "error" and result.words.endswith(line)
        assert result.words.count("watchdog") == 1


def test_no_time_left(kit: Path) -> None:
    run = run_gpu(kit, "--seconds", "0.001", "graph", "streams")
    assert run.returncode == 1 and "10 skipped" in run.stdout
    assert {r["words"] for r in results(kit)} == {"no time left"}


def test_parts_share_the_time(kit: Path) -> None:
    """By estimate, which each part tells; none takes what the later ones need."""
    run = run_gpu(kit, "--seconds", "6", "--only", "f16-d64", "graph", "numerics")
    assert "numerics: 12 cases, " in run.stdout and "graph: 1 cases, " in run.stdout
    parts = {r["part"] for r in results(kit) if r["status"] == "fail"}
    assert parts == {"graph", "numerics"}


def test_no_such_part(kit: Path) -> None:
    run = run_gpu(kit, "everything")
    assert run.returncode == 2 and "no such part: everything" in run.stderr


def test_what_a_part_lacks(kit: Path) -> None:
    """In words; the others run."""
    run = run_gpu(kit, "conformance", "sweep", "graph", "--only", "f32", PATH="/usr/bin:/bin")
    assert run.returncode == 1
    assert [r["status"] for r in results(kit)] == ["missing", "missing", "fail"]
    assert run.stdout.count("./dev build gpu") == 2


@pytest.mark.parametrize("module", ("torch", "attn"))
def test_python_packages_that_do_not_load(kit: Path, tmp_path: Path, module: str) -> None:
    for name in ("torch", "attn"):
        (tmp_path / f"{name}.py").write_text(
            "raise ImportError('no module for tests')"
            if name == module
            else "class cuda: is_available = staticmethod(lambda: True)"
        )
    run = run_gpu(kit, "ceilings", "bench", PYTHONPATH=str(tmp_path))
    assert run.returncode == 1
    for part in ("bench",) if module == "attn" else ("bench", "ceilings"):
        (found,) = [r for r in results(kit) if r["part"] == part]
        assert found["status"] == "missing" and "no module for tests" in str(found["words"])


def test_a_part_that_breaks_costs_itself_alone(
    gpu: ModuleType, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.Setting, "run_part", lambda *arguments: 1 / 0)
    monkeypatch.setattr(gpu, "LIMIT_S", 20)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(FOLDER / "driver"))
    out = str(kit.parent / "out")
    monkeypatch.setattr(sys, "argv", ["", "--kit", str(kit), "--out", out, "graph", "streams"])
    assert gpu.main() == 1
    assert [r["status"] for r in results(kit)] == ["error", "error"]


def test_primitives_of_a_driver_that_computes_nothing(kit: Path) -> None:
    """Each one differs, and none is good by chance."""
    (kit / "lib/images").symlink_to(BUILD / "images")
    run = run_gpu(kit, "conformance")
    assert run.returncode == 1, run.stderr
    found = results(kit)
    assert len(found) > 40 and {r["status"] for r in found} == {"fail"}
    assert all("words differ" in str(r["words"]) for r in found)


# ---- compute-sanitizer and ncu, by programs that speak as they do


def stand_in(folder: Path, name: str, script: str) -> str:
    """A path with a program of that name before all others."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


# Says what `summary` says and passes the runner's exit code on, or 9 if something was found.
SANITIZER = """
[ "$1$3$5" = --tool--print-limit--error-exitcode ] || exit 64
tool=$2 found=$(printf '%s' "{found}" | grep -c "$2")
echo '========= COMPUTE-SANITIZER'
echo '{verdict}'
if [ $found = 1 ]; then
  echo "========= Error: $tool found something"
  echo "========= $tool SUMMARY: 3 errors"
  exit 9
fi
echo "========= $tool SUMMARY: 0 errors"
exit {code}
"""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("", {"pass"}),
        ("memcheck", {"pass", "fail"}),
        ("synccheck initcheck", {"pass", "fail"}),
        ("racecheck", {"pass", "reported"}),
    ],
)
def test_sanitizers(kit: Path, tmp_path: Path, found: str, expected: set[str]) -> None:
    """Races are reported; what the other tools find is a failure."""
    script = SANITIZER.format(found=found, verdict='{"status": "pass"}', code=0)
    path = stand_in(tmp_path / "bin", "compute-sanitizer", script)
    run = run_gpu(kit, "sanitizer", "--only", "f32", PATH=path)
    assert {r["status"] for r in results(kit)} == expected, run.stdout
    assert run.returncode == (1 if "fail" in expected else 0)
    for r in results(kit):
        tool = str(r["case"]).partition("-")[0]
        assert (r["status"] == "pass") == (tool not in found)
        assert r["status"] == "pass" or r["words"] == f"{tool} SUMMARY: 3 errors"
    assert ("found something" in log(kit)) == bool(found)


def log(kit: Path) -> str:
    file = kit.parent / "out/log.txt"
    return file.read_text() if file.exists() else ""


def test_wrong_results_under_a_sanitizer(kit: Path, tmp_path: Path) -> None:
    """Also racecheck's runs must compute what is right."""
    script = SANITIZER.format(found="", verdict='{"status": "fail", "words": "row 3"}', code=1)
    path = stand_in(tmp_path / "bin", "compute-sanitizer", script)
    run_gpu(kit, "sanitizer", "--only", "f32", PATH=path)
    assert {(r["status"], r["words"]) for r in results(kit)} == {("fail", "row 3")}


@pytest.mark.parametrize("script", ['echo \'{"status": "pass"}\'', "exit 1"])
def test_a_sanitizer_without_a_verdict_passes_nothing(
    kit: Path, tmp_path: Path, script: str
) -> None:
    run_gpu(kit, "sanitizer", PATH=stand_in(tmp_path / "bin", "compute-sanitizer", script))
    assert {r["status"] for r in results(kit)} == {"error"}


def test_a_sanitizer_that_cannot_work(kit: Path, tmp_path: Path) -> None:
    script = "echo '========= Error: Device not supported. Please refer to the manual'; exit 1"
    run = run_gpu(kit, "sanitizer", PATH=stand_in(tmp_path / "bin", "compute-sanitizer", script))
    assert run.returncode == 1 and " missing, " in run.stdout and " skipped" in run.stdout
    assert {r["status"] for r in results(kit)} == {"missing", "skipped"}
    assert "Device not supported" in str(results(kit)[-1]["words"])


# ncu's log of two kernels, the second one of a split.
TABLE = """==PROF== Connected to process 1
==PROF== Disconnected from process 1
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","attn_a","GPU Speed Of Light Throughput","Duration","us","1,234.5"
"0","attn_a","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","71.25"
"0","attn_a","Launch Statistics","Registers Per Thread","register/thread","168"
"0","attn_a","GPU Speed Of Light Throughput","","","","SOLBottleneck","INF","words"
"1","attn_combine","GPU Speed Of Light Throughput","Duration","us","3.5"
"""


def ncu(body: str) -> str:
    """Takes the options that are given and writes into the log that is named."""
    return f"""
[ "$1 $2" = "--clock-control none" ] || exit 64
while [ "$1" != --log-file ]; do shift; done
log=$2; shift 2
{body}
"""


def test_profile(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "table").write_text(TABLE)
    script = ncu(f'cp {tmp_path}/table "$log"; exec "$@"')
    run = run_gpu(
        kit, "profile", "--only", "d128-bias", PATH=stand_in(tmp_path / "bin", "ncu", script)
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (found,) = results(kit)
    assert found["status"] == "measured"
    assert str(found["kernel"]).startswith("attn_mma_bf16_d128_q128_features")
    assert found["figures"] == {
        "time us": 1234.5, "compute %": 71.25, "registers": 168, "time us of attn_combine": 3.5
    }  # fmt: skip
    assert TABLE in (kit.parent / "out/profile.csv").read_text()


def test_profile_without_permission(kit: Path, tmp_path: Path) -> None:
    """The runner passes, and yet nothing was measured: skipped in words, no pass."""
    words = "ERR_NVGPUCTRPERM - The user does not have permission"
    script = ncu(f'echo \'==ERROR== {words}\' >"$log"; echo \'{{"status": "pass"}}\'; exit 1')
    run = run_gpu(kit, "profile", PATH=stand_in(tmp_path / "bin", "ncu", script))
    assert run.returncode == 1
    statuses = [r["status"] for r in results(kit)]
    assert statuses == ["missing"] + ["skipped"] * 6
    assert all(words in str(r["words"]) for r in results(kit))


def test_profile_without_ncu(gpu: ModuleType, kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_tool", lambda name: "")
    empty = gpu.Results(kit.parent / "out", "a GPU")
    setting = gpu.Setting(kit / "gpu_runner", {}, kit, kit, empty)
    assert setting.missing("profile") == "ncu (Nsight Compute) is not installed"


@pytest.mark.parametrize("body", [': >"$log"; exec "$@"', 'exec "$@"', "kill -9 $$"])
def test_profile_without_figures(kit: Path, tmp_path: Path, body: str) -> None:
    run = run_gpu(
        kit, "profile", "--only", "bias", PATH=stand_in(tmp_path / "bin", "ncu", ncu(body))
    )
    assert run.returncode == 1
    assert [r["status"] for r in results(kit)] == ["error"]

"""Fresh projects outside of the tree, one in each language, consume the installed library as the
README says.

ATTN_PREFIX names the prefix that the library was installed into.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PREFIX = Path(os.environ["ATTN_PREFIX"])
# What a shell has whose user installed the library there.
INSTALLED = {
    "PKG_CONFIG_PATH": str(PREFIX / "lib/pkgconfig"),
    "LD_LIBRARY_PATH": str(PREFIX / "lib"),
    "CMAKE_PREFIX_PATH": str(PREFIX),
}
# What a program needs that has the library in itself.
LINKED_IN = {**INSTALLED, "LD_LIBRARY_PATH": ""}


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """Runs a command in a folder; it must succeed. Returns its stdout."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def check(output: str) -> None:
    """Of the minimal programs: query 0 weighs 3 by a score of 2 / sqrt(8) against five of 0."""
    weight = math.exp(2 / math.sqrt(8))
    assert [float(x) for x in output.split()] == pytest.approx(
        [3 * weight / (weight + 5), 3 / 6], abs=1e-5
    )


def needed(program: Path) -> str:
    return run(program.parent, "readelf", "-d", program)


@pytest.mark.parametrize(
    ("source", "compiler"), [("c/minimal.c", "cc"), ("cpp/minimal.cpp", "c++ -std=c++17")]
)
def test_pkg_config(tmp_path: Path, source: str, compiler: str) -> None:
    shutil.copy(EXAMPLES / source, tmp_path)
    build = f"{compiler} minimal.c* -o minimal $(pkg-config --cflags --libs attn)"
    run(tmp_path, "sh", "-c", build, **INSTALLED)
    assert "libattn.so" in needed(tmp_path / "minimal")
    check(run(tmp_path, "./minimal", **INSTALLED))


@pytest.mark.parametrize("flags", ["-Wl,-Bstatic -lattn -Wl,-Bdynamic", "-static -lattn"])
def test_c_by_pkg_config_static(tmp_path: Path, flags: str) -> None:
    """libattn.a in a program that has the other libraries as files, and in one that has none."""
    shutil.copy(EXAMPLES / "c/minimal.c", tmp_path)
    build = f"""flags=$(pkg-config --static --cflags --libs attn) &&
      cc minimal.c -o minimal $(echo "$flags" | sed 's/-lattn/{flags}/')"""
    run(tmp_path, "sh", "-c", build, **INSTALLED)
    assert "libattn" not in needed(tmp_path / "minimal")
    check(run(tmp_path, "./minimal", **LINKED_IN))


CMAKE = """cmake_minimum_required(VERSION 3.25)
project(fresh LANGUAGES {language})
find_package(attn 0.1 REQUIRED)
add_executable(shared {source})
target_link_libraries(shared PRIVATE attn::attn)
add_executable(linked_in {source})
target_link_libraries(linked_in PRIVATE attn::attn_static)
"""


@pytest.mark.parametrize("language", ["C", "CXX"])
def test_cmake(tmp_path: Path, language: str) -> None:
    source = "minimal.c" if language == "C" else "minimal.cpp"
    shutil.copy(EXAMPLES / ("c" if language == "C" else "cpp") / source, tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(language=language, source=source))
    run(tmp_path, "cmake", "-B", "build", "-G", "Ninja", **INSTALLED)
    run(tmp_path, "cmake", "--build", "build")
    assert "libattn.so" in needed(tmp_path / "build/shared")
    assert "libattn" not in needed(tmp_path / "build/linked_in")
    check(run(tmp_path, "build/shared"))
    check(run(tmp_path, "build/linked_in", **LINKED_IN))


def test_python(tmp_path: Path) -> None:
    run(tmp_path, "/usr/bin/python3", "-m", "venv", "venv")
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run(tmp_path, "venv/bin/pip", *install, ROOT / "bindings/python", ATTN_PREFIX=str(PREFIX))
    shutil.copy(EXAMPLES / "python/minimal.py", tmp_path)
    assert run(tmp_path, "venv/bin/python", "minimal.py") == "(1, 8, 128, 64) float32 True\n"


def test_rust(tmp_path: Path) -> None:
    """With the workspace's profile and folder, where what it depends on is built already."""
    workspace, target = ROOT / "bindings/rust", ROOT / "build/rust"
    environment = {**INSTALLED, "CARGO_TARGET_DIR": str(target)}
    run(tmp_path, "cargo", "init", "--quiet", "--name", "consumer", "--vcs", "none")
    run(tmp_path, "cargo", "add", "--quiet", "libattn", "--path", workspace / "libattn")
    with (tmp_path / "Cargo.toml").open("a") as manifest:
        manifest.write("[profile.dev]\ndebug = 0\n")
    shutil.copy(workspace / "Cargo.lock", tmp_path)
    shutil.copy(EXAMPLES / "rust/minimal.rs", tmp_path / "src/main.rs")
    run(tmp_path, "cargo", "build", "--quiet", **environment)
    program = target / "debug/consumer"
    assert "libattn.so" in needed(program)
    check(run(tmp_path, program, **INSTALLED))


def test_go(tmp_path: Path) -> None:
    binding = ROOT / "bindings/go"
    environment = {**INSTALLED, "GOTOOLCHAIN": "local"}
    run(tmp_path, "go", "mod", "init", "example.org/fresh", **environment)
    run(
        tmp_path, "go", "mod", "edit", "-require=attn@v0.0.0", f"-replace=attn={binding}",
        **environment,
    )  # fmt: skip
    shutil.copy(EXAMPLES / "go/minimal.go", tmp_path)
    run(tmp_path, "go", "build", "-o", "minimal", ".", **environment)
    assert "libattn.so" in needed(tmp_path / "minimal")
    check(run(tmp_path, "./minimal", **INSTALLED))

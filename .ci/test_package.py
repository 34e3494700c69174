"""What is installed is what was promised: symbols, dependencies, headers, moved prefixes, builds.

ATTN_PREFIX names the prefix that the library was installed into, from build/release.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path(os.environ["ATTN_PREFIX"])
LIBRARY = PREFIX / "lib" / "libattn.so"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")


def run(*command: str | Path, text: str | None = None, **environment: str) -> str:
    """Runs a command that must succeed; returns its stdout."""
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        input=text,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def exported(library: Path) -> set[str]:
    """The dynamic symbols that a library defines, without the version's own (type A)."""
    lines = run("nm", "-D", "--defined-only", library).splitlines()
    return {name.split("@")[0] for _, kind, name in map(str.split, lines) if kind != "A"}


def test_exports_exactly_the_header() -> None:
    header = (PREFIX / "include/attn/attn.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    declared = set(re.findall(r"ATTN_API[^;(]*?\b(attn_\w+)\(", header))
    assert len(declared) > 30
    assert exported(LIBRARY) == declared


def test_needs_libc_libm_and_the_loader_alone() -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", LIBRARY)))
    assert "libc.so.6" in needed
    assert {name.split(".so")[0] for name in needed} <= {"libc", "libm", "ld-linux-x86-64"}


def test_soname_carries_the_minor_version() -> None:
    header = (PREFIX / "include/attn/attn.h").read_text()
    major, minor = re.findall(r"ATTN_VERSION_(?:MAJOR|MINOR) (\d+)", header)
    assert f"[libattn.so.{major}.{minor}]" in run("readelf", "-d", LIBRARY)


def test_objects_of_an_instruction_set_share_nothing() -> None:
    """A weak symbol compiled for AVX-512 could be the one that the linker takes for everybody."""
    objects = list((ROOT / "build/release").glob("**/kernel_*.cpp.o"))
    assert {"kernel_scalar.cpp.o", "kernel_avx2.cpp.o"} <= {path.name for path in objects}
    for path in objects:
        weak = re.findall(r"^\S* [VvWwu] (\S+)$", run("nm", path), re.MULTILINE)
        assert weak == [], path


C_COMPILERS = ("gcc", "-x", "c")
CXX_COMPILERS = ("g++", "-x", "c++")
STANDARDS = [
    *((*C_COMPILERS, f"-std={standard}") for standard in ("c99", "c11", "c17")),
    *((*CXX_COMPILERS, f"-std={standard}") for standard in ("c++11", "c++14", "c++17", "c++20")),
]


@pytest.mark.parametrize("header", ["attn.h", "backend.h"])
@pytest.mark.parametrize("compiler", STANDARDS, ids=lambda c: c[-1])
def test_c_headers_compile(compiler: tuple[str, ...], header: str) -> None:
    source = f"#include <attn/{header}>\nint main(void) {{ return 0; }}\n"
    run(*compiler, *WARNINGS, f"-I{PREFIX}/include", "-fsyntax-only", "-", text=source)


def test_attn_h_includes_two_headers() -> None:
    text = (PREFIX / "include/attn/attn.h").read_text()
    assert re.findall(r"#\s*include (\S+)", text) == ["<stddef.h>", "<stdint.h>"]


@pytest.mark.parametrize("flags", [[], ["-fno-exceptions"], ["-DATTN_NO_EXCEPTIONS"]])
@pytest.mark.parametrize("standard", ["c++17", "c++20", "c++23"])
def test_attn_hpp_compiles(standard: str, flags: list[str]) -> None:
    source = "#include <attn/attn.hpp>\nint main() { return attn::Workspace(64).size() != 64; }\n"
    command = (*CXX_COMPILERS, f"-std={standard}", *WARNINGS, *flags, f"-I{PREFIX}/include")
    run(*command, "-fsyntax-only", "-", text=source)


def test_works_from_another_prefix(tmp_path: Path) -> None:
    """The installed tree may move: pkg-config and CMake find it where it now lies."""
    moved = tmp_path / "somewhere else"
    shutil.copytree(PREFIX, moved, symlinks=True)
    program = tmp_path / "program"
    pc = str(moved / "lib/pkgconfig")
    flags = run("pkg-config", "--cflags", "--libs", "attn", PKG_CONFIG_PATH=pc)
    assert str(PREFIX) not in flags
    source = ROOT / "examples/c/minimal.c"
    run("sh", "-c", f'cc "$1" -o "$2" {flags.strip()}', "sh", source, program)
    run(program, LD_LIBRARY_PATH=str(moved / "lib"))
    build = tmp_path / "build"
    prefix_path = f"-DCMAKE_PREFIX_PATH={moved}"
    run("cmake", "-S", ROOT / "examples", "-B", build, "-G", "Ninja", prefix_path)
    assert str(moved) in run("grep", "^attn_DIR", build / "CMakeCache.txt")


def test_builds_without_threads() -> None:
    """src/ also compiles without a thread pool, and does not miss it."""
    run("cmake", "--preset", "no-threads")
    run("cmake", "--build", "--preset", "no-threads", "-j", str(os.cpu_count()))
    library = ROOT / "build/no-threads/libattn.so"
    undefined = run("nm", "-D", "--undefined-only", library)
    assert "pthread_create" not in undefined
    assert exported(library) == exported(LIBRARY)
    info = run(ROOT / "build/no-threads/attn-info")
    assert "threads: 1\n" in info

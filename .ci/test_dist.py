"""The files of a release, which `./dev build dist` made: complete, small, for glibc 2.28 and later.

Each is used as a stranger would use it: in a fresh environment, with no other library about.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "build" / "dist"
PYTHON = ROOT / "bindings" / "python"
HEADER = (ROOT / "include/attn/attn.h").read_text()
VERSION = ".".join(re.findall(r"#define ATTN_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", HEADER))
SONAME = f"libattn.so.{VERSION.rpartition('.')[0]}"
MACHINE = platform.machine()
LIBRARY = f"libattn-{VERSION}-linux-{MACHINE}"
SDIST = f"attn-{VERSION}"
OLDEST_GLIBC = (2, 28)


def stranger() -> dict[str, str]:
    """The environment of somebody who has no libattn; versions of packages are the pinned ones."""
    ours = re.compile("ATTN_|PKG_CONFIG|LD_LIBRARY_PATH|CMAKE_|PYTHON")
    environment = {name: value for name, value in os.environ.items() if not ours.match(name)}
    pinned = [ROOT / "examples/demo/requirements.txt", ROOT / ".ci/requirements.txt"]
    constraint = " ".join(map(str, pinned))
    return {**environment, "PKG_CONFIG_LIBDIR": "/nonexistent", "PIP_CONSTRAINT": constraint}


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> str:
    """Runs a command that must succeed; returns its stdout."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**stranger(), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def wheel() -> Path:
    (path,) = DIST.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the library's archive and the wheel hold."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(DIST / f"{LIBRARY}.tar.gz") as archive:
        archive.extractall(folder)
    with zipfile.ZipFile(wheel()) as archive:
        archive.extractall(folder / "wheel")
    return folder


def plugin() -> set[str]:
    """The plugin for NVIDIA GPUs, where `./dev build dist cuda` made the files."""
    with zipfile.ZipFile(wheel()) as archive:
        return {"libattn_cuda.so"} & {Path(name).name for name in archive.namelist()}


def binaries(unpacked: Path) -> list[Path]:
    files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [path for path in files if path.read_bytes().startswith(b"\x7fELF")]
    names = {"attn-info", f"libattn.so.{VERSION}", SONAME, "_native.abi3.so"}
    assert {path.name for path in found} == names | plugin()
    return found


def test_names_and_sizes() -> None:
    name = rf"attn-{VERSION}-cp39-abi3-manylinux_(\d+)_(\d+)_{MACHINE}\.whl"
    tag = re.fullmatch(name, wheel().name)
    assert tag is not None, wheel().name
    assert tuple(map(int, tag.groups())) <= OLDEST_GLIBC
    assert wheel().stat().st_size <= (6e6 if plugin() else 3e6)
    names = {wheel().name, f"{SDIST}.tar.gz", f"{LIBRARY}.tar.gz"}
    assert {path.name for path in DIST.iterdir()} == names


def test_symbols_are_of_old_glibc(unpacked: Path) -> None:
    for path in binaries(unpacked):
        lines = run("nm", "-D", "--undefined-only", path).splitlines()
        names = [name for kind, name in map(str.split, lines) if kind == "U"]
        versions = [re.search(r"@GLIBC_(\d+)\.(\d+)", name) for name in names]
        used = [tuple(map(int, version.groups())) for version in versions if version]
        assert used and max(used) <= OLDEST_GLIBC, path
        # What has no version, the loader would look for in vain: all but what Python itself has.
        bare = {name for name in names if "@" not in name}
        assert {name for name in bare if not re.match("_?Py", name)} == set(), path


def test_binaries_need_no_path_of_the_build(unpacked: Path) -> None:
    for path in binaries(unpacked):
        assert str(ROOT).encode() not in path.read_bytes(), path
    module = unpacked / "wheel/attn/_native.abi3.so"
    assert re.findall(r"R(?:UN)?PATH.*\[(.*)\]", run("readelf", "-d", module)) == ["$ORIGIN"]


def test_one_library_in_both(unpacked: Path) -> None:
    library = (unpacked / LIBRARY / f"lib/libattn.so.{VERSION}").read_bytes()
    assert (unpacked / f"wheel/attn/{SONAME}").read_bytes() == library
    for name in plugin():
        library = (unpacked / LIBRARY / "lib" / name).read_bytes()
        assert (unpacked / "wheel/attn" / name).read_bytes() == library


def tracked(folder: Path, *paths: str) -> set[str]:
    """The files of the source tree under `paths`, relative to `folder`."""
    options = ["--cached", "--others", "--exclude-standard", "--deduplicate"]
    return set(run("git", "ls-files", *options, "--", *paths, folder=folder).splitlines())


def test_wheel_is_complete() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if name.startswith(f"attn-{VERSION}.dist-info/")}
    sources = {name.removeprefix("src/") for name in tracked(PYTHON, "src")}
    assert names - info == sources | {"attn/_native.abi3.so", f"attn/{SONAME}"} | {
        f"attn/{name}" for name in plugin()
    }
    assert "attn/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in info)


def test_sdist_is_complete() -> None:
    with tarfile.open(DIST / f"{SDIST}.tar.gz") as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)  # no link out of it
    names = {member.name.removeprefix(f"{SDIST}/") for member in members}
    library = tracked(ROOT, "CMakeLists.txt", "LICENSE", "include", "pkgconfig", "src")
    assert {f"libattn/{name}" for name in library} <= names
    binding = tracked(PYTHON, ".")
    binding = {name for name in binding if not name.startswith(("tests/", "libattn/"))}
    assert binding <= names


def test_library_from_its_archive(unpacked: Path, tmp_path: Path) -> None:
    prefix = unpacked / LIBRARY
    assert (prefix / "share/doc/attn/LICENSE").exists()
    assert run(prefix / "bin/attn-info", "--version") == f"{VERSION}\n"
    pc = str(prefix / "lib/pkgconfig")
    flags = run("pkg-config", "--cflags", "--libs", "attn", PKG_CONFIG_PATH=pc).split()
    program = tmp_path / "minimal"
    run("cc", ROOT / "examples/c/minimal.c", "-o", program, *flags)
    assert run(program, LD_LIBRARY_PATH=str(prefix / "lib")) == "0.865715 0.500000\n"


@pytest.fixture(scope="session", params=["wheel", "sdist"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the package, and what that asked for."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", folder / "venv")
    interpreter = folder / "venv/bin/python"
    pip = (interpreter, "-m", "pip", "--disable-pip-version-check")
    package = wheel()
    if request.param == "sdist":
        # Never a wheel that pip remembers from an sdist of the same name.
        sdist = DIST / f"{SDIST}.tar.gz"
        run(*pip, "wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", folder, sdist)
        (package,) = folder.glob("*.whl")
    run(*pip, "install", package)
    return interpreter


def test_first_program(python: Path, tmp_path: Path) -> None:
    program = ROOT / "examples/python/minimal.py"
    assert run(python, program, folder=tmp_path) == "(1, 8, 128, 64) float32 True\n"


def test_library_is_the_own(python: Path, tmp_path: Path) -> None:
    code = "import attn; print(open('/proc/self/maps').read())"
    maps = run(python, "-c", code, folder=tmp_path)
    used = set(re.findall(r"\S*/libattn\S*", maps))
    (package,) = python.parent.parent.glob("lib/python3*/site-packages/attn")
    assert used == {str(package / SONAME)}


def test_plugin_is_found(python: Path, tmp_path: Path) -> None:
    """Beside the library, without help; where there is no GPU it is refused in words."""
    code = "import attn; print(*[b.reason for b in attn.backends() if b.name == 'cuda'])"
    reason = run(python, "-c", code, folder=tmp_path)
    there = bool(plugin()) and python.parent.parent.parent.name.startswith("wheel")
    assert ("no libattn_cuda.so in" in reason) == (not there), reason
    if there and not Path("/dev/nvidiactl").exists():
        assert reason == "no NVIDIA driver: libcuda.so.1 not found\n"


def test_tests_of_the_binding(python: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "pytest", "ml_dtypes")
    tests = [PYTHON / f"tests/test_{name}.py" for name in ("numerics", "sequences", "vectors")]
    report = run(python, "-m", "pytest", *tests, folder=tmp_path)
    assert re.search(r"\d+ passed in", report), report

"""Gates on the images in the plugin: what ptxas said, what the machine code is made of.

They read the build folder that ATTN_CUDA_BUILD names (build/release/cuda), and the disassembler
beside nvcc, or in CUDA_TOOLS. Figures of the table are binding for one nvcc; with another one only
what holds for all is checked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("ATTN_CUDA_BUILD", "build/release/cuda"))
PLUGIN = BUILD.parent / "libattn_cuda.so"
LIST = BUILD / "attn_cuda_images.inc"
IMAGES = [
    Path(path)
    for path in re.findall(r'"([^"]*)"\)$', LIST.read_text() if LIST.exists() else "", re.M)
]
CUBINS = [image for image in IMAGES if image.suffix == ".cubin"]
PINNED_NVCC = "13.0.88"


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout


@cache
def nvcc() -> Path:
    lines = (BUILD.parent / "CMakeCache.txt").read_text()
    found = re.search(r"^ATTN_NVCC:\w+=(.*)$", lines, re.MULTILINE)
    assert found
    return Path(found[1])


@cache
def is_pinned() -> bool:
    return f"V{PINNED_NVCC}" in run(nvcc(), "--version")


def tool(name: str) -> Path:
    path = Path(os.environ.get("CUDA_TOOLS", nvcc().parent)) / name
    if not path.exists():
        pytest.skip(f"no {name} beside {nvcc()}; CUDA_TOOLS names another folder")
    return path


@dataclass(frozen=True)
class Row:
    symbol: str
    module: str
    family: str
    min_sm: int
    max_registers: int
    instructions: tuple[tuple[str, int], ...]


@cache
def table() -> tuple[Row, ...]:
    rows = []
    for line in run(BUILD / "attn_cuda_table").splitlines():
        fields = json.loads(line)
        values = {name: fields[name] for name in Row.__dataclass_fields__ if name != "instructions"}
        rows.append(Row(**values, instructions=tuple(fields["instructions"].items())))
    assert rows
    return tuple(rows)


@dataclass(frozen=True)
class Kernel:
    """What the disassembler says about one kernel of a cubin."""

    registers: int
    stack: int
    local: int
    instructions: tuple[str, ...]  # opcodes in order, with their modifiers


@cache
def kernels(cubin: Path) -> dict[str, Kernel]:
    usage = run(tool("cuobjdump"), "--dump-resource-usage", cubin)
    per_kernel = r"Function (\w+):\s*REG:(\d+)\s+STACK:(\d+)\s+SHARED:\d+\s+LOCAL:(\d+)"
    resources = {
        name: (int(registers), int(stack), int(local))
        for name, registers, stack, local in re.findall(per_kernel, usage)
    }
    sass = run(tool("cuobjdump"), "--dump-sass", cubin)
    found = {}
    for name, body in re.findall(
        r"Function : (\w+)\n(.*?)(?=\n\s*Function : |\Z)", sass, re.DOTALL
    ):
        code = re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", body)
        assert len(code) > 5, name
        found[name] = Kernel(*resources[name], tuple(code))
    assert set(found) == set(resources)
    return found


def ids(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_images_are_there() -> None:
    """Every target that the plugin promises, for at least one module."""
    assert IMAGES, f"no {LIST}"
    targets = {image.name.split(".")[1] for image in IMAGES}
    assert targets == {"sm_90a", "sm_80", "compute_80"}


@pytest.mark.parametrize("image", IMAGES, ids=ids(IMAGES))
def test_plugin_holds_the_image(image: Path) -> None:
    """What is checked here is what is shipped."""
    assert image.read_bytes() in PLUGIN.read_bytes()


@pytest.mark.parametrize("image", IMAGES, ids=ids(IMAGES))
def test_compiler_had_nothing_to_say(image: Path) -> None:
    log = image.with_name(image.name + ".log").read_text()
    assert not re.findall(r"\bC7\d{3}\b.*", log)  # serialised wgmma, ignored setmaxnreg, ...
    assert not re.findall(r"(?i)^.*(?:spill|local memory).*warning.*$", log, re.MULTILINE)
    for stack, stores, loads in re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    ):
        assert (stack, stores, loads) == ("0", "0", "0"), log


@pytest.mark.parametrize("cubin", CUBINS, ids=ids(CUBINS))
def test_no_local_memory(cubin: Path) -> None:
    for name, kernel in kernels(cubin).items():
        assert (kernel.stack, kernel.local) == (0, 0), name
        assert not [i for i in kernel.instructions if i.startswith(("LDL", "STL"))], name


@pytest.mark.parametrize("cubin", CUBINS, ids=ids(CUBINS))
def test_table_and_image_agree(cubin: Path) -> None:
    module, target = cubin.name.split(".")[:2]
    expected = {row.symbol for row in table() if row.module == module}
    assert expected, f"no row of the table is in {module}"
    assert set(kernels(cubin)) == expected, target


@pytest.mark.parametrize("row", table() if BUILD.exists() else (), ids=lambda row: row.symbol)
def test_kernel_is_as_designed(row: Row) -> None:
    if not is_pinned():
        pytest.skip(f"the table's figures are for nvcc {PINNED_NVCC}")
    kernel = kernels(BUILD / "images" / f"{row.module}.sm_90a.cubin")[row.symbol]
    assert kernel.registers <= row.max_registers
    for opcode, count in row.instructions:
        found = sum(i.startswith(opcode) for i in kernel.instructions)
        assert found >= -count if count < 0 else found == count, (opcode, found)
    if row.family == "wgmma":
        assert any(i.startswith("HGMMA") for i in kernel.instructions)
        assert not any(i.startswith("HMMA") for i in kernel.instructions)


def test_gates_see_a_spill(tmp_path: Path) -> None:
    """A kernel that spills on purpose is caught by what the tests above look at."""
    body = "".join(f"float x{i} = p[{i} * n];" for i in range(96))
    total = " + ".join(f"x{i} * q[{i} + n]" for i in range(96))
    source = tmp_path / "spill.cu"
    source.write_text(
        'extern "C" __global__ void spill(const float* p, const float* q, float* o, int n) {'
        f"{body} __syncthreads(); o[n] = {total}; }}"
    )
    cubin = tmp_path / "spill.sm_90a.cubin"
    run(nvcc(), "-cubin", "-arch=sm_90a", "-maxrregcount=24", source, "-o", cubin)
    kernel = kernels(cubin)["spill"]
    assert kernel.stack > 0 or kernel.local > 0
    assert [i for i in kernel.instructions if i.startswith(("LDL", "STL"))]


def test_watchdog_bounds_waits(tmp_path: Path) -> None:
    """Code for a GPU that says where it waits and stops; only in a build that asks for it."""
    source = Path(__file__).parent.parent / "gpu" / "conformance_sm90.cu"
    include = source.parents[2] / "include"
    for flags, expected in (([], False), (["-DATTN_CUDA_WATCHDOG=2000000000ull"], True)):
        ptx = tmp_path / "out.ptx"
        run(nvcc(), "-ptx", "-arch=sm_90a", "-std=c++20", f"-I{include}", *flags, source, "-o", ptx)
        text = ptx.read_text()
        for word in ("globaltimer", "vprintf", "trap;"):
            assert (word in text) == expected, word


def test_a_system_toolkit_without_a_network(tmp_path: Path) -> None:
    """CMake alone, with an nvcc in the path and nothing else of CUDA's, makes the same images: one
    module stands for all."""
    source = Path(__file__).resolve().parents[2]
    for link in (nvcc().parent.parent).iterdir():  # a toolkit's own folder, as in /usr/local
        (tmp_path / "cuda").mkdir(exist_ok=True)
        (tmp_path / "cuda" / link.name).symlink_to(link)
    build = tmp_path / "build"
    names = [image.name for image in IMAGES if image.name.startswith("merge.")]
    steps = [
        f"cmake -S {source} -B {build} -G Ninja -DCMAKE_BUILD_TYPE=Release -DATTN_CUDA=ON",
        f"cmake --build {build} --target {' '.join(f'cuda/images/{name}' for name in names)}",
    ]
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        alone = []  # then only PATH keeps it from what is elsewhere
    for step in steps:
        run(*alone, "env", "-i", f"PATH={tmp_path}/cuda/bin:/usr/bin:/bin", *step.split())
    assert f"{tmp_path}/cuda/bin/nvcc" in (build / "CMakeCache.txt").read_text()
    for name in names:
        assert (build / "cuda/images" / name).read_bytes() == (BUILD / "images" / name).read_bytes()


@cache
def toolkit_header(name: str) -> str:
    for folder in (nvcc().parent.parent / "include", Path("/usr/include")):
        if (folder / name).exists():
            return (folder / name).read_text(errors="replace")
    pytest.skip(f"this toolkit has no {name}")


def test_driver_h_agrees_with_the_toolkit(tmp_path: Path) -> None:
    """The plugin declares the driver itself: same values, and forms of functions that exist."""
    toolkit_header("cuda.h")
    text = (Path(__file__).parent.parent / "driver.h").read_text()
    constants = re.findall(r"^constexpr \w+ (CU\w+) = (\d+);", text, re.MULTILINE)
    assert len(constants) > 20
    source = tmp_path / "values.cpp"
    source.write_text(
        "#include <cuda.h>\n" + "".join(f"static_assert({n} == {v});\n" for n, v in constants)
    )
    run("c++", "-std=c++20", "-fsyntax-only", f"-I{nvcc().parent.parent}/include", source)
    functions = re.findall(r"^  X\((cu\w+), (\d+),", text, re.MULTILINE)
    assert len(functions) > 15
    for name, version in functions:
        assert f"(CUDAAPI *PFN_{name}_v{version})" in toolkit_header("cudaTypedefs.h"), name


def test_plugin_exports_its_entry_alone() -> None:
    lines = run("nm", "-D", "--defined-only", PLUGIN).splitlines()
    assert [line.split()[-1] for line in lines] == ["attn_backend_v1"]


def test_plugin_needs_libc_libm_and_the_loader_alone() -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", PLUGIN)))
    assert "libc.so.6" in needed
    assert {name.split(".so")[0] for name in needed} <= {"libc", "libm", "ld-linux-x86-64"}

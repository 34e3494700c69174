"""The package itself: its declarations, its build, its documentation, its types, its import."""

import doctest
import importlib
import importlib.metadata
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import typing

import pytest
from mypy import api as mypy

import attn
from attn import _names, _native, _plan, _tensors, _types

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = ROOT / "libattn" / "include" / "attn" / "attn.h"
ffi, lib = _native.ffi, _native.lib


def load_build_native():
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "build_native.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_metadata():
    metadata = importlib.metadata.metadata("attn")
    assert metadata["Version"] == attn.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.9"
    assert {"numpy>=1.24", "cffi>=1.15"} <= set(metadata.get_all("Requires-Dist"))


def test_everything_public_is_documented():
    for name in attn.__all__:
        thing = getattr(attn, name)
        assert thing.__doc__, name
        assert thing.__module__ == "attn"
        for member in vars(thing) if isinstance(thing, type) else ():
            attribute = getattr(thing, member)
            if not member.startswith("_") and (callable(attribute) or type(attribute) is property):
                assert attribute.__doc__, f"{name}.{member}"


ADAPTERS = {"jax", "onnx", "torch", "transformers"}  # tests/adapters
MODULES = ["attn"] + [
    f"attn.{module.name}"
    for module in pkgutil.iter_modules(attn.__path__)
    if module.name not in ADAPTERS
]


def test_doctests():
    attempted = 0
    for name in MODULES:
        result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted >= 20


def test_readme():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.failed == 0
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert names["out"].shape == (1, 8, 128, 64)


# --- The declarations and the header ---


def test_struct_layouts():
    """The structs that are written as bytes lie as the C compiler lays them."""
    assert _tensors.LAYOUT.size == ffi.sizeof("attn_tensor") == 144
    tensor = ffi.new("attn_tensor*")
    values = range(1, 7 + 2 * 6 + 2)
    _tensors.LAYOUT.pack_into(ffi.buffer(tensor), 0, *values)
    data = int(ffi.cast("uintptr_t", tensor.data))
    head = [data, tensor.byte_offset, tensor.dtype, tensor.device_type, tensor.device_id]
    fields = [*head, tensor.rank, *tensor.shape, *tensor.strides, *tensor.reserved]
    assert fields == list(values)

    assert _plan._ARGS.size == ffi.sizeof("attn_run_args")
    args = ffi.new("attn_run_args*")
    names = [name for name, _ in ffi.typeof("attn_run_args").fields]
    assert names == [
        "struct_size", "reserved", *_plan._SLOTS, "workspace", "workspace_size", "stream"
    ]  # fmt: skip
    _plan._ARGS.pack_into(ffi.buffer(args), 0, *range(1, len(names) + 1))
    for value, name in enumerate(names, 1):
        assert int(ffi.cast("uintptr_t", getattr(args, name))) == value
    _plan._WORKSPACE.pack_into(ffi.buffer(args), _plan._WORKSPACE_OFFSET, 77, 78)
    assert int(ffi.cast("uintptr_t", args.workspace)) == 77
    assert args.workspace_size == 78


def test_every_field_of_a_plan_can_be_set():
    fields = {name for name, _ in ffi.typeof("attn_plan_config").fields}
    assert fields - set(_plan.Problem._fields) == {"struct_size", "kind", "reserved"}
    assert set(_plan.Problem._fields) <= fields


def test_every_tensor_of_a_run_can_be_given():
    given = {*_plan._VECTORS, *_plan._BROADCAST, *_plan._SCALE_OF}
    assert given | {"q", "k", "v", "o", "lse"} == set(_plan._SLOTS)
    assert (
        given == set(_types.RunTensors.__annotations__) if hasattr(_types, "RunTensors") else True
    )


def test_names_are_those_of_the_header():
    def names(literal):
        return set(typing.get_args(literal))

    assert names(_types.Layout) == set(_names.LAYOUTS)
    assert names(_types.Alignment) == set(_names.ALIGNMENTS)
    assert names(_types.Isa) == set(_names.ISAS)
    assert names(_types.Feature) == set(_names.FEATURES)
    assert names(_types.DType) == set(_names.DTYPES) - {"u8", "i32", "i64"}
    for name, value in _names.DTYPES.items():
        assert ffi.string(lib.attn_dtype_name(value)).decode() == name
    bits = {lib.ATTN_CAUSAL, lib.ATTN_WINDOW_LEFT, lib.ATTN_WINDOW_RIGHT}
    bits |= set(_names.FEATURES.values())
    assert sum(bits) == 2 * max(bits) - 1  # all of them, each once


def test_declarations_follow_the_header():
    build = load_build_native()
    text = build.declarations(HEADER)
    assert "ATTN_API" not in text
    assert "__cplusplus" not in text
    functions = set(_exported(HEADER.read_text()))
    assert len(functions) > 30
    assert functions <= set(dir(lib))


def _exported(text):
    """Names of the functions that a header declares."""
    for piece in text.split("ATTN_API ")[1:]:
        head = piece.split("(", 1)[0]
        if piece.startswith("ATTN_MUST_CHECK") or head.split()[-1].strip("*").startswith("attn_"):
            yield head.split()[-1].strip("*")


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """configure(): what CMake says of the library that the package would be built against."""
    monkeypatch.delenv("ATTN_PREFIX", raising=False)
    monkeypatch.setenv("PKG_CONFIG_LIBDIR", str(tmp_path / "pc"))
    monkeypatch.delenv("PKG_CONFIG_PATH", raising=False)

    def configure():
        command = ["cmake", "-S", ROOT, "-B", tmp_path / "build", "--fresh"]
        options = ["-DSKBUILD_PROJECT_VERSION=0.1.0", f"-DPython_EXECUTABLE={sys.executable}"]
        run = subprocess.run([*command, *options], capture_output=True, text=True)
        if run.returncode != 0:
            return " ".join(run.stderr.split())
        return re.search("^-- libattn.*", run.stdout, re.MULTILINE).group()

    return configure


def install(prefix, version):
    """An installation as CMake and pkg-config see it, of a library that is not there."""
    folder = prefix / "lib" / "cmake" / "attn"
    folder.mkdir(parents=True)
    (folder / "attn-config.cmake").write_text(
        "add_library(attn::attn SHARED IMPORTED)\n"
        "set_target_properties(attn::attn PROPERTIES IMPORTED_LOCATION /libattn.so)\n"
    )
    major_minor = version.rpartition(".")[0]
    (folder / "attn-config-version.cmake").write_text(
        f"set(PACKAGE_VERSION {version})\n"
        f"if(PACKAGE_FIND_VERSION STREQUAL {major_minor})\n"
        "  set(PACKAGE_VERSION_COMPATIBLE ON)\n"
        "endif()\n"
    )
    return folder


def test_the_library_of_attn_prefix(configure, tmp_path, monkeypatch):
    prefix = tmp_path / "prefix"
    monkeypatch.setenv("ATTN_PREFIX", str(prefix))
    assert f"ATTN_PREFIX is {prefix}; must be where attn 0.1 is installed" in configure()
    folder = install(prefix, "0.1.7")
    assert configure() == f"-- libattn 0.1.7: {folder}"


def test_the_library_of_pkg_config(configure, tmp_path):
    in_tree = f"-- libattn 0.1.0: {ROOT.parent.parent}/build/release"
    other = {in_tree, "-- libattn: built from its sources"}
    assert configure() in other
    (tmp_path / "pc").mkdir()
    text = "Name: attn\nDescription: x\nVersion: 0\n"
    for version in ("0.1.7", "0.2.0"):
        prefix = tmp_path / version
        folder = install(prefix, version)
        (tmp_path / "pc" / "attn.pc").write_text(f"prefix={prefix}\n{text}")
        if version == "0.1.7":
            assert configure() == f"-- libattn 0.1.7: {folder}"
        else:
            assert configure() in other  # the one of another minor version is of no use


# --- At run time ---


def test_the_library_is_found_without_help():
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    code = "import attn; print(open('/proc/self/maps').read().count('libattn.so') > 0)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_an_older_library_is_refused(tmp_path):
    """The loader may find another library of this SONAME; here it has its version alone."""
    (tmp_path / "older.c").write_text(
        "int attn_version(void) { return 9; }\n"
        'const char* attn_version_string(void) { return "0.0.9"; }\n'
    )
    (tmp_path / "older.map").write_text("ATTN_0 { global: attn_*; local: *; };\n")
    (name,) = set(re.findall(r"libattn\.so\.[\d.]+", pathlib.Path("/proc/self/maps").read_text()))
    soname = ".".join(name.split(".")[:4])
    command = ["cc", "-shared", "-fPIC", "-Wl,--version-script=older.map", "-o", soname, "older.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    code = (
        "try: import attn\n"
        "except ImportError as error: print(type(error).__name__, error.status, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    words = f"libattn is version 0.0.9; this package was compiled for {attn.__version__}"
    assert run.stdout == f"VersionError ATTN_ERROR_VERSION {words}\n", run.stderr


def test_import_time():
    """At most 30 ms over NumPy's own: the best of five, since others use this machine too."""
    code = (
        "import time, numpy; start = time.perf_counter(); import attn; "
        "print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    assert min(float(run.stdout) for run in runs) <= 0.030


USER = """
from typing import Any
import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type
import attn

x = np.zeros((1, 1, 2, 4), np.float32)
assert_type(attn.attention(x, x, x), npt.NDArray[Any])
assert_type(attn.attention(x, x, x, causal=True, window=(1, None)), npt.NDArray[Any])
assert_type(attn.attention(x, x, x, lse=True), tuple[npt.NDArray[Any], npt.NDArray[Any]])
attn.attention(memoryview(bytes(32)), x, x, seqlens_k=[2], mask=x > 0, sink=np.zeros(1))
attn.attention(x, x, x, alignment="middle")  # type: ignore[call-overload]
attn.attention(x, x, [1.0])  # type: ignore[call-overload]
attn.attention(x, x, x, casual=True)  # type: ignore[call-overload]
plan = attn.Plan(heads_q=1, head_dim=4, max_seqlen_q=2, max_seqlen_k=2, features=["mask"])
assert_type(plan.run(x, x, x, mask=x > 0), npt.NDArray[Any])
plan.run(x, x, x, causal=True)  # type: ignore[call-overload]
assert_type(plan.refusals, dict[str, str])
assert_type(plan.info.workspace_size, int)
attn.Context(isa="sse")  # type: ignore[arg-type]
out, lse = attn.merge([(x, x[..., 0])])
"""


def test_types(tmp_path):
    """The package is clean under mypy --strict, and so is a program that uses it well."""
    user = tmp_path / "user.py"
    user.write_text(USER)
    common = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={tmp_path / 'cache'}"]
    for target in ([str(ROOT / "src" / "attn")], [str(user)]):
        report, errors, status = mypy.run([*common, *target])
        assert status == 0, report + errors

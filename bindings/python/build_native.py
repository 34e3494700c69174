"""Describes the extension module attn._native to cffi, from the library's own header.

The declarations are attn.h with everything but C declarations taken away, so that they cannot
drift from it; in API mode the C compiler then checks each against the header again.

The library is looked for in this order:
  1. the prefix that the environment's ATTN_PREFIX names (include/attn/attn.h, lib/libattn.so)
  2. what pkg-config calls `attn`
  3. the source tree that this file lies in, built into its folder build/release/
"""

import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
from typing import NamedTuple, Optional

import cffi

HERE = pathlib.Path(__file__).resolve().parent


class Library(NamedTuple):
    """Where the header and the library lie; `libdir` is None where only the header was found."""

    include: pathlib.Path
    libdir: Optional[pathlib.Path]

    @property
    def header(self) -> pathlib.Path:
        return self.include / "attn" / "attn.h"


def _libdir(candidates: list[pathlib.Path]) -> Optional[pathlib.Path]:
    names = ("libattn.so", "libattn.dylib", "attn.lib")
    return next((d for d in candidates if any((d / name).exists() for name in names)), None)


def _from_prefix(prefix: pathlib.Path) -> Library:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "."
    libdir = _libdir([prefix / "lib", prefix / "lib64", prefix / "lib" / multiarch])
    found = Library(prefix / "include", libdir)
    if libdir is None or not found.header.exists():
        raise SystemExit(f"ATTN_PREFIX={prefix}: no attn installation (include/attn/attn.h, lib/)")
    return found


def _from_pkg_config() -> Optional[Library]:
    tool = os.environ.get("PKG_CONFIG", "pkg-config")
    if shutil.which(tool) is None:
        return None

    def variable(name: str) -> Optional[pathlib.Path]:
        run = subprocess.run([tool, f"--variable={name}", "attn"], capture_output=True, text=True)
        return pathlib.Path(run.stdout.strip()).resolve() if run.returncode == 0 else None

    include, libdir = variable("includedir"), variable("libdir")
    return Library(include, libdir) if include and libdir else None


def find_library() -> Library:
    """The library to build against; SystemExit says what was missing."""
    prefix = os.environ.get("ATTN_PREFIX")
    if prefix:
        return _from_prefix(pathlib.Path(prefix).resolve())
    installed = _from_pkg_config()
    if installed:
        return installed
    root = HERE.parent.parent
    in_tree = Library(root / "include", _libdir([root / "build" / "release"]))
    if not in_tree.header.exists():
        raise SystemExit("attn is not installed: set ATTN_PREFIX, or let pkg-config find `attn`")
    return in_tree


def version(header: pathlib.Path) -> str:
    """ "0.1.0", from the header's ATTN_VERSION_* macros."""
    text = header.read_text(encoding="utf-8")
    return ".".join(
        re.findall(r"^#define ATTN_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", text, re.MULTILINE)
    )


def declarations(header: pathlib.Path) -> str:
    """The header as cffi wants it: C declarations and integer macros, nothing else."""
    text = header.read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = text.replace("\\\n", " ")
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    kept = []
    for line in text.splitlines():
        if not line.startswith("#") or re.fullmatch(r"#define ATTN_\w+ \d+\s*", line):
            kept.append(re.sub(r"\bATTN_(API|MUST_CHECK)\b", "", line))
    return "\n".join(kept)


# The structs of DLPack 1.x (https://dmlc.github.io/dlpack/latest/c_api.html), as far as a reader
# of CPU tensors needs them.
DLPACK = """
typedef struct { int32_t device_type; int32_t device_id; } attn_dl_device;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } attn_dl_dtype;
typedef struct {
  void* data;
  attn_dl_device device;
  int32_t ndim;
  attn_dl_dtype dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} attn_dl_tensor;
typedef struct { attn_dl_tensor dl_tensor; } attn_dl_managed;
typedef struct {
  uint32_t major;
  uint32_t minor;
  void* manager_ctx;
  void* deleter;
  uint64_t flags;
  attn_dl_tensor dl_tensor;
} attn_dl_managed_versioned;
"""


def make_ffi(library: Library) -> cffi.FFI:
    if library.libdir is None:
        raise SystemExit(
            "libattn is neither installed nor built in this tree: set ATTN_PREFIX to an "
            "installation's prefix, or let pkg-config find `attn`, or run `./dev build`"
        )
    ffi = cffi.FFI()
    ffi.cdef(declarations(library.header))
    ffi.cdef(DLPACK)
    ffi.cdef('extern "Python" void attn_python_log(void*, attn_log_level, const char*);')
    ffi.set_source(
        "attn._native",
        "#include <attn/attn.h>\n" + DLPACK,
        include_dirs=[str(library.include)],
        libraries=["attn"],
        library_dirs=[str(library.libdir)],
        # The extension finds the very library that it was built against.
        runtime_library_dirs=[str(library.libdir)] if os.name != "nt" else [],
    )
    return ffi


def ffibuilder() -> cffi.FFI:
    return make_ffi(find_library())

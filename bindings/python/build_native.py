"""Writes the C source of the extension module attn._native, from the library's own header.

    python build_native.py INCLUDE_DIRECTORY OUTPUT

The declarations are attn.h with everything but C declarations taken away, so that they cannot
drift from it; in API mode the C compiler then checks each against the header again.
"""

import pathlib
import re
import sys

import cffi


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


def main(include: str, output: str) -> None:
    ffi = cffi.FFI()
    text = declarations(pathlib.Path(include) / "attn" / "attn.h")
    ffi.cdef(text)
    ffi.cdef("#define ATTN_VERSION ...")
    ffi.cdef(DLPACK)
    ffi.cdef('extern "Python" void attn_python_log(void*, attn_log_level, const char*);')
    # All but its version is weak, so that the module loads with a library that is too old to have
    # every function; the package then refuses it.
    functions = set(re.findall(r"\b(attn_\w+)\(", text)) - {"attn_version", "attn_version_string"}
    weak = "".join(f"#pragma weak {name}\n" for name in sorted(functions))
    ffi.set_source("attn._native", "#include <attn/attn.h>\n" + weak + DLPACK)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])

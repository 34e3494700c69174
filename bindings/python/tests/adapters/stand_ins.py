"""Makes empty stand-ins for the gigabytes of CUDA libraries that PyTorch's wheel is linked to.

    python stand_ins.py

Without them PyTorch is not even imported; without a GPU it calls none of them, but the CUDA
runtime, which says that there is none. So that one is real, and of the others there are the names:
one library under all their names, with every symbol that PyTorch wants of them in its version.
"""

import collections
import importlib.util
import pathlib
import re
import subprocess
import tempfile

LIBRARY = r"lib(?:cu|nccl|nvrtc|nvshmem)\w*\.so\.\d+"
SYMBOL = r"(?:cu|nccl|nvrtc|nvshmem)\w*"
REAL = {"libcudart.so.13", "libcuda.so.1"}  # the runtime, and the driver, which it looks for


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"
    libraries = set()
    symbols = collections.defaultdict(set)  # by version
    for path in folder.glob("libtorch*.so"):
        needed = output("readelf", "-dW", path)
        libraries.update(re.findall(rf"\(NEEDED\).*\[({LIBRARY})\]", needed))
        undefined = output("nm", "-D", "--undefined-only", "--with-symbol-versions", path)
        for name, version in re.findall(rf" U ({SYMBOL})(?:@(\S+))?$", undefined, re.MULTILINE):
            symbols[version].add(name)
    for library in REAL:
        symbols.pop(library, None)

    with tempfile.TemporaryDirectory() as temporary:
        source, versions = pathlib.Path(temporary, "s.c"), pathlib.Path(temporary, "s.map")
        source.write_text("".join(f"char {name};\n" for n in symbols.values() for name in n))
        versions.write_text(
            "".join(f"{v} {{ {'; '.join(n)}; }};\n" for v, n in symbols.items() if v)
        )
        stand_in = folder / "stand_in.so"
        output("cc", "-shared", f"-Wl,--version-script={versions}", "-o", stand_in, source)
    for name in libraries - REAL:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(stand_in.name)


if __name__ == "__main__":
    main()

"""Builds the package: its version and its C declarations both come from attn.h.

Where jaxlib is installed, whose headers it takes, attn._jax is built too: `pip install
--no-build-isolation`.
"""

import importlib.util
import pathlib
import sys

from setuptools import Extension, setup

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import build_native  # noqa: E402

library = build_native.find_library()
extensions = []
jaxlib = importlib.util.find_spec("jaxlib")
if jaxlib and jaxlib.origin:
    extensions.append(
        Extension(
            "attn._jax",
            ["jax_handler.c"],
            include_dirs=[
                str(library.include),
                str(pathlib.Path(jaxlib.origin).parent / "include"),
            ],
            libraries=["attn"],
            library_dirs=[str(library.libdir)],
            runtime_library_dirs=[str(library.libdir)],
            py_limited_api=True,
        )
    )

setup(
    version=build_native.version(library.header),
    ext_modules=extensions,
    cffi_modules=["build_native.py:ffibuilder"],
    # Another library to link against changes no source file, so time stamps cannot tell.
    options={"build_ext": {"force": True}},
)

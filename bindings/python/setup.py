"""Builds the package: its version and its C declarations both come from attn.h."""

import pathlib
import sys

from setuptools import setup

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import build_native  # noqa: E402

setup(
    version=build_native.version(build_native.find_library().header),
    cffi_modules=["build_native.py:ffibuilder"],
    # Another library to link against changes no source file, so time stamps cannot tell.
    options={"build_ext": {"force": True}},
)

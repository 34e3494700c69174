# What cffi generates: `lib` has the functions and constants of attn.h, `ffi` the memory tools.
from typing import Any

ffi: Any
lib: Any

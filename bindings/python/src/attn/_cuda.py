"""Arrays in the memory of NVIDIA GPUs: the current streams and new arrays of PyTorch, CuPy, JAX.

The binding needs none of them: a framework is there when an array of its own comes in.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Protocol

from ._errors import DeviceError, Unsupported
from ._native import lib

if TYPE_CHECKING:
    from types import ModuleType

DEVICE: int = lib.ATTN_DEVICE_CUDA
LEGACY_STREAM = 1  # CU_STREAM_LEGACY, the handle of CUDA's default stream

_NAMES = {
    lib.ATTN_DTYPE_F32: "float32",
    lib.ATTN_DTYPE_F16: "float16",
    lib.ATTN_DTYPE_BF16: "bfloat16",
    lib.ATTN_DTYPE_U8: "uint8",
}


class Framework(Protocol):
    """What a run needs of the library that an array comes from."""

    def stream(self, device_id: int) -> int:
        """The handle of the stream that the caller's work goes to, never 0."""

    def empty(self, shape: tuple[int, ...], dtype: int, device_id: int) -> Any:
        """A new contiguous array of an attn_dtype."""

    def finish(self, device_id: int) -> None:
        """Called when a run is in the stream, before its result is returned."""


class _Torch:
    def __init__(self, module: ModuleType) -> None:
        self._torch: Any = module

    def stream(self, device_id: int) -> int:
        return int(self._torch.cuda.current_stream(device_id).cuda_stream) or LEGACY_STREAM

    def empty(self, shape: tuple[int, ...], dtype: int, device_id: int) -> Any:
        kind = getattr(self._torch, _NAMES[dtype])
        return self._torch.empty(shape, dtype=kind, device=f"cuda:{device_id}")

    def finish(self, device_id: int) -> None:
        """PyTorch's next work is in the same stream."""


class _CuPy:
    def __init__(self, module: ModuleType) -> None:
        self._cupy: Any = module

    def stream(self, device_id: int) -> int:
        with self._cupy.cuda.Device(device_id):
            return int(self._cupy.cuda.get_current_stream().ptr) or LEGACY_STREAM

    def empty(self, shape: tuple[int, ...], dtype: int, device_id: int) -> Any:
        with self._cupy.cuda.Device(device_id):
            return self._cupy.empty(shape, _NAMES[dtype])

    def finish(self, device_id: int) -> None:
        """CuPy's next work is in the same stream."""


class _Jax:
    """JAX keeps its streams to itself: what it made is awaited by the default stream, and the
    result is waited for before JAX sees it."""

    def __init__(self, module: ModuleType) -> None:
        self._jax: Any = module

    def stream(self, device_id: int) -> int:
        return LEGACY_STREAM

    def empty(self, shape: tuple[int, ...], dtype: int, device_id: int) -> Any:
        device = next(d for d in self._jax.devices("cuda") if d.id == device_id)
        array = self._jax.numpy.empty(shape, _NAMES[dtype], device=device)
        return array.block_until_ready()

    def finish(self, device_id: int) -> None:
        synchronize(device_id)


# By the top-level module that an array's type is defined in.
_FRAMEWORKS: dict[str, tuple[str, Any]] = {
    "torch": ("torch", _Torch),
    "cupy": ("cupy", _CuPy),
    "jax": ("jax", _Jax),
    "jaxlib": ("jax", _Jax),
}


def framework_of(array: object, name: str) -> Framework:
    """The framework that an array on a GPU belongs to; `name` is the argument's."""
    top = type(array).__module__.partition(".")[0]
    found = _FRAMEWORKS.get(top)
    if found is None:
        raise Unsupported(
            f"{name}: lies on a GPU as {type(array).__module__}.{type(array).__qualname__}; "
            "must be an array of PyTorch, CuPy or JAX there"
        )
    return _make(*found)


@functools.cache
def _make(module: str, kind: Any) -> Framework:
    framework: Framework = kind(sys.modules[module])
    return framework


def capsule_of(array: Any, stream: int) -> Any:
    """The DLPack capsule of an array on a GPU, usable by what comes after in `stream`."""
    try:
        return array.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # a producer from before DLPack 1.0
        return array.__dlpack__(stream=stream)


def synchronize(device_id: int) -> None:
    """Waits for the default stream of a GPU's primary context."""
    import ctypes  # only JAX needs it

    driver = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    calls: list[tuple[Any, ...]] = [
        (driver.cuDeviceGet, ctypes.byref(device), ctypes.c_int(device_id)),
        (driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), device),
        (driver.cuCtxPushCurrent_v2, context),
        (driver.cuStreamSynchronize, ctypes.c_void_p(LEGACY_STREAM)),
        (driver.cuCtxPopCurrent_v2, ctypes.byref(context)),
        (driver.cuDevicePrimaryCtxRelease_v2, device),
    ]
    status = 0
    for function, *arguments in calls:  # also after a failure: what was taken is given back
        status = status or function(*arguments)
    if status:
        raise DeviceError(f"waiting for cuda:{device_id} failed with CUDA error {status}")

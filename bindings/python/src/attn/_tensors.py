"""Views of the caller's memory: NumPy, DLPack (GPUs too), the buffer protocol, without copies."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _cuda
from ._errors import InvalidArgument, Unsupported
from ._native import ffi, lib

if TYPE_CHECKING:
    from ._cuda import Framework
    from ._types import Array

F32: int = lib.ATTN_DTYPE_F32
F16: int = lib.ATTN_DTYPE_F16
BF16: int = lib.ATTN_DTYPE_BF16
F8E4M3: int = lib.ATTN_DTYPE_F8E4M3
U8: int = lib.ATTN_DTYPE_U8
I32: int = lib.ATTN_DTYPE_I32
I64: int = lib.ATTN_DTYPE_I64

MAX_RANK: int = lib.ATTN_MAX_RANK

# attn_tensor, byte for byte: data, byte_offset, dtype, device_type, device_id, rank, shape,
# strides, reserved.
LAYOUT = struct.Struct(f"@QQiiii{MAX_RANK}q{MAX_RANK}q2Q")

_FROM_NUMPY: dict[Any, int] = {
    np.dtype(np.float32): F32,
    np.dtype(np.float16): F16,
    np.dtype(np.int8): lib.ATTN_DTYPE_I8,
    np.dtype(np.uint8): U8,
    np.dtype(np.bool_): U8,
    np.dtype(np.int32): I32,
    np.dtype(np.int64): I64,
}
# Types that NumPy does not have itself; ml_dtypes registers them under these names.
_FROM_NAME: dict[str, int] = {"bfloat16": BF16, "float8_e4m3fn": F8E4M3}
# Unsigned integers as containers: what they hold is up to the caller.
_CONTAINERS: dict[int, Any] = {BF16: np.dtype(np.uint16), F8E4M3: np.dtype(np.uint8)}
# (code, bits) of DLPack.
_FROM_DLPACK: dict[tuple[int, int], int] = {
    (2, 32): F32,
    (2, 16): F16,
    (4, 16): BF16,
    (10, 8): F8E4M3,
    (0, 8): lib.ATTN_DTYPE_I8,
    (1, 8): U8,
    (6, 8): U8,
    (0, 32): I32,
    (0, 64): I64,
}
_DLPACK_READ_ONLY = 1
_DLPACK_COPIED = 2
_CPU = (lib.ATTN_DEVICE_CPU, 0)
_DEVICE_NAMES = {2: "cuda", 3: "cuda_host", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm"}

_FIRST = [(slice(1),) * rank for rank in range(64)]  # 64: NumPy's own limit of the rank
_cast = ffi.cast
_from_buffer = ffi.from_buffer


class View(NamedTuple):
    """Where a tensor lies; `owner` keeps it there. Strides are in elements.

    On a GPU, `framework` is where it comes from.
    """

    pointer: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    writable: bool
    owner: object
    device: tuple[int, int] = _CPU  # type and number, as DLPack has them
    framework: Framework | None = None

    def prepend(self, rank: int) -> View:
        """The same memory with dimensions of 1 in front, up to `rank`."""
        missing = rank - len(self.shape)
        if missing <= 0:
            return self
        # Nothing is read at another index than 0; as if contiguous, for outputs.
        stride = self.shape[0] * self.strides[0] if self.shape else 1
        return self._replace(
            shape=(1,) * missing + self.shape, strides=(stride,) * missing + self.strides
        )

    def pack_into(self, buffer: Any, offset: int) -> None:
        """Writes it as an attn_tensor."""
        rank = len(self.shape)
        padding = (0,) * (MAX_RANK - rank)
        LAYOUT.pack_into(
            buffer, offset, self.pointer, 0, self.dtype, *self.device, rank,
            *self.shape, *padding, *self.strides, *padding, 0, 0,
        )  # fmt: skip


def address(array: Array) -> int:
    """Where element 0 of an array lies. A third of the time of array.ctypes.data."""
    return int(_cast("uintptr_t", element_0(array)))


def element_0(array: Array) -> Any:
    """The same as cdata. Buffers must be contiguous, which the slice of element 0 alone is."""
    return _from_buffer(array if array.flags.c_contiguous else array[_FIRST[array.ndim]])


def dtype_of(array: Array, name: str, container: int | None = None) -> int:
    """The attn_dtype of an array; `container` is what raw unsigned integers hold."""
    dtype = array.dtype
    if container in _CONTAINERS and dtype == _CONTAINERS[container]:
        return container
    code = _FROM_NUMPY.get(dtype)
    if code is None:
        code = _FROM_NAME.get(dtype.name)
        if code is None:
            hint = '; pass dtype="bf16" if it holds bfloat16' if dtype == np.uint16 else ""
            raise TypeError(f"{name}: dtype {dtype} is not supported{hint}")
        _FROM_NUMPY[dtype] = code
    return code


def numpy_dtype(dtype: int) -> Any:
    """The NumPy type for a new output of `dtype`."""
    if dtype == F32:
        return np.dtype(np.float32)
    if dtype == F16:
        return np.dtype(np.float16)
    if dtype != BF16:
        raise InvalidArgument("out_dtype: must be f32, f16 or bf16")
    try:
        import ml_dtypes  # optional
    except ImportError:
        raise TypeError("out: pass an array, or install ml_dtypes for bfloat16") from None
    return np.dtype(ml_dtypes.bfloat16)


def _view_array(array: Array, name: str, container: int | None) -> View:
    dtype = dtype_of(array, name, container)
    if array.ndim > MAX_RANK:
        raise InvalidArgument(f"{name}: rank {array.ndim} is more than {MAX_RANK}")
    size = array.itemsize
    strides = [stride // size for stride in array.strides]
    if [stride * size for stride in strides] != list(array.strides):
        raise InvalidArgument(
            f"{name}: strides of {array.strides} bytes are no multiples of its {size}-byte elements"
        )
    return View(address(array), dtype, array.shape, tuple(strides), array.flags.writeable, array)


@functools.cache
def _capsule_functions() -> tuple[Any, Any]:
    import ctypes  # only DLPack needs it

    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    return name_of, pointer_of


def _view_dlpack(producer: Any, name: str) -> View:
    device_type, device_id = map(int, producer.__dlpack_device__())
    framework = None
    if device_type == _cuda.DEVICE:
        framework = _cuda.framework_of(producer, name)
    elif device_type != lib.ATTN_DEVICE_CPU:
        device = _DEVICE_NAMES.get(device_type, f"device type {device_type}")
        raise Unsupported(
            f"{name}: lies on {device}:{device_id}, must lie on the CPU or on a CUDA device: no "
            "backend of this library serves another"
        )
    try:
        if framework is not None:
            capsule = _cuda.capsule_of(producer, framework.stream(device_id))
        else:
            capsule = _capsule(producer)
    except BufferError as error:
        raise TypeError(f"{name}: {error}") from error
    name_of, pointer_of = _capsule_functions()
    capsule_name = name_of(capsule)
    # The capsule is not renamed, so it stays the owner: its destructor calls the deleter.
    writable = True
    if capsule_name == b"dltensor_versioned":
        managed = ffi.cast("attn_dl_managed_versioned*", pointer_of(capsule, capsule_name))
        if managed.major != 1:
            raise TypeError(f"{name}: speaks DLPack {managed.major}, must be 1")
        writable = not managed.flags & (_DLPACK_READ_ONLY | _DLPACK_COPIED)
    elif capsule_name == b"dltensor":
        managed = ffi.cast("attn_dl_managed*", pointer_of(capsule, capsule_name))
    else:
        raise TypeError(f"{name}: __dlpack__ returned a capsule named {capsule_name!r}")
    tensor = managed.dl_tensor
    code, bits, lanes = tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes
    dtype = _FROM_DLPACK.get((code, bits)) if lanes == 1 else None
    if dtype is None:
        raise TypeError(f"{name}: DLPack type (code {code}, {bits} bits, {lanes} lanes) is unknown")
    rank = tensor.ndim
    if rank > MAX_RANK:
        raise InvalidArgument(f"{name}: rank {rank} is more than {MAX_RANK}")
    shape = tuple(ffi.unpack(tensor.shape, rank)) if rank else ()
    if tensor.strides == ffi.NULL:  # compact
        strides = _contiguous(shape)
    else:
        strides = tuple(ffi.unpack(tensor.strides, rank)) if rank else ()
    pointer = int(ffi.cast("uintptr_t", tensor.data)) + tensor.byte_offset
    return View(
        pointer, dtype, shape, strides, writable, capsule, (device_type, device_id), framework
    )


def _capsule(producer: Any) -> Any:
    try:
        return producer.__dlpack__(max_version=(1, 0))
    except TypeError:  # a producer from before DLPack 1.0
        return producer.__dlpack__()


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def view(tensor: object, name: str, container: int | None = None) -> View:
    """A view of what the caller passed as `name`.

    `container` is the attn_dtype that an unsigned integer array of its size holds.
    """
    if isinstance(tensor, np.ndarray):
        if type(tensor) is not np.ndarray and hasattr(tensor, "mask"):
            raise TypeError(f"{name}: is a masked array; pass its data, and mask= where wanted")
        return _view_array(tensor, name, container)
    if hasattr(tensor, "__dlpack__"):
        return _view_dlpack(tensor, name)
    try:
        array = np.asarray(memoryview(tensor))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: must be a NumPy array, or speak DLPack or the buffer protocol; "
            f"{type(tensor).__name__} is not usable: {error}"
        ) from None
    return _view_array(array, name, container)


def output(tensor: object, name: str, container: int | None = None) -> View:
    """A view that is written to."""
    found = view(tensor, name, container)
    if not found.writable:
        raise InvalidArgument(f"{name}: is read-only")
    return found


def vector(tensor: object, name: str, dtype: int, batch: int | None = None) -> View:
    """A short tensor of numbers: used in place where its type is `dtype`, else converted.

    A single number stands for `batch` of them.
    """
    target = np.dtype({I32: np.int32, I64: np.int64, F32: np.float32}[dtype])
    if hasattr(tensor, "__dlpack__") and not isinstance(tensor, np.ndarray):
        found = _view_dlpack(tensor, name)
        if found.dtype == dtype:
            return found
        if found.framework is not None:
            raise TypeError(f"{name}: must hold {target} values; nothing is converted on a GPU")
        tensor = np.from_dlpack(tensor)
    array = np.asarray(tensor)
    if array.dtype != target:
        if array.size and array.dtype.kind not in ("iuf" if dtype == F32 else "iu"):
            raise TypeError(f"{name}: must hold {target} values, not {array.dtype}")
        converted = array.astype(target)
        if dtype != F32 and not np.array_equal(converted, array):
            raise InvalidArgument(f"{name}: holds a value that does not fit in {target}")
        array = converted
    if array.ndim == 0 and batch is not None:
        array = np.broadcast_to(array, (batch,))
    return _view_array(array, name, None)


def max_difference(offsets: View, name: str) -> int:
    """The longest sequence that cumulative int32 offsets [batch + 1] describe; 0 if there is none.

    The library checks the offsets themselves.
    """
    if len(offsets.shape) != 1 or offsets.shape[0] < 1:
        raise InvalidArgument(f"{name}: shape {offsets.shape} must be [batch + 1]")
    if offsets.framework is not None:
        longest = name.replace("cu_seqlens", "max_seqlen")
        raise InvalidArgument(f"{name}: lies on a GPU, where it is not looked into; give {longest}")
    array = offsets.owner if isinstance(offsets.owner, np.ndarray) else _as_int32(offsets)
    return int(np.diff(array).max(initial=0))


def _as_int32(offsets: View) -> Array:
    count, step = offsets.shape[0], offsets.strides[0]
    items = ffi.cast("int32_t*", offsets.pointer)
    return np.array([items[i * step] for i in range(count)], np.int32)

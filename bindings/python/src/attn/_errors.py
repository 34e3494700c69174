"""The library's statuses as exceptions that carry its message."""

from __future__ import annotations

from typing import Any

from ._native import ffi, lib


class Error(Exception):
    """What every failure of the library is; the text is the library's message.

    Attributes
    ----------
    status : str
        The C name of the status, for example "ATTN_ERROR_UNSUPPORTED".
    """

    status: str = "ATTN_ERROR_INTERNAL"


class InvalidArgument(Error, ValueError):
    """A value that is never legal; the message names the field, what it held and what may be."""

    status = "ATTN_ERROR_INVALID_ARGUMENT"


class Unsupported(Error):
    """A legal problem that no backend, or not the forced one, serves."""

    status = "ATTN_ERROR_UNSUPPORTED"


class Unavailable(Error):
    """A forced backend or instruction set that this machine or build does not have."""

    status = "ATTN_ERROR_UNAVAILABLE"


class OutOfMemory(Error, MemoryError):
    """The library could not get memory."""

    status = "ATTN_ERROR_OUT_OF_MEMORY"


class WorkspaceError(Error, ValueError):
    """The workspace is too small or not aligned."""

    status = "ATTN_ERROR_WORKSPACE"


class VersionError(Error, ImportError):
    """The package and the library, or the library and a plugin, do not fit together.

    ``import attn`` raises it where the loaded library is older than the one that the package was
    built with.
    """

    status = "ATTN_ERROR_VERSION"


class ExecutorError(Error):
    """The threads did not run the tasks; outputs are undefined."""

    status = "ATTN_ERROR_EXECUTOR"


class DeviceError(Error):
    """The device failed; outputs are undefined."""

    status = "ATTN_ERROR_DEVICE"


class InternalError(Error):
    """A defect of the library."""


_CLASSES: dict[int, type[Error]] = {
    getattr(lib, cls.status): cls
    for cls in (
        InvalidArgument,
        Unsupported,
        Unavailable,
        OutOfMemory,
        WorkspaceError,
        VersionError,
        ExecutorError,
        DeviceError,
        InternalError,
    )
}


def check_version() -> None:
    """Raises VersionError if the loaded library is older than the header of this package."""
    if lib.attn_version() < lib.ATTN_VERSION:
        loaded = ffi.string(lib.attn_version_string()).decode("ascii")
        built = ".".join(str(lib.ATTN_VERSION // 1000**i % 1000) for i in (2, 1, 0))
        raise VersionError(f"libattn is version {loaded}; this package was compiled for {built}")


def failure(error: Any) -> Error:
    """The exception for a filled attn_error."""
    message = ffi.string(error.message).decode("utf-8", "replace")
    exception = _CLASSES.get(error.status, InternalError)(message)
    exception.status = ffi.string(lib.attn_status_name(error.status)).decode("ascii")
    return exception


def check(status: int, error: Any) -> None:
    """Raises what `error` says unless `status` is ATTN_OK."""
    if status:
        raise failure(error)

"""Attention for NumPy arrays and everything that speaks DLPack, on any CPU.

`attention` computes it in one call. `Context` (threads, instruction set) and `Plan` (a problem
that is checked once) are for those who want to decide and to know; `merge` combines results over
disjoint keys; `backends`, `isas` and a plan's `info`, `refusals` and `describe` say what is there,
what was chosen and why.
"""

from ._attention import attention, merge
from ._context import (
    BackendInfo,
    Context,
    ContextInfo,
    IsaInfo,
    backends,
    default_context,
    isas,
    version,
)
from ._errors import (
    DeviceError,
    Error,
    ExecutorError,
    InternalError,
    InvalidArgument,
    OutOfMemory,
    Unavailable,
    Unsupported,
    VersionError,
    WorkspaceError,
)
from ._errors import check_version as _check_version
from ._native import lib as _lib
from ._plan import BoundRun, Plan, PlanInfo, Tuned

_check_version()

__version__ = f"{_lib.ATTN_VERSION_MAJOR}.{_lib.ATTN_VERSION_MINOR}.{_lib.ATTN_VERSION_PATCH}"

__all__ = [
    "BackendInfo",
    "BoundRun",
    "Context",
    "ContextInfo",
    "DeviceError",
    "Error",
    "ExecutorError",
    "InternalError",
    "InvalidArgument",
    "IsaInfo",
    "OutOfMemory",
    "Plan",
    "PlanInfo",
    "Tuned",
    "Unavailable",
    "Unsupported",
    "VersionError",
    "WorkspaceError",
    "attention",
    "backends",
    "default_context",
    "isas",
    "merge",
    "version",
]

# What is public is told as attn.Plan, attn.InvalidArgument, wherever it is written.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

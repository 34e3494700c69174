"""Contexts: threads, instruction set, plugins; what this machine has and has not."""

from __future__ import annotations

import collections
import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _names
from ._errors import InvalidArgument, check
from ._native import ffi, lib

if TYPE_CHECKING:
    from ._plan import Call, Plan
    from ._types import Isa

# Plans and calls that a context remembers for `attn.attention`.
_REMEMBERED = 64


class IsaInfo(NamedTuple):
    """An instruction set that the library knows; `reason` says why it is not available."""

    name: str
    available: bool
    reason: str


class BackendInfo(NamedTuple):
    """A backend that the library knows; `reason` says why it is not available."""

    name: str
    available: bool
    reason: str
    description: str


class ContextInfo(NamedTuple):
    """What a context uses. Cache sizes are data bytes for one core, 0 where unknown."""

    isa: str
    concurrency: int
    l1_cache_size: int
    l2_cache_size: int
    l3_cache_size: int
    backend_dir: str


def text(chars: Any) -> str:
    """A C string of the library's."""
    return str(ffi.string(chars).decode("utf-8", "replace"))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def attn_python_log(user: Any, level: int, message: Any) -> None:
    log = ffi.from_handle(user)
    log(_names.LOG_LEVELS.get(level, str(level)), text(message))


class Memory(threading.local):
    """What one thread remembers of its calls with a context or a plan."""

    def __init__(self) -> None:
        self.calls: dict[object, Call] = {}

    def remember(self, key: object, call: Call) -> None:
        """For this thread's next calls with the same key; the oldest is forgotten."""
        if len(self.calls) >= _REMEMBERED:
            del self.calls[next(iter(self.calls))]
        self.calls[key] = call


class Context:
    """Threads and instruction set of the plans that are made from it.

    Any number of threads may use one context at the same time. Plans stay usable when it is gone.

    Parameters
    ----------
    num_threads : int, optional
        Threads that a run uses, 1 to 1024. By default as many as the process may use CPUs.
    isa : str, optional
        Forces an instruction set: "scalar", "avx2", "avx512", "avx512_bf16", "amx_bf16" or
        "neon". By default the environment's ATTN_FORCE_ISA, else the fastest that this machine
        has, but for "amx_bf16", the matrix units of Intel's servers: a process must ask Linux for
        them, and to name it is to ask.
    backend_dir : path, optional
        Absolute directory of the backend plugins. By default the environment's
        ATTN_BACKEND_DIR, else the library's own directory.
    log : callable, optional
        Called as ``log(level, message)``, level being "debug", "info" or "warning", with what the
        library has to say beside errors.

    Raises
    ------
    InvalidArgument, Unavailable, OutOfMemory

    Examples
    --------
    >>> context = Context(num_threads=2, isa="scalar")
    >>> context.info.isa, context.info.concurrency
    ('scalar', 2)
    """

    def __init__(
        self,
        *,
        num_threads: int | None = None,
        isa: Isa | None = None,
        backend_dir: str | os.PathLike[str] | None = None,
        log: Callable[[str, str], object] | None = None,
    ) -> None:
        config = ffi.new("attn_context_config*", {"struct_size": ffi.sizeof("attn_context_config")})
        if num_threads is not None:
            config.num_threads = integer("num_threads", num_threads, 32)
            if num_threads == 0:  # in C that is the default; here None is
                raise InvalidArgument("num_threads: 0 must be 1 to 1024")
        if isa is not None:
            config.isa = _names.value_of("isa", isa, _names.ISAS)
        directory = None
        if backend_dir is not None:
            if not isinstance(backend_dir, (str, bytes, os.PathLike)):
                raise TypeError(f"backend_dir: must be a path, not {type(backend_dir).__name__}")
            directory = ffi.new("char[]", os.fsencode(backend_dir))
            config.backend_dir = directory
        self._log_handle: Any = None
        if log is not None:
            if not callable(log):
                raise TypeError(f"log: must be callable, not {type(log).__name__}")
            self._log_handle = ffi.new_handle(log)
            config.log = lib.attn_python_log
            config.log_user = self._log_handle
        created = ffi.new("attn_context**")
        error = ffi.new("attn_error*")
        check(lib.attn_context_create(config, created, error), error)
        self._handle: Any = ffi.gc(created[0], lib.attn_context_destroy)
        self._lock = threading.Lock()
        self._plans: collections.OrderedDict[object, Plan] = collections.OrderedDict()
        self._memory = Memory()

    def __repr__(self) -> str:
        info = self.info
        return f"<attn.Context isa={info.isa} concurrency={info.concurrency}>"

    def warmup(self) -> None:
        """Starts the threads now instead of in the first run.

        Raises
        ------
        OutOfMemory
        """
        error = ffi.new("attn_error*")
        check(lib.attn_context_warmup(self._handle, error), error)

    @property
    def info(self) -> ContextInfo:
        """What this context uses."""
        info = ffi.new("attn_context_info*", {"struct_size": ffi.sizeof("attn_context_info")})
        error = ffi.new("attn_error*")
        check(lib.attn_context_get_info(self._handle, info, error), error)
        return ContextInfo(
            isa=text(info.isa_name),
            concurrency=info.concurrency,
            l1_cache_size=info.l1_cache_size,
            l2_cache_size=info.l2_cache_size,
            l3_cache_size=info.l3_cache_size,
            backend_dir=text(info.backend_dir),
        )

    def isas(self) -> list[IsaInfo]:
        """The instruction sets that the library knows, and why some are not available."""
        info = ffi.new("attn_isa_info*", {"struct_size": ffi.sizeof("attn_isa_info")})
        error = ffi.new("attn_error*")
        found = []
        for index in range(lib.attn_context_isa_count(self._handle)):
            check(lib.attn_context_get_isa(self._handle, index, info, error), error)
            found.append(IsaInfo(text(info.name), bool(info.available), text(info.reason)))
        return found

    def backends(self) -> list[BackendInfo]:
        """The backends in the order in which plans try them, and why some are not available."""
        info = ffi.new("attn_backend_info*", {"struct_size": ffi.sizeof("attn_backend_info")})
        error = ffi.new("attn_error*")
        found = []
        for index in range(lib.attn_context_backend_count(self._handle)):
            check(lib.attn_context_get_backend(self._handle, index, info, error), error)
            found.append(
                BackendInfo(
                    name=text(info.name),
                    available=bool(info.available),
                    reason=text(info.reason),
                    description=text(info.description),
                )
            )
        return found

    @functools.cached_property
    def _backend_names(self) -> list[str]:
        return [backend.name for backend in self.backends()]

    def _remembered_plan(self, key: object, create: Callable[[], Plan]) -> Plan:
        """The plan of an earlier call with the same key, or a new one."""
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
                return plan
        plan = create()
        with self._lock:
            self._plans[key] = plan
            if len(self._plans) > _REMEMBERED:
                self._plans.popitem(last=False)
        return plan


def integer(argument: str, value: object, bits: int = 64) -> int:
    """An int of `bits` bits for a C field; the errors name the argument."""
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except AttributeError:
        raise TypeError(f"{argument}: must be an integer, not {type(value).__name__}") from None
    if not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
        raise InvalidArgument(f"{argument}: {number} does not fit in {bits} bits")
    return int(number)


_default: Context | None = None
_default_lock = threading.Lock()


def default_context() -> Context:
    """The context that is used where none is given: all CPUs, best instruction set."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Context()
    return _default


def resolve(context: Context | None) -> Context:
    """`context`, or the default one for None."""
    if context is None:
        return default_context()
    if not isinstance(context, Context):
        raise TypeError(f"context: must be an attn.Context, not {type(context).__name__}")
    return context


def isas(context: Context | None = None) -> list[IsaInfo]:
    """The instruction sets that the library knows, and why some are not available.

    Examples
    --------
    >>> [isa.name for isa in isas() if isa.name == "scalar"]
    ['scalar']
    """
    return resolve(context).isas()


def backends(context: Context | None = None) -> list[BackendInfo]:
    """The backends in the order in which plans try them, and why some are not available.

    Examples
    --------
    >>> [backend.available for backend in backends() if backend.name == "standard"]
    [True]
    """
    return resolve(context).backends()


def version() -> str:
    """The version of the loaded library, "0.1.0"."""
    return text(lib.attn_version_string())

"""Plans: what is to be computed, checked once; and their runs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from . import _context, _names, _tensors
from ._context import integer, text
from ._errors import InvalidArgument, check, failure
from ._native import ffi, lib
from ._tensors import F32, I32, I64, View, address, element_0

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._context import Context
    from ._types import Alignment, Array, DType, Feature, Layout, RunTensors, Tensor

# The tensors of attn_run_args, in its order.
_SLOTS = (
    "q", "k", "v", "o", "lse", "seqlens_q", "seqlens_k", "cu_seqlens_q", "cu_seqlens_k",
    "block_table", "q_start", "k_start", "bias", "bias_k0", "mask", "mask_k0", "alibi_slopes",
    "sink", "block_mask", "k_scale", "v_scale",
)  # fmt: skip

# What becomes of the tensors beside q, k, v, o and lse: vectors of a type, which may be converted;
# NumPy-style broadcasting to four dimensions; or a view, without batch where its k or v is.
_VECTORS = {
    "cu_seqlens_q": I32,
    "cu_seqlens_k": I32,
    "seqlens_q": I32,
    "seqlens_k": I32,
    "block_table": I32,
    "q_start": I64,
    "k_start": I64,
    "bias_k0": I64,
    "mask_k0": I64,
    "alibi_slopes": F32,
    "sink": F32,
}
_BROADCAST = ("bias", "mask", "block_mask")
_SCALE_OF = {"k_scale": "k", "v_scale": "v"}

# attn_run_args, byte for byte: struct_size, reserved, tensors, workspace, its size, stream.
_ARGS = struct.Struct(f"@II{len(_SLOTS)}QQNQ")
_ARGS_SIZE: int = ffi.sizeof("attn_run_args")
_WORKSPACE = struct.Struct("@QN")
_WORKSPACE_OFFSET: int = ffi.offsetof("attn_run_args", "workspace")
_TENSOR_SIZE: int = ffi.sizeof("attn_tensor")

# A thread keeps a workspace of up to this many bytes for its next run.
_KEPT_WORKSPACE = 64 << 20

_run = lib.attn_run
_ndarray = np.ndarray


class PlanInfo(NamedTuple):
    """What a plan chose. Sizes in bytes; a tile of 0 where the backend has no such thing."""

    backend: str
    isa: str
    tile_q: int
    tile_k: int
    kv_chunk: int
    workspace_size: int
    standard_workspace_size: int
    kernel: str = ""  # on devices: which of the backend's kernels, and why none before it


class Tuned(NamedTuple):
    """What `Plan.autotune` found: values for another plan, and the seconds of a run."""

    tile_k: int
    kv_chunk: int
    default_seconds: float
    tuned_seconds: float
    measured: int


class Problem(NamedTuple):
    """attn_plan_config with hashable values; 0 means the library's default."""

    q_dtype: int
    heads_q: int
    head_dim: int
    max_seqlen_q: int
    max_seqlen_k: int
    features: int = 0
    k_dtype: int = 0
    v_dtype: int = 0
    o_dtype: int = 0
    bias_dtype: int = 0
    q_layout: int = 0
    kv_layout: int = 0
    alignment: int = 0
    scale: float = 0.0
    softcap: float = 0.0
    page_size: int = 0
    block_q: int = 0
    block_k: int = 0
    heads_kv: int = 0
    head_dim_v: int = 0
    max_batch: int = 0
    max_total_q: int = 0
    max_total_k: int = 0
    window_left: int = 0
    window_right: int = 0
    backend: str | None = None
    tile_k: int = 0
    kv_chunk: int = 0
    device_type: int = 0
    device_id: int = 0
    flags: int = 0

    def config(self) -> Any:
        """It as attn_plan_config*, but for the backend's name."""
        config = ffi.new("attn_plan_config*", {"struct_size": ffi.sizeof("attn_plan_config")})
        for name, value in zip(self._fields, self):
            if name != "backend":
                setattr(config, name, value)
        return config


def score_options(
    causal: bool,
    window: tuple[int | None, int | None] | None,
    scale: float | None,
    softcap: float | None,
    alignment: str,
) -> dict[str, Any]:
    """The fields of a Problem that say how scores are made and masked."""
    fields: dict[str, Any] = {"features": lib.ATTN_CAUSAL if causal else 0}
    if window is not None:
        try:
            left, right = window
        except (TypeError, ValueError):
            raise TypeError(f"window: must be (left, right), not {window!r}") from None
        if left is not None:
            fields["features"] |= lib.ATTN_WINDOW_LEFT
            fields["window_left"] = integer("window", left)
        if right is not None:
            fields["features"] |= lib.ATTN_WINDOW_RIGHT
            fields["window_right"] = integer("window", right)
    if scale is not None:
        fields["scale"] = _real("scale", scale)
        if fields["scale"] == 0:  # in C that is the default; here None is
            raise InvalidArgument("scale: 0 must be another number")
    if softcap is not None:
        fields["softcap"] = _real("softcap", softcap)
        if fields["softcap"] == 0:
            raise InvalidArgument("softcap: 0 must be greater than 0")
    fields["alignment"] = _names.value_of("alignment", alignment, _names.ALIGNMENTS)
    return fields


def _real(argument: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{argument}: must be a number, not {type(value).__name__}") from None


class Plan:
    """A kind of problem, checked once, with the backend that will compute it.

    A plan is immutable; any number of threads may run it at the same time. Types, heads, head
    sizes and features are exact, the ``max_`` ones are upper bounds.

    Parameters
    ----------
    heads_q, head_dim : int
        Query heads, and elements of a query or key.
    max_seqlen_q, max_seqlen_k : int
        Bounds of the queries and keys of any sequence, at least 1.
    dtype : str
        Type of q, and of everything that is not given another: "f32", "f16" or "bf16".
    k_dtype, v_dtype, out_dtype : str, optional
        By default ``dtype``; `v_dtype` follows `k_dtype`. `out_dtype` may always be "f32". k and v
        may also be "i8" or "f8e4m3": then each run carries their scales.
    bias_dtype : str, optional
        "f32" (the default) or ``dtype``.
    heads_kv : int, optional
        Heads of k and v, by default `heads_q`, which they divide: query head h reads kv head
        ``h // (heads_q // heads_kv)``.
    head_dim_v : int, optional
        Elements of a value, by default `head_dim`.
    max_batch : int
        Bound of the sequences.
    q_layout, kv_layout : str
        "padded" [batch, heads, seqlen, dim]; "packed" [1, heads, total, dim] with cumulative
        lengths; for k and v also "paged" [pages, heads_kv, page_size, dim] with a block table.
    page_size : int, optional
        Keys a page, with "paged" only.
    max_total_q, max_total_k : int, optional
        Bounds of the rows of packed tensors, by default batch times sequence length.
    causal : bool
        Key position <= query position.
    window : (int or None, int or None), optional
        Keys from ``position - left`` to ``position + right``; None leaves a side open.
    scale : float, optional
        By default 1/sqrt(head_dim).
    softcap : float, optional
        Scores become ``softcap * tanh(score / softcap)``.
    alignment : str
        Where query 0 stands: "bottom_right", the last query sees the last key, or "top_left".
    features : iterable of str
        The further tensors that each run carries: "seqlens_q", "seqlens_k", "q_start", "k_start",
        "bias", "bias_range", "mask", "mask_range", "alibi", "sink", "block_mask".
    block_size : (int, int), optional
        Queries and keys a block, with "block_mask" only.
    backend : str, optional
        Forces a backend; by default the first of `attn.backends` that can.
    tile_k, kv_chunk : int, optional
        Keys a step, and keys a chunk of split keys; both are part of what fixes a result's bits.
    device : str, optional
        Where the tensors lie: "cpu" (the default), "cuda" or "cuda:1".
    trust_pointers : bool
        On devices: does not ask the driver in each run whether the device can reach the memory.
    context : Context, optional
        By default one with all CPUs.

    Raises
    ------
    InvalidArgument, Unsupported, Unavailable, OutOfMemory

    Examples
    --------
    >>> import numpy as np
    >>> plan = Plan(heads_q=8, head_dim=64, max_seqlen_q=16, max_seqlen_k=128, causal=True)
    >>> q = np.ones((1, 8, 2, 64), np.float32)
    >>> k = v = np.ones((1, 8, 100, 64), np.float32)
    >>> plan.run(q, k, v).shape
    (1, 8, 2, 64)
    """

    def __init__(
        self,
        *,
        heads_q: int,
        head_dim: int,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dtype: DType = "f32",
        k_dtype: DType | None = None,
        v_dtype: DType | None = None,
        out_dtype: DType | None = None,
        bias_dtype: DType | None = None,
        heads_kv: int | None = None,
        head_dim_v: int | None = None,
        max_batch: int = 1,
        q_layout: Layout = "padded",
        kv_layout: Layout = "padded",
        page_size: int | None = None,
        max_total_q: int | None = None,
        max_total_k: int | None = None,
        causal: bool = False,
        window: tuple[int | None, int | None] | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        alignment: Alignment = "bottom_right",
        features: Iterable[Feature] = (),
        block_size: tuple[int, int] | None = None,
        backend: str | None = None,
        tile_k: int | None = None,
        kv_chunk: int | None = None,
        device: str | None = None,
        trust_pointers: bool = False,
        context: Context | None = None,
    ) -> None:
        options = score_options(causal, window, scale, softcap, alignment)
        options["device_type"], options["device_id"] = _device(device)
        options["flags"] = lib.ATTN_PLAN_TRUST_POINTERS if trust_pointers else 0
        if isinstance(features, str):
            raise TypeError("features: must be several names, not one string")
        for feature in features:
            options["features"] |= _names.value_of("features", feature, _names.FEATURES)
        if block_size is not None:
            options["block_q"], options["block_k"] = block_sizes(block_size)
        for name, value in {
            "heads_q": heads_q,
            "head_dim": head_dim,
            "max_seqlen_q": max_seqlen_q,
            "max_seqlen_k": max_seqlen_k,
            "heads_kv": heads_kv,
            "head_dim_v": head_dim_v,
            "max_batch": max_batch,
            "max_total_q": max_total_q,
            "max_total_k": max_total_k,
            "tile_k": tile_k,
            "kv_chunk": kv_chunk,
        }.items():
            options[name] = 0 if value is None else integer(name, value)
        options["page_size"] = 0 if page_size is None else integer("page_size", page_size, 32)
        for name, dtype_name in {
            "q_dtype": dtype,
            "k_dtype": k_dtype,
            "v_dtype": v_dtype,
            "o_dtype": out_dtype,
            "bias_dtype": bias_dtype,
        }.items():
            if dtype_name is not None:
                options[name] = _names.value_of(name, dtype_name, _names.DTYPES)
        for name, layout in (("q_layout", q_layout), ("kv_layout", kv_layout)):
            options[name] = _names.value_of(name, layout, _names.LAYOUTS)
        problem = Problem(backend=checked_backend(backend), **options)
        self._create(_context.resolve(context), problem)

    @classmethod
    def _of(cls, context: Context, problem: Problem) -> Plan:
        plan = cls.__new__(cls)
        plan._create(context, problem)
        return plan

    def _create(self, context: Context, problem: Problem) -> None:
        config = problem.config()
        if problem.backend is not None:
            backend = ffi.new("char[]", problem.backend.encode())
            config.backend = backend
        created = ffi.new("attn_plan**")
        error = ffi.new("attn_error*")
        check(lib.attn_plan_create(context._handle, config, created, error), error)
        self._handle: Any = ffi.gc(created[0], lib.attn_plan_destroy)
        self._problem = problem
        self._out_is_like_q = problem.o_dtype in (0, problem.q_dtype)
        self._memory = _context.Memory()
        self._log_handle = context._log_handle  # the library may still log to it
        self._backends = context._backend_names
        size = ffi.new("size_t*")
        check(lib.attn_plan_workspace_size(self._handle, size, error), error)
        self._workspace_size: int = size[0]

    def __repr__(self) -> str:
        info = self.info
        isa = f" isa={info.isa}" if info.isa else ""
        return f"<attn.Plan backend={info.backend}{isa} workspace_size={info.workspace_size}>"

    @property
    def workspace_size(self) -> int:
        """Bytes of scratch memory that a run needs."""
        return self._workspace_size

    @property
    def info(self) -> PlanInfo:
        """The backend, instruction set and tiles that the plan chose."""
        info = ffi.new("attn_plan_info*", {"struct_size": ffi.sizeof("attn_plan_info")})
        error = ffi.new("attn_error*")
        check(lib.attn_plan_get_info(self._handle, info, error), error)
        return PlanInfo(
            backend=text(info.backend),
            isa=text(info.isa_name),
            tile_q=info.tile_q,
            tile_k=info.tile_k,
            kv_chunk=info.kv_chunk,
            workspace_size=info.workspace_size,
            standard_workspace_size=info.standard_workspace_size,
            kernel=text(info.kernel),
        )

    @property
    def refusals(self) -> dict[str, str]:
        """By name, why each other backend was not chosen, in words."""
        reasons = {}
        for index, name in enumerate(self._backends):
            reason = lib.attn_plan_refusal(self._handle, index)
            if reason != ffi.NULL and reason[0] != b"\0":
                reasons[name] = text(reason)
        return reasons

    def describe(self) -> str:
        """All of that as text of several lines for people."""
        size = lib.attn_plan_describe(self._handle, ffi.NULL, 0) + 1
        buffer = ffi.new("char[]", size)
        lib.attn_plan_describe(self._handle, buffer, size)
        return text(buffer)

    def new_workspace(self) -> Array:
        """Scratch memory for `run`: uint8 [workspace_size], aligned; one for each concurrent run.

        Without one, each thread keeps its own. Of plans for the CPU alone; on a GPU it is a uint8
        array of the framework's.
        """
        if self._problem.device_type not in (0, lib.ATTN_DEVICE_CPU):
            raise InvalidArgument(
                f"device: on a GPU make uint8 [{self._workspace_size}] with the arrays' framework"
            )
        return aligned_bytes(self._workspace_size)

    @overload
    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: None = None,
        lse: Literal[False] | None = False,
        workspace: Tensor | None = None,
        **tensors: Unpack[RunTensors],
    ) -> Array: ...

    @overload
    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: None = None,
        lse: Literal[True],
        workspace: Tensor | None = None,
        **tensors: Unpack[RunTensors],
    ) -> tuple[Array, Array]: ...

    @overload
    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: Tensor | None = None,
        lse: bool | Tensor | None = False,
        workspace: Tensor | None = None,
        **tensors: Unpack[RunTensors],
    ) -> Any: ...

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: Tensor | None = None,
        lse: bool | Tensor | None = False,
        workspace: Tensor | None = None,
        **tensors: Unpack[RunTensors],
    ) -> Any:
        """Runs the plan.

        Parameters
        ----------
        q, k, v, out, lse
            As in `attn.attention`.
        workspace : uint8 [at least workspace_size], optional
            What `new_workspace` returned. By default memory that the calling thread keeps.
        **tensors
            Those of `attn.attention`, by the same names: seqlens_q, seqlens_k, cu_seqlens_q,
            cu_seqlens_k, block_table, q_start, k_start, bias, bias_k0, mask, mask_k0,
            alibi_slopes, sink, block_mask, k_scale, v_scale. The plan's features and layouts say
            which ones must be there.

        Returns
        -------
        out, or (out, lse) if `lse` is True or an array

        Raises
        ------
        InvalidArgument, WorkspaceError, ExecutorError, OutOfMemory
        """
        key: object = None
        if not tensors and workspace is None and (out is not None or self._out_is_like_q):
            key = plain_key(q, k, v, out, lse)
            remembered = self._memory.calls.get(key)
            if remembered is not None:
                result = remembered.run_arrays_again(q, k, v, out, lse)
                if result is not None:
                    return result
        views, result = view_run(self._problem, q, k, v, out, lse, tensors)
        call = Call(self, views)
        if workspace is None:
            call.run()
            if key is not None:
                self._memory.remember(key, call)
        else:
            scratch = _tensors.output(workspace, "workspace")
            if scratch.dtype != _tensors.U8 or scratch.strides != (1,):
                raise InvalidArgument("workspace: must be contiguous uint8 [bytes]")
            call.use_workspace(scratch.pointer, scratch.shape[0])
            call.run_prepared()
        return result

    def bind(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        out: Tensor | None = None,
        lse: bool | Tensor | None = False,
        **tensors: Unpack[RunTensors],
    ) -> BoundRun:
        """A run whose tensors are looked at once, for loops that reuse their memory.

        Takes what `run` takes, except that lengths and other vectors must have their exact type
        already: each call of the result reads what the same memory holds then.

        Examples
        --------
        >>> import numpy as np
        >>> plan = Plan(heads_q=1, head_dim=2, max_seqlen_q=1, max_seqlen_k=2)
        >>> q, k = np.zeros((1, 1, 1, 2), np.float32), np.zeros((1, 1, 2, 2), np.float32)
        >>> v = np.zeros((1, 1, 2, 2), np.float32)
        >>> step = plan.bind(q, k, v)
        >>> v[:] = 7
        >>> step()
        array([[[[7., 7.]]]], dtype=float32)
        """
        views, result = view_run(self._problem, q, k, v, out, lse, tensors, convert=False)
        return BoundRun(self, views, result)

    def autotune(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        lse: bool = False,
        seconds: float = 1.0,
        **tensors: Unpack[RunTensors],
    ) -> Tuned:
        """The fastest `tile_k` and `kv_chunk` for such runs on this machine.

        Measures for about `seconds`, with these tensors and with the plan's backend, threads and
        instruction set; give what a typical run has, and leave the machine alone meanwhile. The
        plan stays as it is: keep the values, and make the next plan with them. A value given to
        this plan is not varied. 0 where the backend has no such thing.

        Raises
        ------
        InvalidArgument, Unsupported, ExecutorError, OutOfMemory

        Examples
        --------
        >>> import numpy as np
        >>> problem = dict(heads_q=2, head_dim=64, max_seqlen_q=128, max_seqlen_k=128)
        >>> q = k = v = np.ones((1, 2, 128, 64), np.float32)
        >>> tuned = Plan(**problem).autotune(q, k, v, seconds=0.01)
        >>> plan = Plan(**problem, tile_k=tuned.tile_k, kv_chunk=tuned.kv_chunk)
        """
        nanoseconds = _real("seconds", seconds) * 1e9
        if not 1 <= nanoseconds < 2**63:
            raise InvalidArgument(f"seconds: {seconds!r} must be from 1e-9 to 9e9")
        views, _ = view_run(self._problem, q, k, v, None, lse, tensors)
        call = Call(self, views)
        info = ffi.new("attn_autotune_info*", {"struct_size": ffi.sizeof("attn_autotune_info")})
        call.autotune(int(nanoseconds), info)
        return Tuned(
            tile_k=info.tile_k,
            kv_chunk=info.kv_chunk,
            default_seconds=info.default_ns / 1e9,
            tuned_seconds=info.tuned_ns / 1e9,
            measured=info.measured,
        )


class Call:
    """The arguments of one run in C form. The caller keeps the tensors' memory alive."""

    __slots__ = (
        "_args",
        "_args_bytes",
        "_device_id",
        "_error",
        "_framework",
        "_handle",
        "_memory",
        "_running",
        "_size",
        "_tensors",
        "names",
    )

    def __init__(self, plan: Plan, views: Mapping[str, View]) -> None:
        self._handle = plan._handle
        self._size = plan._workspace_size
        self._args = ffi.new("attn_run_args*")
        self._args_bytes = ffi.buffer(self._args)
        self._error = ffi.new("attn_error*")
        self._running = False
        self._framework = views["q"].framework
        self._device_id = views["q"].device[1]
        stream = 0 if self._framework is None else self._framework.stream(self._device_id)
        array = ffi.new("attn_tensor[]", len(views))
        array_bytes = ffi.buffer(array)
        base = int(ffi.cast("uintptr_t", array))
        pointers = dict.fromkeys(_SLOTS, 0)
        for index, (name, view) in enumerate(views.items()):
            view.pack_into(array_bytes, index * _TENSOR_SIZE)
            pointers[name] = base + index * _TENSOR_SIZE
        _ARGS.pack_into(self._args_bytes, 0, _ARGS_SIZE, 0, *pointers.values(), 0, 0, stream)
        self.names = tuple(views)
        self._tensors = [array[index] for index in range(len(views))]
        self._memory = array

    def run(self) -> None:
        """Runs with the calling thread's workspace; on a GPU with one of the framework's."""
        if self._framework is not None:
            scratch = self.new_device_workspace()
            self.run_prepared()
            self._framework.finish(self._device_id)
            del scratch  # the framework gives it only to what comes later in the stream
            return
        # Taken away while in use: the library may call a log function that runs another plan.
        workspace, _kept.workspace = _kept.workspace, None
        if workspace is None or workspace[1] < self._size:
            memory = aligned_bytes(self._size)
            workspace = (address(memory), self._size, memory)
        self.use_workspace(workspace[0], self._size)
        try:
            self.run_prepared()
        finally:
            if workspace[1] <= _KEPT_WORKSPACE:
                _kept.workspace = workspace

    def new_device_workspace(self) -> object:
        """Uses a new workspace of the framework's, which the caller keeps alive."""
        assert self._framework is not None
        scratch = self._framework.empty((self._size,), _tensors.U8, self._device_id)
        if self._size:
            self.use_workspace(_tensors.view(scratch, "workspace").pointer, self._size)
        return scratch

    def use_workspace(self, pointer: int, size: int) -> None:
        _WORKSPACE.pack_into(self._args_bytes, _WORKSPACE_OFFSET, pointer, size)

    def run_prepared(self) -> None:
        """Runs with the workspace that was set."""
        if _run(self._handle, self._args, self._error):
            raise failure(self._error)

    def autotune(self, nanoseconds: int, info: Any) -> None:
        """Measures instead of running; nothing is written but `info`."""
        if lib.attn_plan_autotune(self._handle, self._args, nanoseconds, info, self._error):
            raise failure(self._error)

    def run_again(self, data: Iterable[Any]) -> bool:
        """Runs with other memory, shaped and typed like the first: a pointer for each of `names`.

        False if that cannot be, since this thread is in the middle of doing it: in a signal
        handler that came upon it.
        """
        if self._running:
            return False
        self._running = True
        try:
            for tensor, pointer in zip(self._tensors, data):
                tensor.data = pointer
            self.run()
        finally:
            self._running = False
        return True

    def run_arrays_again(self, q: Any, k: Any, v: Any, out: Any, lse: Any) -> Any:
        """Runs with other arrays of the same plain_key, and returns what the run of them does.

        None if that cannot be, as with run_again.
        """
        if out is None:
            out = np.empty_like(q, shape=q.shape[:-1] + v.shape[-1:])
        elif not out.flags.writeable:
            raise InvalidArgument("out: is read-only")
        arrays: tuple[Array, ...] = (q, k, v, out)
        if lse:
            arrays += (np.empty(q.shape[:-1], np.float32),)
        if not self.run_again(map(element_0, arrays)):
            return None
        return arrays[3:] if lse else out


class BoundRun:
    """What `Plan.bind` returns: call it as often as needed, from one thread at a time.

    Holds its tensors and a workspace of its own.
    """

    __slots__ = ("_args", "_call", "_error", "_handle", "_owners", "_result")

    def __init__(self, plan: Plan, views: Mapping[str, View], result: object) -> None:
        call = Call(plan, views)
        workspace: object
        if call._framework is not None:
            workspace = call.new_device_workspace()
        else:
            memory = plan.new_workspace()
            call.use_workspace(address(memory), memory.size)
            workspace = memory
        self._call = call
        self._handle, self._args, self._error = call._handle, call._args, call._error
        self._owners = ([view.owner for view in views.values()], workspace)
        self._result = result

    def __call__(self) -> Any:
        """Runs; returns the same out, or (out, lse), as all calls do."""
        if _run(self._handle, self._args, self._error):
            raise failure(self._error)
        if self._call._framework is not None:
            self._call._framework.finish(self._call._device_id)
        return self._result


class _Kept(threading.local):
    """The workspace that a thread keeps between runs: address, size, memory."""

    workspace: tuple[int, int, Array] | None = None


_kept = _Kept()


def aligned_bytes(size: int) -> Array:
    """uint8 [size], aligned as a workspace must be."""
    alignment: int = lib.ATTN_WORKSPACE_ALIGNMENT
    memory = np.empty(size + alignment, np.uint8)
    skipped = -address(memory) % alignment
    return memory[skipped : skipped + size]


def block_sizes(block_size: tuple[int, int]) -> tuple[int, int]:
    """(block_q, block_k), checked."""
    try:
        block_q, block_k = block_size
    except (TypeError, ValueError):
        raise TypeError(f"block_size: must be (block_q, block_k), not {block_size!r}") from None
    return integer("block_size", block_q, 32), integer("block_size", block_k, 32)


def _device(device: str | None) -> tuple[int, int]:
    """(attn_device_type, number) of "cpu", "cuda" or "cuda:1"."""
    if device is None or device == "cpu":
        return lib.ATTN_DEVICE_CPU, 0
    kind, colon, number = str(device).partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise InvalidArgument(f'device: {device!r} must be "cpu", "cuda" or "cuda:NUMBER"')
    return lib.ATTN_DEVICE_CUDA, int(number or 0)


def checked_backend(backend: str | None) -> str | None:
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend: must be a string, not {type(backend).__name__}")
    return backend


def plain_key(q: Any, k: Any, v: Any, out: Any, lse: Any) -> object:
    """What calls have in common that differ in their arrays' memory alone; None if not all are
    NumPy's."""
    if not (
        type(q) is type(k) is type(v) is _ndarray
        and (lse is False or lse is True)
        and (out is None or type(out) is _ndarray)
    ):
        return None
    return (
        q.shape, q.strides, q.dtype, k.shape, k.strides, k.dtype, v.shape, v.strides, v.dtype,
        None if out is None else (out.shape, out.strides, out.dtype), lse,
    )  # fmt: skip


def view_main(
    q: object, k: object, v: object, q_dtype: int, k_dtype: int, v_dtype: int, paged: bool
) -> dict[str, View]:
    """Views of q, k and v, of rank 3 or 4; the dtypes say what unsigned integers hold."""
    views = {
        "q": _tensors.view(q, "q", q_dtype),
        "k": _tensors.view(k, "k", k_dtype),
        "v": _tensors.view(v, "v", v_dtype),
    }
    for name, view in views.items():
        rank = len(view.shape)
        if name != "q" and paged:
            if rank != 4:
                raise InvalidArgument(
                    f"{name}: rank {rank} must be 4, [pages, heads_kv, page_size, dim]"
                )
        elif rank not in (3, 4):
            raise InvalidArgument(
                f"{name}: rank {rank} must be 4, [batch, heads, seqlen, dim], or 3 without batch"
            )
    return views


def view_extras(
    tensors: Mapping[str, Any], batch: int, bias_dtype: int, convert: bool = True
) -> dict[str, View]:
    """Views of the given tensors beside q, k, v, o, lse and scales.

    A single number stands for `batch` of them, or for as many as there are cu_seqlens_q.
    """
    views: dict[str, View] = {}
    for name, dtype in _VECTORS.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if not convert:
            views[name] = _tensors.view(tensor, name)
            continue
        views[name] = _tensors.vector(tensor, name, dtype, batch)
        if name == "cu_seqlens_q" and views[name].shape:
            batch = views[name].shape[0] - 1
    for name in _BROADCAST:
        tensor = tensors.get(name)
        if tensor is not None:
            views[name] = _tensors.view(tensor, name, bias_dtype if name == "bias" else None)
            views[name] = views[name].prepend(4)
    return views


def add_outputs(views: dict[str, View], o_dtype: int, out: object, lse: object) -> Any:
    """Adds views of out and lse, made where they are not given; returns what the run will."""
    q = views["q"]
    if q.framework is not None:
        return _add_device_outputs(views, o_dtype, out, lse)
    if out is None:
        shape = q.shape[:-1] + views["v"].shape[-1:]
        prototype = q.owner if isinstance(q.owner, np.ndarray) else None
        if prototype is not None and q.dtype == o_dtype:
            dtype = prototype.dtype
        else:
            dtype = _tensors.numpy_dtype(o_dtype)
        if prototype is None:
            out = np.empty(shape, dtype)
        else:  # in q's memory order
            out = np.empty_like(prototype, dtype, subok=False, shape=shape)
    views["o"] = _tensors.output(out, "out", o_dtype)
    if lse is None or lse is False:
        return out
    if lse is True:
        lse = np.empty(q.shape[:-1], np.float32)
    views["lse"] = _tensors.output(lse, "lse")
    return out, lse


def _add_device_outputs(views: dict[str, View], o_dtype: int, out: object, lse: object) -> Any:
    """The same on a GPU; new arrays are contiguous and of q's framework."""
    q = views["q"]
    assert q.framework is not None
    if out is None:
        shape = q.shape[:-1] + views["v"].shape[-1:]
        out = q.framework.empty(shape, o_dtype, q.device[1])
        # Of JAX an array is read-only, also one that nobody has seen yet.
        views["o"] = _tensors.view(out, "out")
    else:
        views["o"] = _tensors.output(out, "out", o_dtype)
    if lse is None or lse is False:
        return out
    if lse is True:
        lse = q.framework.empty(q.shape[:-1], F32, q.device[1])
        views["lse"] = _tensors.view(lse, "lse")
    else:
        views["lse"] = _tensors.output(lse, "lse")
    return out, lse


def add_scales(views: dict[str, View], tensors: Mapping[str, Any]) -> None:
    """Adds views of the given scales."""
    for name in _SCALE_OF:
        if tensors.get(name) is not None:
            views[name] = _tensors.view(tensors[name], name)


def add_batch(views: dict[str, View]) -> None:
    """Ranks these views as the library does: [heads, seqlen, dim] is a batch of one."""
    bare = {name for name, view in views.items() if len(view.shape) == (2 if name == "lse" else 3)}
    for name, view in views.items():
        # Scales have two ranks; their k or v has one.
        if _SCALE_OF.get(name, name) in bare:
            views[name] = view.prepend(len(view.shape) + 1)


def view_run(
    problem: Problem,
    q: object,
    k: object,
    v: object,
    out: object,
    lse: object,
    tensors: Mapping[str, Any],
    convert: bool = True,
) -> tuple[dict[str, View], Any]:
    """Views of all tensors of a run of `problem`, and what the run returns."""
    for name in tensors:
        if name not in _VECTORS and name not in _BROADCAST and name not in _SCALE_OF:
            raise TypeError(f"unexpected keyword argument {name!r}")
    q_dtype = problem.q_dtype
    k_dtype = problem.k_dtype or q_dtype
    paged = problem.kv_layout == lib.ATTN_LAYOUT_PAGED
    views = view_main(q, k, v, q_dtype, k_dtype, problem.v_dtype or k_dtype, paged)
    result = add_outputs(views, problem.o_dtype or q_dtype, out, lse)
    add_scales(views, tensors)
    add_batch(views)
    if tensors:
        batch = views["q"].shape[0]
        views.update(view_extras(tensors, batch, problem.bias_dtype, convert))
    return views, result

"""JAX: attention as a call of XLA's foreign function interface, on CPUs.

It works under jax.jit, and under jax.vmap one element after the other. A compiled program holds a
plan for each of its calls; the threads are those of the default context. There is no backward pass
yet: gradients are refused.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import _context, _names, _tensors
from ._attention import problem_of
from ._errors import InvalidArgument, Unsupported
from ._native import ffi, lib
from ._plan import _BROADCAST, _SCALE_OF, _VECTORS, score_options
from ._tensors import View

try:
    from . import _jax
except ImportError as error:
    raise ImportError(
        "attn.jax: this attn was built without jaxlib's headers; install JAX, then attn with "
        "`pip install --no-build-isolation`"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._types import Alignment, DType, RunTensors

_Result: Any = jax.ShapeDtypeStruct
_registering = threading.Lock()


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    lse: bool = False,
    order: Literal["bhsd", "bshd"] = "bhsd",
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alignment: Alignment = "bottom_right",
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    block_size: tuple[int, int] | None = None,
    out_dtype: DType | None = None,
    backend: str | None = None,
    **tensors: Unpack[RunTensors],
) -> Any:
    """``softmax(scale * q @ k.T + bias, masked) @ v`` for JAX's arrays, traced ones too.

    All options but `order` mean what they do in `attn.attention`, and must be known when the call
    is traced; `tensors` are the others of its arguments that are arrays, as bias, mask, seqlens_k
    and sink. XLA gives its arrays row by row, so nothing is copied.

    Parameters
    ----------
    q : f32, f16 or bf16 [batch, heads_q, seqlen_q, head_dim], or rank 3 without batch
    k, v : [batch, heads_kv, seqlen_k, head_dim]
    lse : bool
        Also gives the logarithm of each row's denominator, f32 [batch, heads_q, seqlen_q].
    order : str
        "bshd": q, k, v and the result are [batch, seqlen, heads, dim], as in jax.nn.
    max_seqlen_q, max_seqlen_k : int
        Must be given with cu_seqlens_q and cu_seqlens_k.
    tensors : arrays
        What is a jax.Array must have its exact type. q_start, k_start, bias_k0 and mask_k0 are
        int64, which takes JAX's option jax_enable_x64.

    Returns
    -------
    out, or (out, lse)

    Raises
    ------
    InvalidArgument, Unsupported, TypeError
        While it is traced, and where a gradient is asked for.
    jax.errors.JaxRuntimeError
        With the library's words, when the program is compiled or run.

    Examples
    --------
    >>> import jax
    >>> q = jax.numpy.ones((1, 8, 16, 64))
    >>> k = v = jax.numpy.ones((1, 2, 48, 64))
    >>> jax.jit(lambda q, k, v: attention(q, k, v, causal=True))(q, k, v).shape
    (1, 8, 16, 64)
    """
    if order not in ("bhsd", "bshd"):
        raise InvalidArgument(f'order: {order!r} must be "bhsd" or "bshd"')
    given: dict[str, Any] = {name: x for name, x in tensors.items() if x is not None}
    main = {"q": jnp.asarray(q), "k": jnp.asarray(k), "v": jnp.asarray(v)}
    bare = set()
    for name, array in main.items():
        if array.ndim not in (3, 4):
            raise InvalidArgument(f"{name}: rank {array.ndim} must be 4, or 3 without batch")
        if array.ndim == 3:
            bare.add(name)
            main[name] = array[None]
    batch = main["q"].shape[0]
    if "cu_seqlens_q" in given:
        batch = np.shape(given["cu_seqlens_q"])[0] - 1
    for side, longest in (("q", max_seqlen_q), ("k", max_seqlen_k)):
        if f"cu_seqlens_{side}" in given and longest is None:
            raise InvalidArgument(f"max_seqlen_{side}: must be given with cu_seqlens_{side}")
    extras = {}
    for name, tensor in given.items():
        if name in _VECTORS:
            extras[name] = _vector(tensor, name, batch)
            continue
        if name not in _BROADCAST and name not in _SCALE_OF:
            raise TypeError(f"unexpected keyword argument {name!r}")
        array = jnp.asarray(tensor)
        if name in _BROADCAST:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape)
        elif _SCALE_OF[name] in bare:
            array = array[None]
        extras[name] = array

    dtype = main["q"].dtype
    if out_dtype is not None:
        dtype = _tensors.numpy_dtype(_names.value_of("out_dtype", out_dtype, _names.DTYPES))
    results = {"o": _Result(main["q"].shape[:3] + main["v"].shape[3:], dtype)}
    views = {name: _view(array, name, order) for name, array in {**main, **results}.items()}
    if lse:
        results["lse"] = _Result(views["o"].shape[:3], np.float32)
    problem = problem_of(
        views,
        {name: _view(array, name) for name, array in extras.items()},
        score_options(causal, window, scale, softcap, alignment),
        max_seqlen_q,
        max_seqlen_k,
        block_size,
        backend,
    )
    operands = {**main, **extras}
    slots = [ffi.offsetof("attn_run_args", name) for name in (*operands, *results)]
    attributes = {
        "config": np.frombuffer(ffi.buffer(problem.config()), np.uint8),
        "backend": np.frombuffer((problem.backend or "").encode() + b"\0", np.uint8),
        "slots": np.array(slots, np.int32),
        "seqlen_first": np.array([order == "bshd"], np.uint8),
    }
    register()
    foreign = jax.ffi.ffi_call("attn_attention", tuple(results.values()), vmap_method="sequential")
    call = jax.custom_jvp(lambda *arrays: foreign(*arrays, **attributes))
    call.defjvp(_refuse_gradient)
    outputs = call(*operands.values())
    if "q" in bare:
        outputs = tuple(output[0] for output in outputs)
    return outputs if lse else outputs[0]


def _vector(tensor: Any, name: str, batch: int) -> Any:
    """A vector of its exact type; what is no array of JAX's is converted."""
    code = _VECTORS[name]
    if not isinstance(tensor, jax.Array):
        tensor = jnp.asarray(_tensors.vector(tensor, name, code, batch).owner)
    if _tensors.dtype_of(tensor, name) != code:
        hint = ", which takes jax_enable_x64" if code == _tensors.I64 else ""
        wanted = _context.text(lib.attn_dtype_name(code))
        raise TypeError(f"{name}: must hold {wanted}{hint}, not {tensor.dtype}")
    return tensor


def _view(array: Any, name: str, order: str = "bhsd") -> View:
    """Type and shape, which is all that can be known while a program is traced."""
    shape = array.shape
    if order == "bshd":
        shape = (shape[0], shape[2], shape[1], shape[3])
    return View(0, _tensors.dtype_of(array, name), shape, (), False, None)


def _refuse_gradient(primals: Any, tangents: Any) -> Any:
    raise Unsupported(
        "attn.jax.attention: has no backward pass yet; jax.lax.stop_gradient of its arguments lets "
        "a gradient pass by it"
    )


def register() -> None:
    """Tells JAX of the call, which `attention` does by itself; starts JAX's CPU backend.

    For a process that runs a program from jax.export and never calls `attention`.
    """
    with _registering:
        _register_once()


@functools.cache
def _register_once() -> None:
    # What JAX is told before the backend starts, it passes on then, handlers before types; XLA
    # wants the types first.
    jax.devices("cpu")
    _jax.use(int(ffi.cast("uintptr_t", _context.default_context()._handle)))
    jax.ffi.register_ffi_type(
        "attn_plan", {"type_id": _jax.plan_type_id, "type_info": _jax.plan_type_info}, "cpu"
    )
    jax.ffi.register_ffi_target(
        "attn_attention", {"instantiate": _jax.instantiate, "execute": _jax.execute}, "cpu"
    )

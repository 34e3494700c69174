"""attention(): plans and memory are found or made on the way; and merge()."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from . import _context, _names, _tensors
from ._context import integer
from ._errors import InvalidArgument, check
from ._native import ffi, lib
from ._plan import (
    Call,
    Plan,
    Problem,
    add_batch,
    add_outputs,
    add_scales,
    block_sizes,
    checked_backend,
    plain_key,
    score_options,
    view_extras,
    view_main,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._context import Context
    from ._cuda import Framework
    from ._tensors import View
    from ._types import Alignment, Array, AttentionOptions, DType, Tensor, Vector

# What a plan must know of the tensors that are there.
_FEATURE_OF = {
    "seqlens_q": lib.ATTN_SEQLENS_Q,
    "seqlens_k": lib.ATTN_SEQLENS_K,
    "q_start": lib.ATTN_Q_START,
    "k_start": lib.ATTN_K_START,
    "bias": lib.ATTN_BIAS,
    "bias_k0": lib.ATTN_BIAS_RANGE,
    "mask": lib.ATTN_MASK,
    "mask_k0": lib.ATTN_MASK_RANGE,
    "alibi_slopes": lib.ATTN_ALIBI,
    "sink": lib.ATTN_SINK,
    "block_mask": lib.ATTN_BLOCK_MASK,
}


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: None = None,
    lse: Literal[False] | None = False,
    **options: Unpack[AttentionOptions],
) -> Array: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: None = None,
    lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[Array, Array]: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: Tensor | None = None,
    lse: bool | Tensor | None = False,
    **options: Unpack[AttentionOptions],
) -> Any: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    out: Tensor | None = None,
    lse: bool | Tensor | None = False,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alignment: Alignment = "bottom_right",
    seqlens_q: Vector | None = None,
    seqlens_k: Vector | None = None,
    cu_seqlens_q: Vector | None = None,
    cu_seqlens_k: Vector | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    block_table: Vector | None = None,
    q_start: Vector | None = None,
    k_start: Vector | None = None,
    bias: Tensor | None = None,
    bias_k0: Vector | None = None,
    mask: Tensor | None = None,
    mask_k0: Vector | None = None,
    alibi_slopes: Vector | None = None,
    sink: Vector | None = None,
    block_mask: Tensor | None = None,
    block_size: tuple[int, int] | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    dtype: DType | None = None,
    k_dtype: DType | None = None,
    v_dtype: DType | None = None,
    out_dtype: DType | None = None,
    backend: str | None = None,
    context: Context | None = None,
) -> Any:
    """``softmax(scale * q @ k.T + bias, masked) @ v`` for each sequence and head.

    Arrays are NumPy's, or anything on the CPU that speaks DLPack or the buffer protocol. They are
    used where they lie, with any strides: ``x.transpose(0, 2, 1, 3)`` of a [batch, seqlen, heads,
    dim] array costs nothing. Short vectors (lengths, positions, slopes) may also be lists or
    numbers, and are converted.

    On a CUDA device they are PyTorch's, CuPy's or JAX's. The work goes to the framework's current
    stream, a new `out` is the framework's, and vectors lie there too, of their exact types.

    A row that may attend to no key is 0 with an lse of -inf, never NaN. What is masked out never
    influences a result. The same bits come out for any number of threads and whatever else is in
    the batch.

    Parameters
    ----------
    q : f32, f16 or bf16 [batch, heads_q, seqlen_q, head_dim]
        Without batch, [heads_q, seqlen_q, head_dim], results have no batch either.
        Packed, with `cu_seqlens_q`: [1, heads_q, total_q, head_dim] or rank 3.
    k : f32, f16, bf16, int8 or f8e4m3 [batch, heads_kv, seqlen_k, head_dim]
        heads_kv divides heads_q: query head h reads kv head ``h // (heads_q // heads_kv)``.
        Packed, with `cu_seqlens_k`: [1, heads_kv, total_k, head_dim] or rank 3.
        Paged, with `block_table`: [pages, heads_kv, page_size, head_dim].
    v : [batch, heads_kv, seqlen_k, head_dim_v]
        Packed or paged like `k`.
    out : [batch, heads_q, seqlen_q, head_dim_v], optional
        Where the result goes. By default a new array of q's type in q's memory order.
    lse : bool or f32 [batch, heads_q, seqlen_q]
        True, or an array for it: also gives ``log(sum(exp(scores)))`` of each row.
    causal : bool
        Key position <= query position.
    window : (int or None, int or None), optional
        Keys from ``position - left`` to ``position + right``; None leaves a side open.
    scale : float, optional
        By default 1/sqrt(head_dim).
    softcap : float, optional
        Scores become ``softcap * tanh(score / softcap)``.
    alignment : str
        Where query 0 stands: "bottom_right", the last query sees the last key, or "top_left",
        query 0 stands at key 0.
    seqlens_q, seqlens_k : i32 [batch], optional
        Lengths of padded (and paged) sequences. Rows of `out` and `lse` past a query's length
        become 0 and -inf.
    cu_seqlens_q, cu_seqlens_k : i32 [batch + 1], optional
        Packed: sequence i has rows ``cu_seqlens[i]`` to ``cu_seqlens[i + 1] - 1``.
    max_seqlen_q, max_seqlen_k : int, optional
        The longest packed or paged sequence, if known; saves looking for it.
    block_table : i32 [batch, pages a sequence], optional
        Paged k and v: key j lies in page ``block_table[b, j // page_size]``.
    q_start, k_start : i64 [batch], optional
        Positions of query 0 and key 0; override `alignment`.
    bias : f32 or q's type, broadcast to [batch, heads_q, seqlen_q, seqlen_k], optional
        Is added to the scores; -inf masks. Packed: [1, heads_q, total_q, longest seqlen_k].
    mask : bool or u8, broadcast like `bias`, optional
        True attends.
    bias_k0, mask_k0 : i64 [batch] or [1], optional
        Column c of the bias or mask is key ``k0 + c``; outside, the bias is 0, the mask True.
    alibi_slopes : f32 [heads_q] or [batch, heads_q], optional
        Subtracts ``slope * abs(query position - key position)`` from the scores.
    sink : f32 [heads_q], optional
        A further logit in each row's denominator.
    block_mask : bool or u8, broadcast to [batch, heads_q, query blocks, key blocks], optional
        False masks a whole block.
    block_size : (int, int), optional
        Queries and keys a block of `block_mask`.
    k_scale, v_scale : f32 [batch, heads_kv, seqlen_k] or [..., dim / block], optional
        Scales of int8 and f8e4m3 k and v, whose values are ``scale * element``; packed or paged
        like them, and without batch where they are. Any dimension but the last of four may be 1:
        [1, heads_kv, 1] is a scale for each head. All are finite and greater than 0.
    dtype : str, optional
        What arrays of unsigned integers hold: "bf16" for uint16.
    k_dtype, v_dtype : str, optional
        The same for k and v alone: "f8e4m3" for uint8. `v_dtype` follows `k_dtype`, which follows
        `dtype`.
    out_dtype : str, optional
        "f32" for results in f32.
    backend : str, optional
        Forces a backend; by default the first of `attn.backends` that can.
    context : Context, optional
        By default one with all CPUs.

    Returns
    -------
    out, or (out, lse) if `lse` is True or an array

    Raises
    ------
    InvalidArgument, Unsupported, Unavailable, ExecutorError, OutOfMemory
    TypeError
        Names the argument that is of a wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> q = rng.standard_normal((2, 8, 16, 64), np.float32)
    >>> k = rng.standard_normal((2, 2, 48, 64), np.float32)
    >>> v = rng.standard_normal((2, 2, 48, 32), np.float32)
    >>> attention(q, k, v, causal=True).shape
    (2, 8, 16, 32)

    Two sequences of 48 and 20 keys, and the logarithm of each row's denominator:

    >>> out, lse = attention(q, k, v, seqlens_k=[48, 20], lse=True)
    >>> lse.shape, bool(np.isfinite(lse).all())
    ((2, 8, 16), True)
    """
    context = _context.resolve(context)

    # Calls of plain arrays are remembered whole: of those with the same shapes, strides and
    # options only the pointers differ.
    key: object = None
    # fmt: off
    plain_options = (
        None is seqlens_q  # type: ignore[comparison-overlap]
        is seqlens_k is cu_seqlens_q is cu_seqlens_k is max_seqlen_q is max_seqlen_k
        is block_table is q_start is k_start is bias is bias_k0 is mask is mask_k0
        is alibi_slopes is sink is block_mask is block_size is k_scale is v_scale
        is dtype is k_dtype is v_dtype is out_dtype
    )
    # fmt: on
    arrays = plain_key(q, k, v, out, lse) if plain_options else None
    if arrays is not None:
        key = (arrays, causal, window, scale, softcap, alignment, backend)
        try:
            remembered = context._memory.calls.get(key)
        except TypeError:  # an option that is no plain value; what follows looks at it
            key = remembered = None
        if remembered is not None:
            result = remembered.run_arrays_again(q, k, v, out, lse)
            if result is not None:
                return result

    tensors = {
        "seqlens_q": seqlens_q,
        "seqlens_k": seqlens_k,
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "block_table": block_table,
        "q_start": q_start,
        "k_start": k_start,
        "bias": bias,
        "bias_k0": bias_k0,
        "mask": mask,
        "mask_k0": mask_k0,
        "alibi_slopes": alibi_slopes,
        "sink": sink,
        "block_mask": block_mask,
    }
    held: list[int] = []  # by q, k and v, if they are unsigned integers
    for argument, given in (("dtype", dtype), ("k_dtype", k_dtype), ("v_dtype", v_dtype)):
        if given is not None:
            held.append(_names.value_of(argument, given, _names.DTYPES))
        else:
            held.append(held[-1] if held else 0)
    main = view_main(q, k, v, held[0], held[1], held[2], block_table is not None)
    for tensor, code, argument, given in zip(
        "qkv", held, ("dtype", "k_dtype", "v_dtype"), (dtype, k_dtype, v_dtype)
    ):
        if given is not None and main[tensor].dtype != code:
            raise InvalidArgument(f"{tensor}: does not hold {given}, as {argument} says")
    o_dtype = main["q"].dtype
    if out_dtype is not None:
        o_dtype = _names.value_of("out_dtype", out_dtype, _names.DTYPES)
    elif out is not None:
        o_dtype = _tensors.view(out, "out", o_dtype).dtype
    returned = add_outputs(main, o_dtype, out, lse)
    add_scales(main, {"k_scale": k_scale, "v_scale": v_scale})
    add_batch(main)
    extras = view_extras(tensors, main["q"].shape[0], main["q"].dtype)
    options = score_options(causal, window, scale, softcap, alignment)
    problem = problem_of(main, extras, options, max_seqlen_q, max_seqlen_k, block_size, backend)
    plan = context._remembered_plan(problem, lambda: Plan._of(context, problem))
    call = Call(plan, {**main, **extras})
    call.run()
    if key is not None:
        context._memory.remember(key, call)
    return returned


def problem_of(
    main: dict[str, View],
    extras: dict[str, View],
    options: dict[str, Any],
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    block_size: tuple[int, int] | None,
    backend: str | None,
) -> Problem:
    """What a plan must be for, to run these views; `options` are those of score_options."""
    fields = {**_sizes(main, extras, max_seqlen_q, max_seqlen_k), **options}
    for name in extras.keys() & _FEATURE_OF.keys():
        # Paged k and v carry lengths anyway.
        if name != "seqlens_k" or "block_table" not in extras:
            fields["features"] |= _FEATURE_OF[name]
    if "bias" in extras:
        fields["bias_dtype"] = extras["bias"].dtype
    if block_size is not None:
        fields["block_q"], fields["block_k"] = block_sizes(block_size)
    return Problem(**fields, backend=checked_backend(backend))


def _sizes(
    main: dict[str, View],
    extras: dict[str, View],
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
) -> dict[str, Any]:
    """The fields of a Problem that say how large it is and how it lies in memory.

    Upper bounds are rounded up a little, so that one plan serves a sequence that grows.
    """
    q, k, v = main["q"], main["k"], main["v"]
    sizes: dict[str, Any] = {
        "device_type": q.device[0],
        "device_id": q.device[1],
        "q_dtype": q.dtype,
        "k_dtype": k.dtype,
        "v_dtype": v.dtype,
        "o_dtype": main["o"].dtype,
        "heads_q": q.shape[1],
        "heads_kv": k.shape[1],
        "head_dim": q.shape[3],
        "head_dim_v": v.shape[3],
    }
    batch, seqlen_q, seqlen_k = q.shape[0], q.shape[2], k.shape[2]
    if "cu_seqlens_q" in extras:
        sizes["q_layout"] = lib.ATTN_LAYOUT_PACKED
        sizes["max_total_q"] = _round_up(q.shape[2])
        cu_seqlens_q = extras["cu_seqlens_q"]
        if max_seqlen_q is None:
            seqlen_q = _tensors.max_difference(cu_seqlens_q, "cu_seqlens_q")
        else:
            seqlen_q = integer("max_seqlen_q", max_seqlen_q)
        batch = cu_seqlens_q.shape[0] - 1
    elif max_seqlen_q is not None:
        raise InvalidArgument("max_seqlen_q: is for packed q only, with cu_seqlens_q")
    if "cu_seqlens_k" in extras:
        sizes["kv_layout"] = lib.ATTN_LAYOUT_PACKED
        sizes["max_total_k"] = _round_up(k.shape[2])
        if max_seqlen_k is None:
            seqlen_k = _tensors.max_difference(extras["cu_seqlens_k"], "cu_seqlens_k")
    elif "block_table" in extras:
        sizes["kv_layout"] = lib.ATTN_LAYOUT_PAGED
        sizes["page_size"] = k.shape[2]
        table = extras["block_table"]
        if len(table.shape) != 2:
            raise InvalidArgument(f"block_table: rank {len(table.shape)} must be 2, [batch, pages]")
        seqlen_k = table.shape[1] * k.shape[2]
    elif max_seqlen_k is not None:
        raise InvalidArgument("max_seqlen_k: is for packed and paged k and v only")
    if max_seqlen_k is not None:
        seqlen_k = integer("max_seqlen_k", max_seqlen_k)
    sizes["max_batch"] = _round_up(batch)
    sizes["max_seqlen_q"] = _round_up(seqlen_q)
    sizes["max_seqlen_k"] = _round_up(seqlen_k)
    return sizes


def _round_up(extent: int) -> int:
    """At least 1, and the next number that has 4 significant bits: an eighth more at most."""
    step = 1 << max(0, extent.bit_length() - 4)
    return max(1, -(-extent // step) * step)


def merge(
    parts: Iterable[tuple[Tensor, Tensor]],
    *,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    sink: Vector | None = None,
    context: Context | None = None,
) -> tuple[Any, Any]:
    """Combines results of the same queries over disjoint sets of keys into that over all of them.

    Parameters
    ----------
    parts : iterable of (out, lse)
        f32 [batch, heads, seqlen_q, head_dim_v] and f32 [batch, heads, seqlen_q], or both without
        batch; at least one pair. A part whose lse is -inf has no weight.
    out : f32, f16 or bf16, shaped like a part, optional
        By default a new f32 array. May be the very view of a part.
    lse : f32, shaped like a part's, optional
        By default a new array. May be the very view of a part's.
    sink : f32 [heads], optional
        Applied once; then no part may have had it.
    context : Context, optional
        By default one with all CPUs.

    Returns
    -------
    out, lse

    Raises
    ------
    InvalidArgument, ExecutorError, OutOfMemory

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 1, 4, 6, 8), np.float32)
    >>> halves = [attention(q, k[:, :, s], v[:, :, s], lse=True) for s in (slice(4), slice(4, 6))]
    >>> out, lse = merge(halves)
    >>> bool(np.allclose(out, attention(q, k, v), atol=1e-6))
    True
    """
    context = _context.resolve(context)
    o_views, lse_views = [], []
    for index, (part_out, part_lse) in enumerate(parts):
        o_views.append(_tensors.view(part_out, f"parts[{index}][0]"))
        lse_views.append(_tensors.view(part_lse, f"parts[{index}][1]"))
    if not o_views:
        raise InvalidArgument("parts: there must be at least one")
    framework, device_id = o_views[0].framework, o_views[0].device[1]
    if out is None:
        out = _new_f32(o_views[0].shape, framework, device_id)
        o_views.append(_tensors.view(out, "out"))
    else:
        o_views.append(_tensors.output(out, "out"))
    if lse is None:
        lse = _new_f32(lse_views[0].shape, framework, device_id)
        lse_views.append(_tensors.view(lse, "lse"))
    else:
        lse_views.append(_tensors.output(lse, "lse"))

    count = len(o_views) - 1
    o_tensors = _pack([v.prepend(4) if len(v.shape) == 3 else v for v in o_views])
    lse_tensors = _pack([v.prepend(3) if len(v.shape) == 2 else v for v in lse_views])
    o_parts = ffi.new("attn_tensor*[]", [o_tensors + i for i in range(count)])
    lse_parts = ffi.new("attn_tensor*[]", [lse_tensors + i for i in range(count)])
    args = ffi.new("attn_merge_args*", {"struct_size": ffi.sizeof("attn_merge_args")})
    args.count = count
    args.o_parts, args.o = o_parts, o_tensors + count
    args.lse_parts, args.lse = lse_parts, lse_tensors + count
    if sink is not None:
        sink_view = _tensors.vector(sink, "sink", _tensors.F32)
        sink_tensor = _pack([sink_view])
        args.sink = sink_tensor
    if framework is not None:
        args.stream = ffi.cast("void*", framework.stream(device_id))
    error = ffi.new("attn_error*")
    check(lib.attn_merge(context._handle, args, error), error)
    if framework is not None:
        framework.finish(device_id)
    return out, lse


def _new_f32(shape: tuple[int, ...], framework: Framework | None, device_id: int) -> Any:
    if framework is None:
        return np.empty(shape, np.float32)
    return framework.empty(shape, _tensors.F32, device_id)


def _pack(views: list[View]) -> Any:
    """attn_tensor[len(views)]."""
    tensors = ffi.new("attn_tensor[]", len(views))
    for index, view in enumerate(views):
        view.pack_into(ffi.buffer(tensors), index * ffi.sizeof("attn_tensor"))
    return tensors

"""PyTorch: the operator torch.ops.attn.attention, and a scaled_dot_product_attention made of it.

The operator is defined when this module is imported, and PyTorch with it. It works under
torch.compile. Tensors are used where they lie, with any strides. There is no backward pass yet:
tensors that require a gradient are refused unless gradients are off (torch.no_grad).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from . import _tensors
from ._attention import problem_of
from ._context import default_context
from ._errors import InvalidArgument, Unsupported
from ._native import ffi
from ._plan import Call, Plan, add_batch, score_options, view_extras, view_main

# The operator's tensors, and what it takes beside them, as attn.attention explains them all.
_TENSORS = ("q", "k", "v", "seqlens_q", "seqlens_k", "bias", "mask", "alibi_slopes", "sink")
_SCHEMA = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor? seqlens_q=None, Tensor? seqlens_k=None, "
    "Tensor? bias=None, Tensor? mask=None, Tensor? alibi_slopes=None, Tensor? sink=None, *, "
    "bool causal=False, SymInt? window_left=None, SymInt? window_right=None, float? scale=None, "
    'float? softcap=None, str alignment="bottom_right") -> Tensor'
)
_SETTINGS = {"causal": False, "scale": None, "softcap": None, "alignment": "bottom_right"}


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *extras: torch.Tensor | None,
    **settings: Any,
) -> torch.Tensor:
    """The operator on memory. Settings that are as in the schema do not come."""
    tensors = {name: t for name, t in zip(_TENSORS, (q, k, v, *extras)) if t is not None}
    out = _fake(q, k, v, *extras)
    context = default_context()

    # As in attn.attention: of calls with the same key only the pointers differ.
    key = (
        *[(name, t.shape, t.stride(), t.dtype) for name, t in tensors.items()],
        *settings.items(),
        out.device,
    )
    tensors["o"] = out
    call = context._memory.calls.get(key)
    if call is not None and call.run_again(
        [ffi.cast("void*", tensors[name].data_ptr()) for name in call.names]
    ):
        return out

    # DLPack has no gradients, not even such as are off.
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    main = view_main(tensors.pop("q"), tensors.pop("k"), tensors.pop("v"), 0, 0, 0, False)
    main["o"] = _tensors.view(tensors.pop("o"), "out")
    add_batch(main)
    # Vectors are used in place too: nothing is converted.
    others = view_extras(tensors, main["q"].shape[0], main["q"].dtype, convert=False)
    window = (settings.pop("window_left", None), settings.pop("window_right", None))
    options = score_options(**{**_SETTINGS, **settings, "window": window})
    problem = problem_of(main, others, options, None, None, None, None)
    plan = context._remembered_plan(problem, lambda: Plan._of(context, problem))
    call = Call(plan, {**main, **others})
    call.run()
    if out.is_cpu:  # on a GPU a call belongs to the stream that was current
        context._memory.remember(key, call)
    return out


def _fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *extras: torch.Tensor | None, **_: Any
) -> torch.Tensor:
    """The operator without its numbers: a new [batch, heads_q, seqlen_q, head_dim_v] of q's type,
    in q's memory order if its rows are as long."""
    for name, tensor in zip(_TENSORS, (q, k, v, *extras)):
        if tensor is not None and tensor.device != q.device:
            raise InvalidArgument(f"{name}: lies on {tensor.device}, must lie on {q.device} like q")
    if q.shape[-1] == v.shape[-1]:
        return torch.empty_like(q)
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


def _refuse_gradient(context: Any, *_: Any, **__: Any) -> None:
    """What PyTorch calls where a tensor requires a gradient."""
    name = _TENSORS[context.needs_input_grad.index(True)]
    raise Unsupported(
        f"{name}: requires a gradient, and there is no backward pass yet; call under "
        "torch.no_grad()"
    )


def _autocast(device_type: str) -> Callable[..., torch.Tensor]:
    """The operator where torch.autocast is on: in its type, as PyTorch's own attention is."""
    served = (torch.float32, torch.float16, torch.bfloat16)

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *extras: torch.Tensor | None,
        **settings: Any,
    ) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(device_type)
        q, k, v = (t.to(dtype) if t.dtype in served else t for t in (q, k, v))
        with torch.autocast(device_type, enabled=False):
            out: torch.Tensor = torch.ops.attn.attention.default(q, k, v, *extras, **settings)
        return out

    return kernel


_library = torch.library.Library("attn", "DEF")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
_library.impl("attention", _attention, "CompositeExplicitAutograd")
_library.impl("attention", _autocast("cpu"), "AutocastCPU")
_library.impl("attention", _autocast("cuda"), "AutocastCUDA")
torch.library.register_fake("attn::attention", _fake, lib=_library)
torch.library.register_autograd(
    "attn::attention",
    _refuse_gradient,
    setup_context=lambda ctx, **_: _refuse_gradient(ctx),
    lib=_library,
)


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.scaled_dot_product_attention, computed by attn.

    Its signature and its meaning, in f32, f16 and bf16, with these differences: a row without a
    key is 0 always; what is masked never influences a result, be it NaN; there is no dropout and no
    gradient, and no scale or head size of 0.

    Parameters
    ----------
    query : f32, f16 or bf16 [..., heads_q, seqlen_q, head_dim]
        Two dimensions or more. Leading ones broadcast; nothing is copied for that, nor for any
        strides, where the batch is one dimension.
    key : [..., heads_kv, seqlen_k, head_dim]
    value : [..., heads_kv, seqlen_k, head_dim_v]
    attn_mask : bool, f32 or query's type, broadcast to [..., heads_q, seqlen_q, seqlen_k], optional
        True attends; numbers are added to the scores.
    dropout_p : float
        0.
    is_causal : bool
        Query i attends to keys 0 to i, whatever the number of keys. Not beside `attn_mask`.
    scale : float, optional
        By default 1/sqrt(head_dim).
    enable_gqa : bool
        heads_kv divides heads_q: query head h reads kv head ``h // (heads_q // heads_kv)``.

    Returns
    -------
    [..., heads_q, seqlen_q, head_dim_v] of query's type

    Raises
    ------
    InvalidArgument, Unsupported, TypeError

    Examples
    --------
    >>> import torch
    >>> from attn.torch import scaled_dot_product_attention
    >>> q, k, v = torch.randn(1, 8, 4, 64), torch.randn(1, 2, 6, 64), torch.randn(1, 2, 6, 64)
    >>> scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).shape
    torch.Size([1, 8, 4, 64])
    """
    refuse_dropout("dropout_p", dropout_p)
    if is_causal and attn_mask is not None:
        raise InvalidArgument("attn_mask: must be None with is_causal; let the mask be causal")
    q, k, v, mask = query, key, value, attn_mask
    bare = 1 if enable_gqa else 2  # leading dimensions that are the same where nothing broadcasts
    shape = None
    if not (q.ndim == k.ndim == v.ndim == 4 and q.shape[:bare] == k.shape[:bare] == v.shape[:bare]):
        shape, (q, k, v, mask) = _broadcast(q, k, v, mask, enable_gqa)
    options = {}
    if mask is not None:
        options["mask" if mask.dtype == torch.bool else "bias"] = mask
    out: torch.Tensor = torch.ops.attn.attention.default(
        q, k, v, causal=is_causal, scale=scale, alignment="top_left", **options
    )
    return out if shape is None else out.reshape(shape)


def _broadcast(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    enable_gqa: bool,
) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of the result; and query, key and value as [batch, heads, seqlen, dim], the mask as
    what broadcasts to [batch, heads, seqlen, seqlen]."""
    tensors = {"query": query, "key": key, "value": value}
    least = 3 if enable_gqa else 2
    for name, tensor in tensors.items():
        if tensor.ndim < least:
            raise InvalidArgument(f"{name}: rank {tensor.ndim} must be {least} or more")
    leading = [tensor.shape[:-least] for tensor in tensors.values()]
    try:
        common = torch.broadcast_shapes(*leading)
    except RuntimeError:
        raise InvalidArgument(
            f"query, key, value: leading dimensions {', '.join(str(tuple(s)) for s in leading)} "
            f"must broadcast{'' if enable_gqa else '; or enable_gqa=True, if heads are shared'}"
        ) from None
    if enable_gqa:
        batch, heads = common, [tensor.shape[-3] for tensor in tensors.values()]
    else:
        batch, heads = common[:-1], [*common[-1:], 1][:1] * 3
    count = math.prod(batch)
    ranked: list[Any] = [
        tensor.expand(*batch, h, *tensor.shape[-2:]).reshape(count, h, *tensor.shape[-2:])
        for h, tensor in zip(heads, tensors.values())
    ]
    if mask is not None and mask.ndim > 3:
        mask = mask.expand(*batch, *mask.shape[-3:]).reshape(count, *mask.shape[-3:])
    result = (*common, *heads[:1], query.shape[-2], value.shape[-1])
    return result if enable_gqa else (*common, *result[-2:]), [*ranked, mask]


def refuse_dropout(name: str, probability: float) -> None:
    """Raises unless it is 0."""
    if probability != 0:
        raise Unsupported(f"{name}: {probability} must be 0: there is no dropout yet")

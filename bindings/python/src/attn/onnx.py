"""The operator Attention of ONNX, opset 23 to 25, for NumPy arrays.

`attention` takes the operator's inputs and attributes under their own names. It needs no ONNX
package; ml_dtypes has the bfloat16 arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._attention import attention as _attention
from ._errors import InvalidArgument

if TYPE_CHECKING:
    from ._context import Context
    from ._types import Array

# Types of softmax_precision, as ONNX numbers them.
_FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16 = 1, 10, 11, 16


class Outputs(NamedTuple):
    """What the operator returns."""

    Y: Array
    present_key: Array
    present_value: Array
    qk_matmul_output: Array | None


def attention(
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    qk_matmul_output: bool = False,
    context: Context | None = None,
) -> Outputs:
    """``softmax(softcap(scale * Q @ K.T) + attn_mask) @ V`` for each batch and head.

    Query i stands at ``offset + i`` and key j at j: `is_causal` and the windows compare those.
    The offset is the length of `past_key`, or ``nonpad_kv_seqlen - q_sequence_length`` of each
    batch, or 0. A query that may attend to no key gives zeros.

    Parameters
    ----------
    Q : f32, f16 or bf16 [batch, q_num_heads, q_sequence_length, head_size]
        Or [batch, q_sequence_length, q_num_heads * head_size] with `q_num_heads`; then K, V and Y
        have rank 3 too. float64 is refused.
    K, V : [batch, kv_num_heads, kv_sequence_length, head_size]
        Or [batch, kv_sequence_length, kv_num_heads * head_size] with `kv_num_heads`. V may have a
        head size and a type of its own.
    attn_mask : bool or float, broadcast to [batch, q_num_heads, q_sequence_length, total], optional
        total = past_sequence_length + kv_sequence_length. True attends; floats are added. Keys past
        a shorter last dimension are masked, also if it is 1. Floats of another type than f32 and
        Q's are converted to f32; integers are refused.
    past_key, past_value : [batch, kv_num_heads, past_sequence_length, head_size], optional
        Go before K and V.
    nonpad_kv_seqlen : int64 [batch], optional
        Keys from here on are masked. Not together with `past_key`.
    is_causal, left_window_size, right_window_size : int
        Masks by position; a window of -1 is open.
    qk_matmul_output_mode : int
        What `qk_matmul_output` holds: 0 scores, 1 after the softcap, 2 after mask and bias too,
        3 after the softmax.
    scale : float, optional
        By default 1/sqrt(head_size).
    softcap : float
        Scores become ``softcap * tanh(score / softcap)`` before the mask; 0 does nothing.
    softmax_precision : int, optional
        FLOAT (1), FLOAT16 (10) and BFLOAT16 (16) all give a softmax in f32. DOUBLE (11) is computed
        by NumPy, with all scores in memory; there NaN and Inf in V reach masked queries too.
    qk_matmul_output : bool
        Asks for that output, which NumPy computes beside the others.
    context : Context, optional
        By default one with all CPUs.

    Returns
    -------
    Outputs
        ``Y`` of Q's type and rank; ``present_key`` and ``present_value``, of rank 4 and without a
        copy where there is no past; ``qk_matmul_output`` [batch, q_num_heads, q_sequence_length,
        total] of Q's type, or None.

    Raises
    ------
    InvalidArgument, Unsupported, ExecutorError, OutOfMemory
    TypeError
        Names the argument that is of a wrong type.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((1, 3, 2 * 8), np.float32)
    >>> past = np.zeros((1, 2, 5, 8), np.float32)
    >>> out = attention(x, x, x, None, past, past, q_num_heads=2, kv_num_heads=2, is_causal=1)
    >>> out.Y.shape, out.present_key.shape
    ((1, 3, 16), (1, 2, 8, 8))
    """
    q, k, v = np.asarray(Q), np.asarray(K), np.asarray(V)
    rank = q.ndim
    if rank not in (3, 4) or k.ndim != rank or v.ndim != rank:
        raise InvalidArgument(f"Q, K, V: ranks {q.ndim}, {k.ndim}, {v.ndim} must be all 3 or all 4")
    if rank == 3:
        q = _split_heads(q, "Q", "q_num_heads", q_num_heads)
        k = _split_heads(k, "K", "kv_num_heads", kv_num_heads)
        v = _split_heads(v, "V", "kv_num_heads", kv_num_heads)
    elif q_num_heads is not None or kv_num_heads is not None:
        raise InvalidArgument("q_num_heads, kv_num_heads: are for Q, K and V of rank 3 only")
    if softmax_precision not in (None, _FLOAT, _FLOAT16, _DOUBLE, _BFLOAT16):
        raise InvalidArgument(
            f"softmax_precision: {softmax_precision!r} must be 1 (FLOAT), 10 (FLOAT16), "
            "11 (DOUBLE) or 16 (BFLOAT16)"
        )
    if qk_matmul_output_mode not in (0, 1, 2, 3):
        raise InvalidArgument(f"qk_matmul_output_mode: {qk_matmul_output_mode!r} must be 0 to 3")

    batch, _, seqlen_q, head_size = q.shape
    past = 0
    lengths = None
    if past_key is not None and past_value is not None:
        if nonpad_kv_seqlen is not None:
            raise InvalidArgument("nonpad_kv_seqlen: must not be given with past_key")
        past = -k.shape[2]
        k, v = _append(past_key, "past_key", k), _append(past_value, "past_value", v)
        past += k.shape[2]
    elif past_key is not None or past_value is not None:
        raise InvalidArgument("past_key, past_value: must be given together")
    elif nonpad_kv_seqlen is not None:
        lengths = _lengths(nonpad_kv_seqlen, batch, k.shape[2])
    if v.shape[2] != k.shape[2]:
        raise InvalidArgument(
            f"V: {v.shape[2]} rows, past ones included, must be {k.shape[2]} as those of K"
        )
    offset = np.full(batch, past) if lengths is None else lengths - seqlen_q

    # Where a shorter mask ends, the keys end: what the operator pads it with masks them.
    keys = k.shape[2]
    mask = bias = None
    if attn_mask is not None:
        given = _mask(attn_mask, keys, q.dtype)
        mask, bias = (given, None) if given.dtype == np.bool_ else (None, given)
        keys = given.shape[-1]
        if lengths is not None:
            lengths = np.minimum(lengths, keys)
    left = _bound("left_window_size", left_window_size)
    right = _bound("right_window_size", right_window_size)

    y = _attention(
        q,
        k[:, :, :keys],
        v[:, :, :keys],
        causal=bool(is_causal),
        window=(left, right),
        scale=scale,
        softcap=softcap or None,
        q_start=offset,
        seqlens_k=lengths,
        bias=bias,
        mask=mask,
        context=context,
    )
    output = None
    if qk_matmul_output or softmax_precision == _DOUBLE:
        key = np.arange(k.shape[2])
        query = offset[:, None, None, None] + np.arange(seqlen_q)[:, None]
        attends = key < (keys if lengths is None else lengths[:, None, None, None])
        if is_causal:
            attends = attends & (key <= query)
        if left is not None:
            attends = attends & (key >= query - left)
        if right is not None:
            attends = attends & (key <= query + right)
        stages = _stages(
            q,
            k,
            1 / math.sqrt(head_size) if scale is None else scale,
            softcap,
            attends if mask is None else attends & _pad(mask, k.shape[2]),
            0 if bias is None else _pad(bias, k.shape[2]),
            np.float64 if softmax_precision == _DOUBLE else np.float32,
        )
        if softmax_precision == _DOUBLE:
            y = _matmul(stages[3], v).astype(q.dtype)
        if qk_matmul_output:
            output = stages[qk_matmul_output_mode].astype(q.dtype)
    if rank == 3:
        y = y.swapaxes(1, 2).reshape(batch, seqlen_q, -1)
    return Outputs(y, k, v, output)


def _split_heads(x: Array, name: str, attribute: str, heads: int | None) -> Array:
    """[batch, seqlen, heads * size] as [batch, heads, seqlen, size]."""
    if heads is None:
        raise InvalidArgument(f"{attribute}: must be given for Q, K and V of rank 3")
    if heads < 1 or x.shape[2] % heads:
        raise InvalidArgument(
            f"{attribute}: {heads} must divide the {x.shape[2]} elements of a row of {name}"
        )
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2)


def _append(past: Array, name: str, new: Array) -> Array:
    """The past and the new keys or values."""
    past = np.asarray(past)
    if past.dtype != new.dtype:
        raise TypeError(f"{name}: is {past.dtype}, must be {new.dtype} as what comes after it")
    batch, heads, _, size = new.shape
    if past.ndim != 4 or (*past.shape[:2], past.shape[3]) != (batch, heads, size):
        raise InvalidArgument(
            f"{name}: shape {past.shape} must be ({batch}, {heads}, past_sequence_length, {size})"
        )
    return np.concatenate((past, new), axis=2)


def _lengths(nonpad_kv_seqlen: Array, batch: int, seqlen_k: int) -> Array:
    lengths = np.asarray(nonpad_kv_seqlen)
    if lengths.dtype != np.int64:
        raise TypeError(f"nonpad_kv_seqlen: must hold int64, not {lengths.dtype}")
    if lengths.shape != (batch,):
        raise InvalidArgument(f"nonpad_kv_seqlen: shape {lengths.shape} must be ({batch},)")
    if ((lengths < 0) | (lengths > seqlen_k)).any():
        raise InvalidArgument(f"nonpad_kv_seqlen: {lengths} must be 0 to {seqlen_k}")
    return lengths


def _mask(attn_mask: Array, keys: int, dtype: Any) -> Array:
    """A mask that is bool, or floats that the library takes; of at most `keys` columns."""
    mask = np.asarray(attn_mask)
    if not 1 <= mask.ndim <= 4 or mask.shape[-1] > keys:
        raise InvalidArgument(
            f"attn_mask: shape {mask.shape} must be of rank 1 to 4 with at most {keys} columns"
        )
    if mask.dtype in (np.bool_, np.float32, dtype):
        return mask
    if mask.dtype.name not in ("float16", "bfloat16", "float64"):
        raise TypeError(f"attn_mask: must hold bool or floats, not {mask.dtype}")
    return mask.astype(np.float32)


def _bound(attribute: str, size: int) -> int | None:
    if size < -1:
        raise InvalidArgument(f"{attribute}: {size} must be -1 or more")
    return None if size == -1 else size


def _pad(mask: Array, columns: int) -> Array:
    """The mask with columns for all keys; those that it lacked are not attended anyway."""
    return np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, columns - mask.shape[-1])])


def _stages(
    q: Array, k: Array, scale: float, softcap: float, attends: Array, bias: Any, precision: Any
) -> tuple[Array, Array, Array, Array]:
    """Scores: raw, after the softcap, after masks and bias, after the softmax in `precision`."""
    with np.errstate(invalid="ignore"):  # NaN from an attended Inf
        raw = _matmul(q, k.swapaxes(2, 3)) * np.float32(scale)
        capped = softcap * np.tanh(raw / softcap) if softcap else raw
        masked = np.where(attends & (bias > -np.inf), capped + bias, -np.inf).astype(np.float32)
        top = masked.max(axis=-1, keepdims=True, initial=-np.inf)
        weights = np.exp(masked.astype(precision) - np.where(top == -np.inf, 0, top))
        total = weights.sum(axis=-1, keepdims=True)
        return raw, capped, masked, weights / np.where(total == 0, 1, total)


def _matmul(per_query_head: Array, per_kv_head: Array) -> Array:
    """a @ b in f32 or wider, where several heads of a share one of b."""
    a, b = (x.astype(np.promote_types(np.float32, x.dtype)) for x in (per_query_head, per_kv_head))
    batch, heads, rows, _ = a.shape
    grouped: Array = a.reshape(batch, b.shape[1], -1, *a.shape[2:]) @ b[:, :, None]
    return grouped.reshape(batch, heads, rows, b.shape[3])

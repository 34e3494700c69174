"""The header's enumerators as plain strings, both ways: "avx512" is ATTN_ISA_AVX512."""

from __future__ import annotations

from collections.abc import Mapping

from . import _errors
from ._native import lib


def _enumerators(prefix: str) -> dict[str, int]:
    names = (name for name in dir(lib) if name.startswith(prefix))
    return {name[len(prefix) :].lower(): getattr(lib, name) for name in names}


DTYPES = _enumerators("ATTN_DTYPE_")
del DTYPES["invalid"]
LAYOUTS = _enumerators("ATTN_LAYOUT_")
ALIGNMENTS = _enumerators("ATTN_ALIGN_")
ISAS = _enumerators("ATTN_ISA_")
LOG_LEVELS = {value: name for name, value in _enumerators("ATTN_LOG_").items()}

# What a caller of Plan may ask for by name; causal and the windows are arguments of their own.
FEATURES: dict[str, int] = {
    "seqlens_q": lib.ATTN_SEQLENS_Q,
    "seqlens_k": lib.ATTN_SEQLENS_K,
    "q_start": lib.ATTN_Q_START,
    "k_start": lib.ATTN_K_START,
    "bias": lib.ATTN_BIAS,
    "bias_range": lib.ATTN_BIAS_RANGE,
    "mask": lib.ATTN_MASK,
    "mask_range": lib.ATTN_MASK_RANGE,
    "alibi": lib.ATTN_ALIBI,
    "sink": lib.ATTN_SINK,
    "block_mask": lib.ATTN_BLOCK_MASK,
}


def value_of(argument: str, name: object, table: Mapping[str, int]) -> int:
    """The number behind a name; the error says which names there are."""
    if not isinstance(name, str):
        raise TypeError(f"{argument}: must be a string, not {type(name).__name__}")
    try:
        return table[name]
    except KeyError:
        allowed = ", ".join(sorted(table))
        raise _errors.InvalidArgument(f"{argument}: {name!r} is none of {allowed}") from None

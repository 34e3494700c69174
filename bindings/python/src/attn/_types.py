"""The types that annotations share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Union

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer, TypeAlias

    from ._context import Context

    Array: TypeAlias = npt.NDArray[Any]

    class SupportsDLPack(Protocol):
        """What speaks DLPack: torch, jax and cupy arrays, and more."""

        def __dlpack__(self) -> Any: ...

        def __dlpack_device__(self) -> tuple[int, int]: ...

    # Memory that is used in place.
    Tensor: TypeAlias = Union[npt.NDArray[Any], SupportsDLPack, Buffer]

    # Short vectors and tables of numbers: used in place where the type fits, else converted.
    Vector: TypeAlias = Union[Tensor, int, float, Sequence[int], Sequence[float], Sequence[Any]]

DType = Literal["f32", "f16", "bf16", "f8e4m3", "i8"]
Layout = Literal["padded", "packed", "paged"]
Alignment = Literal["bottom_right", "top_left"]
Isa = Literal["auto", "scalar", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon"]
Feature = Literal[
    "seqlens_q",
    "seqlens_k",
    "q_start",
    "k_start",
    "bias",
    "bias_range",
    "mask",
    "mask_range",
    "alibi",
    "sink",
    "block_mask",
]


class RunTensors(TypedDict, total=False):
    """The tensors of a run beside q, k, v, out and lse."""

    seqlens_q: Vector | None
    seqlens_k: Vector | None
    cu_seqlens_q: Vector | None
    cu_seqlens_k: Vector | None
    block_table: Vector | None
    q_start: Vector | None
    k_start: Vector | None
    bias: Tensor | None
    bias_k0: Vector | None
    mask: Tensor | None
    mask_k0: Vector | None
    alibi_slopes: Vector | None
    sink: Vector | None
    block_mask: Tensor | None
    k_scale: Tensor | None
    v_scale: Tensor | None


class AttentionOptions(RunTensors, total=False):
    """What `attention` takes beside q, k, v, out and lse."""

    causal: bool
    window: tuple[int | None, int | None] | None
    scale: float | None
    softcap: float | None
    alignment: Alignment
    max_seqlen_q: int | None
    max_seqlen_k: int | None
    block_size: tuple[int, int] | None
    dtype: DType | None
    k_dtype: DType | None
    v_dtype: DType | None
    out_dtype: DType | None
    backend: str | None
    context: Context | None

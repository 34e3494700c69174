"""Hugging Face transformers: attn_implementation="attn", registered when this is imported.

Models come to it with their heads, masks, softcap, sinks and position biases. Inference alone:
there is no dropout and no backward pass yet, and attention weights are not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ._errors import Unsupported
from .torch import refuse_dropout

NAME = "attn"


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a model's attention layer calls.

    Parameters
    ----------
    module : torch.nn.Module
        The layer; its `is_causal` counts where the argument is None.
    query : f32, f16 or bf16 [batch, heads_q, seqlen_q, head_dim]
    key, value : [batch, heads_kv, seqlen_k, head_dim]
    attention_mask : bool or numbers, broadcast to [batch, heads_q, seqlen_q, seqlen_k], optional
        The whole mask where there is one: causality, window and padding are in it. Else a query
        stands at the key of its number, if the layer is causal.
    s_aux : [heads_q], optional
        Sinks.
    position_bias : broadcast like the mask, optional

    Returns
    -------
    ([batch, seqlen_q, heads_q, head_dim], None)
    """
    refuse_dropout("dropout", dropout)
    if output_attentions:
        raise Unsupported('output_attentions: weights are not kept; load with "eager" for them')
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    mask, bias = attention_mask, position_bias
    if mask is not None and mask.dtype != torch.bool:
        mask, bias = None, mask if bias is None else mask + bias
    out = torch.ops.attn.attention(
        query.expand(key.shape[0], -1, -1, -1),  # learned queries come once
        key,
        value,
        bias=bias,
        mask=mask,
        sink=None if s_aux is None else s_aux.float(),
        # A single query without a mask is the newest and sees all keys.
        causal=is_causal and attention_mask is None and query.shape[2] > 1,
        alignment="top_left",
        scale=scaling,
        softcap=softcap,
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)  # boolean, or None where is_causal says it all

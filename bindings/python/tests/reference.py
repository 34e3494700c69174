"""Attention in float64 NumPy, one row at a time, straight from the contract in attn.h."""

import math

import numpy as np


def attention(
    q,
    k,
    v,
    *,
    scale=None,
    softcap=None,
    causal=False,
    window=None,
    alignment="bottom_right",
    seqlens_q=None,
    seqlens_k=None,
    q_start=None,
    k_start=None,
    bias=None,
    bias_k0=None,
    mask=None,
    mask_k0=None,
    alibi_slopes=None,
    sink=None,
    block_mask=None,
    block_size=None,
):
    """(out, lse) for padded [batch, heads, seqlen, dim] arrays; options as in attn.attention."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, heads_q, extent_q, head_dim = q.shape
    heads_kv, extent_k = k.shape[1:3]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    out = np.zeros((batch, heads_q, extent_q, v.shape[3]))
    lse = np.full((batch, heads_q, extent_q), -np.inf)
    if bias is not None:
        bias = np.broadcast_to(
            np.asarray(bias, np.float64), (batch, heads_q, extent_q, _last(bias))
        )
    if mask is not None:
        mask = np.broadcast_to(np.asarray(mask) != 0, (batch, heads_q, extent_q, _last(mask)))
    mask_k0 = np.broadcast_to(0 if mask_k0 is None else mask_k0, batch)
    bias_k0 = np.broadcast_to(0 if bias_k0 is None else bias_k0, batch)
    if alibi_slopes is not None:
        alibi_slopes = np.broadcast_to(np.asarray(alibi_slopes, np.float64), (batch, heads_q))
    if block_mask is not None:
        blocks = np.shape(block_mask)[-2:]
        block_mask = np.broadcast_to(block_mask, (batch, heads_q, *blocks))

    for b in range(batch):
        length_q = extent_q if seqlens_q is None else seqlens_q[b]
        length_k = extent_k if seqlens_k is None else seqlens_k[b]
        first_q = length_k - length_q if alignment == "bottom_right" else 0
        if q_start is not None:
            first_q = np.broadcast_to(q_start, batch)[b]
        first_k = 0 if k_start is None else np.broadcast_to(k_start, batch)[b]
        for h in range(heads_q):
            h_kv = h // (heads_q // heads_kv)
            for i in range(length_q):
                scores = {}
                for j in range(length_k):
                    position_q, position_k = first_q + i, first_k + j
                    if causal and position_k > position_q:
                        continue
                    if window is not None:
                        left, right = window
                        if left is not None and position_k < position_q - left:
                            continue
                        if right is not None and position_k > position_q + right:
                            continue
                    if mask is not None:
                        column = j - mask_k0[b]
                        if 0 <= column < mask.shape[3] and not mask[b, h, i, column]:
                            continue
                    if (
                        block_mask is not None
                        and not (block_mask[b, h, i // block_size[0], j // block_size[1]])
                    ):
                        continue
                    score = scale * float(q[b, h, i] @ k[b, h_kv, j])
                    if softcap is not None:
                        score = softcap * math.tanh(score / softcap)
                    if alibi_slopes is not None:
                        score -= alibi_slopes[b, h] * abs(position_q - position_k)
                    if bias is not None:
                        column = j - bias_k0[b]
                        if 0 <= column < bias.shape[3]:
                            score += bias[b, h, i, column]
                    if score != -math.inf:
                        scores[j] = score
                logits = list(scores.values())
                if sink is not None:
                    logits.append(float(sink[h]))
                if not logits:
                    continue
                top = max(logits)
                total = math.fsum(math.exp(logit - top) for logit in logits)
                lse[b, h, i] = top + math.log(total)
                for j, score in scores.items():
                    out[b, h, i] += math.exp(score - lse[b, h, i]) * v[b, h_kv, j]
    return out, lse


def _last(array):
    return np.shape(array)[-1]


def assert_close(actual, expected, tolerance):
    """Equal shapes, and no element further away than `tolerance`; NaN is far from everything."""
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(actual[infinite], expected[infinite])
    error = np.abs(actual[~infinite] - expected[~infinite])
    assert np.all(error <= tolerance), f"error {error.max()} > {tolerance}"


def assert_attention(out, lse, q, k, v, **options):
    """`out`, and `lse` unless it is None, are within the contract's bound for f32."""
    expected_out, expected_lse = attention(q, k, v, **options)
    largest = float(np.abs(np.asarray(v, np.float64)).max(initial=0))
    assert_close(out, expected_out, 1e-5 * largest)
    if lse is not None:
        assert lse.dtype == np.float32
        finite = expected_lse[np.isfinite(expected_lse)]
        assert_close(lse, expected_lse, 1e-5 * max(1.0, np.abs(finite).max(initial=0)))

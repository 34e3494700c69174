"""Packed and paged batches against the padded form of the same sequences."""

import numpy as np
import pytest
from reference import assert_attention

import attn

LENGTHS_Q = [4, 0, 7, 1]
LENGTHS_K = [9, 3, 7, 30]
PAGE = 4


def pack(sequences):
    """[1, heads, total, dim] and cumulative lengths, of sequences [heads, seqlen, dim]."""
    offsets = np.cumsum([0] + [x.shape[1] for x in sequences]).astype(np.int32)
    return np.concatenate(sequences, axis=1)[None], offsets


def page(rng, sequences, poison):
    """(pages, block_table): each sequence scattered over pages, the rest of which is poison."""
    heads, _, dim = sequences[0].shape
    counts = [-(-x.shape[1] // PAGE) for x in sequences]
    pages = np.full((sum(counts) + 2, heads, PAGE, dim), poison, np.float32)
    free = list(rng.permutation(len(pages)))
    table = np.full((len(sequences), max(counts) + 1), -7, np.int32)
    for row, x in enumerate(sequences):
        for column in range(counts[row]):
            table[row, column] = free.pop()
            part = x[:, column * PAGE : (column + 1) * PAGE]
            pages[table[row, column], :, : part.shape[1]] = part
    return pages, table


@pytest.fixture
def sequences(normal):
    """q, k and v of four sequences: 4 heads over 2, head size 8, values 12."""
    q = [normal(4, n, 8) for n in LENGTHS_Q]
    k = [normal(2, n, 8) for n in LENGTHS_K]
    v = [normal(2, n, 12) for n in LENGTHS_K]
    return q, k, v


def check(out, lse, sequences, offsets, **options):
    """Rows of packed results are those of each sequence alone."""
    for b, (q, k, v) in enumerate(zip(*sequences)):
        rows = slice(offsets[b], offsets[b + 1])
        assert_attention(out[:, :, rows], lse[:, :, rows], q[None], k[None], v[None], **options)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_packed(sequences, causal, known):
    (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences)
    longest = {"max_seqlen_q": max(LENGTHS_Q), "max_seqlen_k": max(LENGTHS_K)} if known else {}
    out, lse = attn.attention(
        q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, causal=causal, lse=True, **longest
    )
    assert out.shape == (1, 4, 12, 12)
    check(out, lse, sequences, cu_q, causal=causal)
    # Without the dimension of 1, and offsets as a list.
    bare, bare_lse = attn.attention(
        q[0], k[0], v[0], cu_seqlens_q=cu_q.tolist(), cu_seqlens_k=cu_k.tolist(), causal=causal,
        lse=True,
    )  # fmt: skip
    np.testing.assert_array_equal(bare, out[0])
    np.testing.assert_array_equal(bare_lse, lse[0])


def test_packed_with_dlpack_offsets(sequences):
    from test_arrays import Producer

    (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences)
    expected = attn.attention(q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    cu_q, cu_k = (Producer(np.repeat(x, 2)[::2], code=0) for x in (cu_q, cu_k))
    out = attn.attention(q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    np.testing.assert_array_equal(out, expected)


def test_packed_in_token_order(sequences):
    """[total, heads, dim] arrays, as engines keep them, need no copy."""
    (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences)
    tokens = [np.ascontiguousarray(x[0].transpose(1, 0, 2)) for x in (q, k, v)]
    out, lse = attn.attention(
        *(x.transpose(1, 0, 2) for x in tokens), cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, lse=True
    )
    assert out.transpose(1, 0, 2).flags.c_contiguous
    check(out[None], lse[None], sequences, cu_q)


@pytest.mark.parametrize("poison", [0.0, np.nan])
def test_paged(rng, sequences, poison):
    q, k, v = sequences
    both = [np.concatenate([a, b], axis=2) for a, b in zip(k, v)]
    pages, table = page(rng, both, poison)
    k_pages, v_pages = pages[..., :8], pages[..., 8:]
    packed_q, cu_q = pack(q)
    out, lse = attn.attention(
        packed_q, k_pages, v_pages, cu_seqlens_q=cu_q, block_table=table, seqlens_k=LENGTHS_K,
        causal=True, lse=True,
    )  # fmt: skip
    check(out, lse, sequences, cu_q, causal=True)

    # One new query each, padded: decoding.
    step = np.stack([x[:, :1] if x.shape[1] else np.zeros((4, 1, 8), np.float32) for x in q])
    out, lse = attn.attention(
        step, k_pages, v_pages, block_table=table, seqlens_k=LENGTHS_K, max_seqlen_k=30, lse=True
    )
    for b in range(4):
        one = slice(b, b + 1)
        assert_attention(out[one], lse[one], step[one], k[b][None], v[b][None])


def test_one_paged_sequence_without_batch(rng, sequences):
    q, k, v = (x[2] for x in sequences)
    pages, table = page(rng, [np.concatenate([k, v], axis=2)], 0.0)
    out = attn.attention(q, pages[..., :8], pages[..., 8:], block_table=table, seqlens_k=[7])
    assert_attention(out[None], None, q[None], k[None], v[None])


def test_packed_mask_and_start(rng, sequences):
    (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences)
    mask = rng.random((12, 30)) < 0.6
    starts = np.array([5, 0, 1, 29])
    out, lse = attn.attention(
        q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, mask=mask, q_start=starts, causal=True,
        lse=True,
    )  # fmt: skip
    for b, (one_q, one_k, one_v) in enumerate(zip(*sequences)):
        rows = slice(cu_q[b], cu_q[b + 1])
        assert_attention(
            out[:, :, rows], lse[:, :, rows], one_q[None], one_k[None], one_v[None],
            mask=mask[rows], q_start=starts[b], causal=True,
        )  # fmt: skip


def test_a_growing_cache_shares_plans(normal):
    context = attn.Context(num_threads=1)
    k = normal(1, 2, 512, 8)
    q = normal(1, 2, 1, 8)
    for length in range(1, 513):
        attn.attention(q, k[:, :, :length], k[:, :, :length], context=context)
    assert len(context._plans) <= 8 * 8


def test_lengths_that_do_not_fit(sequences):
    (q, cu_q), (k, cu_k), (v, _) = map(pack, sequences)
    with pytest.raises(attn.InvalidArgument, match="max_seqlen_q: is for packed q only"):
        attn.attention(q, k, v, max_seqlen_q=4)
    with pytest.raises(attn.InvalidArgument, match="max_seqlen_k: is for packed and paged"):
        attn.attention(q, k, v, max_seqlen_k=4)
    with pytest.raises(attn.InvalidArgument, match="cu_seqlens_q"):
        attn.attention(q, k, v, cu_seqlens_q=[cu_q], cu_seqlens_k=cu_k)
    with pytest.raises(attn.InvalidArgument, match="cu_seqlens_k"):
        attn.attention(q, k, v, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k + 5)
    with pytest.raises(attn.InvalidArgument, match="block_table: rank 1 must be 2"):
        attn.attention(q, k, v, block_table=[0], seqlens_k=[1])
    with pytest.raises(attn.InvalidArgument, match="k: rank 3 must be 4"):
        attn.attention(q, k[0], v[0], block_table=[[0]], seqlens_k=[1])
    with pytest.raises(attn.InvalidArgument, match="block_table"):
        attn.attention(q, k, v, block_table=[[9]], seqlens_k=[1])

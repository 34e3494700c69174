"""Results against float64, for every option of attn.attention."""

import numpy as np
import pytest
from reference import assert_attention, assert_close, attention

import attn

BACKENDS = [None, "standard"]

SHAPES = [
    # batch, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v
    (1, 1, 1, 1, 1, 1, 1),
    (2, 4, 4, 7, 7, 8, 8),
    (1, 6, 2, 5, 33, 16, 16),
    (2, 3, 1, 17, 9, 24, 40),
    (1, 2, 2, 65, 130, 64, 64),
    (1, 1, 1, 3, 5, 80, 3),
]


def tensors(normal, batch, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim, head_dim_v):
    q = normal(batch, heads_q, seqlen_q, head_dim)
    k = normal(batch, heads_kv, seqlen_k, head_dim)
    return q, k, normal(batch, heads_kv, seqlen_k, head_dim_v)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(normal, shape, causal, backend):
    q, k, v = tensors(normal, *shape)
    out, lse = attn.attention(q, k, v, lse=True, causal=causal, backend=backend)
    assert out.dtype == np.float32
    assert_attention(out, lse, q, k, v, causal=causal)


def options(rng):
    """Every option once, some together, for 2 sequences, 4 heads over 2, 6 queries, 11 keys."""
    some = rng.random((2, 4, 6, 11)) < 0.7
    bias = rng.standard_normal((2, 4, 6, 11), np.float32)
    bias[:, :, :, 3] = -np.inf
    return {
        "scale": {"scale": 0.3},
        "negative scale": {"scale": -0.5},
        "softcap": {"softcap": 0.8},
        "causal": {"causal": True},
        "causal top left": {"causal": True, "alignment": "top_left"},
        "window": {"window": (2, 1)},
        "left window": {"window": (3, None), "causal": True},
        "right window": {"window": (None, 0), "alignment": "top_left"},
        "empty rows": {"window": (None, 0), "q_start": [-3, 2]},
        "seqlens_q": {"seqlens_q": [6, 2]},
        "seqlens_k": {"seqlens_k": [4, 11], "causal": True},
        "no keys": {"seqlens_k": [0, 1]},
        "both seqlens": {"seqlens_q": [1, 6], "seqlens_k": [9, 5], "causal": True},
        "q_start": {"q_start": [3, 5], "causal": True},
        "k_start": {"k_start": [1, 0], "q_start": [2, 4], "causal": True},
        "one q_start": {"q_start": 4, "causal": True},
        "bias": {"bias": bias},
        "bias of a row": {"bias": bias[0, 0, 0]},
        "bias of a head": {"bias": bias[0, :, :1]},
        "bias range": {"bias": bias[..., :4], "bias_k0": [2, 5]},
        "one bias_k0": {"bias": bias[..., :4], "bias_k0": 3},
        "mask": {"mask": some},
        "mask of bytes": {"mask": some.astype(np.uint8) * 200},
        "mask of a batch": {"mask": some[:, :1, :1]},
        "mask of a query": {"mask": some[0, 0]},
        "broadcast mask": {"mask": np.broadcast_to(some[0, 0, 0], (2, 4, 6, 11))},
        "mask range": {"mask": some[..., :5], "mask_k0": np.array([0, 6])},
        "alibi": {"alibi_slopes": [0.5, 0.25, 0.125, 0.0625], "causal": True},
        "alibi of a batch": {"alibi_slopes": rng.random((2, 4))},
        "sink": {"sink": [0.0, 2.0, -3.0, 1.5], "causal": True, "alignment": "top_left"},
        "sink alone": {"sink": [0.5, 1.0, 2.0, 3.0], "seqlens_k": [0, 3]},
        "block mask": {"block_mask": rng.random((2, 4, 2, 3)) < 0.6, "block_size": (4, 5)},
        "block mask of all": {
            "block_mask": np.array([[1, 0], [1, 1]], np.uint8),
            "block_size": (3, 8),
        },
        "everything": {
            "scale": 0.4,
            "softcap": 3.0,
            "causal": True,
            "window": (7, None),
            "seqlens_q": [5, 6],
            "seqlens_k": [11, 8],
            "q_start": [4, 3],
            "k_start": [0, 1],
            "bias": bias,
            "mask": some,
            "alibi_slopes": [0.5, 0.25, 0.125, 0.0625],
            "sink": [0.0, 2.0, -3.0, 1.5],
        },
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", options(np.random.default_rng(0)))
def test_options(rng, normal, name, backend):
    q, k, v = tensors(normal, 2, 4, 2, 6, 11, 8, 12)
    chosen = options(rng)[name]
    out, lse = attn.attention(q, k, v, lse=True, backend=backend, **chosen)
    assert_attention(out, lse, q, k, v, **chosen)


def bfloat16():
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("out_dtype", [None, "f32"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16()], ids=str)
def test_half_types(normal, dtype, out_dtype):
    q, k, v = (x.astype(dtype) for x in tensors(normal, 2, 4, 2, 9, 20, 16, 16))
    bias = normal(9, 20).astype(dtype)
    out, lse = attn.attention(q, k, v, bias=bias, lse=True, causal=True, out_dtype=out_dtype)
    expected, expected_lse = attention(q, k, v, bias=bias, causal=True)
    assert out.dtype == (dtype if out_dtype is None else np.float32)
    largest = float(np.abs(v.astype(np.float64)).max())
    digits = 10 if dtype == np.float16 else 7
    ulp = 2.0 ** (np.floor(np.log2(largest)) - digits)
    assert_close(out, expected, ulp if out_dtype is None else 1e-5 * largest + ulp / 2)
    assert_close(lse, expected_lse, 1e-4)


def float8():
    import ml_dtypes

    return np.dtype(ml_dtypes.float8_e4m3fn)


def quantise(x, dtype, blocks):
    """(elements, scales [..., blocks]) with one scale for each block of a row."""
    largest = 127 if dtype == np.int8 else 448
    parts = x.reshape(*x.shape[:-1], blocks, -1)
    scale = (np.abs(parts).max(-1) / largest).astype(np.float32)
    elements = parts / scale[..., None]
    if dtype == np.int8:
        elements = np.rint(elements)
    return elements.astype(dtype).reshape(x.shape), scale


def dequantise(elements, scale):
    parts = elements.astype(np.float64).reshape(*scale.shape, -1)
    return (parts * scale[..., None]).reshape(elements.shape)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("dtype", [np.dtype(np.int8), float8()], ids=str)
def test_quantised(normal, dtype, blocks, rank):
    q, k, v = tensors(normal, 2, 4, 2, 9, 20, 64, 32)
    k, k_scale = quantise(k, dtype, blocks)
    v, v_scale = quantise(v, dtype, blocks)
    exact = dequantise(k, k_scale), dequantise(v, v_scale)
    if blocks == 1:
        k_scale, v_scale = k_scale[..., 0], v_scale[..., 0]
    options = {"causal": True, "lse": True}
    if rank == 4:
        out, lse = attn.attention(q, k, v, k_scale=k_scale, v_scale=v_scale, **options)
        assert_attention(out, lse, q, *exact, causal=True)
    else:
        out, lse = attn.attention(
            q[1], k[1], v[1], k_scale=k_scale[1], v_scale=v_scale[1], **options
        )
        assert_attention(out[None], lse[None], q[1:], *(x[1:] for x in exact), causal=True)


def test_quantised_plan(normal):
    """int8 keys with a scale for each head, raw bytes of f8e4m3 as values, in a plan."""
    q, k, v = tensors(normal, 1, 4, 2, 5, 20, 16, 16)
    k_scale = np.array([0.02, 0.03], np.float32).reshape(1, 2, 1)
    k = np.rint(k / k_scale[..., None]).clip(-127, 127).astype(np.int8)
    v, v_scale = quantise(v, float8(), 1)
    exact = k * k_scale[..., None].astype(np.float64), dequantise(v, v_scale)
    scales = {"k_scale": k_scale, "v_scale": v_scale[..., 0]}
    expected = attn.attention(q, k, v, **scales)
    assert_attention(expected, None, q, *exact)
    raw = attn.attention(q, k, v.view(np.uint8), v_dtype="f8e4m3", **scales)
    np.testing.assert_array_equal(raw, expected)
    plan = attn.Plan(
        heads_q=4, heads_kv=2, head_dim=16, max_seqlen_q=8, max_seqlen_k=32,
        k_dtype="i8", v_dtype="f8e4m3",
    )  # fmt: skip
    np.testing.assert_array_equal(plan.run(q, k, v, **scales), expected)
    np.testing.assert_array_equal(plan.bind(q, k, v, **scales)(), expected)


def test_quantised_pages(normal):
    q, k, v = tensors(normal, 1, 2, 2, 3, 12, 8, 8)
    k, k_scale = quantise(k, np.dtype(np.int8), 1)
    v, v_scale = quantise(v, np.dtype(np.int8), 1)
    expected = attn.attention(q, k, v, k_scale=k_scale[..., 0], v_scale=v_scale[..., 0])
    table = [[4, 0, 2]]

    def paged(x):
        pages = np.full((5, *x.shape[1:2], 4, *x.shape[3:]), -1, x.dtype)
        for page, column in zip(table[0], range(0, 12, 4)):
            pages[page] = x[0, :, column : column + 4]
        return pages

    out = attn.attention(
        q, paged(k), paged(v), block_table=table, seqlens_k=[12],
        k_scale=paged(k_scale[..., 0]), v_scale=paged(v_scale[..., 0]),
    )  # fmt: skip
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_scales(normal, bad):
    q, k, v = tensors(normal, 1, 2, 2, 3, 12, 8, 8)
    k, scale = quantise(k, np.dtype(np.int8), 1)
    scale = scale[..., 0]
    assert attn.attention(q, k, v, k_scale=scale, v_dtype="f32").shape == q.shape
    scale[0, 1, 7] = bad
    attn.attention(q, k, v, k_scale=scale, seqlens_k=[7])
    with pytest.raises(attn.InvalidArgument, match=r"k_scale\[0, 1, 7\] is .*finite and > 0"):
        attn.attention(q, k, v, k_scale=scale, seqlens_k=[8])
    with pytest.raises(attn.InvalidArgument, match="k_scale"):
        attn.attention(q, k, v)
    with pytest.raises(attn.InvalidArgument, match="v: does not hold i8, as v_dtype says"):
        attn.attention(q, k, v, k_scale=scale, v_dtype="i8")


def test_what_is_masked_never_matters(normal):
    q, k, v = tensors(normal, 2, 2, 2, 4, 9, 8, 8)
    expected = attn.attention(q, k, v, seqlens_k=[5, 9], causal=True)
    k[0, :, 5:], v[0, :, 5:] = np.nan, np.inf
    np.testing.assert_array_equal(attn.attention(q, k, v, seqlens_k=[5, 9], causal=True), expected)


def test_attended_nan_comes_out(normal):
    q, k, v = tensors(normal, 1, 1, 1, 2, 3, 8, 8)
    v[0, 0, 1, 2] = np.nan
    out = attn.attention(q, k, v)
    assert np.isnan(out[..., 2]).all()
    assert not np.isnan(out[..., :2]).any()


@pytest.mark.parametrize("empty", ["batch", "seqlen_q", "seqlen_k"])
def test_nothing_to_do(normal, empty):
    sizes = {"batch": 2, "seqlen_q": 3, "seqlen_k": 4, empty: 0}
    q = normal(sizes["batch"], 2, sizes["seqlen_q"], 8)
    k = v = normal(sizes["batch"], 2, sizes["seqlen_k"], 8)
    out, lse = attn.attention(q, k, v, lse=True)
    assert out.shape == q.shape
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def test_same_bits_alone_and_in_a_batch(normal, one_thread):
    q, k, v = tensors(normal, 3, 4, 2, 12, 70, 32, 32)
    together = attn.attention(q, k, v, causal=True)
    for b in range(3):
        alone = attn.attention(q[b], k[b], v[b], causal=True, context=one_thread)
        np.testing.assert_array_equal(together[b], alone)


def test_merge(normal):
    q, k, v = tensors(normal, 2, 4, 2, 6, 30, 16, 24)
    cuts = [0, 7, 7, 21, 30]
    parts = [
        attn.attention(q, k[:, :, a:b], v[:, :, a:b], lse=True) for a, b in zip(cuts, cuts[1:])
    ]
    assert_attention(*attn.merge(parts), q, k, v)

    sink = normal(4)
    assert_attention(*attn.merge(iter(parts), sink=sink), q, k, v, sink=sink)

    # Without batch, into given arrays, one of them a part's own.
    bare = [(out[0].copy(), lse[0].copy()) for out, lse in parts]
    out, lse = attn.merge(bare, out=bare[0][0], lse=bare[0][1])
    assert out is bare[0][0]
    assert lse is bare[0][1]
    assert_attention(out[None], lse[None], q[:1], k[:1], v[:1])

    half, _ = attn.merge(parts, out=np.empty((2, 4, 6, 24), np.float16))
    assert_close(half, attention(q, k, v)[0], 2e-3)


def test_merge_of_nothing(normal):
    out, lse = attn.merge([(normal(1, 2, 3, 4), np.full((1, 2, 3), -np.inf, np.float32))])
    assert (out == 0).all()
    assert (lse == -np.inf).all()
    with pytest.raises(attn.InvalidArgument, match="parts"):
        attn.merge([])
    with pytest.raises(TypeError, match=r"parts\[0\]\[1\]"):
        attn.merge([(out, [1.0])])

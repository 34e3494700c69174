"""The PyTorch adapter against PyTorch itself: semantics, compilation, memory, refusals."""

import doctest
import itertools
import pathlib
import re
import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import attn
import attn.torch
from attn.torch import scaled_dot_product_attention

INF = float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
attention = torch.ops.attn.attention


@pytest.fixture(autouse=True)
def no_grad():
    torch.manual_seed(20240917)
    with torch.no_grad():
        yield


def assert_same(query, key, value, attn_mask=None, **options):
    """Of PyTorch's shape and type, and as near to float64 as the contract says."""
    out = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)
    assert (out.shape, out.dtype, out.device) == (theirs.shape, theirs.dtype, theirs.device)
    mask = attn_mask
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.double()
    exact = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=mask, **options
    )
    largest = value.double().abs().max() if value.numel() else 0
    if out.dtype == torch.float32:
        allowed = torch.full(exact.shape, 1e-5 * largest, dtype=torch.double)
    else:
        error = (theirs.double() - exact).abs().amax(-1, keepdim=True)
        allowed = 2 * error + torch.finfo(out.dtype).eps * largest
    # Not by >, so that NaN fails.
    assert ((out.double() - exact).abs() <= allowed).all()


def tensors(q_shape, k_shape=None, v_shape=None, dtype=torch.float32):
    k_shape = q_shape if k_shape is None else k_shape
    v_shape = k_shape if v_shape is None else v_shape
    return [torch.randn(shape, dtype=dtype) for shape in (q_shape, k_shape, v_shape)]


# --- scaled_dot_product_attention: the same as PyTorch's ---

SHAPES = {
    "rank 2": [(5, 8), (7, 8)],
    "rank 3": [(3, 5, 8), (3, 7, 8)],
    "rank 4": [(2, 3, 5, 8), (2, 3, 7, 8)],
    "rank 5": [(2, 3, 4, 5, 8), (2, 3, 4, 7, 8)],
    "rank 6": [(2, 1, 3, 4, 5, 8), (2, 1, 3, 4, 7, 8)],
    "head_dim_v": [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 13)],
    "long": [(1, 2, 130, 64), (1, 2, 300, 64)],
    "one query": [(2, 4, 1, 64), (2, 4, 700, 64)],
    "one key": [(2, 3, 9, 16), (2, 3, 1, 16)],
    "one batch of keys": [(2, 3, 5, 8), (1, 3, 7, 8)],
    "one batch of queries": [(1, 3, 5, 8), (2, 3, 7, 8)],
    "one batch but for values": [(1, 3, 5, 8), (1, 3, 7, 8), (2, 3, 7, 8)],
    "keys of less rank": [(2, 3, 5, 8), (3, 7, 8)],
    "keys without heads": [(2, 3, 5, 8), (7, 8)],
    "queries of less rank": [(5, 8), (2, 3, 7, 8)],
    "one head of keys": [(2, 3, 5, 8), (2, 1, 7, 8)],
    "one head of queries": [(2, 1, 5, 8), (2, 3, 7, 8)],
    "rank 5, broadcast": [(2, 1, 4, 5, 8), (3, 1, 7, 8)],
    "no batch": [(0, 3, 5, 8), (0, 3, 7, 8)],
    "no queries": [(2, 3, 0, 8), (2, 3, 7, 8)],
    "no keys": [(2, 3, 5, 8), (2, 3, 0, 8)],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_shapes(shapes, is_causal, dtype):
    """Causal is aligned top left, for more keys than queries and for fewer."""
    assert_same(*tensors(*shapes, dtype=dtype), is_causal=is_causal)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lengths", [(5, 9), (9, 5), (7, 7), (1, 6), (6, 1), (64, 200), (200, 64)])
def test_causal(lengths, dtype):
    q_shape, k_shape = ((2, 3, length, 16) for length in lengths)
    assert_same(*tensors(q_shape, k_shape, dtype=dtype), is_causal=True)


GQA = {
    "rank 3": [(4, 5, 8), (2, 7, 8)],
    "rank 4": [(2, 6, 5, 8), (2, 2, 7, 8)],
    "one head": [(2, 6, 5, 8), (2, 1, 7, 8)],
    "as many": [(2, 6, 5, 8), (2, 6, 7, 8)],
    "rank 5": [(3, 2, 4, 5, 8), (3, 2, 2, 7, 8)],
    "one batch of keys": [(2, 4, 5, 8), (1, 2, 7, 8)],
    "keys of less rank": [(2, 4, 5, 8), (2, 7, 8)],
    "one query": [(2, 8, 1, 64), (2, 2, 300, 64)],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shapes", GQA.values(), ids=GQA)
def test_grouped_heads(shapes, is_causal, dtype):
    assert_same(*tensors(*shapes, dtype=dtype), is_causal=is_causal, enable_gqa=True)


MASKS = [(5, 7), (1, 7), (5, 1), (1, 1), (4, 5, 7), (1, 5, 7), (2, 1, 5, 7), (2, 1, 1, 7)]
MASKS += [(1, 4, 5, 7), (2, 4, 5, 7), (2, 4, 1, 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["bool", "f32", "query's"])
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_masks(shape, kind, dtype):
    """Broadcast from any dimension; some rows have no key, and are 0."""
    q, k, v = tensors((2, 4, 5, 8), (2, 4, 7, 8), dtype=dtype)
    attends = torch.rand(shape) < 0.7
    attends[..., -1:, :] = False
    if kind == "bool":
        mask = attends
    else:
        mask = torch.randn(shape, dtype=torch.float32 if kind == "f32" else dtype)
        mask[~attends] = -INF
    assert_same(q, k, v, attn_mask=mask)
    if shape[-2:] == (5, 7):
        assert (scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, :, -1] == 0).all()


@pytest.mark.parametrize(
    "shape", [(5, 7), (4, 5, 7), (3, 1, 5, 7), (2, 1, 1, 1, 7), (2, 3, 4, 5, 7), (1, 1, 1, 5, 1)]
)
def test_masks_of_rank_5(shape):
    q, k, v = tensors((2, 3, 4, 5, 8), (2, 3, 4, 7, 8))
    assert_same(q, k, v, attn_mask=torch.randn(shape))
    assert_same(q, k, v, attn_mask=torch.rand(shape) < 0.7)


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (3, 1, 7)])
def test_masks_of_rank_3(shape):
    """Of three dimensions the first is that of heads, whatever one calls it."""
    q, k, v = tensors((3, 5, 8), (3, 7, 8))
    assert_same(q, k, v, attn_mask=torch.rand(shape) < 0.7)


def test_mask_with_grouped_heads():
    q, k, v = tensors((2, 4, 5, 8), (2, 2, 7, 8))
    assert_same(q, k, v, attn_mask=torch.randn(2, 4, 5, 7), enable_gqa=True)


@pytest.mark.parametrize("mask_strides", ["transposed", "sliced", "expanded"])
def test_mask_strides(mask_strides):
    q, k, v = tensors((2, 3, 5, 8), (2, 3, 7, 8))
    mask = {
        "transposed": torch.rand(7, 5, 3, 2).permute(3, 2, 1, 0),
        "sliced": torch.rand(2, 3, 10, 21)[:, :, ::2, 1::3],
        "expanded": torch.rand(1, 1, 5, 7).expand(2, 3, 5, 7),
    }[mask_strides]
    assert_same(q, k, v, attn_mask=mask)
    assert_same(q, k, v, attn_mask=mask < 0.7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [None, 1, 0.3, -0.5, 1e-20, 20.0])
def test_scale(scale, dtype):
    assert_same(*tensors((2, 3, 5, 8), (2, 3, 7, 8), dtype=dtype), scale=scale)


class Recorder(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


LAYOUTS = {
    "b h s d": lambda b, h, s, d: torch.randn(b, h, s, d),
    "b s h d": lambda b, h, s, d: torch.randn(b, s, h, d).transpose(1, 2),
    "s b h d": lambda b, h, s, d: torch.randn(s, b, h, d).permute(1, 2, 0, 3),
    "d last but one": lambda b, h, s, d: torch.randn(b, h, d, s).transpose(2, 3),
    "every second": lambda b, h, s, d: torch.randn(b, h, 2 * s, 2 * d)[:, :, ::2, ::2],
    "expanded": lambda b, h, s, d: torch.randn(1, h, s, d).expand(b, h, s, d),
    "offset": lambda b, h, s, d: torch.randn(b * h * s * d + 1)[1:].view(b, h, s, d),
}


@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)), ids=str)
def test_strides(layouts):
    """In whatever order memory lies, nothing is copied, and the result lies like the query."""
    q = LAYOUTS[layouts[0]](2, 3, 5, 8)
    k, v = (LAYOUTS[layouts[1]](2, 3, 7, 8) for _ in "kv")
    assert_same(q, k, v)
    with Recorder() as recorder:
        out = scaled_dot_product_attention(q, k, v)
    assert recorder.names == ["attn::attention"]
    assert out.stride() == torch.empty_like(q).stride()


@pytest.mark.parametrize("name", [n for n, s in SHAPES.items() if len(s[0]) < 5])
def test_no_copies(name):
    q, k, v = tensors(*SHAPES[name])
    mask = torch.ones(1, 1, dtype=torch.bool)
    with Recorder() as recorder:
        scaled_dot_product_attention(q, k, v, attn_mask=mask)
    views = {"aten::expand", "aten::view", "aten::unsqueeze", "aten::_reshape_alias"}
    assert set(recorder.names) <= {"attn::attention", *views}, recorder.names


def test_views_of_one_projection():
    qkv = torch.randn(2, 6, 3, 4, 8)  # [batch, seqlen, which, heads, head_dim]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    assert_same(q, k, v, is_causal=True)


def test_lazy_negation():
    """The imaginary part of a conjugate holds its negated values until it is looked at."""
    q = torch.randn(2, 3, 5, 8, dtype=torch.complex64).conj().imag
    assert q.is_neg()
    assert_same(q, *tensors((2, 3, 7, 8))[1:])


def test_parameters():
    """Where gradients are off, what would require one is welcome."""
    q, k, v = (torch.nn.Parameter(t) for t in tensors((2, 3, 5, 8)))
    assert_same(q, k, v)
    with torch.inference_mode():
        assert_same(q, k, v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    q, k, v = tensors((2, 3, 5, 8))
    k = k.to(dtype)
    with torch.autocast("cpu", dtype):
        out = scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(5, 5))
        assert out.dtype == F.scaled_dot_product_attention(q, k, v).dtype == dtype
        with pytest.raises(TypeError, match="q: DLPack type"):
            scaled_dot_product_attention(q.double(), k, v)
    q, k, v = (t.to(dtype) for t in (q, k, v))
    assert torch.equal(out, scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(5, 5)))


def test_masked_nan_stays_away():
    """Where PyTorch adds -inf to NaN, here it is not looked at."""
    q, k, v = tensors((2, 3, 5, 8), (2, 3, 7, 8))
    expected = scaled_dot_product_attention(q, k[:, :, :4], v[:, :, :4])
    k[:, :, 4:] = v[:, :, 4:] = float("nan")
    mask = torch.arange(7) < 4
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None]).isnan().any()


def test_as_a_replacement(monkeypatch):
    """PyTorch's own layers run with it in the place of theirs."""
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x = torch.randn(2, 9, 32)
    # Not their fast path, which calls nothing of Python.
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    expected = layer(x, x, x, need_weights=False)[0]
    monkeypatch.setattr(F, "scaled_dot_product_attention", scaled_dot_product_attention)
    with Recorder() as recorder:
        out = layer(x, x, x, need_weights=False)[0]
    assert "attn::attention" in recorder.names
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_other_memory_each_time():
    """Calls alike in everything but memory are remembered, and bounded."""
    calls = attn.default_context()._memory.calls
    for length in range(1, 100):
        for _ in range(2):
            assert_same(*tensors((1, 2, length, 8)), attn_mask=torch.rand(length, length) < 0.9)
    assert len(calls) <= 64


def test_threads():
    inputs = [tensors((1, 2, length, 16)) for length in range(1, 9)]
    expected = [scaled_dot_product_attention(*t) for t in inputs]
    failures = []

    def work(index):
        with torch.no_grad():
            for _ in range(50):
                out = scaled_dot_product_attention(*inputs[index])
                if not torch.equal(out, expected[index]):
                    failures.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- The operator ---


def operator_cases():
    torch.manual_seed(1)
    q, k, v = tensors((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6))
    lengths = torch.tensor([7, 3], dtype=torch.int32)
    return {
        "plain": ((q, k, v), {}),
        "no batch": ((q[0], k[0], v[0]), {"causal": True}),
        "f16": ((q.half(), k.half(), v.half()), {"scale": 0.3}),
        "strides": ((q.transpose(1, 2).contiguous().transpose(1, 2), k, k), {}),
        "mask": ((q, k, v), {"mask": torch.rand(2, 1, 5, 7) < 0.7, "alignment": "top_left"}),
        "bias": ((q, k, v), {"bias": torch.randn(4, 1, 7), "softcap": 2.0}),
        "window": ((q, k, v), {"window_left": 2, "window_right": 1}),
        "lengths": ((q, k, v, None, lengths), {"causal": True}),
        "both lengths": ((q, k, v), {"seqlens_q": lengths - 2, "seqlens_k": lengths}),
        "sink": ((q, k, v), {"sink": torch.randn(4), "alibi_slopes": torch.rand(4)}),
    }


CASES = operator_cases()


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    """What attn.attention gives, in bits."""
    arguments, options = CASES[name]
    names = [argument.name for argument in attention.default._schema.arguments]
    expected = {**dict(zip(names, arguments)), **options}
    if "window_left" in expected:
        expected["window"] = (expected.pop("window_left"), expected.pop("window_right"))
    q, k, v = (expected.pop(tensor).numpy() for tensor in "qkv")
    expected = attn.attention(q, k, v, **expected)
    for _ in range(2):  # new, and remembered
        out = attention(*arguments, **options)
        assert torch.equal(out, torch.from_numpy(expected))


@pytest.mark.parametrize("names", [("seqlens_q", "seqlens_k"), ("alibi_slopes", "sink")])
def test_the_same_tensor_as_another_argument(names):
    q, k, v = tensors((2, 4, 5, 8))
    tensor = torch.tensor([3, 5], dtype=torch.int32) if "seqlens_q" in names else torch.rand(4)
    arrays = [t.numpy() for t in (q, k, v)]
    for name in names:
        expected = attn.attention(*arrays, **{name: tensor.numpy()})
        assert torch.equal(attention(q, k, v, **{name: tensor}), torch.from_numpy(expected))


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
@pytest.mark.parametrize("name", CASES)
def test_opcheck(name):
    torch.library.opcheck(attention.default, *CASES[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    def layer(x, weight, mask):
        b, s, _ = x.shape
        q, k, v = (x @ weight).reshape(b, s, 3, 4, 8).permute(2, 0, 3, 1, 4)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out + scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
        out = out + scaled_dot_product_attention(q, k[:1], v[:1], is_causal=True)
        return (out * 2).transpose(1, 2).flatten(2)

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic)
    for length in (6, 9, 13):
        x, weight = torch.randn(2, length, 16), torch.randn(16, 96)
        mask = torch.rand(length, length) < 0.7
        expected = layer(x, weight, mask)
        with Recorder() as recorder:
            layer(x, weight, mask)
        assert recorder.names.count("attn::attention") == 3
        torch.testing.assert_close(compiled(x, weight, mask), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_export():
    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    inputs = tuple(tensors((2, 3, 5, 8)))
    program = torch.export.export(Layer(), inputs)
    assert "torch.ops.attn.attention.default" in program.graph_module.code
    assert torch.equal(program.module()(*inputs), Layer()(*inputs))


def test_on_shapes_alone():
    q, k, v = (t.to("meta") for t in tensors((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)))
    out = scaled_dot_product_attention(q, k, v)
    assert out.is_meta and out.shape == (2, 3, 5, 4)


# --- Refusals ---

Q, K = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8)
INVALID, UNSUPPORTED = attn.InvalidArgument, attn.Unsupported
BAD = {
    "dropout": ((Q, K, K), {"dropout_p": 0.5}, UNSUPPORTED, "dropout_p: 0.5 must be 0"),
    "mask and causal": (
        (Q, K, K, torch.ones(5, 7)),
        {"is_causal": True},
        INVALID,
        "attn_mask: must be None with is_causal",
    ),
    "f64": ((Q.double(),) * 3, {}, TypeError, "q: DLPack type (code 2, 64 bits"),
    "int": ((Q.int(),) * 3, {}, INVALID, "q_dtype is 7 (i32); required: f32, f16 or bf16"),
    "u8 mask": ((Q, K, K, torch.ones(5, 7).byte()), {}, INVALID, "bias_dtype is 6 (u8); allowed"),
    "f16 mask": ((Q, K, K, torch.ones(5, 7).half()), {}, INVALID, "bias_dtype is 2 (f16)"),
    "mask too small": ((Q, K, K, torch.ones(5, 6)), {}, INVALID, "bias.shape[3] is 6"),
    "mask too large": ((Q[:1], K[:1], K[:1], torch.ones(3, 1, 5, 7)), {}, INVALID, "bias.shape[0]"),
    "rank of the mask": ((Q, K, K, torch.ones(2, 1, 1, 5, 7)), {}, INVALID, "bias.rank is 5"),
    "device": ((Q, K.to("meta"), K), {}, INVALID, "k: lies on meta, must lie on cpu like q"),
    "device of the mask": (
        (Q, K, K, torch.ones(5, 7, device="meta")),
        {},
        INVALID,
        "bias: lies on meta, must lie on cpu like q",
    ),
    "head_dim": ((Q, torch.randn(2, 4, 7, 9), K), {}, INVALID, "k.shape[3] is 9; must be 8"),
    "seqlen": ((Q, K, K[:, :, :6]), {}, INVALID, "v.shape[2] is 6; must be 7"),
    "heads": ((Q, K[:, :2], K[:, :2]), {}, INVALID, "(2, 4), (2, 2), (2, 2) must broadcast; or en"),
    "heads of groups": (
        (Q, K[:, :3], K[:, :3]),
        {"enable_gqa": True},
        INVALID,
        "heads_q is 4; must be a multiple of heads_kv (3)",
    ),
    "batch": ((Q, K[:1].repeat(3, 1, 1, 1), K), {}, INVALID, "(2, 4), (3, 4), (2, 4) must broad"),
    "rank": ((Q[0, 0, 0], K, K), {}, INVALID, "query: rank 1 must be 2 or more"),
    "rank of groups": (
        (Q[0, 0], K, K),
        {"enable_gqa": True},
        INVALID,
        "query: rank 2 must be 3 or more",
    ),
    "sparse": ((Q.to_sparse(), K, K), {}, TypeError, "q: Can't export tensors with layout"),
    "numpy": ((Q.numpy(), K, K), {}, RuntimeError, "Expected a value of type 'Tensor' for argum"),
    "scale": ((Q, K, K), {"scale": float("nan")}, INVALID, "scale is nan; must be finite"),
    "scale of 0": ((Q, K, K), {"scale": 0.0}, INVALID, "scale: 0 must be another number"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad(name):
    arguments, options, error, words = BAD[name]
    with pytest.raises(error, match=re.escape(words)):
        scaled_dot_product_attention(*arguments, **options)


BAD_OPTIONS = {
    "rank": ((Q[0, 0], K, K), {}, INVALID, "q: rank 2 must be 4"),
    "alignment": ((Q, K, K), {"alignment": "left"}, INVALID, "'left' is none of bottom_right, top"),
    "lengths": ((Q, K, K), {"seqlens_k": torch.tensor([1, 2])}, INVALID, "seqlens_k.dtype is i64"),
    "long": (
        (Q, K, K),
        {"seqlens_k": torch.tensor([1, 8], dtype=torch.int32)},
        INVALID,
        "seqlens_k[1] is 8",
    ),
    "window": ((Q, K, K), {"window_left": -1}, INVALID, "window_left is -1"),
    "softcap": ((Q, K, K), {"softcap": 0.0}, INVALID, "softcap: 0 must be greater than 0"),
    "sink": ((Q, K, K), {"sink": torch.randn(3)}, INVALID, "sink.shape[0] is 3"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_operator(name):
    arguments, options, error, words = BAD_OPTIONS[name]
    with pytest.raises(error, match=re.escape(words)):
        attention(*arguments, **options)


GRADIENT = "requires a gradient, and there is no backward pass yet"


@pytest.mark.parametrize("which", range(4))
def test_gradients(which):
    arguments = [Q, K, K, torch.zeros(5, 7)]
    arguments[which] = arguments[which].clone().requires_grad_()
    name = ("q", "k", "v", "bias")[which]
    scaled_dot_product_attention(*arguments)
    with torch.enable_grad(), pytest.raises(UNSUPPORTED, match=f"{name}: {GRADIENT}"):
        scaled_dot_product_attention(*arguments)


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_what_is_compiled():
    compiled = torch.compile(scaled_dot_product_attention, fullgraph=True)
    with torch.enable_grad(), pytest.raises(Exception, match=f"q: {GRADIENT}"):
        compiled(Q.clone().requires_grad_(), K, K)


def test_functional_gradients():
    """These come by another way, and are refused in PyTorch's words."""
    with torch.enable_grad(), pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda q: scaled_dot_product_attention(q, K, K).sum())(Q)


def test_nothing_is_imported_unasked():
    program = "import attn, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_examples():
    result = doctest.testmod(attn.torch)
    assert result.failed == 0 and result.attempted > 2


def test_readme():
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    (code,) = [c for c in text.split("```python\n")[1:] if c.startswith("import torch")]
    names = {}
    exec(code.split("```")[0], names)
    assert names["out"].shape == (1, 8, 128, 64)

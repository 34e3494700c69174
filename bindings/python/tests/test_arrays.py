"""What counts as an array: NumPy's in any layout, DLPack, buffers; outputs; nothing is copied."""

import array
import ctypes
import sys

import ml_dtypes
import numpy as np
import pytest
from reference import assert_attention

import attn


@pytest.fixture
def qkv(normal):
    return normal(2, 4, 6, 8), normal(2, 2, 11, 8), normal(2, 2, 11, 8)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (2, 0, 1, 3), (3, 2, 1, 0)])
def test_any_memory_order(qkv, order):
    expected = attn.attention(*qkv)
    inverse = np.argsort(order)
    moved = [np.ascontiguousarray(x.transpose(order)).transpose(inverse) for x in qkv]
    assert not moved[0].flags.c_contiguous
    out, lse = attn.attention(*moved, lse=True)
    np.testing.assert_array_equal(out, expected)
    assert_attention(out, lse, *qkv)
    assert out.strides == moved[0].strides  # q's memory order
    # Remembered calls take the same way.
    np.testing.assert_array_equal(attn.attention(*moved), expected)
    np.testing.assert_array_equal(attn.attention(*moved), expected)


def test_slices_steps_and_reversals(normal, qkv):
    expected = attn.attention(*qkv)
    wide = [normal(*(3 * extent for extent in x.shape)) for x in qkv]
    picks = [np.s_[1::3, ::3, 2::3, ::3], np.s_[::-3, ::-3, ::-3, ::-3], np.s_[:2, -2:, 5:16, 1:9]]
    for target, x, pick in zip(wide, qkv, picks):
        target[pick] = x
    views = [x[pick] for x, pick in zip(wide, picks)]
    np.testing.assert_array_equal(attn.attention(*views), expected)


def test_broadcast_inputs(normal):
    q, k = normal(2, 4, 3, 8), normal(1, 1, 5, 8)
    k = np.broadcast_to(k, (2, 4, 5, 8))
    out, lse = attn.attention(q, k, k, lse=True)
    assert_attention(out, lse, q, k, k)


def test_rank_three(qkv):
    q, k, v = (x[0] for x in qkv)
    out, lse = attn.attention(q, k, v, lse=True, causal=True)
    assert out.shape == (4, 6, 8)
    assert lse.shape == (4, 6)
    assert_attention(out[None], lse[None], q[None], k[None], v[None], causal=True)
    given, given_lse = np.empty_like(out), np.empty_like(lse)
    attn.attention(q, k, v, out=given, lse=given_lse, causal=True)
    np.testing.assert_array_equal(given, out)
    np.testing.assert_array_equal(given_lse, lse)


def test_read_only_inputs(qkv):
    expected = attn.attention(*qkv)
    for x in qkv:
        x.flags.writeable = False
    np.testing.assert_array_equal(attn.attention(*qkv), expected)


def test_outputs(normal, qkv):
    expected, expected_lse = attn.attention(*qkv, lse=True)
    memory = np.full((2, 6, 4, 8), 7.0, np.float32)
    out, lse = memory.transpose(0, 2, 1, 3), np.empty((2, 4, 6), np.float32)
    got = attn.attention(*qkv, out=out, lse=lse)
    assert got[0] is out
    assert got[1] is lse
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)
    for _ in range(2):  # the second is a remembered call
        out[:] = 0
        assert attn.attention(*qkv, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_outputs_must_be_writable(qkv):
    out = np.zeros_like(qkv[0])
    attn.attention(*qkv, out=out)  # so that the next call would be a remembered one
    out.flags.writeable = False
    out_bits = out.copy()
    with pytest.raises(attn.InvalidArgument, match="out: is read-only"):
        attn.attention(*qkv, out=out)
    np.testing.assert_array_equal(out, out_bits)
    lse = np.zeros((2, 4, 6), np.float32)
    lse.flags.writeable = False
    with pytest.raises(attn.InvalidArgument, match="lse: is read-only"):
        attn.attention(*qkv, lse=lse)


def test_overlapping_output_is_refused(qkv):
    out = np.broadcast_to(np.zeros((1, 1, 1, 8), np.float32), qkv[0].shape)
    out.flags.writeable = True
    with pytest.raises(attn.InvalidArgument):
        attn.attention(*qkv, out=out)


def test_buffers(qkv):
    expected = attn.attention(*qkv)
    views = [memoryview(x) for x in qkv]
    np.testing.assert_array_equal(attn.attention(*views), expected)
    flat = [array.array("f", x.ravel()) for x in qkv]
    shaped = [
        memoryview(x).cast("B").cast("f", shape) for x, shape in zip(flat, map(np.shape, qkv))
    ]
    out = memoryview(bytearray(expected.nbytes)).cast("f", expected.shape)
    assert attn.attention(*shaped, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), expected)
    with pytest.raises(attn.InvalidArgument, match="out: is read-only"):
        attn.attention(*shaped, out=memoryview(bytes(expected.nbytes)).cast("f", expected.shape))


class Numpy2Dlpack:
    """A producer that is no NumPy array, with NumPy's own capsule."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_numpys_dlpack(qkv):
    expected, expected_lse = attn.attention(*qkv, lse=True)
    out = np.empty_like(expected)
    wrapped = Numpy2Dlpack(out)
    turned = Numpy2Dlpack(np.ascontiguousarray(qkv[0].transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3))
    rest = [Numpy2Dlpack(x) for x in qkv[1:]]
    lse = np.empty_like(expected_lse)
    got = attn.attention(turned, *rest, out=wrapped, lse=Numpy2Dlpack(lse))
    assert got[0] is wrapped
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)
    new = attn.attention(turned, *rest)
    assert type(new) is np.ndarray
    np.testing.assert_array_equal(new, expected)
    lengths = Numpy2Dlpack(np.array([3, 11], np.int32))
    np.testing.assert_array_equal(
        attn.attention(*qkv, seqlens_k=lengths), attn.attention(*qkv, seqlens_k=[3, 11])
    )
    wide = Numpy2Dlpack(np.array([3, 11], np.int64))
    np.testing.assert_array_equal(
        attn.attention(*qkv, seqlens_k=wide), attn.attention(*qkv, seqlens_k=[3, 11])
    )
    with pytest.raises(TypeError, match="q: "):  # NumPy cannot export every type
        attn.attention(Numpy2Dlpack(np.zeros(3, "M8[s]")), *rest)


class Struct(ctypes.Structure):
    """A DLTensor, managed the old way, or behind a version as since DLPack 1.0."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Struct), ("context", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Struct),
    ]


class Producer:
    """A small DLPack producer whose every detail can be chosen."""

    def __init__(
        self, x, *, code=2, bits=None, lanes=1, device=(1, 0), version=None, flags=0, compact=False
    ):
        self.x = x
        self.device = device
        self.version = version
        shape = (ctypes.c_int64 * x.ndim)(*x.shape)
        strides = (ctypes.c_int64 * x.ndim)(*(s // x.itemsize for s in x.strides))
        offset = 16  # so that data + byte_offset matters
        tensor = Struct(
            x.ctypes.data - offset, *device, x.ndim, code, bits or 8 * x.itemsize, lanes,
            shape, None if compact else strides, offset,
        )  # fmt: skip
        if version is None:
            self.managed, self.name = Managed(tensor), b"dltensor"
        else:
            self.managed = Versioned(*version, None, Deleter(), flags, tensor)
            self.name = b"dltensor_versioned"
        self.kept = shape, strides
        self.calls = []

    def __dlpack__(self, **options):
        self.calls.append(options)
        if self.version is None and options:
            raise TypeError("unexpected keyword argument 'max_version'")
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.managed), self.name, None)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize("version", [None, (1, 0), (1, 7)])
def test_any_dlpack(qkv, version):
    expected = attn.attention(*qkv)
    q = np.ascontiguousarray(qkv[0].transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)
    out = np.zeros_like(expected)
    producers = [
        Producer(q, version=version),
        Producer(qkv[1], version=version, compact=True),
        Producer(qkv[2], version=version, flags=1),
    ]
    attn.attention(*producers, out=Producer(out, version=version))
    np.testing.assert_array_equal(out, expected)
    assert producers[0].calls[0] == {"max_version": (1, 0)}
    mask = np.array([True] * 9 + [False] * 2)
    np.testing.assert_array_equal(
        attn.attention(*qkv, mask=Producer(mask, code=6, version=version)),
        attn.attention(*qkv, mask=mask),
    )


def test_dlpack_halves(qkv):
    halves = [x.astype(np.float16) for x in qkv]
    out = attn.attention(*(Producer(x) for x in halves))
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, attn.attention(*halves))


def test_dlpack_bfloat16(qkv):
    halves = [x.astype(ml_dtypes.bfloat16) for x in qkv]
    expected = attn.attention(*halves)
    out = attn.attention(*(Producer(x, code=4) for x in halves))
    assert out.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(out, expected)


def test_dlpack_bfloat16_without_ml_dtypes(qkv, monkeypatch):
    halves = [x.astype(ml_dtypes.bfloat16) for x in qkv]
    producers = [Producer(x, code=4) for x in halves]
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="out: pass an array, or install ml_dtypes"):
        attn.attention(*producers)
    out = np.empty_like(halves[0])
    attn.attention(*producers, out=out)
    np.testing.assert_array_equal(out, attn.attention(*halves))


def test_dlpack_refusals(qkv):
    q, k, v = qkv
    with pytest.raises(attn.Unsupported, match="k: lies on a GPU as .*Producer"):
        attn.attention(q, Producer(k, device=(2, 1)), v)
    with pytest.raises(attn.Unsupported, match="v: lies on device type 99:0"):
        attn.attention(q, k, Producer(v, device=(99, 0)))
    with pytest.raises(TypeError, match="q: speaks DLPack 2, must be 1"):
        attn.attention(Producer(q, version=(2, 0)), k, v)
    with pytest.raises(TypeError, match="q: DLPack type .code 5, 64 bits, 1 lanes. is unknown"):
        attn.attention(Producer(q, code=5, bits=64), k, v)
    strange = Producer(q)
    strange.name = b"tensor"
    with pytest.raises(TypeError, match="q: __dlpack__ returned a capsule named b'tensor'"):
        attn.attention(strange, k, v)
    with pytest.raises(TypeError, match="4 lanes"):
        attn.attention(Producer(q, lanes=4), k, v)
    for flags in (1, 2):  # read-only, a copy
        with pytest.raises(attn.InvalidArgument, match="out: is read-only"):
            attn.attention(q, k, v, out=Producer(q.copy(), version=(1, 0), flags=flags))
    many = np.zeros((1,) * 7, np.float32)
    for x in (many, Producer(many)):
        with pytest.raises(attn.InvalidArgument, match="q: rank 7 is more than 6"):
            attn.attention(x, k, v)


def test_dlpack_is_given_back(qkv):
    """The producer's array lives as long as the call and no longer."""
    expected = attn.attention(*qkv)
    references = [sys.getrefcount(x) for x in qkv]
    for _ in range(3):
        np.testing.assert_array_equal(attn.attention(*map(Numpy2Dlpack, qkv)), expected)
        attn.attention(*qkv)
    assert [sys.getrefcount(x) for x in qkv] == references


def test_bfloat16_in_three_forms(qkv):
    typed = [x.astype(ml_dtypes.bfloat16) for x in qkv]
    raw = [x.view(np.uint16) for x in typed]
    expected = attn.attention(*typed)
    assert expected.dtype == ml_dtypes.bfloat16
    out = attn.attention(*raw, dtype="bf16")
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out.view(ml_dtypes.bfloat16), expected)
    plan = attn.Plan(heads_q=4, heads_kv=2, head_dim=8, max_batch=2, max_seqlen_q=6,
                     max_seqlen_k=11, dtype="bf16")  # fmt: skip
    np.testing.assert_array_equal(plan.run(*raw).view(ml_dtypes.bfloat16), expected)
    np.testing.assert_array_equal(plan.run(*typed), expected)
    given = np.empty_like(raw[0])
    attn.attention(*raw, dtype="bf16", out=given)
    np.testing.assert_array_equal(given, out)
    wide = attn.attention(*raw, dtype="bf16", out_dtype="f32")
    assert wide.dtype == np.float32
    with pytest.raises(TypeError, match='q: dtype uint16 is not supported; pass dtype="bf16"'):
        attn.attention(*raw)
    with pytest.raises(attn.InvalidArgument, match="q: does not hold bf16"):
        attn.attention(*qkv, dtype="bf16")


@pytest.mark.parametrize(
    "wrong", [np.float64, np.complex64, np.dtype(">f4"), object, "M8[s]"], ids=str
)
def test_unsupported_types(qkv, wrong):
    q, k, v = qkv
    with pytest.raises(TypeError, match="k: dtype .* is not supported"):
        attn.attention(q, np.zeros(k.shape, wrong), v)


@pytest.mark.parametrize("wrong", [3, "text", [[1.0]], object()], ids=repr)
@pytest.mark.parametrize("name", ["q", "k", "v", "out", "lse", "mask", "bias"])
def test_no_arrays(qkv, name, wrong):
    arguments = dict(zip("qkv", qkv))
    arguments[name] = wrong
    with pytest.raises(TypeError, match=f"{name}: must be a NumPy array"):
        attn.attention(**arguments)


def test_scales_are_for_quantised_types(qkv):
    scale = np.ones((2, 2, 11), np.float32)
    for name in ("k_scale", "v_scale"):
        with pytest.raises((attn.InvalidArgument, attn.Unsupported), match=name):
            attn.attention(*qkv, **{name: scale})


def test_options_of_other_types(qkv):
    """Those that cannot be remembered as they are go the long way, and are looked at there."""
    expected = attn.attention(*qkv, window=(2, None), scale=0.5)
    for window in ([2, None], np.array([2, 100])):
        np.testing.assert_array_equal(
            attn.attention(*qkv, window=window, scale=np.array(0.5)), expected
        )
    with pytest.raises(TypeError, match="scale: must be a number, not list"):
        attn.attention(*qkv, scale=[0.5])
    with pytest.raises(attn.InvalidArgument, match="out_dtype: must be f32, f16 or bf16"):
        attn.attention(*qkv, out_dtype="i8")


def test_subclasses(qkv, tmp_path):
    q, k, v = qkv
    expected = attn.attention(q, k, v)
    mapped = np.memmap(tmp_path / "k", np.float32, "w+", shape=k.shape)
    mapped[:] = k
    out = attn.attention(q, mapped, v)
    assert type(out) is np.ndarray
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(TypeError, match="k: is a masked array"):
        attn.attention(q, np.ma.masked_less(k, 0), v)


def test_strides_that_are_no_elements(qkv):
    q, k, v = qkv
    packed = np.zeros(k.shape, np.dtype([("x", "f4"), ("y", "i1")]))["x"]
    with pytest.raises(attn.InvalidArgument, match="k: strides of .* bytes are no multiples"):
        attn.attention(q, packed, v)


def test_vectors_are_converted_without_loss(qkv):
    expected = attn.attention(*qkv, seqlens_k=np.array([3, 11], np.int32))
    for lengths in ([3, 11], (3, 11), np.array([3, 11], np.int64), np.array([3, 11], np.uint8)):
        np.testing.assert_array_equal(attn.attention(*qkv, seqlens_k=lengths), expected)
    strided = np.array([3, 0, 11, 0], np.int32)[::2]
    np.testing.assert_array_equal(attn.attention(*qkv, seqlens_k=strided), expected)
    with pytest.raises(attn.InvalidArgument, match="seqlens_k: holds a value that does not fit"):
        attn.attention(*qkv, seqlens_k=[3, 2**32 + 11])
    for wrong in ([3.0, 11.0], ["3", "11"], [True, False]):
        with pytest.raises(TypeError, match="seqlens_k: must hold int32 values"):
            attn.attention(*qkv, seqlens_k=wrong)
    with pytest.raises(TypeError, match="sink: must hold float32 values"):
        attn.attention(*qkv, sink=["a", "b", "c", "d"])

"""attn.jax against float64 and, in bits, against attn.attention; under JAX's transformations."""

import concurrent.futures
import doctest
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from reference import assert_attention, assert_close, attention

import attn
import attn.jax

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


@pytest.fixture
def qkv(normal):
    """Grouped heads, and a head size for v alone."""
    return normal(2, 6, 9, 16), normal(2, 2, 21, 16), normal(2, 2, 21, 8)


def options_of(rng):
    """Every feature, alone and together."""
    bias = rng.standard_normal((2, 6, 9, 21)).astype(np.float32)
    mask = rng.random((2, 1, 9, 21)) < 0.6
    mask[0, 0, 3] = False  # a row without a key
    return {
        "plain": {},
        "causal": {"causal": True},
        "top left": {"causal": True, "alignment": "top_left"},
        "window": {"window": (4, 1)},
        "left window": {"window": (4, None), "causal": True},
        "scale": {"scale": 0.3},
        "softcap": {"softcap": 1.5},
        "bias": {"bias": bias},
        "bias for all heads": {"bias": bias[0, 0]},
        "mask": {"mask": mask},
        "lengths": {"seqlens_q": [9, 4], "seqlens_k": np.array([5, 21]), "causal": True},
        "one length": {"seqlens_k": 7},
        "slopes": {"alibi_slopes": np.linspace(0.1, 0.6, 6, dtype=np.float32)},
        "sink": {"sink": [0.5] * 6},
        "blocks": {"block_mask": np.array([[1, 0, 1], [1, 1, 0]], bool), "block_size": (5, 8)},
        "all": {
            "causal": True, "window": (9, None), "scale": 0.3, "softcap": 1.5, "bias": bias,
            "mask": mask, "seqlens_k": [21, 20], "sink": [0.5] * 6,
        },
    }  # fmt: skip


NAMES = list(options_of(np.random.default_rng(0)))


def split(options):
    """(arrays, which a program takes as arguments; the rest, which it is compiled for)."""
    arrays = {name: x for name, x in options.items() if isinstance(x, np.ndarray)}
    lengths = {name: x.astype(np.int32) for name, x in arrays.items() if "seqlens" in name}
    return {**arrays, **lengths}, {n: x for n, x in options.items() if n not in arrays}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_features(qkv, rng, name, dtype):
    options = options_of(rng)[name]
    q, k, v = (x.astype(DTYPES[dtype]) for x in qkv)
    arrays, settings = split(options)

    @jax.jit
    def program(q, k, v, arrays):
        return attn.jax.attention(q, k, v, lse=True, **arrays, **settings)

    out, lse = map(np.asarray, program(q, k, v, arrays))
    same_out, same_lse = attn.attention(q, k, v, lse=True, **options)
    np.testing.assert_array_equal(out, same_out, strict=True)
    np.testing.assert_array_equal(lse, same_lse, strict=True)
    if np.ndim(options.get("seqlens_k", [])) == 0:
        options["seqlens_k"] = [options["seqlens_k"]] * 2
    if dtype == "f32":
        assert_attention(out, lse, q, k, v, **options)
    else:
        expected, _ = attention(q, k, v, **options)
        epsilon = float(ml_dtypes.finfo(out.dtype).eps)
        assert_close(out, expected, 2 * epsilon * np.abs(v.astype(np.float64)).max())


def test_without_jit(qkv):
    out = attn.jax.attention(*qkv)
    assert isinstance(out, jax.Array)
    np.testing.assert_array_equal(out, attn.attention(*qkv), strict=True)
    out, lse = attn.jax.attention(*(x[0] for x in qkv), lse=True)
    expected, expected_lse = attn.attention(*(x[0] for x in qkv), lse=True)
    np.testing.assert_array_equal(out, expected, strict=True)
    np.testing.assert_array_equal(lse, expected_lse, strict=True)


def test_out_dtype(qkv):
    halves = [x.astype(np.float16) for x in qkv]
    out = attn.jax.attention(*halves, out_dtype="f32")
    np.testing.assert_array_equal(out, attn.attention(*halves, out_dtype="f32"), strict=True)


def test_quantised(qkv, rng):
    q = qkv[0]
    k, v = (rng.integers(-127, 128, (2, 2, 21, 16)).astype(np.int8) for _ in range(2))
    scales = {"k_scale": np.full((1, 2, 1), 0.02, np.float32),
              "v_scale": np.full((1, 2, 1), 0.01, np.float32)}  # fmt: skip
    expected = attn.attention(q, k, v, **scales)
    np.testing.assert_array_equal(attn.jax.attention(q, k, v, **scales), expected)
    bare = {name: scale[0] for name, scale in scales.items()}
    out = attn.jax.attention(q[0], k[0], v[0], **bare)
    np.testing.assert_array_equal(out, expected[0])
    k, v = (x.astype(ml_dtypes.float8_e4m3fn) for x in (k, v))
    expected = attn.attention(q, k, v, **scales)
    np.testing.assert_array_equal(attn.jax.attention(q, k, v, **scales), expected)


def test_packed_and_paged(normal, rng):
    q, k, v = normal(4, 12, 16), normal(2, 30, 16), normal(2, 30, 16)
    packed = {"cu_seqlens_q": [0, 5, 12], "cu_seqlens_k": [0, 10, 30], "causal": True}
    longest = {"max_seqlen_q": 7, "max_seqlen_k": 20}
    expected = attn.attention(q, k, v, **packed)
    out = jax.jit(lambda *x: attn.jax.attention(*x, **packed, **longest))(q, k, v)
    np.testing.assert_array_equal(out, expected)
    q, k, v = normal(2, 4, 3, 16), normal(8, 2, 4, 16), normal(8, 2, 4, 16)
    paged = {"block_table": [[3, 1, 7], [0, 6, 2]], "seqlens_k": [9, 12]}
    expected = attn.attention(q, k, v, **paged)
    np.testing.assert_array_equal(attn.jax.attention(q, k, v, **paged), expected)


def test_zero_size(qkv):
    q, k, v = qkv
    assert attn.jax.attention(q[:0], k[:0], v[:0]).shape == (0, 6, 9, 8)
    out, lse = attn.jax.attention(q, k[:, :, :0], v[:, :, :0], lse=True)
    assert not np.any(out)
    assert np.all(lse == -np.inf)


def test_positions_take_x64(qkv):
    start = np.array([3, 15])
    with pytest.raises(TypeError, match="q_start: must hold i64, which takes jax_enable_x64, not"):
        attn.jax.attention(*qkv, q_start=start, causal=True)
    expected = attn.attention(*qkv, q_start=start, causal=True)
    with jax.enable_x64(True):
        out = jax.jit(lambda *x: attn.jax.attention(*x[:3], q_start=x[3], causal=True))(*qkv, start)
    np.testing.assert_array_equal(out, expected, strict=True)


# --- Memory ---


def test_nothing_is_copied(qkv, rng):
    """The compiled program is the call alone, whatever the order of the dimensions."""
    mask = rng.random((9, 21)) < 0.6

    def program(q, k, v, mask):
        return attn.jax.attention(q, k, v, mask=mask, order="bshd")

    moved = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in qkv]
    compiled = jax.jit(program).lower(*moved, mask).compile()
    text = compiled.as_text()
    assert text.count("custom-call(") == 1
    assert not [word for word in (" copy(", " transpose(", " fusion(") if word in text]
    out = compiled(*moved, mask)
    expected = attn.attention(*qkv, mask=mask).swapaxes(1, 2)
    np.testing.assert_array_equal(out, expected, strict=True)
    bare = attn.jax.attention(*(x[0] for x in moved), mask=mask, order="bshd")
    np.testing.assert_array_equal(bare, expected[0])


def test_donated_memory(normal):
    """XLA may not put the result where q is still read."""
    q, k, v = (jnp.asarray(normal(2, 4, 64, 32)) for _ in range(3))
    expected = attn.attention(*map(np.asarray, (q, k, v)))
    program = jax.jit(lambda q, k, v: attn.jax.attention(q, k, v), donate_argnums=0)
    np.testing.assert_array_equal(program(q, k, v), expected)


# --- Transformations ---


def test_vmap(normal):
    q, k, v = normal(5, 4, 6, 8), normal(5, 2, 9, 8), normal(5, 2, 9, 8)
    expected = np.stack([attn.attention(*x, causal=True) for x in zip(q, k, v)])

    def one(q, k, v):
        return attn.jax.attention(q, k, v, causal=True)

    np.testing.assert_array_equal(jax.vmap(one)(q, k, v), expected, strict=True)
    np.testing.assert_array_equal(jax.jit(jax.vmap(one))(q, k, v), expected, strict=True)
    shared = jax.vmap(one, in_axes=(0, None, None), out_axes=1)(q, k[0], v[0])
    expected = np.stack([attn.attention(x, k[0], v[0], causal=True) for x in q], 1)
    np.testing.assert_array_equal(shared, expected, strict=True)


def test_in_loops_and_among_other_work(normal):
    x, w = normal(1, 2, 10, 8), normal(8, 8) / 3

    def step(x, _):
        y = jnp.tanh(x @ w)
        return attn.jax.attention(y, y, x, causal=True), None

    looped, _ = jax.lax.scan(step, x, length=4)
    expected = x
    for _ in range(4):
        y = np.tanh(expected @ w)
        expected = attn.attention(y, y, expected, causal=True)
    np.testing.assert_allclose(looped, expected, rtol=0, atol=1e-5)


def test_gradients_are_refused(qkv):
    def loss(q, k, v):
        return attn.jax.attention(q, k, v).sum()

    words = "attn.jax.attention: has no backward pass yet"
    for position in range(3):
        with pytest.raises(attn.Unsupported, match=words):
            jax.grad(loss, position)(*qkv)
    with pytest.raises(attn.Unsupported, match=words):
        jax.jit(jax.grad(loss))(*qkv)
    with pytest.raises(attn.Unsupported, match=words):
        jax.jvp(loss, qkv, qkv)
    with pytest.raises(attn.Unsupported, match=words):
        jax.vmap(jax.grad(loss))(*qkv)
    with pytest.raises(attn.Unsupported, match=words):
        jax.grad(lambda bias: attn.jax.attention(*qkv, bias=bias).sum())(np.zeros((9, 21)))

    def around(w, q, k, v):
        stopped = jax.lax.stop_gradient(q * w)
        return (w * attn.jax.attention(stopped, k, v)).sum()

    gradient = jax.grad(around)(1.0, *qkv)
    np.testing.assert_allclose(gradient, attn.attention(*qkv).sum(), rtol=1e-4)


# --- Errors ---


def test_bad_options(qkv):
    for error, words, options in (
        (attn.InvalidArgument, 'order: \'sbhd\' must be "bhsd" or "bshd"', {"order": "sbhd"}),
        (attn.InvalidArgument, "scale: 0 must be another number", {"scale": 0}),
        (attn.InvalidArgument, "alignment: 'left' is none of", {"alignment": "left"}),
        (attn.InvalidArgument, "out_dtype: 'f64' is none of", {"out_dtype": "f64"}),
        (attn.InvalidArgument, "out_dtype: must be f32, f16 or bf16", {"out_dtype": "i8"}),
        (attn.InvalidArgument, "max_seqlen_k: is for packed", {"max_seqlen_k": 3}),
        (
            attn.InvalidArgument,
            "max_seqlen_q: must be given with cu_seqlens_q",
            {"cu_seqlens_q": [0, 1]},
        ),
        (TypeError, "window: must be", {"window": 3}),
        (TypeError, "unexpected keyword argument 'context'", {"context": attn.Context()}),
        (TypeError, "seqlens_k: must hold i32, not float32", {"seqlens_k": jnp.ones(2)}),
        (TypeError, "seqlens_k: must hold int32 values", {"seqlens_k": [1.5, 2]}),
        (attn.InvalidArgument, "seqlens_k: holds a value", {"seqlens_k": [1 << 40, 2]}),
    ):
        with pytest.raises(error, match=words):
            attn.jax.attention(*qkv, **options)
    q, k, v = qkv
    with pytest.raises(attn.InvalidArgument, match="k: rank 2 must be 4, or 3 without batch"):
        attn.jax.attention(q, k[0, 0], v)
    with pytest.raises(TypeError, match="q: dtype int16 is not supported"):
        attn.jax.attention(q.astype(np.int16), k, v)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        # When it is compiled:
        (lambda q, k, v: (q, k, v, {"backend": "none"}), "INVALID_ARGUMENT", "none"),
        (lambda q, k, v: (q, k, v, {"softcap": -1.0}), "INVALID_ARGUMENT", "softcap is -1; must"),
        (
            lambda q, k, v: (q[:, :5], k, v, {}),
            "INVALID_ARGUMENT",
            r"heads_q is 5; must be a multiple of heads_kv \(2\)",
        ),
        (
            lambda q, k, v: (np.ones((1, 1, 2, 2000), np.float32),) * 3 + ({"backend": "flash"},),
            "UNIMPLEMENTED",
            "flash",
        ),
        # When it is run:
        (lambda q, k, v: (q, k[:1], v[:1], {}), "INVALID_ARGUMENT", r"k.shape\[0\] is 1; must"),
        (lambda q, k, v: (q, k[..., :8], v, {}), "INVALID_ARGUMENT", r"k.shape\[3\] is 8; must"),
        (
            lambda q, k, v: (q, k, v, {"seqlens_k": [4, 22]}),
            "INVALID_ARGUMENT",
            r"seqlens_k\[1\] is 22; allowed: 0 to 21",
        ),
        (
            lambda q, k, v: (q, k, v, {"mask": np.ones((9, 20), bool)}),
            "INVALID_ARGUMENT",
            r"mask.shape\[3\] is 20; must",
        ),
    ],
)
def test_the_librarys_words(qkv, change, code, words):
    q, k, v, options = change(*qkv)
    program = jax.jit(lambda q, k, v: attn.jax.attention(q, k, v, **options))
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{code}: .*{words}"):
        jax.block_until_ready(program(q, k, v))
    # What failed leaves nothing behind.
    np.testing.assert_array_equal(attn.jax.attention(*qkv), attn.attention(*qkv))


def test_handlers_trust_no_attribute(qkv):
    """A program of another version, or a damaged one, is refused."""
    attn.jax.attention(*qkv)
    good = {
        "config": np.zeros(8, np.uint8),
        "backend": np.zeros(1, np.uint8),
        "slots": np.array([8, 16, 24, 32], np.int32),
        "seqlen_first": np.zeros(1, np.uint8),
    }
    out = jax.ShapeDtypeStruct((2, 6, 9, 8), np.float32)
    size = attn._native.ffi.sizeof("attn_plan_config")
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"config: has 8 bytes, must have {size} "):
        jax.ffi.ffi_call("attn_attention", out)(*qkv, **good)
    config = attn._plan.Problem(
        q_dtype=1, heads_q=6, heads_kv=2, head_dim=16, head_dim_v=8, max_seqlen_q=9,
        max_seqlen_k=21, max_batch=2,
    ).config()  # fmt: skip
    good["config"] = np.frombuffer(attn._native.ffi.buffer(config), np.uint8)
    np.testing.assert_array_equal(
        jax.ffi.ffi_call("attn_attention", out)(*qkv, **good), attn.attention(*qkv)
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="backend: must end with NUL"):
        jax.ffi.ffi_call("attn_attention", out)(*qkv, **{**good, "backend": np.ones(3, np.uint8)})
    with pytest.raises(jax.errors.JaxRuntimeError, match="config: has 0 bytes"):
        jax.ffi.ffi_call("attn_attention", out)(*qkv, **{**good, "config": np.zeros(8, np.int32)})
    for slots in ([8, 16, 24], [8, 16, 24, 0], [8, 16, 24, -8], [8, 16, 24, 33], [8, 16, 24, 176]):
        bad = {**good, "slots": np.array(slots, np.int32)}
        with pytest.raises(jax.errors.JaxRuntimeError, match="slots: must be"):
            jax.block_until_ready(jax.ffi.ffi_call("attn_attention", out)(*qkv, **bad))


# --- Threads and processes ---


def test_threads_share_a_program(normal):
    """One compiled program, and so one plan, in several threads at once; others beside it."""
    inputs = [tuple(normal(1, 4, n, 32) for _ in range(3)) for n in (64, 64, 64, 33, 80, 64) * 4]
    expected = [attn.attention(*x, causal=True) for x in inputs]
    program = jax.jit(lambda q, k, v: attn.jax.attention(q, k, v, causal=True))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for out, right in zip(pool.map(lambda x: np.asarray(program(*x)), inputs), expected):
            np.testing.assert_array_equal(out, right)


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr, result.returncode) == ("ok\n", "", 0)


def test_devices():
    """shard_map over four of JAX's CPU devices runs four calls at once."""
    run_python("""
import jax, numpy as np, attn.jax
jax.config.update("jax_num_cpu_devices", 4)  # the backend has not been started by the import
mesh = jax.make_mesh((4,), ("heads",), axis_types=(jax.sharding.AxisType.Auto,))
P = jax.sharding.PartitionSpec(None, "heads")
q, k, v = np.random.default_rng(0).standard_normal((3, 2, 8, 50, 16), dtype=np.float32)
f = jax.jit(jax.shard_map(attn.jax.attention, mesh=mesh, in_specs=P, out_specs=P, check_vma=False))
for _ in range(20):
    np.testing.assert_array_equal(f(q, k, v), attn.attention(q, k, v))
print("ok")
""")


def test_after_jax_has_started():
    run_python("""
import jax, numpy as np
x = jax.numpy.ones((1, 1, 2, 4)).block_until_ready()
import attn.jax
np.testing.assert_array_equal(attn.jax.attention(x, x, x), x)
print("ok")
""")


def test_exported_programs(qkv, tmp_path):
    """They run in a process that has traced nothing."""
    program = jax.jit(lambda q, k, v: attn.jax.attention(q, k, v, causal=True))
    allowed = jax.export.DisabledSafetyCheck.custom_call("attn_attention")
    exported = jax.export.export(program, disabled_checks=[allowed])(*qkv)
    (tmp_path / "program").write_bytes(exported.serialize())
    np.savez(tmp_path / "arrays.npz", *qkv)
    run_python(f"""
import jax, numpy as np, attn.jax
attn.jax.register()
program = jax.export.deserialize(open({str(tmp_path / "program")!r}, "rb").read())
q, k, v = np.load({str(tmp_path / "arrays.npz")!r}).values()
np.testing.assert_array_equal(program.call(q, k, v), attn.attention(q, k, v, causal=True))
print("ok")
""")


def test_imported_on_use_only():
    run_python("""
import sys, attn, attn.onnx
assert not {"jax", "jaxlib", "onnx", "onnxruntime"} & sys.modules.keys()
print("ok")
""")


def test_built_without_jax():
    run_python("""
import sys, attn
sys.modules["attn._jax"] = None
try:
    import attn.jax
except ImportError as error:
    assert "attn.jax: this attn was built without jaxlib's headers" in str(error), error
    print("ok")
""")


def test_examples():
    result = doctest.testmod(attn.jax, raise_on_error=False)
    assert result.failed == 0
    assert result.attempted >= 4

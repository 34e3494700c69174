"""attn.onnx against ONNX: its own test cases, its reference evaluator in float64, ONNX Runtime."""

import doctest
import re
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from reference import assert_close

import attn
import attn.onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
    from onnx.backend.test.case.node import collect_testcases

    # Those that end so are the same cases written in other operators.
    CASES = {
        case.name: case
        for case in collect_testcases("Attention")
        if not case.name.endswith("_expanded")
    }

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def epsilon(dtype):
    """The bound of f32, and the distance of 1 to the next number in the other types."""
    return 1e-5 if dtype == np.float32 else float(ml_dtypes.finfo(dtype).eps)


def largest(array):
    return np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0.0)


def run(case):
    """{output: (attn's, the case's)} of one of ONNX's test cases."""
    (node,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    given = dict(zip(filter(None, node.input), inputs))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    wanted = list(filter(None, node.output))
    got = attn.onnx.attention(
        **given, **attributes, qk_matmul_output="qk_matmul_output" in wanted
    )._asdict()
    assert ("qk_matmul_output" in wanted) == (got["qk_matmul_output"] is not None)
    return {name: (got[name], expected) for name, expected in zip(wanted, outputs)}


def test_cases_are_all_there():
    assert len(CASES) == 93
    versions = {case.model.opset_import[0].version for case in CASES.values()}
    assert versions == {23, 24, 25}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    """None is refused. What is expected was computed in Q's type, step by step."""
    for actual, expected in run(CASES[name]).values():
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, epsilon(expected.dtype) * largest(expected))


# What ONNX Runtime has no kernel for, or refuses: a mask that is shorter than K.
NOT_IN_RUNTIME = {
    "test_attention_3d_causal_bf16",
    "test_attention_4d_attn_mask_causal_bf16",
    "test_attention_4d_causal_bf16",
    "test_attention_4d_causal_padded_kv_bf16",
    "test_attention_4d_padded_kv_bf16",
    "test_attention_4d_diff_heads_mask4d_padded_kv",
}


@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT_IN_RUNTIME))
def test_runtime(name):
    case = CASES[name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ((inputs, _),) = case.data_sets
    results = session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs)})
    for (output, (actual, _)), expected in zip(run(case).items(), results):
        if output == "qk_matmul_output":  # the runtime's masked scores are large instead of -inf
            expected = np.where(expected < -1e4, -np.inf, expected.astype(np.float64))
        assert_close(actual, expected, epsilon(actual.dtype) * largest(expected))


def problem(rng):
    """Inputs and attributes at random: everything that the operator has, in all mixtures."""

    def pick(*options):
        return options[rng.integers(len(options))]

    def normal(*shape, dtype):
        return rng.standard_normal(shape).astype(dtype)

    dtype, dtype_v = (DTYPES[pick(*DTYPES)] for _ in range(2))
    batch, heads_kv, group, seqlen_q, new = (
        pick(1, 3),
        pick(1, 2),
        pick(1, 3),
        pick(1, 5),
        pick(1, 9),
    )
    size, size_v = pick(1, 8, 17), pick(1, 8, 17)
    q = normal(batch, heads_kv * group, seqlen_q, size, dtype=dtype)
    k = normal(batch, heads_kv, new, size, dtype=dtype)
    v = normal(batch, heads_kv, new, size_v, dtype=dtype_v)
    attributes = {
        "is_causal": pick(0, 1),
        "left_window_size": pick(-1, -1, 0, 2),
        "right_window_size": pick(-1, -1, 0, 2),
        "qk_matmul_output_mode": pick(0, 1, 2, 3),
        "softcap": pick(0.0, 0.5),
        "scale": pick(None, 0.25),
        "softmax_precision": pick(None, 1, 10, 11, 16),
    }
    inputs = {"Q": q, "K": k, "V": v}
    total, cache = new, pick(None, "past", "nonpad")
    if cache == "past":
        past = pick(0, 4)
        inputs["past_key"] = normal(batch, heads_kv, past, size, dtype=dtype)
        inputs["past_value"] = normal(batch, heads_kv, past, size_v, dtype=dtype_v)
        total += past
    elif cache == "nonpad":
        inputs["nonpad_kv_seqlen"] = rng.integers(0, new + 1, batch)
    kind = pick(None, np.bool_, np.float32, dtype)
    if kind is not None:
        columns = int(rng.integers(1, total + 1)) if pick(False, True) else total
        full = (batch, heads_kv * group, seqlen_q, columns)
        rank = pick(1, 2, 3, 4)
        shape = tuple(pick(1, n) for n in full[4 - rank : 3]) + (columns,)
        attends = rng.random(shape) < 0.7
        bias = np.where(attends, rng.standard_normal(shape), -np.inf)
        inputs["attn_mask"] = attends if kind == np.bool_ else bias.astype(kind)
    if pick(False, True):
        attributes["q_num_heads"], attributes["kv_num_heads"] = heads_kv * group, heads_kv
        for name in "QKV":
            x = inputs[name].swapaxes(1, 2)
            inputs[name] = x.reshape(*x.shape[:2], -1)
    return inputs, attributes


ORDER = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"]


def reference(inputs, attributes):
    """The reference evaluator's four outputs in float64."""
    attributes = {name: value for name, value in attributes.items() if value is not None}
    attributes.pop("softmax_precision", None)
    # Mode 0 is what comes before the softcap, as the specification and ONNX Runtime have it; the
    # evaluator returns what comes after it.
    if attributes["qk_matmul_output_mode"] == 0 and attributes["softcap"]:
        y, key, value, _ = reference(inputs, {**attributes, "qk_matmul_output_mode": 1})
        return y, key, value, reference(inputs, {**attributes, "softcap": 0.0})[3]
    node = onnx.helper.make_node(
        "Attention",
        [name if name in inputs else "" for name in ORDER],
        attn.onnx.Outputs._fields,
        **attributes,
    )
    wide = {
        name: x if x.dtype in (np.bool_, np.int64) else x.astype(np.float64)
        for name, x in inputs.items()
    }
    if "attn_mask" in wide:  # one row for all queries it takes for a single query, if causal
        mask = wide["attn_mask"]
        rows = np.broadcast_shapes(mask.shape, (inputs["Q"].shape[-2], 1))
        wide["attn_mask"] = np.broadcast_to(mask, rows)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(node, opsets={"": 25}).run(None, wide)


@pytest.mark.parametrize("seed", range(400))
def test_reference(seed):
    inputs, attributes = problem(np.random.default_rng(seed))
    got = attn.onnx.attention(**inputs, **attributes, qk_matmul_output=True)
    y, key, value, scores = reference(inputs, attributes)
    dtype = inputs["Q"].dtype
    assert got.Y.dtype == got.qk_matmul_output.dtype == dtype
    assert got.present_key.dtype == dtype
    assert got.present_value.dtype == inputs["V"].dtype
    assert_close(got.Y, y, 2 * epsilon(dtype) * largest(value))
    np.testing.assert_array_equal(got.present_key.astype(np.float64), key)
    np.testing.assert_array_equal(got.present_value.astype(np.float64), value)
    assert_close(got.qk_matmul_output, scores, epsilon(dtype) * max(1.0, largest(scores)))


def test_problems_have_everything():
    """The mixtures above are no empty promise."""
    seen = [problem(np.random.default_rng(seed)) for seed in range(400)]
    masks = [inputs["attn_mask"] for inputs, _ in seen if "attn_mask" in inputs]
    assert {mask.ndim for mask in masks} == {1, 2, 3, 4}
    assert {mask.dtype for mask in masks} == {np.dtype(x) for x in (np.bool_, *DTYPES.values())}
    for name in ORDER:
        assert sum(name in inputs for inputs, _ in seen) >= 50, name
    for attribute, values in {
        "is_causal": {0, 1},
        "softmax_precision": {None, 1, 10, 11, 16},
        "qk_matmul_output_mode": {0, 1, 2, 3},
        "left_window_size": {-1, 0, 2},
        "right_window_size": {-1, 0, 2},
        "softcap": {0.0, 0.5},
        "scale": {None, 0.25},
        "q_num_heads": {None, 1, 2, 3, 6},
    }.items():
        assert {attributes.get(attribute) for _, attributes in seen} == values, attribute


def test_inputs_are_used_where_they_lie(rng):
    q = rng.standard_normal((2, 5, 3 * 8), np.float32)
    cache = rng.standard_normal((2, 9, 3 * 8), np.float32)
    got = attn.onnx.attention(q, cache, cache, q_num_heads=3, kv_num_heads=3)
    assert got.present_key.shape == (2, 3, 9, 8)
    assert np.shares_memory(got.present_key, cache)
    assert np.shares_memory(got.present_value, cache)
    assert got.Y.flags.c_contiguous
    assert got.qk_matmul_output is None


def test_what_is_masked_never_leaks(rng):
    """NaN behind the lengths, behind a short mask and where a mask is False."""
    q, k, v = (rng.standard_normal((1, 2, 4, 8), np.float32) for _ in range(3))
    for options, bad in (
        ({"nonpad_kv_seqlen": np.array([2])}, [2, 3]),
        ({"attn_mask": np.ones((4, 2), np.bool_)}, [2, 3]),
        ({"attn_mask": np.array([True, False, True, False])}, [1, 3]),
    ):
        expected = attn.onnx.attention(q, k, v, **options).Y
        k_bad, v_bad = k.copy(), v.copy()
        k_bad[:, :, bad] = v_bad[:, :, bad] = np.nan
        got = attn.onnx.attention(
            q, k_bad, v_bad, **options, qk_matmul_output=True, qk_matmul_output_mode=3
        )
        np.testing.assert_array_equal(got.Y, expected)
        assert not got.qk_matmul_output[..., bad].any()


def test_other_floats_become_f32(rng):
    x = rng.standard_normal((1, 2, 4, 8), np.float32)
    bias = rng.standard_normal((4, 4)).astype(np.float16)
    expected = attn.onnx.attention(x, x, x, bias.astype(np.float32)).Y
    for dtype in (np.float16, np.float64):
        np.testing.assert_array_equal(attn.onnx.attention(x, x, x, bias.astype(dtype)).Y, expected)


def test_context():
    x = np.ones((1, 1, 2, 4), np.float32)
    assert attn.onnx.attention(x, x, x, context=attn.Context(num_threads=1)).Y.shape == x.shape


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


X = ones(1, 2, 4, 8)
X3 = ones(1, 4, 16)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "words"),
    [
        ((ones(4, 8),) * 3, {}, ValueError, "Q, K, V: ranks 2, 2, 2 must be all 3 or all 4"),
        ((X, X3, X3), {}, ValueError, "Q, K, V: ranks 4, 3, 3 must be all 3 or all 4"),
        ((X3,) * 3, {}, ValueError, "q_num_heads: must be given for Q, K and V of rank 3"),
        ((X3,) * 3, {"q_num_heads": 2}, ValueError, "kv_num_heads: must be given"),
        (
            (X3,) * 3,
            {"q_num_heads": 3, "kv_num_heads": 2},
            ValueError,
            "q_num_heads: 3 must divide the 16 elements of a row of Q",
        ),
        (
            (X3,) * 3,
            {"q_num_heads": 2, "kv_num_heads": 0},
            ValueError,
            "kv_num_heads: 0 must divide the 16 elements of a row of K",
        ),
        ((X,) * 3, {"q_num_heads": 2}, ValueError, "q_num_heads, kv_num_heads: are for"),
        ((X,) * 4, {"past_key": X}, ValueError, "past_key, past_value: must be given together"),
        ((X,) * 3, {"past_value": X}, ValueError, "past_key, past_value: must be given together"),
        (
            (X,) * 3,
            {"past_key": X, "past_value": X, "nonpad_kv_seqlen": ones(1, dtype=np.int64)},
            ValueError,
            "nonpad_kv_seqlen: must not be given with past_key",
        ),
        (
            (X,) * 3,
            {"past_key": X, "past_value": ones(1, 2, 4, 9)},
            ValueError,
            "past_value: shape (1, 2, 4, 9) must be (1, 2, past_sequence_length, 8)",
        ),
        (
            (X,) * 3,
            {"past_key": X3, "past_value": X},
            ValueError,
            "past_key: shape (1, 4, 16) must be (1, 2, past_sequence_length, 8)",
        ),
        (
            (X,) * 3,
            {"past_key": X, "past_value": X.astype(np.float16)},
            TypeError,
            "past_value: is float16, must be float32",
        ),
        (
            (X,) * 3,
            {"past_key": X, "past_value": ones(1, 2, 5, 8)},
            ValueError,
            "V: 9 rows, past ones included, must be 8 as those of K",
        ),
        (
            (X,) * 3,
            {"nonpad_kv_seqlen": ones(1, dtype=np.int32)},
            TypeError,
            "nonpad_kv_seqlen: must hold int64, not int32",
        ),
        (
            (X,) * 3,
            {"nonpad_kv_seqlen": ones(2, dtype=np.int64)},
            ValueError,
            "nonpad_kv_seqlen: shape (2,) must be (1,)",
        ),
        (
            (X,) * 3,
            {"nonpad_kv_seqlen": np.array([5])},
            ValueError,
            "nonpad_kv_seqlen: [5] must be 0 to 4",
        ),
        (
            (X,) * 3,
            {"nonpad_kv_seqlen": np.array([-1])},
            ValueError,
            "nonpad_kv_seqlen: [-1] must be 0 to 4",
        ),
        (
            (X, X, X, ones(4, 5)),
            {},
            ValueError,
            "attn_mask: shape (4, 5) must be of rank 1 to 4 with at most 4 columns",
        ),
        ((X, X, X, np.float32(0)), {}, ValueError, "attn_mask: shape () must be of rank 1 to 4"),
        (
            (X, X, X, ones(4, 4, dtype=np.int64)),
            {},
            TypeError,
            "attn_mask: must hold bool or floats, not int64",
        ),
        ((X, X, X, ones(3, 4)), {}, ValueError, "bias.shape[2] is 3; must be 4"),
        ((X, X, X, ones(3, 4) > 0), {}, ValueError, "mask.shape[2] is 3; must be 4"),
        ((X,) * 3, {"left_window_size": -2}, ValueError, "left_window_size: -2 must be -1 or more"),
        ((X,) * 3, {"right_window_size": -3}, ValueError, "right_window_size: -3 must be -1"),
        ((X,) * 3, {"softmax_precision": 7}, ValueError, "softmax_precision: 7 must be 1 (FLOAT)"),
        ((X,) * 3, {"qk_matmul_output_mode": 4}, ValueError, "qk_matmul_output_mode: 4 must be 0"),
        ((X,) * 3, {"scale": 0.0}, ValueError, "scale: 0 must be another number"),
        ((X,) * 3, {"softcap": -1.0}, ValueError, "softcap is -1; must be finite and positive"),
        ((X.astype(np.float64),) * 3, {}, TypeError, "q: dtype float64 is not supported"),
        (
            (X, ones(1, 3, 4, 8), ones(1, 3, 4, 8)),
            {},
            ValueError,
            "heads_q is 2; must be a multiple of",
        ),
        ((X, ones(1, 2, 4, 9), X), {}, ValueError, "k.shape[3] is 9; must be 8 (head_dim)"),
        ((X, X, ones(1, 2, 5, 8)), {}, ValueError, "V: 5 rows, past ones included, must be 4"),
        ((X, ones(2, 2, 4, 8), ones(2, 2, 4, 8)), {}, ValueError, "k.shape[0] is 2; must"),
    ],
)
def test_bad_input(inputs, options, error, words):
    with pytest.raises(error, match=re.escape(words)):
        attn.onnx.attention(*inputs, **options)


def test_examples():
    result = doctest.testmod(attn.onnx, raise_on_error=False)
    assert result.failed == 0
    assert result.attempted >= 5

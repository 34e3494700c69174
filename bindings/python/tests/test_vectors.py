"""The test vectors that all languages share; abi_tests/vectors/vectors.txt tells what they are."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import attn
from attn import _names
from attn._native import lib

VECTORS = Path(__file__).resolve().parents[3] / "abi_tests" / "vectors" / "vectors.txt"
DTYPES = {
    lib.ATTN_DTYPE_F32: np.float32,
    lib.ATTN_DTYPE_F16: np.float16,
    lib.ATTN_DTYPE_BF16: ml_dtypes.bfloat16,
    lib.ATTN_DTYPE_F8E4M3: ml_dtypes.float8_e4m3fn,
    lib.ATTN_DTYPE_I8: np.int8,
    lib.ATTN_DTYPE_U8: np.uint8,
    lib.ATTN_DTYPE_I32: np.int32,
    lib.ATTN_DTYPE_I64: np.int64,
}


def from_hex(digits, dtype=np.float64):
    return np.frombuffer(bytes.fromhex("" if digits == "-" else digits), dtype)


def view_of(words):
    """(memory, view) of the words after a tensor's name; without bytes the memory is zeros."""
    dtype, rank = DTYPES[int(words[0])], int(words[1])
    shape, strides = (tuple(map(int, words[2 + i * rank :][:rank])) for i in range(2))
    first, count, *digits = words[2 + 2 * rank :]
    memory = from_hex(digits[0], dtype) if digits else np.zeros(int(count), dtype)
    assert memory.size == int(count)
    strides = tuple(stride * memory.itemsize for stride in strides)
    array = np.lib.stride_tricks.as_strided(memory[int(first) :], shape, strides)
    return memory, array


def read_cases():
    """{name: (plan fields, inputs, output lines, expected)}"""
    cases = {}
    for line in VECTORS.read_text().splitlines():
        keyword, *words = line.split() or ["#"]
        if keyword == "case":
            plan, inputs, outputs, expected = cases[words[0]] = {}, {}, {}, {}
        elif keyword == "plan":
            plan[words[0]] = float(words[1]) if "." in words[1] else int(words[1])
        elif keyword == "input":
            inputs[words[0]] = view_of(words[1:])[1]
        elif keyword == "output":
            outputs[words[0]] = words[1:]
        elif keyword == "expect":
            rows, columns = int(words[1]), int(words[2])
            expected[words[0]] = (
                from_hex(words[3]).reshape(rows, columns),
                from_hex(words[4]).reshape(rows, 1),
            )
        else:
            assert keyword in ("#", "end"), keyword
    return cases


def plan_arguments(fields):
    """The arguments of attn.Plan for fields of attn_plan_config."""
    fields = dict(fields)
    features = fields.pop("features", 0)
    arguments = {"causal": bool(features & lib.ATTN_CAUSAL)}
    left, right = fields.pop("window_left", 0), fields.pop("window_right", 0)
    arguments["window"] = (
        left if features & lib.ATTN_WINDOW_LEFT else None,
        right if features & lib.ATTN_WINDOW_RIGHT else None,
    )
    arguments["features"] = [name for name, bit in _names.FEATURES.items() if features & bit]
    if "block_q" in fields:
        arguments["block_size"] = fields.pop("block_q"), fields.pop("block_k")
    for name, argument, table in [
        ("q_dtype", "dtype", _names.DTYPES),
        ("k_dtype", "k_dtype", _names.DTYPES),
        ("v_dtype", "v_dtype", _names.DTYPES),
        ("o_dtype", "out_dtype", _names.DTYPES),
        ("bias_dtype", "bias_dtype", _names.DTYPES),
        ("q_layout", "q_layout", _names.LAYOUTS),
        ("kv_layout", "kv_layout", _names.LAYOUTS),
        ("alignment", "alignment", _names.ALIGNMENTS),
    ]:
        if name in fields:
            value = fields.pop(name)
            arguments[argument] = next(key for key in table if table[key] == value)
    return {**arguments, **fields}


def fnv1a(data, value=0xCBF29CE484222325):
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


CASES = read_cases()


@pytest.fixture(scope="module")
def contexts():
    return [attn.Context(isa=isa.name) for isa in attn.isas() if isa.available]


@pytest.fixture(scope="module")
def hashes():
    """Takes the lines of python.txt, and writes them at the end."""
    lines = []
    yield lines
    if "ATTN_VECTORS_OUT" in os.environ:
        folder = Path(os.environ["ATTN_VECTORS_OUT"])
        (folder / "python.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("name", CASES)
def test_vectors(name, contexts, hashes):
    fields, inputs, output_lines, expected = CASES[name]
    arguments = plan_arguments(fields)
    computed = 0
    for context in contexts:
        for backend in attn.backends(context):
            if not backend.available:
                continue
            target = f"{name} {backend.name} {context.info.isa}"
            try:
                plan = attn.Plan(**arguments, backend=backend.name, context=context)
            except attn.Unsupported:
                assert backend.name != "standard"
                hashes.append(f"{target} unsupported")
                continue
            outputs = {key: view_of(words) for key, words in output_lines.items()}
            plan.run(
                **inputs,
                out=outputs["o"][1],
                lse=outputs["lse"][1] if "lse" in outputs else False,
            )
            for key, (values, tolerances) in expected.items():
                actual = outputs[key][1].astype(np.float64).reshape(values.shape)
                same = np.isinf(values) & (actual == values)
                with np.errstate(invalid="ignore"):
                    assert np.all(same | (np.abs(actual - values) <= tolerances)), (target, key)
            memory = b"".join(memory.tobytes() for memory, _ in outputs.values())
            hashes.append(f"{target} {fnv1a(memory):016x}")
            computed += 1
    assert computed >= len(contexts)

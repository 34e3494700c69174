"""MiniLM through attn agrees with an independent float64 forward pass, however it is batched."""

from __future__ import annotations

import attn
import numpy as np
import pytest

from model import MAX_TOKENS, MiniLM, load_weights
from reference import Reference

SENTENCES = [
    "",
    "Yes.",
    "Does a fully masked row give NaN?",
    "The quick brown fox jumps over the lazy dog.",
    "Aufmerksamkeit ist alles, was man braucht; 注意力 is all you need, naïve café 🙂.",
    "int main(void) { return attn_attention(&q, &k, &v, &o, ATTN_CAUSAL, NULL); }",
    "3.14159 2.71828 1.41421 0.57721 1e-5 0x7f800000",
    "A workspace is memory that the caller owns and lends for the time of one run. " * 3,
    "word " * 127,
    "longer than the model takes, so the tokenizer cuts it " * 40,
]


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def expected(model: MiniLM) -> np.ndarray:
    reference = Reference(load_weights())
    return np.stack([reference.embed(model.tokenizer.encode(s).ids) for s in SENTENCES])


def assert_close(embeddings: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(embeddings).all()
    cosines = np.sum(embeddings.astype(np.float64) * expected, axis=1) / (
        np.linalg.norm(embeddings.astype(np.float64), axis=1)
    )
    assert len(cosines) == len(SENTENCES)
    assert cosines.min() >= 0.99999, cosines


@pytest.mark.parametrize("batch_size", [1, 2, 3, len(SENTENCES)])
@pytest.mark.parametrize("pad_to", [0, 33, MAX_TOKENS])
def test_every_batching(model: MiniLM, expected: np.ndarray, batch_size: int, pad_to: int) -> None:
    assert_close(model.embed(SENTENCES, batch_size=batch_size, pad_to=pad_to), expected)


def test_every_instruction_set(expected: np.ndarray) -> None:
    for isa in attn.Context().isas():
        if isa.available:
            assert_close(MiniLM(attn.Context(isa=isa.name)).embed(SENTENCES), expected)


def test_sentences_differ(expected: np.ndarray) -> None:
    """A comparison of constants would pass every test above."""
    cosines = expected @ expected.T - np.eye(len(SENTENCES))
    assert cosines.max() < 0.95

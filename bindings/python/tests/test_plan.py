"""Plans: runs, bound runs, workspaces, what they tell; and every bad value of theirs."""

import numpy as np
import pytest
from reference import assert_attention

import attn

SIZES = {"heads_q": 4, "heads_kv": 2, "head_dim": 8, "max_seqlen_q": 6, "max_seqlen_k": 11}


@pytest.fixture
def qkv(normal):
    return normal(1, 4, 6, 8), normal(1, 2, 11, 8), normal(1, 2, 11, 8)


def test_runs_of_any_size_within_the_bounds(normal):
    plan = attn.Plan(
        heads_q=4, heads_kv=2, head_dim=8, head_dim_v=5, max_batch=3, max_seqlen_q=6,
        max_seqlen_k=11, causal=True,
    )  # fmt: skip
    for batch, seqlen_q, seqlen_k in [(3, 6, 11), (1, 1, 1), (2, 5, 3), (3, 6, 11)]:
        q, k = normal(batch, 4, seqlen_q, 8), normal(batch, 2, seqlen_k, 8)
        v = normal(batch, 2, seqlen_k, 5)
        out, lse = plan.run(q, k, v, lse=True)
        assert_attention(out, lse, q, k, v, causal=True)
        out = plan.run(q, k, v, out=np.empty_like(out))
        assert_attention(out, None, q, k, v, causal=True)
    with pytest.raises(attn.InvalidArgument, match="max_seqlen_k|k"):
        plan.run(q, normal(3, 2, 12, 8), normal(3, 2, 12, 5))


def test_options_are_those_of_attention(normal, rng, qkv):
    q, k, v = qkv
    mask = rng.random((4, 6, 11)) < 0.7
    bias = normal(11).astype(np.float32)
    tensors = {
        "mask": mask,
        "bias": bias,
        "seqlens_q": [5],
        "seqlens_k": [10],
        "q_start": 4,
        "k_start": [1],
        "alibi_slopes": [0.5, 0.25, 0.125, 0.0625],
        "sink": normal(4),
    }
    options = {
        "window": (5, None), "scale": 0.3, "softcap": 2.0, "causal": True, "alignment": "top_left"
    }  # fmt: skip
    features = ["mask", "bias", "seqlens_q", "seqlens_k", "q_start", "k_start", "alibi", "sink"]
    plan = attn.Plan(**SIZES, **options, features=features)
    out, lse = plan.run(q, k, v, lse=True, **tensors)
    assert_attention(out, lse, q, k, v, **options, **tensors)
    np.testing.assert_array_equal(out, attn.attention(q, k, v, **options, **tensors))

    ranges = attn.Plan(**SIZES, features=iter(["mask", "mask_range", "bias", "bias_range"]))
    tensors = {"mask": mask[..., :4], "mask_k0": 3, "bias": bias[:7], "bias_k0": [2]}
    assert_attention(ranges.run(q, k, v, **tensors), None, q, k, v, **tensors)

    blocks = attn.Plan(**SIZES, features=["block_mask"], block_size=(4, 6))
    tensors = {"block_mask": np.array([[1, 0], [0, 1]], bool)}
    out = blocks.run(q, k, v, **tensors)
    assert_attention(out, None, q, k, v, **tensors, block_size=(4, 6))


def test_packed_and_paged_plans(normal):
    q, k, v = normal(1, 4, 9, 8), normal(1, 2, 12, 8), normal(1, 2, 12, 8)
    packed = attn.Plan(
        **SIZES, max_batch=2, q_layout="packed", kv_layout="packed", max_total_q=9, max_total_k=12
    )
    out = packed.run(q, k, v, cu_seqlens_q=[0, 3, 9], cu_seqlens_k=[0, 4, 12])
    assert_attention(out[:, :, 3:], None, q[:, :, 3:], k[:, :, 4:], v[:, :, 4:])

    paged = attn.Plan(**SIZES, kv_layout="paged", page_size=4)
    pages = [x[0].reshape(2, 3, 4, 8).transpose(1, 0, 2, 3) for x in (k, v)]
    out = paged.run(q[:, :, :6], *pages, block_table=[[2, 0]], seqlens_k=[6])
    order = [8, 9, 10, 11, 0, 1]
    assert_attention(out, None, q[:, :, :6], k[:, :, order], v[:, :, order])


def test_types(qkv):
    q, k, v = (x.astype(np.float16) for x in qkv)
    plan = attn.Plan(**SIZES, dtype="f16", out_dtype="f32", bias_dtype="f16", features=["bias"])
    bias = np.zeros(11, np.float16)
    assert plan.run(q, k, v, bias=bias).dtype == np.float32
    with pytest.raises(attn.InvalidArgument, match="bias"):
        plan.run(q, k, v, bias=bias.astype(np.float32))
    with pytest.raises(attn.InvalidArgument, match="q"):
        plan.run(*qkv, bias=bias)


def test_runs_of_the_same_shapes(qkv, normal):
    """The second one takes a shorter way, and sees its own arrays and all that changed."""
    plan = attn.Plan(**SIZES)
    for _ in range(3):
        q, k, v = (normal(*x.shape) for x in qkv)
        out, lse = plan.run(q, k, v, lse=True)
        assert_attention(out, lse, q, k, v)
        assert plan.run(q, k, v, out=out) is out
        assert_attention(out, None, q, k, v)
        turned = np.ascontiguousarray(k.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
        assert_attention(plan.run(q, turned, v), None, q, k, v)
        assert_attention(plan.run(q[:, :, :2], k, v), None, q[:, :, :2], k, v)
    out.flags.writeable = False
    with pytest.raises(attn.InvalidArgument, match="out: is read-only"):
        plan.run(q, k, v, out=out)

    wide = attn.Plan(**SIZES, dtype="f16", out_dtype="f32")
    half = [x.astype(np.float16) for x in qkv]
    assert [wide.run(*half).dtype for _ in range(3)] == [np.float32] * 3
    with pytest.raises(attn.InvalidArgument):
        wide.run(*qkv)


def test_bind(qkv, normal):
    q, k, v = qkv
    plan = attn.Plan(**SIZES, features=["seqlens_k"])
    lengths = np.array([11], np.int32)
    step = plan.bind(q, k, v, lse=True, seqlens_k=lengths)
    first, lse = step()
    assert_attention(first, lse, q, k, v)
    q[:] = normal(*q.shape)
    lengths[0] = 4
    again, _ = step()
    assert again is first
    assert_attention(again, lse, q, k, v, seqlens_k=[4])

    out = np.empty_like(first)
    alone = plan.bind(q.copy(), k, v, out=out, seqlens_k=lengths)  # holds what it reads
    assert alone() is out
    np.testing.assert_array_equal(out, first)

    lengths[0] = 12
    with pytest.raises(attn.InvalidArgument, match="seqlens_k"):
        step()
    with pytest.raises(TypeError, match="seqlens_k: must be a NumPy array"):
        plan.bind(q, k, v, seqlens_k=[11])
    late = plan.bind(q, k, v, seqlens_k=np.array([11]))  # int64: nothing is converted
    with pytest.raises(attn.InvalidArgument, match="seqlens_k"):
        late()


def test_workspace(qkv):
    plan = attn.Plan(**SIZES, backend="standard")
    assert plan.workspace_size > 0
    assert plan.workspace_size == plan.info.workspace_size
    expected = plan.run(*qkv)
    workspace = plan.new_workspace()
    assert workspace.nbytes == plan.workspace_size
    assert workspace.ctypes.data % 64 == 0
    workspace[:] = 255  # its content does not matter
    np.testing.assert_array_equal(plan.run(*qkv, workspace=workspace), expected)
    larger = np.zeros(plan.workspace_size + 128, np.uint8)
    aligned = larger[-larger.ctypes.data % 64 :]
    np.testing.assert_array_equal(plan.run(*qkv, workspace=aligned), expected)
    for wrong in (workspace[:-1], aligned[1:]):
        with pytest.raises(attn.WorkspaceError, match="workspace") as caught:
            plan.run(*qkv, workspace=wrong)
        assert caught.value.status == "ATTN_ERROR_WORKSPACE"
    workspace.flags.writeable = False
    for wrong in (workspace, aligned[::2], aligned.view(np.int32), aligned[None]):
        with pytest.raises(attn.InvalidArgument, match="workspace: "):
            plan.run(*qkv, workspace=wrong)
    with pytest.raises(TypeError, match="workspace: must be"):
        plan.run(*qkv, workspace=64)


def test_large_workspaces_are_not_kept(normal):
    from attn import _plan

    small = attn.Plan(**SIZES, backend="standard")
    large = attn.Plan(
        heads_q=1, head_dim=4, max_seqlen_q=4200, max_seqlen_k=4200, backend="standard"
    )
    assert large.workspace_size > 64 << 20
    q = normal(1, 4, 6, 8)
    small.run(q, q[:, :2], q[:, :2])
    kept = _plan._kept.workspace
    assert kept[1] >= small.workspace_size
    tiny = normal(1, 1, 1, 4)
    large.run(tiny, tiny, tiny)
    assert _plan._kept.workspace is None or _plan._kept.workspace[1] <= 64 << 20


def test_what_a_plan_tells():
    plan = attn.Plan(**SIZES, backend="standard")
    info = plan.info
    assert info.backend == "standard"
    assert info.isa in [isa.name for isa in attn.isas() if isa.available]
    assert info.standard_workspace_size == info.workspace_size
    assert set(plan.refusals) == {b.name for b in attn.backends()} - {"standard"}
    assert all(plan.refusals.values())
    text = plan.describe()
    assert "standard" in text
    assert info.isa in text
    assert repr(plan) == (
        f"<attn.Plan backend=standard isa={info.isa} workspace_size={info.workspace_size}>"
    )
    scalar = attn.Plan(**SIZES, context=attn.Context(isa="scalar", num_threads=1))
    assert scalar.info.isa == "scalar"


def test_autotune(qkv, normal):
    bias = normal(6, 11)
    plan = attn.Plan(**SIZES, features=["bias"], backend="flash")
    before = [x.copy() for x in qkv]
    tuned = plan.autotune(*qkv, bias=bias, lse=True, seconds=0.02)
    assert tuned.tile_k > 0
    assert tuned.measured >= 1
    assert 0 < tuned.tuned_seconds <= tuned.default_seconds < 1
    for old, new in zip(before, qkv):
        np.testing.assert_array_equal(old, new)
    values = {"tile_k": tuned.tile_k, "kv_chunk": tuned.kv_chunk}
    again = attn.Plan(**SIZES, features=["bias"], backend="flash", **values)
    assert again.info.tile_k == tuned.tile_k
    assert_attention(again.run(*qkv, bias=bias), None, *qkv, bias=bias)

    assert attn.Plan(**SIZES, tile_k=192).autotune(*qkv, seconds=0.01).tile_k == 192
    assert attn.Plan(**SIZES, backend="standard").autotune(*qkv, seconds=0.01).tile_k == 0
    for seconds in (0, -1, float("nan"), float("inf"), 1e10):
        with pytest.raises(attn.InvalidArgument, match="seconds"):
            plan.autotune(*qkv, bias=bias, seconds=seconds)
    with pytest.raises(TypeError, match="seconds: must be a number"):
        plan.autotune(*qkv, bias=bias, seconds="long")
    with pytest.raises(attn.InvalidArgument, match="bias"):
        plan.autotune(*qkv, seconds=0.01)


def test_plans_outlive_their_context(qkv):
    context = attn.Context(num_threads=2)
    plan = attn.Plan(**SIZES, context=context)
    step = plan.bind(*qkv)
    del context
    assert_attention(plan.run(*qkv), None, *qkv)
    del plan
    assert_attention(step(), None, *qkv)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"heads_q": 0}, attn.InvalidArgument, "heads_q"),
        ({"heads_q": 3}, attn.InvalidArgument, "heads_kv"),
        ({"heads_q": 2.0}, TypeError, "heads_q: must be an integer, not float"),
        ({"head_dim": -1}, attn.InvalidArgument, "head_dim"),
        ({"head_dim": 1 << 70}, attn.InvalidArgument, "head_dim: .* does not fit in 64 bits"),
        ({"max_batch": -2}, attn.InvalidArgument, "max_batch"),
        ({"max_seqlen_q": 0}, attn.InvalidArgument, "max_seqlen_q"),
        ({"max_seqlen_k": -5}, attn.InvalidArgument, "max_seqlen_k"),
        ({"max_total_q": 3}, attn.InvalidArgument, "max_total_q"),
        ({"page_size": 16}, attn.InvalidArgument, "page_size"),
        ({"page_size": 1 << 31}, attn.InvalidArgument, "page_size: .* does not fit in 32 bits"),
        ({"kv_layout": "paged"}, attn.InvalidArgument, "page_size"),
        ({"kv_layout": "tiled"}, attn.InvalidArgument, "kv_layout: 'tiled' is none of pa"),
        ({"q_layout": "paged"}, attn.InvalidArgument, "q_layout"),
        ({"dtype": "f64"}, attn.InvalidArgument, "dtype: 'f64' is none of bf16"),
        ({"dtype": np.float32}, TypeError, "dtype: must be a string, not type"),
        ({"dtype": "i8"}, attn.InvalidArgument, "q_dtype"),
        ({"out_dtype": "i8"}, attn.InvalidArgument, "o_dtype"),
        ({"alignment": "middle"}, attn.InvalidArgument, "alignment: 'middle' is none of bot"),
        ({"window": 3}, TypeError, "window: must be .left, right., not 3"),
        ({"window": (1.5, None)}, TypeError, "window: must be an integer"),
        ({"window": (-1, None)}, attn.InvalidArgument, "window_left"),
        ({"window": (None, -1)}, attn.InvalidArgument, "window_right"),
        ({"scale": 0}, attn.InvalidArgument, "scale: 0 must be another number"),
        ({"scale": "big"}, TypeError, "scale: must be a number, not str"),
        ({"scale": float("nan")}, attn.InvalidArgument, "scale"),
        ({"softcap": 0.0}, attn.InvalidArgument, "softcap: 0 must be greater than 0"),
        ({"softcap": -1.0}, attn.InvalidArgument, "softcap"),
        ({"features": ["dropout"]}, attn.InvalidArgument, "features: 'dropout' is none of alibi"),
        ({"features": "mask"}, TypeError, "features: must be several names"),
        ({"features": ["mask_range"]}, attn.InvalidArgument, "(?i)mask_range"),
        ({"features": ["block_mask"]}, attn.InvalidArgument, "block_q"),
        ({"block_size": (4, 4)}, attn.InvalidArgument, "block_q"),
        ({"block_size": 4}, TypeError, "block_size: must be .block_q, block_k., not 4"),
        ({"tile_k": -1}, attn.InvalidArgument, "tile_k"),
        ({"kv_chunk": -1}, attn.InvalidArgument, "kv_chunk"),
        ({"backend": "nonsense"}, attn.InvalidArgument, "nonsense"),
        ({"backend": 3}, TypeError, "backend: must be a string, not int"),
        ({"context": 3}, TypeError, "context: must be an attn.Context, not int"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_plans(change, error, message):
    with pytest.raises(error, match=message):
        attn.Plan(**{**SIZES, **change})


def test_bad_runs(qkv):
    q, k, v = qkv
    plan = attn.Plan(**SIZES)
    out = np.full_like(q, 7.0)
    for arguments, message in [
        ((q[..., :4], k, v), "q"),
        ((q, k[..., :4], v), "k"),
        ((q, k, v[:, :, :5]), "v"),
        ((q[:, :3], k, v), "q"),
        ((q[0, 0], k, v), "q: rank 2 must be 4"),
        ((q, k, v[None]), "v: rank 5 must be 4"),
        ((q, k.astype(np.float16), v), "k"),
    ]:
        with pytest.raises(attn.InvalidArgument, match=message):
            plan.run(*arguments, out=out)
    with pytest.raises(attn.InvalidArgument, match="mask"):
        plan.run(q, k, v, out=out, mask=np.ones((6, 11), bool))
    with pytest.raises(attn.InvalidArgument, match="seqlens_k"):
        plan.run(q, k, v, out=out, seqlens_k=[4])
    with pytest.raises(attn.InvalidArgument, match="lse"):
        plan.run(q, k, v, out=out, lse=np.empty((1, 4, 5), np.float32))
    with pytest.raises(attn.InvalidArgument, match="lse"):
        plan.run(q, k, v, out=out, lse=np.empty((1, 4, 6), np.float16))
    with pytest.raises(TypeError, match="unexpected keyword argument 'masks'"):
        plan.run(q, k, v, out=out, masks=None)
    assert (out == 7.0).all()
    with pytest.raises(attn.InvalidArgument, match="o"):
        plan.run(q, k, v, out=q)
    masked = attn.Plan(**SIZES, features=["mask"])
    with pytest.raises(attn.InvalidArgument, match="mask"):
        masked.run(q, k, v)

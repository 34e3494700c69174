"""pictures.py FOLDER: draws the pictures of the documentation from the library's own results.

With the identity for V, O = P V is the matrix P of weights itself: what row i gives to each key.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attn
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

Array = NDArray[Any]

INK, MASKED, LINE, ACCENT = "#26323d", "#eceff1", "#ffffff", "#d9480f"
WEIGHT = LinearSegmentedColormap.from_list("weight", ["#c9e2f5", "#1864ab"])
plt.switch_backend("svg")
plt.rcParams.update(
    {
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#adb5bd",
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.hashsalt": "attn",
        "lines.linewidth": 2,
    }
)


def weights(seqlen_q: int, seqlen_k: int, *, spread: float = 0.6, **options: Any) -> Array:
    """P [seqlen_q, seqlen_k] of random queries and keys, whose scores have that deviation."""
    rng = np.random.default_rng(7)
    q = spread * rng.standard_normal((1, 1, seqlen_q, 64)).astype(np.float32)
    k = rng.standard_normal((1, 1, seqlen_k, 64)).astype(np.float32)
    v = np.eye(seqlen_k, dtype=np.float32)[None, None]
    p = attn.attention(q, k, v, **options)[0, 0]
    sums = p.sum(axis=1)
    if options.get("sink") is None:
        assert np.all((np.abs(sums - 1) < 1e-5) | (sums == 0)), sums
    return p


def show(
    axes: Axes, p: Array, title: str = "", *, q_start: int = 0, k_start: int = 0, largest: float = 0
) -> None:
    """Draws P: a blue cell is attended, the darker the more; a grey one has weight 0 exactly."""
    rows, columns = p.shape
    largest = largest or float(p.max())
    for (i, j), weight in np.ndenumerate(p):
        colour = WEIGHT(weight / largest) if weight > 0 else MASKED
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor=LINE))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(columns), [str(k_start + j) for j in range(columns)], fontsize=7.5)
    axes.set_yticks(range(rows), [str(q_start + i) for i in range(rows)], fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.set_title(title, pad=8)


def panels(count: int, height: float = 2.6, **options: Any) -> list[Axes]:
    """A row of empty pictures."""
    _, axes = plt.subplots(1, count, figsize=(7.4, height), layout="constrained", **options)
    return list(np.atleast_1d(axes))


def full() -> None:
    (axes,) = panels(1, 2.4)
    show(axes, weights(5, 8), "no mask: each row adds up to 1")


def causal() -> None:
    square, bottom, top = panels(3, 3.0)
    show(square, weights(6, 6, causal=True), "6 queries, 6 keys")
    show(bottom, weights(4, 7, causal=True), '4 queries, 7 keys\n"bottom_right" (the default)')
    show(top, weights(4, 7, causal=True, alignment="top_left"), '4 queries, 7 keys\n"top_left"')


def causal_more_queries() -> None:
    bottom, top = panels(2, 2.9)
    show(bottom, weights(7, 4, causal=True), '7 queries, 4 keys\n"bottom_right": three empty rows')
    show(top, weights(7, 4, causal=True, alignment="top_left"), '7 queries, 4 keys\n"top_left"')


def window() -> None:
    both, left, with_causal = panels(3, 2.9)
    show(both, weights(8, 8, window=(2, 1)), "window=(2, 1)")
    show(left, weights(8, 8, window=(2, None)), "window=(2, None)")
    show(with_causal, weights(8, 8, window=(3, None), causal=True), "window=(3, None), causal")


def positions() -> None:
    chunk, ring = panels(2, 2.5)
    show(
        chunk,
        weights(3, 9, causal=True, q_start=[4]),
        "q_start = 4: three queries\nfrom the middle of 9 keys",
        q_start=4,
    )
    show(
        ring,
        weights(4, 6, causal=True, q_start=[8], k_start=[4]),
        "q_start = 8, k_start = 4:\nkeys from another place",
        q_start=8,
        k_start=4,
    )


def lengths() -> None:
    padded, with_causal = panels(2, 2.8)
    options: dict[str, Any] = {"seqlens_q": [5], "seqlens_k": [6]}
    show(padded, weights(7, 8, **options), "seqlens_q = 5 of 7\nseqlens_k = 6 of 8")
    p = weights(7, 8, causal=True, **options)
    show(with_causal, p, "the same, causal:\nquery 4 sees key 5")


def packed() -> None:
    """Rows of all sequences behind one another; the identity is over the rows of v."""
    (axes,) = panels(1, 3.1)
    cu = [0, 3, 5, 10]
    p = weights(10, 10, causal=True, cu_seqlens_q=cu, cu_seqlens_k=cu)
    show(axes, p, "cu_seqlens = 0, 3, 5, 10")
    axes.set(xlabel="row of k and v", ylabel="row of q")
    for first, last in zip(cu, cu[1:]):
        frame(axes, first, first, last - first, last - first)


def frame(axes: Axes, row: float, column: float, rows: float, columns: float) -> None:
    corner = (column - 0.5, row - 0.5)
    axes.add_patch(
        Rectangle(corner, columns, rows, fill=False, edgecolor=ACCENT, linewidth=1.5, clip_on=False)
    )


def paged() -> None:
    """One query a sequence; the identity is over the slots of all pages."""
    (axes,) = panels(1, 2.2)
    pages, page_size, table = 5, 4, [[3, 0, -1], [1, 4, 2]]
    lengths = [6, 11]
    slots = pages * page_size
    rng = np.random.default_rng(7)
    q = 0.6 * rng.standard_normal((2, 1, 1, 64)).astype(np.float32)
    k = rng.standard_normal((pages, 1, page_size, 64)).astype(np.float32)
    v = np.eye(slots, dtype=np.float32).reshape(pages, 1, page_size, slots)
    p = attn.attention(q, k, v, block_table=np.array(table, np.int32), seqlens_k=lengths)[:, 0, 0]
    show(axes, p, "block_table = [3, 0, unused], [1, 4, 2];  lengths 6 and 11;  pages of 4 keys")
    axes.set(xlabel="page", ylabel="sequence")
    axes.set_xticks([page_size * (page + 0.5) - 0.5 for page in range(pages)], range(pages))
    for page in range(pages):
        frame(axes, 0, page * page_size, 2, page_size)


def boolean_mask() -> None:
    documents, any_mask = panels(2, 3.0)
    document = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    same = document[:, None] == document[None, :]
    show(documents, weights(8, 8, mask=same, causal=True), "three documents in a row, causal")
    rng = np.random.default_rng(4)
    mask = rng.random((8, 8)) < 0.5
    mask[5] = False
    show(any_mask, weights(8, 8, mask=mask), "any pattern; row 5 may see nothing")


def block_mask() -> None:
    (axes,) = panels(1, 3.1)
    blocks = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 1, 1]], bool)
    p = weights(9, 16, block_mask=blocks, block_size=(3, 4))
    show(axes, p, "blocks of 3 queries and 4 keys")
    for row in range(3):
        for column in range(4):
            frame(axes, 3 * row, 4 * column, 3, 4)


def bias() -> None:
    given, result = panels(2, 3.0)
    values = np.zeros((8, 8), np.float32)
    values[:, ::3] = 2
    values[:, 7] = -np.inf
    for (row, column), value in np.ndenumerate(values):
        text = "-∞" if np.isinf(value) else f"{value:g}"
        given.text(column, row, text, ha="center", va="center", fontsize=7.5)
    show(given, np.zeros((8, 8)), "bias")
    show(result, weights(8, 8, bias=values), "weights: exp(2) is about 7.4")


def alibi() -> None:
    slopes = (0.05, 0.25, 1.0)
    for axes, slope in zip(panels(3, 2.9), slopes):
        p = weights(10, 10, spread=0, causal=True, alibi_slopes=[slope])
        show(axes, p, f"slope {slope:g}", largest=1)


def tree() -> None:
    """Six draft tokens that form a tree, behind four keys of the prefix."""
    parent = [None, 0, 0, 1, 1, 2]
    mask = np.zeros((6, 6), bool)
    for token in range(6):
        ancestor: int | None = token
        while ancestor is not None:
            mask[token, ancestor] = True
            ancestor = parent[ancestor]
    drawing, matrix = panels(2, 2.8, gridspec_kw={"width_ratios": [2, 3]})
    places = [(2.0, 0), (1, 1), (3.2, 1), (0.4, 2), (1.6, 2), (3.2, 2)]
    for token, (x, y) in enumerate(places):
        if (above := parent[token]) is not None:
            drawing.plot(*zip(places[above], (x, y)), color="#adb5bd", zorder=1)
        drawing.scatter(x, y, s=420, color=WEIGHT(0.25), zorder=2)
        drawing.text(x, y, str(token), ha="center", va="center", zorder=3)
    drawing.set(xlim=(-0.3, 3.9), ylim=(2.5, -0.5))
    drawing.set_title("draft tokens", pad=8)
    drawing.axis("off")
    p = weights(6, 10, mask=mask, mask_k0=[4])
    show(matrix, p, "weights: 4 keys of the prefix, then the tree")
    matrix.set_xticks(range(10), ["p"] * 4 + [str(token) for token in range(6)])
    matrix.set_ylabel("draft token")
    frame(matrix, 0, 4, 6, 6)


def softcap() -> None:
    """Of two keys with scores x and 0 the weights tell the capped x: ln(p0 / p1)."""
    (axes,) = panels(1, 2.9)
    x = np.linspace(-12, 12, 97, dtype=np.float32)
    q = x.reshape(1, 1, -1, 1)
    k = np.array([1, 0], np.float32).reshape(1, 1, 2, 1)
    v = np.eye(2, dtype=np.float32)[None, None]
    for cap, colour in ((None, "#adb5bd"), (5.0, "#1864ab"), (2.0, ACCENT)):
        p = attn.attention(q, k, v, softcap=cap, scale=1.0)[0, 0].astype(np.float64)
        label = "no softcap" if cap is None else f"softcap {cap:g}"
        axes.plot(x, np.log(p[:, 0] / p[:, 1]), color=colour, label=label)
    axes.set(xlabel="score before", ylabel="score after", ylim=(-8, 8), xlim=(-12, 12))
    axes.grid(color="#e9ecef")
    axes.legend(frameon=False)


def sink() -> None:
    """What of each row's weight goes to the keys, and what to the sink, for three logits."""
    (axes,) = panels(1, 2.4)
    for row, logit in enumerate((None, 0.0, 2.0)):
        p = weights(1, 5, sink=None if logit is None else [logit])[0]
        left = 0.0
        for key, weight in enumerate(p):
            axes.barh(row, weight, left=left, color=WEIGHT(weight / 0.4), edgecolor=LINE)
            axes.text(left + weight / 2, row, f"key {key}" if weight > 0.06 else str(key),
                      ha="center", va="center", fontsize=7.5)  # fmt: skip
            left += weight
        if logit is not None:
            axes.barh(row, 1 - left, left=left, color="#ffe8cc", edgecolor=LINE)
            axes.text((1 + left) / 2, row, "sink", ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, 1), xlabel="weight", yticks=range(3), ylim=(2.5, -0.5))
    axes.set_yticklabels(["no sink", "logit 0", "logit 2"])
    axes.tick_params(axis="y", length=0)


def heads() -> None:
    """Which head of k and v a query head reads: each head of v holds its own unit vector."""
    for axes, heads_kv in zip(panels(3, 2.9), (8, 2, 1)):
        q = np.zeros((1, 8, 1, 8), np.float32)
        k = np.zeros((1, heads_kv, 1, 8), np.float32)
        v = np.eye(heads_kv, dtype=np.float32)[None, :, None]
        show(axes, attn.attention(q, k, v)[0, :, 0], f"heads_q = 8, heads_kv = {heads_kv}")
        axes.set(xlabel="head of k and v", ylabel="query head")


def memory() -> None:
    """Workspaces that plans ask for, by the longest sequence."""
    (axes,) = panels(1, 3.2)
    context = attn.Context(num_threads=1)
    seqlens = [2**power for power in range(7, 16)]
    for backend, colour in (("standard", ACCENT), ("flash", "#1864ab")):
        sizes = [
            attn.Plan(
                heads_q=8,
                head_dim=64,
                max_seqlen_q=seqlen,
                max_seqlen_k=seqlen,
                backend=backend,
                context=context,
            ).workspace_size
            for seqlen in seqlens
        ]
        axes.plot(seqlens, np.array(sizes) / 2**20, "o-", color=colour, markersize=4, label=backend)
    axes.set(xscale="log", yscale="log", xlabel="queries and keys", ylabel="workspace, MiB")
    axes.set_xticks(seqlens, [str(seqlen) for seqlen in seqlens])
    axes.minorticks_off()
    axes.grid(color="#e9ecef")
    axes.legend(frameon=False)


PICTURES = (
    full,
    causal,
    causal_more_queries,
    window,
    positions,
    lengths,
    packed,
    paged,
    boolean_mask,
    block_mask,
    bias,
    alibi,
    tree,
    softcap,
    sink,
    heads,
    memory,
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    for draw in PICTURES:
        draw()
        plt.savefig(folder / f"{draw.__name__}.svg", metadata={"Date": None})
        plt.close()

"""The benchmark's picture: fraction of the FMA peak over the sequence length."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

# Fixed, so that a colour means the same in every picture (Okabe and Ito's palette).
_LOOKS = {
    "flash": ("attn flash", "#D55E00", "o", 2.4),
    "standard": ("attn standard", "#E69F00", "s", 1.4),
    "ort": ("ONNX Runtime", "#0072B2", "^", 1.4),
    "openvino": ("OpenVINO", "#009E73", "v", 1.4),
    "torch": ("PyTorch", "#CC79A7", "D", 1.4),
}


def draw(results, path, machine):
    """Writes a PNG with one panel for each head size and mask; bars are the quartiles."""
    rows = [
        r
        for r in results.rows.values()
        if r.seconds
        and (r.case.dtype, r.case.threads, r.case.isa) == ("f32", 1, "")
        and r.case.kind == "prefill"
        and not (r.case.feature or r.case.own_heads)
    ]
    head_dims = sorted({row.case.head_dim for row in rows})
    masks = sorted({row.case.causal for row in rows})
    if not rows:
        return False
    figure, axes = pyplot.subplots(
        len(head_dims),
        len(masks),
        figsize=(1.5 + 4.5 * len(masks), 1.5 + 3.2 * len(head_dims)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    for i, head_dim in enumerate(head_dims):
        for j, causal in enumerate(masks):
            panel = axes[i][j]
            for who, (label, colour, marker, width) in _LOOKS.items():
                line = sorted(
                    (row.case.seqlen, row.of_limit)
                    for row in rows
                    if (row.who, row.case.head_dim, row.case.causal) == (who, head_dim, causal)
                )
                if not line:
                    continue
                seqlens = [seqlen for seqlen, _ in line]
                medians = [spread.median for _, spread in line]
                bars = [
                    [spread.median - spread.low for _, spread in line],
                    [spread.high - spread.median for _, spread in line],
                ]
                handles[label] = panel.errorbar(
                    seqlens, medians, bars, label=label, color=colour, marker=marker,
                    linewidth=width, markersize=5, capsize=2, elinewidth=1,
                )  # fmt: skip
            mask = "causal (half the work counted)" if causal else "full"
            panel.set_title(f"head_dim {head_dim}, {mask}", fontsize=10)
            panel.set_xscale("log", base=2)
            ticks = sorted({row.case.seqlen for row in rows})
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.set_ylim(0, 1)
            panel.grid(alpha=0.3)
            if i == len(head_dims) - 1:
                panel.set_xlabel("sequence length")
            if j == 0:
                panel.set_ylabel("fraction of the f32 FMA peak")
    figure.suptitle(f"Attention f32, one thread, batch 1\n{machine}", fontsize=11)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True

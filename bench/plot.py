"""The benchmark's pictures: fractions of the limit over the length, and what features cost."""

import dataclasses

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

# Fixed, so that a colour means the same in every picture (Okabe and Ito's palette).
_LOOKS = {
    "flash": ("attn flash", "#D55E00", "o", 2.4),
    "flash_amx_bf16": ("attn flash, AMX", "#882255", "P", 2.4),
    "standard": ("attn standard", "#E69F00", "s", 1.4),
    "ort": ("ONNX Runtime", "#0072B2", "^", 1.4),
    "openvino": ("OpenVINO", "#009E73", "v", 1.4),
    "torch": ("PyTorch", "#CC79A7", "D", 1.4),
}
_TYPES = {"f32": "#D55E00", "bf16": "#0072B2", "f16": "#009E73"}


def draw(results, path, machine):
    """Writes PATH with -full, -causal, -decode and -features before its suffix, each a PNG, if rows
    with one thread were measured for it; returns the paths."""
    rows = [
        row
        for row in results.rows.values()
        if row.seconds and row.case.threads == 1 and not row.case.isa
    ]
    plain = [row for row in rows if not row.case.feature]
    plain += [_of_own_limit(results, row) for row in results.rows.values() if _is_amx(row)]
    prefill = [row for row in plain if row.case.kind == "prefill" and not row.case.own_heads]
    decode = [row for row in plain if row.case.kind == "decode" and row.case.heads_kv == 8]
    figures = {
        "full": _over_seqlen(
            [row for row in prefill if not row.case.causal],
            f"Prefill, one thread, batch 1\n{machine}",
            "fraction of the FMA peak",
        ),
        "causal": _over_seqlen(
            [row for row in prefill if row.case.causal],
            f"Causal prefill, half the work counted, one thread, batch 1\n{machine}",
            "fraction of the FMA peak",
        ),
        "decode": _over_seqlen(
            decode,
            f"Decode of one query, 32 heads on 8, one thread, batch 1\n{machine}",
            "fraction of the read bandwidth",
        ),
        "features": _features(
            results,
            [row for row in rows if row.who == "flash" and row.case.feature],
            f"What features leave of the plain row's speed, one thread\n{machine}",
        ),
    }
    written = []
    for name, figure in figures.items():
        if figure is None:
            continue
        written.append(path.with_stem(f"{path.stem}-{name}"))
        figure.savefig(written[-1], dpi=130)
        pyplot.close(figure)
    return written


def _is_amx(row):
    case = row.case
    return row.seconds and (case.isa, case.feature, case.threads) == ("amx_bf16", "", 1)


def _of_own_limit(results, row):
    """The row against the limit of the instruction set that is not forced, as everyone else's."""
    own = results.row(dataclasses.replace(row.case, isa=""), row.who)
    seconds = {number: s for number, s in row.seconds.items() if number in own.peaks}
    return dataclasses.replace(
        row, case=own.case, who=f"{row.who}_{row.case.isa}", seconds=seconds, peaks=own.peaks
    )


def _bars(spreads):
    """What matplotlib draws as the quartiles."""
    return [
        [spread.median - spread.low for spread in spreads],
        [spread.high - spread.median for spread in spreads],
    ]


def _over_seqlen(rows, title, ylabel):
    """A panel for each head size and type, a line for each who; bars are the quartiles."""
    if not rows:
        return None
    head_dims = sorted({row.case.head_dim for row in rows})
    dtypes = [dtype for dtype in _TYPES if any(row.case.dtype == dtype for row in rows)]
    figure, axes = pyplot.subplots(
        len(head_dims),
        len(dtypes),
        figsize=(2.5 + 4 * len(dtypes), 1.5 + 3.2 * len(head_dims)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    handles = {}
    for i, head_dim in enumerate(head_dims):
        for j, dtype in enumerate(dtypes):
            panel = axes[i][j]
            for who, (label, colour, marker, width) in _LOOKS.items():
                line = sorted(
                    (row.case.seqlen, row.of_limit)
                    for row in rows
                    if (row.who, row.case.head_dim, row.case.dtype) == (who, head_dim, dtype)
                )
                if not line:
                    continue
                seqlens, spreads = zip(*line, strict=True)
                handles[label] = panel.errorbar(
                    seqlens, [spread.median for spread in spreads], _bars(spreads), label=label,
                    color=colour, marker=marker, linewidth=width, markersize=5, capsize=2,
                    elinewidth=1,
                )  # fmt: skip
            panel.set_title(f"{dtype}, head_dim {head_dim}", fontsize=10)
            panel.set_xscale("log", base=2)
            ticks = sorted({row.case.seqlen for row in rows})
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.set_ylim(0, max(1, *(row.of_limit.high for row in rows)))
            panel.grid(alpha=0.3)
            if i == len(head_dims) - 1:
                panel.set_xlabel("sequence length")
            if j == 0:
                panel.set_ylabel(ylabel)
    figure.suptitle(title, fontsize=11)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    return figure


def _features(results, rows, title):
    """A bar for each feature, type and shape."""
    bars = []
    for row in rows:
        spread = results.against_plain(row.case, row.who)
        if spread:
            where = f"{row.case.kind} d{row.case.head_dim} s{row.case.seqlen}"
            bars.append((row.case.feature, row.case.dtype, where, spread))
    if not bars:
        return None
    bars.sort(key=lambda bar: bar[:3], reverse=True)
    figure, panel = pyplot.subplots(figsize=(8, 1.5 + 0.24 * len(bars)), layout="constrained")
    spreads = [spread for *_, spread in bars]
    panel.barh(
        [f"{feature}  {dtype} {where}" for feature, dtype, where, _ in bars],
        [spread.median for spread in spreads],
        xerr=_bars(spreads),
        color=[_TYPES[dtype] for _, dtype, *_ in bars],
        ecolor="black",
        capsize=2,
    )
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xlim(0, max(1.05, *(spread.high for spread in spreads)))
    panel.set_xlabel("fraction of the limit, over that of the row without the feature")
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    return figure

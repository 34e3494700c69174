"""The benchmark's tables, for a terminal or for a file."""

from rich import box
from rich.console import Console
from rich.table import Table


def make_console():
    """Colours and lines on a terminal; elsewhere plain text as wide as it needs to be."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _table(console, title, *columns):
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
    )
    for name in columns:
        left = name in ("case", "who", "limit", "what", "goal", "where", "verdict", "remark")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "remark")
    return table


def _spread(spread, digits=3):
    return f"{spread.low:.{digits}f} .. {spread.high:.{digits}f}" if spread else ""


def print_limits(console, results):
    table = _table(console, "The machine's limits", "limit", "median", "unit")
    for name in results.limits:
        unit = "GB/s" if "_read_" in name else "GFLOP/s"
        table.add_row(name, f"{results.limit(name) / 1e9:.1f}", unit)
    console.print(table, "")


def print_rows(console, results):
    """Every row: time, rate, fraction of the peak of the same moment, and flash beside it."""
    title = (
        "Rows (of limit: fraction of the type's FMA peak, causal counts half the work; of decode "
        "rows, fraction of the read bandwidth; of plain: against the row without the feature)"
    )
    columns = ("case", "who", "ms", "GFLOP/s", "of limit", "quartiles", "of plain")
    columns += ("flash is x faster",)
    table = _table(console, title, *columns, "remark")
    for case in results.cases():
        for (row_case, who), row in results.rows.items():
            if row_case != case:
                continue
            if not row.seconds:
                table.add_row(str(case), who, *[""] * 6, row.reason)
                continue
            speedup = results.speedup(case, "flash", who) if who != "flash" else None
            plain = results.against_plain(case, who)
            spread = row.of_limit
            table.add_row(
                str(case),
                who,
                f"{row.median_seconds * 1e3:.2f}",
                f"{case.flops / row.median_seconds / 1e9:.1f}",
                f"{spread.median:.3f}",
                _spread(spread),
                f"{plain.median:.3f}" if plain else "",
                f"{speedup.median:.2f}" if speedup else "",
                row.reason or "",
            )
    console.print(table, "")


_STYLES = {"not met": "red", "aim met": "green", "floor met": "green"}


def print_goals(console, goals):
    title = "Goals (flash, f32, one thread unless said otherwise; the worst row counts)"
    columns = ("goal", "floor", "aim", "measured", "quartiles", "where", "verdict")
    table = _table(console, title, *columns)
    for goal in goals:
        style = _STYLES.get(goal.verdict, "yellow")
        table.add_row(
            goal.name,
            "" if goal.floor is None else f"{goal.floor:.2f}",
            "" if goal.aim is None else f"{goal.aim:.2f}",
            f"{goal.measured.median:.3f}" if goal.measured else "",
            _spread(goal.measured),
            goal.where,
            f"[{style}]{goal.verdict}[/{style}]",
        )
    console.print(table)

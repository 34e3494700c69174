"""The demo: a question about attn, answered by a real model whose attention runs through attn.

1. MiniLM-L6 embeds the passages of this project's manual and the question; the nearest passages
   are the answer.
2. What this machine has: instruction sets and backends, and why some are missing.
3. Standard attention beside flash: time and workspace over the sequence length.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import attn
import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import manual
from model import MiniLM

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTION = "What comes out of a row that may attend to no key?"
ANSWERS = 3

HEAD_DIM = 64
SEQLENS = [512, 1024, 2048, 4096, 8192, 16384]
MAX_THREADS = 4  # standard holds one head's scores a thread: 1 GiB each at the longest
SECONDS_EACH = 0.5  # of measuring a row and backend, at least one run


def progress_bar(console: Console) -> Progress:
    """On a terminal a bar; elsewhere nothing, the lines between are enough."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def new_table(console: Console) -> Table:
    """With lines on a terminal, plain elsewhere."""
    return Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)


def print_table(console: Console, table: Table) -> None:
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), end="\n\n")


def search(console: Console, context: attn.Context, question: str) -> None:
    """Prints the passages of the manual that are nearest to the question."""
    passages = manual.passages(ROOT)
    console.print(f"Reading MiniLM-L6, and {len(passages)} passages of the manual ...")
    start = time.perf_counter()
    model = MiniLM(context)
    texts = [f"{p.title}: {p.text}" if p.title else p.text for p in passages]
    with progress_bar(console) as bar:
        task = bar.add_task("embedding", total=len(texts) + 1)
        embeddings = model.embed(
            [question, *texts], progress=lambda count: bar.advance(task, count)
        )
    scores = embeddings[1:] @ embeddings[0]  # cosines
    console.print(
        f"{len(texts) + 1} sentences embedded in {time.perf_counter() - start:.1f} s; all six "
        "layers' attention through attn, in padded batches with lengths\n"
    )
    console.print(Text(f"Q: {question}\n", style="bold"))
    for index in np.argsort(-scores)[:ANSWERS]:
        passage = passages[index]
        place = f"{scores[index]:.3f}  {passage.place}  {passage.title}".rstrip()
        console.print(Text(place, style="cyan"))
        console.print(Text(f"{passage.text}\n"), soft_wrap=not console.is_terminal)


def show_machine(console: Console, context: attn.Context) -> None:
    """Prints instruction sets and backends, each that is missing with its reason."""
    info = context.info
    console.print(
        f"attn {attn.version()} on this machine: instruction set {info.isa}, "
        f"{info.concurrency} thread{'s' if info.concurrency > 1 else ''}\n"
    )
    table = new_table(console)
    for column in ("instruction set", "here", "why not"):
        table.add_column(column)
    for isa in context.isas():
        table.add_row(isa.name, "yes" if isa.available else "no", Text(isa.reason))
    print_table(console, table)
    table = new_table(console)
    for column in ("backend", "here", "what it serves, or why it is not here"):
        table.add_column(column)
    for backend in context.backends():
        words = backend.description if backend.available else backend.reason
        table.add_row(backend.name, "yes" if backend.available else "no", Text(words))
    print_table(console, table)


def available_memory() -> int:
    """Bytes of memory that a program may take without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo tells no MemAvailable")


class Measurement(NamedTuple):
    seconds: float
    workspace: int  # bytes


def measure(plan: attn.Plan, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Measurement:
    """The median time of runs of at least SECONDS_EACH together, after one that warms up."""
    out, workspace = np.empty_like(q), plan.new_workspace()
    plan.run(q, k, v, out=out, workspace=workspace)
    times: list[float] = []
    while not times or sum(times) < SECONDS_EACH:
        start = time.perf_counter()
        plan.run(q, k, v, out=out, workspace=workspace)
        times.append(time.perf_counter() - start)
    return Measurement(statistics.median(times), plan.workspace_size)


class Row(NamedTuple):
    seqlen: int
    standard: Measurement
    flash: Measurement


def compare(console: Console) -> list[Row]:
    """Measures standard beside flash over SEQLENS, and prints the table."""
    threads = min(attn.Context().info.concurrency, MAX_THREADS)
    context = attn.Context(num_threads=threads)
    console.print(
        f"Standard beside flash: f32, {threads} heads of {HEAD_DIM}, {threads} threads, "
        f"seqlen {SEQLENS[0]} to {SEQLENS[-1]} ...\n"
    )
    rows: list[Row] = []
    skipped: list[str] = []
    with progress_bar(console) as bar:
        task = bar.add_task("standard beside flash", total=len(SEQLENS))
        for seqlen in SEQLENS:
            plans = {
                backend: attn.Plan(
                    heads_q=threads,
                    head_dim=HEAD_DIM,
                    max_seqlen_q=seqlen,
                    max_seqlen_k=seqlen,
                    backend=backend,
                    context=context,
                )
                for backend in ("standard", "flash")
            }
            needed, there = plans["standard"].workspace_size, available_memory()
            if needed > 0.8 * there:
                skipped.append(
                    f"{seqlen} is left out: standard needs {size(needed)} there, "
                    f"and this machine has {size(there)} free"
                )
            else:
                shape = (3, 1, threads, seqlen, HEAD_DIM)
                q, k, v = np.random.default_rng(seqlen).standard_normal(shape, dtype=np.float32)
                rows.append(Row(seqlen, *(measure(plan, q, k, v) for plan in plans.values())))
            bar.advance(task)

    table = new_table(console)
    table.add_column("seqlen", justify="right")
    for what, ratio in (("time", "faster"), ("workspace", "smaller")):
        for column in (f"standard {what}", f"flash {what}", ratio):
            table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row.seqlen),
            duration(row.standard.seconds),
            duration(row.flash.seconds),
            f"{row.standard.seconds / row.flash.seconds:.2f} x",
            size(row.standard.workspace),
            size(row.flash.workspace),
            f"{row.standard.workspace / row.flash.workspace:.1f} x",
        )
    print_table(console, table)
    for line in skipped:
        console.print(line)
    console.print(
        "Time is the median of a run. Workspace: standard holds one head's scores a thread, flash\n"
        f"packed K and V; so the ratio grows as about seqlen / (2 * head_dim) = seqlen / "
        f"{2 * HEAD_DIM}."
    )
    return rows


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size(count: float) -> str:
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.2f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="*", default=[QUESTION], help=f"default: {QUESTION}")
    question = " ".join(parser.parse_args().question)
    # Elsewhere than on a terminal nothing is known of the width: lines stay whole.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    context = attn.Context()
    search(console, context, question)
    show_machine(console, context)
    compare(console)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except attn.Error as error:
        sys.exit(f"{type(error).__name__}: {error}")

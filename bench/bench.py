"""The benchmark: the library, the machine's limits and the peers, measured in turns.

Every round measures each case with everyone once, one after another, and the FMA peak beside them,
so that all of them see the same machine; the order turns from round to round. What counts is the
median over the rounds of a row's fraction of the peak of the same moment, and of the ratio between
two rows; the quartiles say how far to trust it.
"""

import argparse
import datetime
import itertools
import json
import os
import pathlib
import platform
import re
import sys

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import goals
import measure
import report
from results import Results

ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="bench.py", description="Measures attn, the machine's limits and the peers in turns."
    )
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="rows (case/who) in which the regex is found"
    )
    parser.add_argument("--json", metavar="FILE", help="write limits and rows there")
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw FILE-full.png, -causal, -decode and -features"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="what 'all threads' means; default: all CPUs"
    )
    parser.add_argument(
        "--quick", action="store_true", help="three rounds and two lengths: a look, no verdict"
    )
    parser.add_argument(
        "--torch", action="store_true", help="PyTorch as a peer (bench/requirements-torch.txt)"
    )
    parser.add_argument(
        "--program",
        type=pathlib.Path,
        default=ROOT / "build" / "bench" / "bench" / "attn_bench",
        help="the built attn_bench (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        arguments.only = re.compile(arguments.only)
    except re.error as error:
        parser.error(f"--only: {error}")
    if arguments.threads < 0:
        parser.error("--threads is at least 1")
    for path in (arguments.json, arguments.plot):
        if path and not pathlib.Path(path).resolve().parent.is_dir():
            parser.error(f"{path}: its folder does not exist")
    if not arguments.program.is_file():
        parser.error(f"{arguments.program} is not built: run ./dev bench, or give --program")
    return arguments


def plan_rows(own, peers, only, seqlens):
    """[(case, [who])], grouped by shape: what is compared is measured close together."""
    own_cases = {}
    for case, who in own.rows:
        own_cases.setdefault(case, []).append(who)
    plan = []
    for case, own_whos in own_cases.items():
        # Nobody else can be told which instruction set to take.
        whos = own_whos if case.isa else own_whos + list(peers)
        wanted = [who for who in whos if only.search(f"{case}/{who}")]
        if wanted and (seqlens is None or case.plain.seqlen in seqlens):
            plan.append((case, wanted))

    def shape(item):
        plain = item[0].plain
        return plain.kind, plain.head_dim, plain.seqlen, plain.dtype, plain.own_heads

    plan.sort(key=shape)
    return [list(group) for _, group in itertools.groupby(plan, key=shape)]


def measure_case(results, case, whos, number, own, peers, seconds):
    """One round of one case: everyone once, starting with another one each time."""
    peaks, peer_rows = [], []
    for who in whos[number % len(whos) :] + whos[: number % len(whos)]:
        row = results.row(case, who)
        if row.reason:
            continue
        try:
            if who in measure.OWN:
                sample = own.measure(case, who, seconds)
                row.seconds[number], row.peaks[number] = sample.seconds, sample.peak
                row.workspace = sample.workspace
                peaks.append(sample.peak)
            else:
                row.seconds[number] = peers[who].measure(case, seconds)
                peer_rows.append(row)
        except measure.NotServed as reason:
            row.reason = str(reason)
    if peer_rows and not peaks:
        peaks.append(own.measure_peak(case))
    for row in peer_rows:
        row.peaks[number] = sum(peaks) / len(peaks)
    results.limits[own.peak_name(case)] += peaks


def measure_all(results, groups, own, peers, rounds, seconds, progress):
    steps = rounds * sum(len(group) for group in groups)
    task = progress.add_task("limits", total=steps + rounds)
    for _ in range(rounds):
        for name, value in own.measure_limits().items():
            results.limits.setdefault(name, []).append(value)
        progress.advance(task)
    for group in groups:
        for case, whos in group:  # the table's order, before the rounds turn it
            for who in whos:
                results.row(case, who)
        for number in range(rounds):
            for case, whos in group:
                progress.update(task, description=f"{case} {number + 1}/{rounds}")
                measure_case(results, case, whos, number, own, peers, seconds)
                progress.advance(task)
        if not progress.console.is_terminal:
            progress.console.print(f"measured {group[0][0]} to {group[-1][0]}")


def machine_name():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def main():
    arguments = parse_arguments()
    console = report.make_console()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: the machine is not idle (load {load:.1f})", file=sys.stderr)

    rounds, seconds, seqlens = (3, 0.04, {1024, 4096}) if arguments.quick else (11, 0.1, None)
    own = measure.AttnBench(arguments.program, arguments.threads)
    names = ["ort", "openvino"] + (["torch"] if arguments.torch else [])
    peers = {name: measure.Peer(name) for name in names}
    groups = plan_rows(own, peers, arguments.only, seqlens)
    results = Results()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            measure_all(results, groups, own, peers, rounds, seconds, progress)
    except KeyboardInterrupt:
        print("interrupted: what follows is what was measured so far", file=sys.stderr)
    finally:
        for peer in peers.values():
            peer.close()

    versions = {"attn": own.version} | {name: peers[name].version for name in names}
    machine = f"{machine_name()}, {os.cpu_count()} CPUs, {own.isa}"
    verdicts = goals.evaluate(results, names)
    console.print(f"{machine}; " + ", ".join(f"{n} {v or 'absent'}" for n, v in versions.items()))
    console.print(f"{rounds} rounds of {seconds:g} s a row\n")
    report.print_limits(console, results)
    report.print_rows(console, results)
    report.print_goals(console, verdicts)

    if arguments.json:
        document = results.to_json()
        document["goals"] = [
            {
                "goal": goal.name,
                "floor": goal.floor,
                "aim": goal.aim,
                "measured": goal.measured and goal.measured.median,
                "quartiles": goal.measured and [goal.measured.low, goal.measured.high],
                "where": goal.where,
                "verdict": goal.verdict,
            }
            for goal in verdicts
        ]
        document["machine"] = machine
        document["versions"] = versions
        document["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds")
        document["rounds"] = rounds
        pathlib.Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot:
        import plot

        for path in plot.draw(results, pathlib.Path(arguments.plot), machine):
            print(f"drawn: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()

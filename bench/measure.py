"""Who can be measured: the library's own program, and the peers in their processes."""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys

from cases import Case

OWN = ("standard", "flash", "tuned")


class NotServed(Exception):
    """Why a row cannot be measured, in words."""


@dataclasses.dataclass
class OwnSample:
    seconds: float
    peak: float  # of the row's limit (FLOP/s or bytes/s), measured between the runs
    workspace: int  # bytes


class AttnBench:
    """The program attn_bench, which measures the library and the machine's limits."""

    def __init__(self, program, threads):
        self.command = [str(program)] + ([f"--threads={threads}"] if threads else [])
        listed = self._run("--benchmark_list_tests=true").split()
        names = [line.split("/") for line in listed]
        self.rows = [(Case.parse(n[0]), n[1]) for n in names if Case.parse(n[0])]
        self.limits = [n[0] for n in names if n[0].startswith("limit_")]
        context = self._measure("^limit_fma_.*_1t/", 0.001)["context"]
        self.version = context["attn_version"]
        self.isa = context["isa"]

    def _run(self, *arguments):
        result = subprocess.run(self.command + list(arguments), capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{self.command[0]} failed: {result.stderr.strip()[-500:]}")
        return result.stdout

    def _measure(self, filter_regex, seconds, *arguments):
        return json.loads(
            self._run(
                f"--benchmark_filter={filter_regex}",
                f"--benchmark_min_time={seconds}",
                "--benchmark_format=json",
                *arguments,
            )
        )

    def measure_limits(self):
        """{name: FLOP/s or bytes/s} of all limits."""
        return {
            row["name"].split("/")[0]: _rate(row)
            for row in self._measure("^limit_", 0.001)["benchmarks"]
        }

    def peak_name(self, case):
        """The limit that the case is held against: reading for decode; else multiply-adds of its
        type where the instruction set has them, in f32 where it has not."""
        if case.kind == "decode":
            return f"limit_read_{case.threads}t"
        isa = case.isa or self.isa
        own = f"limit_fma_{case.dtype}_{isa}_{case.threads}t"
        return own if own in self.limits else f"limit_fma_f32_{isa}_{case.threads}t"

    def measure_peak(self, case):
        """FLOP/s or bytes/s of the case's limit."""
        return _rate(self._measure(f"^{self.peak_name(case)}/", 0.001)["benchmarks"][0])

    def measure(self, case, who, seconds):
        output = self._measure(
            f"^{re.escape(f'{case}/{who}')}/", seconds, f"--limit={self.peak_name(case)}"
        )
        (row,) = output["benchmarks"]
        if row.get("error_occurred"):
            raise NotServed(row["error_message"])
        if (row["heads"], row["flops"], row["kv_bytes"]) != (
            case.heads,
            case.flops,
            case.kv_bytes,
        ):
            raise RuntimeError(f"{case}: attn_bench and cases.py differ in heads, flops or bytes")
        return OwnSample(
            row["flops"] / row["flops_per_second"], row["limit"], int(row["workspace"])
        )


def _rate(limit):
    return limit.get("flops_per_second") or limit["bytes_per_second"]


class Peer:
    """A peer in a process of its own, which is started here and ends with the driver.

    It is stopped while it is not measured: some peers' threads go on spinning after a run, on the
    cores that somebody else is measured on.
    """

    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("peers.py")), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answer = self._read()
        self.version = answer.get("version")
        self.reason = answer.get("reason")  # why it cannot be measured at all, or None
        self.process.send_signal(signal.SIGSTOP)

    def _read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"reason": "its process ended"}

    def measure(self, case, seconds):
        if self.reason:
            raise NotServed(self.reason)
        self.process.send_signal(signal.SIGCONT)
        try:
            request = json.dumps({"case": str(case), "seconds": seconds})
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            answer = self._read()
        except BrokenPipeError:
            answer = {"reason": "its process ended"}
        self.process.send_signal(signal.SIGSTOP)
        if "reason" in answer:
            if self.process.poll() is not None:
                self.reason = answer["reason"]
            raise NotServed(answer["reason"])
        return answer["seconds"]

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()

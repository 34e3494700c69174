"""The clock of a GPU that works in order, and events on it. STUB_LOG names a file of what ran,
STUB_HANGS and STUB_CRASHES what does so.
"""

from __future__ import annotations

import os
import signal
import time

# Seconds.
COSTS = {
    "attn": 1e-3,
    "attn packed": 2e-3,
    "attn no_pin": 2e-3,
    "CUDNN_ATTENTION": 2e-3,
    "FLASH_ATTENTION": 4e-3,
    "MATH": 8e-3,
    "matmul": 1e-3,
    "sum": 1e-3,
}
now = 0.0


def work(what: str) -> None:
    global now
    now += COSTS[what]
    if what == os.environ.get("STUB_HANGS"):
        time.sleep(60)
    if what == os.environ.get("STUB_CRASHES"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path := os.environ.get("STUB_LOG"):
        with open(path, "a") as log:
            log.write(what + "\n")


def _sleep(cycles: int) -> None:
    global now
    now += cycles / 2e9


def synchronize() -> None:
    pass


def is_available() -> bool:
    return True


class Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)

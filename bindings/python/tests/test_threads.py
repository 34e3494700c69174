"""The GIL is released, threads share contexts and plans, signals and fork do no harm."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np

import attn


def test_the_gil_is_released(normal, one_thread):
    """Another thread goes on while one runs: it never waits for as long as half of the run."""
    q = normal(1, 1, 2048, 64)
    plan = attn.Plan(heads_q=1, head_dim=64, max_seqlen_q=2048, max_seqlen_k=2048,
                     backend="standard", context=one_thread)  # fmt: skip
    step = plan.bind(q, q, q)
    step()  # starts what the first run starts
    took = time.perf_counter()
    step()
    repeats = 1 + int(0.3 / (time.perf_counter() - took))
    long = attn.Plan(heads_q=repeats, heads_kv=1, head_dim=64, max_seqlen_q=2048,
                     max_seqlen_k=2048, backend="standard", context=one_thread)  # fmt: skip
    step = long.bind(np.repeat(q, repeats, axis=1), q, q)
    ratios = []
    for _ in range(3):
        seconds = []

        def run(seconds=seconds):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)

        runner = threading.Thread(target=run)
        longest, last = 0.0, time.perf_counter()
        runner.start()
        while runner.is_alive():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        runner.join()
        longest = max(longest, time.perf_counter() - last)
        assert seconds[0] > 0.02  # several of the interpreter's switch intervals
        ratios.append(longest / seconds[0])
    assert min(ratios) < 0.5


def test_many_threads(normal):
    context = attn.Context(num_threads=2)
    cases = []
    for seqlen in (1, 5, 16, 33, 64):
        q, k = normal(2, 4, seqlen, 16), normal(2, 2, seqlen + 3, 16)
        cases.append((q, k, attn.attention(q, k, k, causal=True, context=context)))
    plan = attn.Plan(heads_q=4, heads_kv=2, head_dim=16, max_batch=2, max_seqlen_q=64,
                     max_seqlen_k=67, causal=True, context=context)  # fmt: skip

    def work(start):
        for turn in range(100):
            q, k, expected = cases[(start + turn) % len(cases)]
            np.testing.assert_array_equal(
                attn.attention(q, k, k, causal=True, context=context), expected
            )
            np.testing.assert_array_equal(plan.run(q, k, k), expected)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, start) for start in range(4)]:
            done.result()


def test_a_signal_handler_may_call(normal, one_thread):
    """A handler that computes the same problem between two steps of a call spoils nothing."""
    q, other = normal(1, 2, 8, 16), normal(1, 2, 8, 16)
    expected = attn.attention(q, q, q, context=one_thread)
    expected_other = attn.attention(other, other, other, context=one_thread)
    handled = []

    def handler(number, frame):
        handled.append(attn.attention(other, other, other, context=one_thread))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        end = time.perf_counter() + 0.5
        results = []
        while time.perf_counter() < end:
            signal.setitimer(signal.ITIMER_REAL, 0.0001)
            # Some of the calls until then are interrupted at one step or another.
            results += [attn.attention(q, q, q, context=one_thread) for _ in range(20)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 10
    for result in results:
        np.testing.assert_array_equal(result, expected)
    for result in handled:
        np.testing.assert_array_equal(result, expected_other)


FORKING = """
import os, sys
import numpy as np
import attn

q = np.random.default_rng(0).standard_normal((1, 4, 64, 16), np.float32)
context = attn.Context(num_threads=2)
expected = attn.attention(q, q, q, context=context)
child = os.fork()
same = np.array_equal(attn.attention(q, q, q, context=context), expected)
if child == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitpid(child, 0)[1] == 0
print("forked")
"""


def test_fork():
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.stdout, run.stderr) == ("forked\n", "")


def test_remembered_things_are_bounded(normal):
    context = attn.Context(num_threads=1)
    k = normal(1, 1, 300, 4)
    for seqlen in range(1, 300):
        q = k[:, :, :seqlen]
        attn.attention(q, q, q, context=context, scale=float(seqlen))
    assert len(context._plans) <= 64
    assert len(context._memory.calls) <= 64


def test_threads_end_with_the_last_user(normal):
    def threads():
        return len(os.listdir("/proc/self/task"))

    q = normal(1, 8, 64, 16)
    before = threads()
    contexts = [attn.Context(num_threads=3) for _ in range(4)]
    for context in contexts:
        context.warmup()
    assert threads() == before + 8
    plan = attn.Plan(heads_q=8, head_dim=16, max_seqlen_q=64, max_seqlen_k=64, context=contexts[0])
    for context in contexts:
        attn.attention(q, q, q, context=context)
    del context, contexts
    assert threads() == before + 2  # the plan's
    plan.run(q, q, q)
    del plan
    assert threads() == before


def test_the_last_users_end_at_once(normal):
    """A plan and its context are freed while another thread is in a run, by whoever is the last."""
    q = normal(1, 2, 8, 16)
    expected = attn.attention(q, q, q)
    for _ in range(50):
        context = attn.Context(num_threads=2)
        plan = attn.Plan(heads_q=2, head_dim=16, max_seqlen_q=8, max_seqlen_k=8, context=context)
        shared, start, wrong = [plan], threading.Barrier(4), []

        def use(shared=shared, start=start, wrong=wrong):
            mine = shared[0]
            start.wait()
            if not np.array_equal(mine.run(q, q, q), expected):
                wrong.append(1)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait()
        shared.clear()
        del plan, context
        for thread in threads:
            thread.join()
        assert not wrong


def test_repeated_use_leaks_nothing(normal):
    """Memory stays where it is over contexts, plans, runs and failures."""

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    q = normal(1, 2, 8, 16)

    def use(times):
        for _ in range(times):
            context = attn.Context(num_threads=1, log=print)
            plan = attn.Plan(heads_q=2, head_dim=16, max_seqlen_q=8, max_seqlen_k=8,
                             context=context)  # fmt: skip
            plan.bind(q, q, q)()
            attn.attention(q, q, q, context=context, mask=np.ones(8, bool))
            attn.attention(q, q, q, context=context)
            plan.describe()
            try:
                plan.run(q, q[..., :4], q)
            except attn.InvalidArgument:
                pass
            else:
                raise AssertionError("accepted")

    use(300)
    before = resident()
    use(1500)
    assert resident() - before < 2 << 20  # a leak of one attn_tensor a turn is 216 kB

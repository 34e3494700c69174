"""What the library is to reach: each goal's floor and aim, beside what was measured."""

import dataclasses

from results import Spread, ratio


@dataclasses.dataclass(frozen=True)
class Goal:
    name: str
    floor: float | None  # None: only reported
    aim: float | None
    measured: Spread | None  # None: not measured
    where: str = ""  # the worst row, which is the measured one

    @property
    def verdict(self):
        """In words. A median that passes with its lower quartile below says so."""
        if self.measured is None:
            return "not measured"
        if self.floor is None:
            return "reported"
        for bound, word in ((self.aim, "aim met"), (self.floor, "floor met")):
            if self.measured.median >= bound:
                return word if self.measured.low >= bound else f"{word}, lower quartile below"
        return "not met"


def _worst(name, floor, aim, candidates):
    """The goal whose measurement is the lowest of {where: spread}."""
    candidates = {where: spread for where, spread in candidates.items() if spread}
    if not candidates:
        return Goal(name, floor, aim, None)
    where = min(candidates, key=lambda w: candidates[w].median)
    return Goal(name, floor, aim, candidates[where], where)


def evaluate(results, peers):
    """The goals, from the `flash` rows of the results. Each is judged by its worst row."""
    flash = [row for (_, who), row in results.rows.items() if who == "flash" and row.seconds]
    goals = []

    def select(head_dim, **conditions):
        for row in flash:
            case = row.case
            if case.head_dim == head_dim and all(
                getattr(case, key) == value for key, value in conditions.items()
            ):
                yield row

    def own_fraction(name, head_dim, isa, floor, aim):
        rows = select(head_dim, isa=isa, causal=False, threads=1)
        spreads = {f"s{r.case.seqlen}": r.of_limit for r in rows if r.case.seqlen >= 1024}
        goals.append(_worst(f"{name}, full, S >= 1024, d{head_dim}", floor, aim, spreads))

    own_fraction("of the FMA peak", 64, "", 0.83, 0.88)
    own_fraction("of the FMA peak", 128, "", 0.89, 0.92)
    own_fraction("of the FMA peak, AVX2 forced", 64, "avx2", 0.75, 0.84)
    own_fraction("of the FMA peak, AVX2 forced", 128, "avx2", 0.85, 0.90)

    for head_dim in (64, 128):
        spreads = {}
        for row in select(head_dim, isa="", causal=True, threads=1, seqlen=4096):
            full = results.get(dataclasses.replace(row.case, causal=False), "flash")
            if full:
                spreads["s4096"] = ratio(row.fractions(), full.fractions())
        name = f"causal against its full row, S = 4096, d{head_dim}"
        goals.append(_worst(name, 0.93, 0.97, spreads))

    for peer in peers:
        for causal, floor, aim in ((False, 1.0, 1.03), (True, 1.6, 2.0)):
            for head_dim in (64, 128):
                rows = select(head_dim, isa="", causal=causal, threads=1)
                spreads = {
                    f"s{r.case.seqlen}": results.speedup(r.case, "flash", peer) for r in rows
                }
                mask = "causal" if causal else "full"
                name = f"times as fast as {peer}, {mask}, d{head_dim}"
                goals.append(_worst(name, floor, aim, spreads))

    for head_dim in (64, 128):
        rows = select(head_dim, isa="", causal=False, threads=1)
        spreads = {
            f"s{r.case.seqlen}": results.speedup(r.case, "flash", "standard")
            for r in rows
            if r.case.seqlen >= 1024
        }
        name = f"times as fast as standard, full, S >= 1024, d{head_dim}"
        goals.append(_worst(name, None, None, spreads))

    all_threads = max((row.case.threads for row in flash), default=1)
    for head_dim in (64, 128):
        spreads = {}
        for row in select(head_dim, isa="", causal=False, threads=all_threads):
            one = results.get(dataclasses.replace(row.case, threads=1), "flash")
            if one and all_threads > 1:
                spreads[f"s{row.case.seqlen}"] = ratio(row.fractions(), one.fractions())
        name = f"{all_threads} threads, against the peak's own scaling, full, d{head_dim}"
        goals.append(_worst(name, 0.95, 0.99, spreads))
    return goals

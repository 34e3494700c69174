"""What was measured, round by round, and the statistics of it."""

import dataclasses
import statistics


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median with its quartiles over the rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values):
        values = list(values)
        if len(values) < 2:
            return Spread(*values * 3) if values else None
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)


@dataclasses.dataclass
class Row:
    """One who's measurements of one case."""

    case: object
    who: str
    seconds: dict = dataclasses.field(default_factory=dict)  # round -> seconds of a run
    peaks: dict = dataclasses.field(default_factory=dict)  # round -> the limit of the same moment
    workspace: int | None = None  # bytes, of the library's own rows
    reason: str | None = None  # why it is not measured

    def fractions(self):
        """round -> fraction of the limit."""
        return {r: self.case.work / s / self.peaks[r] for r, s in self.seconds.items()}

    @property
    def median_seconds(self):
        return statistics.median(self.seconds.values()) if self.seconds else None

    @property
    def of_limit(self):
        return Spread.of(self.fractions().values())


def ratio(numerator, denominator):
    """The spread of the ratio within each round, of two {round: value}; None without rounds."""
    return Spread.of(numerator[r] / denominator[r] for r in numerator if r in denominator)


class Results:
    def __init__(self):
        self.limits = {}  # name -> list of FLOP/s or bytes/s
        self.rows = {}  # (case, who) -> Row, in the order of the first measurement

    def row(self, case, who):
        return self.rows.setdefault((case, who), Row(case, who))

    def get(self, case, who):
        """The row if it has measurements, else None."""
        row = self.rows.get((case, who))
        return row if row and row.seconds else None

    def cases(self):
        return list(dict.fromkeys(case for case, _ in self.rows))

    def speedup(self, case, who, over):
        """How many times faster `who` is than `over`: the spread of the ratio of each round."""
        one, other = self.get(case, who), self.get(case, over)
        return ratio(other.seconds, one.seconds) if one and other else None

    def against_plain(self, case, who):
        """The fraction of a row with a feature over that of the row without, if both are there."""
        one, plain = self.get(case, who), self.get(case.plain, who)
        return ratio(one.fractions(), plain.fractions()) if case.feature and plain and one else None

    def limit(self, name):
        """Its median, or None if it was not measured."""
        return statistics.median(self.limits[name]) if self.limits.get(name) else None

    def to_json(self):
        rows = []
        for row in self.rows.values():
            entry = {"case": str(row.case), "who": row.who}
            entry |= {"seconds": None, "gflops": None, "of_limit": None}
            if row.seconds:
                spread = row.of_limit
                entry["seconds"] = row.median_seconds
                entry["gflops"] = row.case.flops / row.median_seconds / 1e9
                entry["of_limit"] = spread.median
                entry["of_limit_quartiles"] = [spread.low, spread.high]
                entry["rounds"] = len(row.seconds)
                entry["heads"] = row.case.heads
                if row.case.kind == "decode":
                    entry["gbytes"] = row.case.kv_bytes / row.median_seconds / 1e9
                if plain := self.against_plain(row.case, row.who):
                    entry["of_plain"] = plain.median
            if row.workspace is not None:
                entry["workspace"] = row.workspace
            if row.reason:
                entry["reason"] = row.reason
            if row.who != "flash" and (speedup := self.speedup(row.case, "flash", row.who)):
                entry["flash_is_faster_by"] = speedup.median
            rows.append(entry)
        limits = {name: self.limit(name) / 1e9 for name in self.limits}
        return {"limits": limits, "rows": rows}

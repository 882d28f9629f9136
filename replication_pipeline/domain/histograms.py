"""Histograms of durations: how many observations lie at or below each of some bounds, and their sum.

One set of bounds for all, from milliseconds to an hour, so that histograms can be added and kept
(``replication.histograms``). All is in µs, and whole: a sum of floats depends on the order of adding,
and what is told as a counter must never fall. To observe many is one sort and a few bisections, as a
batch is nearly in order already.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

HistogramName = Literal["publish_batch", "apply_batch", "publish_latency", "end_to_end_lag"]

SECOND: Final = 1_000_000  # µs
BOUNDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0),
)  # seconds; kept counts are told by their place: new bounds need new names
LONGEST: Final = (
    30 * 86_400 * SECOND
)  # more is counted as this: one event with a mad clock is not the mean
BUCKETS: Final = len(BOUNDS) + 1  # the last one has no bound
_BOUNDS: Final = [round(bound * SECOND) for bound in BOUNDS]


@dataclass(slots=True)
class Histogram:
    """``counts`` are those of each bucket by itself; ``total`` is the sum of all observations."""

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total: int = 0

    def since(self, moments: Collection[int], now: int) -> None:
        """How long ago each moment was. Those after ``now``, as clocks differ, are 0 ago."""
        ordered = sorted(moments)
        many = len(ordered)
        within = [0, *(many - bisect_left(ordered, now - bound) for bound in _BOUNDS), many]
        for bucket, (before, up_to) in enumerate(pairwise(within)):
            self.counts[bucket] += up_to - before
        past, ancient = bisect_right(ordered, now), bisect_left(ordered, now - LONGEST)
        self.total += ancient * LONGEST + (past - ancient) * now - sum(ordered[ancient:past])


def cumulative(counts: Sequence[int]) -> list[tuple[str, int]]:
    """As Prometheus has it: bounds as text, and how many are at or below each."""
    so_far, told = 0, []
    for bound, count in zip((*map(repr, BOUNDS), "+Inf"), counts, strict=True):
        so_far += count
        told.append((bound, so_far))
    return told

"""Figures of scenario ``soak`` from what its writers and readers noted: lags, by what was going on.

A row counts as late because of something when it was under way at any moment of that; the outage first,
then a change of windows, else it counts as ``steady``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.handover import within
from bench.pacing import RANKS, Moments
from bench.site import Run
from replication_pipeline.domain.model import percentile

STEADY, CHANGES, OUTAGE = "steady", "hand-overs", "outage"
CALM: Final = 1.0  # seconds of lag from which on an outage is over
STARTING: Final = (5.0, 10.0)  # seconds before and after Dagster calls a window started
ENDING: Final = (5.0, 3.0)

Span = tuple[float, float]
"""From when to when, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one row: when it was committed, and how many seconds later it was seen elsewhere."""

    written: float
    seconds: float

    @property
    def arrived(self) -> float:
        return self.written + self.seconds

    def overlaps(self, spans: Iterable[Span]) -> bool:
        return any(self.written <= last and first <= self.arrived for first, last in spans)


def lags(written: Moments, arrived: Moments) -> list[Lag]:
    """By the time of writing. Raises ``RuntimeError`` when a row has not arrived."""
    missing = written.keys() - arrived.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(written)} rows have not arrived")
    return sorted(
        (Lag(at, max(0.0, arrived[row] - at)) for row, at in written.items()),
        key=lambda lag: lag.written,
    )


def drained(found: Sequence[Lag], down: float, up: float) -> float:
    """When an outage was over for good: nothing that was late since it began was still under way."""
    end = up
    for lag in found:
        if down <= lag.written <= end and lag.seconds > CALM:
            end = max(end, lag.arrived)
    return end


def changes(runs: Iterable[Run]) -> list[Span]:
    """Around each window's start and end: when shards and partitions go from one to another."""
    found = []
    for run in runs:
        for moment, (before, after) in ((run.started, STARTING), (run.ended, ENDING)):
            if moment is not None:
                found.append((moment - before, moment + after))
    return sorted(found)


def merged(spans: Sequence[Span]) -> list[Span]:
    """Spans that touch each other are one."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def by_phase(
    found: Iterable[Lag], outage: Span | None, handovers: Sequence[Span]
) -> dict[str, list[Lag]]:
    phases: dict[str, list[Lag]] = {STEADY: [], CHANGES: [], OUTAGE: []}
    for lag in found:
        if outage and lag.overlaps([outage]):
            phases[OUTAGE].append(lag)
        elif lag.overlaps(handovers):
            phases[CHANGES].append(lag)
        else:
            phases[STEADY].append(lag)
    return phases


def buckets(found: Iterable[Lag], began: float, width: float) -> Mapping[int, list[Lag]]:
    """By the time of writing; the first one is 1."""
    by_number: dict[int, list[Lag]] = {}
    for lag in found:
        by_number.setdefault(int((lag.written - began) // width) + 1, []).append(lag)
    return by_number


def ranks(found: Sequence[Lag]) -> dict[str, float]:
    """Milliseconds by rank."""
    samples = [lag.seconds * 1000 for lag in found]
    return {rank: percentile(samples, share) for rank, share in RANKS.items()}


def phase_at(moment: float, outage: Span | None, handovers: Sequence[Span]) -> str:
    if outage and within(moment, [outage]):
        return OUTAGE
    return CHANGES if within(moment, list(handovers)) else STEADY

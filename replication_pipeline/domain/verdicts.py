"""Is it fine? One look at a contour as a verdict, with the reasons in words, the worst first.

Pure: thresholds come from the settings, figures from a look. What can't be fine without somebody acting
is an *error* (broken); what may become so, or needs an eye, a *warning*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.health import (
    Verdict,
    lag_verdict,
    skew_verdict,
    unpublished_verdict,
)
from replication_pipeline.domain.parked import NEAR_LIMIT
from replication_pipeline.domain.watch import Watch

RANK: Final[dict[Verdict, int]] = {"error": 0, "warning": 1, "ok": 2}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """As the settings under ``monitoring``."""

    unpublished: int
    lag_warning: timedelta
    lag_critical: timedelta
    parked: timedelta
    apply_lag: int
    apply_stalled: timedelta
    silence: timedelta
    skew: timedelta
    held: int
    snapshot: timedelta
    dead_rows: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why it is not fine, and about which figure."""

    verdict: Verdict
    about: str
    text: str


def reasons(watch: Watch, limits: Thresholds) -> list[Reason]:
    """Everything that is not fine; nothing when all is."""
    found = [*_publishing(watch, limits), *_applying(watch, limits), *_others(watch, limits)]
    return sorted(found, key=lambda reason: RANK[reason.verdict])


def worst(found: Sequence[Reason]) -> Verdict:
    """The verdict on all."""
    return found[0].verdict if found else "ok"


def _publishing(watch: Watch, limits: Thresholds) -> Iterator[Reason]:
    now = watch.status
    age = timedelta(seconds=now.oldest_unpublished_seconds)
    if not now.publishers:
        yield Reason("error", "publishers", "no publisher is alive: nothing leaves this contour")
    lag = lag_verdict(age, warning=limits.lag_warning, critical=limits.lag_critical)
    if lag != "ok":
        yield Reason(lag, "oldest", f"the oldest event has waited for {words(age)}")
    if unpublished_verdict(now.unpublished, warning=limits.unpublished) != "ok":
        yield Reason("warning", "unpublished", f"{now.unpublished:,} events wait for Kafka")
    if now.held_publish >= limits.held:
        text = f"{now.held_publish:,} events are held behind refused ones"
        yield Reason("warning", "held", text)
    age = timedelta(seconds=watch.queue.oldest_snapshot)
    if age > limits.snapshot:
        text = f"{watch.queue.holder} has kept its transaction open for {words(age)}"
        yield Reason("warning", "queue", text)
    if watch.queue.dead_rows >= limits.dead_rows:
        yield Reason("warning", "queue", f"the queue has {watch.queue.dead_rows:,} dead rows")


def _applying(watch: Watch, limits: Thresholds) -> Iterator[Reason]:
    if not watch.status.appliers:
        yield Reason("error", "appliers", "no applier is alive: nothing arrives here")
    for lag in watch.lags:
        if lag.events >= limits.apply_lag:
            yield Reason("warning", "behind", f"{lag.topic} is {lag.events:,} events behind")
        elif (
            lag.events
            and watch.status.appliers
            and lag.still > limits.apply_stalled.total_seconds()
        ):
            still = words(timedelta(seconds=lag.still))
            text = f"{lag.topic}: {lag.events:,} events wait, none was applied for {still}"
            yield Reason("warning", "behind", text)
    for parked in watch.parked:
        if parked.side == "publish" or parked.oldest > limits.parked.total_seconds():
            text = (
                f"{parked.events:,} events of {parked.table or 'no table'} are parked for "
                f"{words(timedelta(seconds=parked.oldest))} ({parked.side}: {parked.reason})"
            )
            yield Reason("warning", "parked", text)
    if watch.parked_space >= NEAR_LIMIT:
        text = (
            f"parked events take {watch.parked_space:.0%} of consumer.max_parked_events or "
            "max_parked_bytes: beyond that their topics wait"
        )
        yield Reason("warning", "parked", text)


def _others(watch: Watch, limits: Thresholds) -> Iterator[Reason]:
    me = watch.status.contour
    for pair in watch.pairs:
        if pair.state == "fenced":
            who = "this contour is" if pair.contour == me else f"contour {pair.contour} is"
            yield Reason(
                "error", "contours", f"{who} fenced: its changes are not applied elsewhere"
            )
        elif pair.state == "active" and pair.silent > limits.silence.total_seconds():
            silent = words(timedelta(seconds=pair.silent))
            yield Reason("warning", "contours", f"contour {pair.contour} is silent for {silent}")
    skew = watch.status.clock_skew_seconds
    if skew_verdict(skew, warning=limits.skew) != "ok":
        text = f"clocks of two contours are {skew:.3f} s apart: of two writes the later may lose"
        yield Reason("warning", "contours", text)


def words(age: timedelta) -> str:
    """A duration for people, with two digits or so."""
    seconds = age.total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004

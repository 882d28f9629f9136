"""How many windows to request now: a pure decision, and the reading of run records it rests on.

Invariants:
* a requested run counts from the moment it is queued, so that no tick requests it twice;
* a window that is about to end doesn't count: its successor starts before it is gone;
* a window that is being cancelled or has ended doesn't count; neither does one whose process is
  gone or whose time is over, which is what a run looks like whose host died;
* more windows than the least number are started when a backlog has called for them on two ticks
  running: one that drains by itself meanwhile would be gone before a new process is up;
* when windows fail one after another the next comes later and later, up to ``LONGEST_PAUSE``.

Too many windows for a moment do no harm: locks in PostgreSQL share out the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.lanes import PROCESS_TAG, WINDOW_TAG, Lane
from replication_pipeline.defs.processes import is_gone
from replication_pipeline.domain.health import ContourStatus, desired_windows

# A successor is requested so long before a window's end. Sensors tick every 5 s at best (fixed in
# Dagster), and from a request to the op's first line it takes 2 to 4 s more on an idle host, but up
# to 28 s were measured for four runs at once on two cores that also ran everything else. Two windows
# for 40 s of ten minutes cost little.
HANDOVER: Final = timedelta(seconds=40)

# A window's first line marks its run with the process. A run that has "started" for so long without
# the mark died before it, and nobody could report that.
UNMARKED: Final = timedelta(seconds=60)

FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(seconds=60)
FAILURES_READ: Final = 8

LIVE: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
FINISHED: Final = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """A run that has not ended, says Dagster. ``age`` is ``None`` until its process runs."""

    length: timedelta
    age: timedelta | None
    gone: bool = False

    def counts(self) -> bool:
        """Whether this window can be relied on until the next ticks."""
        if self.gone:
            return False
        if self.age is None:
            return True
        if not self.length:  # one batch a run: lasts as long as it lasts
            return self.age < LONGEST_PAUSE
        # A short window keeps half of its time, or successors would pile up behind it.
        return self.length - self.age > min(HANDOVER, self.length / 2)


@dataclass(frozen=True, slots=True)
class Failures:
    """How many of the newest windows failed in a row, and how long ago the last one did."""

    count: int = 0
    since_last: timedelta = timedelta()

    def pause_left(self) -> timedelta:
        """How long to wait before the next attempt."""
        if not self.count:
            return timedelta()
        pause: timedelta = min(FIRST_PAUSE * 2 ** min(self.count - 1, 10), LONGEST_PAUSE)
        return max(timedelta(), pause - self.since_last)


@dataclass(frozen=True, slots=True)
class Decision:
    """``request`` more windows, or none; ``text`` says why, for people.

    ``called_for`` is what the backlog alone asks for: the next tick's ``called_for_before``.
    """

    request: int
    called_for: int
    text: str


def decide(
    lane: Lane,
    *,
    running: int,
    backlog: int | None,
    called_for_before: int = 0,
    failures: Failures | None = None,
) -> Decision:
    """What to do about ``lane`` now; ``backlog`` is ``None`` when the database can't be reached.

    Windows wait outages out, so the least number is kept alive without the database as well.
    """
    called_for = (
        lane.minimum
        if backlog is None
        else desired_windows(
            backlog,
            per_window=lane.per_window,
            minimum=lane.minimum,
            maximum=lane.maximum,
            running=running,
        )
    )
    wanted = min(called_for, max(lane.minimum, called_for_before, running))
    verb = "window runs" if running == 1 else "windows run"
    waiting = "unpublished" if lane.job == "publish" else "events behind"
    known = "the database can't be reached" if backlog is None else f"{backlog} {waiting}"
    text = f"{running} {lane.job} {verb}, {wanted} wanted ({known})"
    missing = max(0, wanted - running)
    if missing and failures and (left := failures.pause_left()):
        last = "the last window" if failures.count == 1 else f"the last {failures.count} windows"
        text += f"; {last} failed, next try in {left.total_seconds():.0f} s"
        missing = 0
    elif wanted < called_for:
        text += f"; {called_for} if it stays so"
    return Decision(missing, called_for, text)


def backlog_of(lane: Lane, status: ContourStatus) -> int:
    """The figure that calls for more windows."""
    if lane.job == "publish":
        # Parked ones wait for a person, and held ones for them or for their time.
        return status.unpublished - status.parked_publish - status.held_publish
    return status.apply_lag_events


def live_windows(instance: dg.DagsterInstance, lane: Lane, now: float) -> Sequence[LiveWindow]:
    """The lane's runs that have not ended, from Dagster's storage."""
    records = instance.get_run_records(
        dg.RunsFilter(job_name=lane.job, tags=lane.identity, statuses=LIVE)
    )
    return [_live_window(record, lane, now) for record in records]


def _live_window(record: dg.RunRecord, lane: Lane, now: float) -> LiveWindow:
    tags = record.dagster_run.tags
    mark = tags.get(PROCESS_TAG)
    age = None if record.start_time is None else timedelta(seconds=now - record.start_time)
    unmarked = mark is None and age is not None and age > UNMARKED
    return LiveWindow(length=_length(tags, lane), age=age, gone=unmarked or is_gone(mark))


def recent_failures(instance: dg.DagsterInstance, lane: Lane, now: float) -> Failures:
    """The unbroken row of failures that ends with the newest finished run."""
    records = instance.get_run_records(
        dg.RunsFilter(job_name=lane.job, tags=lane.identity, statuses=FINISHED),
        limit=FAILURES_READ,
    )
    count = 0
    for record in records:  # newest first
        if record.dagster_run.status is not dg.DagsterRunStatus.FAILURE:
            break
        count += 1
    if not count:
        return Failures()
    ended = records[0].end_time or records[0].update_timestamp.timestamp()
    return Failures(count, timedelta(seconds=max(0.0, now - ended)))


def _length(tags: Mapping[str, str], lane: Lane) -> timedelta:
    try:
        return timedelta(seconds=float(tags[WINDOW_TAG]))
    except (KeyError, ValueError):
        return lane.window

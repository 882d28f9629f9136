"""The runs of a lane as Dagster's books have them, and which of them can be relied on.

Invariants:
* a requested run counts from the moment it is queued, so that no tick requests it twice, however
  slow the queue of runs is;
* a window that is about to end doesn't count: its successor starts before it is gone;
* a window that is being cancelled or has ended doesn't count; neither does one that can't be alive: its
  process is gone, it never got to its first line, or its time is over.

Of a process on another host only PostgreSQL can tell (``scaling.Running``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.lanes import PROCESS_TAG, Lane, length_in
from replication_pipeline.defs.processes import is_gone

# A successor is requested so long before a window's end. Sensors tick every 5 s at best (fixed in
# Dagster), and from a request to the op's first line it takes 2 to 4 s more on an idle host, but up
# to 28 s were measured for four runs at once on two cores that also ran everything else. Two windows
# for 40 s of ten minutes cost little.
HANDOVER: Final = timedelta(seconds=40)

# A window's first line marks its run with the process. A run that is starting, or has "started" without
# the mark, for so long died before it, and nobody could report that.
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
    """A run that has not ended, says Dagster. ``age`` is ``None`` until its process runs; ``gone``: its
    process is no more; ``overdue``: it should have got to its first line long ago.
    """

    length: timedelta
    age: timedelta | None
    gone: bool = False
    overdue: bool = False
    run_id: str = ""

    def counts(self) -> bool:
        """Whether this window can be relied on until the next ticks."""
        if self.gone or self.overdue:
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
        """How long to wait before the next attempt. A single failure, be it a kill, is replaced at
        once.
        """
        if self.count <= 1:
            return timedelta()
        pause: timedelta = min(FIRST_PAUSE * 2 ** min(self.count - 2, 10), LONGEST_PAUSE)
        return max(timedelta(), pause - self.since_last)


def live_windows(instance: dg.DagsterInstance, lane: Lane, now: float) -> Sequence[LiveWindow]:
    """The lane's runs that have not ended, from Dagster's storage."""
    records = instance.get_run_records(
        dg.RunsFilter(job_name=lane.job, tags=lane.identity, statuses=LIVE)
    )
    return [_live_window(record, lane, now) for record in records]


def _live_window(record: dg.RunRecord, lane: Lane, now: float) -> LiveWindow:
    run = record.dagster_run
    mark = run.tags.get(PROCESS_TAG)
    age = None if record.start_time is None else timedelta(seconds=now - record.start_time)
    if run.status is dg.DagsterRunStatus.QUEUED:
        overdue = False  # as long as it takes
    elif age is None:
        overdue = now - record.update_timestamp.timestamp() > UNMARKED.total_seconds()
    else:
        overdue = mark is None and age > UNMARKED
    return LiveWindow(
        length=lane.window if (length := length_in(run.tags)) is None else length,
        age=age,
        gone=is_gone(mark),
        overdue=overdue,
        run_id=run.run_id,
    )


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

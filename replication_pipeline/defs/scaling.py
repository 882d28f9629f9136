"""How many windows to request now: a pure decision.

Invariants:
* of windows that run, no more count than PostgreSQL has heard of lately. A frozen process, and one
  that went with its host, look alive to Dagster;
* more windows than the least number are started when a backlog has called for them on two ticks
  running: one that drains by itself meanwhile would be gone before a new process is up. They are
  short, so they go again soon after the backlog, and are renewed as long as it lasts;
* while nothing at all moves, as when Kafka is away, more of them would not help;
* when windows fail at once, one after another, the next comes later and later.

Too many windows for a moment do no harm: locks in PostgreSQL share out the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from replication_pipeline.defs.lanes import Lane
from replication_pipeline.defs.window_runs import UNMARKED, Failures, LiveWindow
from replication_pipeline.domain.health import ContourStatus, desired_windows

# Workers tell PostgreSQL every 5 s that they live, and within 25 s while Kafka lets a batch wait; after
# an outage of the database they need a moment. For so long fewer of them than windows mean nothing.
SILENCE: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Running:
    """The lane's windows that count. Of the ``old`` ones PostgreSQL should have heard."""

    waiting: int = 0  # to be started
    young: int = 0
    old: int = 0
    silent: int = 0  # of the old ones

    @property
    def count(self) -> int:
        """Those that can be relied on."""
        return self.waiting + self.young + self.old - self.silent

    @classmethod
    def of(cls, windows: Sequence[LiveWindow]) -> Running:
        """Sorted by age."""
        ages = [window.age for window in windows if window.counts()]
        return cls(
            waiting=ages.count(None),
            young=sum(age is not None and age <= UNMARKED for age in ages),
            old=sum(age is not None and age > UNMARKED for age in ages),
        )

    def unheard(self, workers: int) -> int:
        """How many of the old ones PostgreSQL has not heard of, as it knows so many ``workers``."""
        return max(0, self.old - workers)


@dataclass(frozen=True, slots=True)
class Load:
    """What waits for a lane's windows: so many events, the oldest for ``age`` (``None``: not known).
    ``moved``: fewer wait than at the last look, or some were done since, ``rate`` a second.
    """

    backlog: int
    age: timedelta | None = None
    moved: bool = True
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``request`` more windows, or none, ``extra`` of them short ones; ``text`` says why, for people.

    ``called_for`` is what the load alone asks for: the next tick's ``called_for_before``.
    """

    request: int
    extra: int
    called_for: int
    text: str


def decide(
    lane: Lane,
    *,
    running: Running,
    load: Load | None,
    called_for_before: int = 0,
    failures: Failures | None = None,
) -> Decision:
    """What to do about ``lane`` now; ``load`` is ``None`` when the database can't be reached.

    Windows wait outages out, so the least number is kept alive without the database as well.
    """
    count = running.count
    called_for = lane.minimum if load is None else _called_for(lane, running, load)
    wanted = min(called_for, max(lane.minimum, called_for_before, count))
    text = f"{_running(lane, running)}, {wanted} wanted ({_known(lane, load)})"
    missing = max(0, wanted - count)
    if missing and failures and (left := failures.pause_left()):
        left_seconds = f"{left.total_seconds():.0f} s"
        text += f"; the last {failures.count} windows failed, next try in {left_seconds}"
        missing = 0
    elif wanted < called_for:
        text += f"; {called_for} if it stays so"
    # The least number are whole windows, whatever else runs.
    extra = missing - min(missing, max(0, lane.minimum - count))
    return Decision(missing, extra, called_for, text)


def _called_for(lane: Lane, running: Running, load: Load) -> int:
    count = running.count
    wanted = desired_windows(
        load.backlog,
        per_window=lane.per_window,
        minimum=lane.minimum,
        maximum=lane.maximum,
        running=count,
    )
    one_more = min(lane.minimum + 1, lane.maximum)
    if lane.late is not None and load.age is not None:
        # A short queue that is late: whoever has it stands still, or is slow. Not while one is about
        # to start anyway; and once there is one it stays until the age has fallen to half.
        late = load.age > lane.late and not running.waiting
        if late or (count >= one_more and load.age > lane.late / 2):
            wanted = max(wanted, one_more)
    return wanted if load.moved else min(wanted, max(count, one_more))


def _running(lane: Lane, running: Running) -> str:
    count = running.count
    text = f"{count} {lane.job} {'window runs' if count == 1 else 'windows run'}"
    if running.waiting:
        text += f", {running.waiting} of them yet to start"
    if running.silent:
        text += f" and {running.silent} of which the database has not heard"
    return text


def _known(lane: Lane, load: Load | None) -> str:
    if load is None:
        return "the database can't be reached"
    text = f"{load.backlog} {'unpublished' if lane.job == 'publish' else 'events behind'}"
    if load.age is not None and load.age >= timedelta(seconds=1):
        text += f", the oldest for {load.age.total_seconds():.0f} s"
    if not load.moved:
        text += ", none done since the last look"
    elif load.rate and load.backlog:
        text += f", {load.rate:,.0f} done a second"
    return text


def backlog_of(lane: Lane, status: ContourStatus) -> int:
    """The figure that calls for more windows."""
    if lane.job == "publish":
        # Parked ones wait for a person, and held ones for them or for their time.
        return status.unpublished - status.parked_publish - status.held_publish
    return status.apply_lag_events


def age_of(lane: Lane, status: ContourStatus) -> timedelta | None:
    """How long the oldest event has waited for a window, where that is known."""
    if lane.job == "apply" or status.parked_publish or status.held_publish:
        return None  # the oldest may be one that waits for something else
    return timedelta(seconds=status.oldest_unpublished_seconds)


def done_by(lane: Lane, status: ContourStatus) -> int:
    """A counter of what all windows of the lane have done."""
    if lane.job == "publish":
        return status.processed_total
    return status.applied_total + status.skipped_total


def workers_of(lane: Lane, status: ContourStatus) -> int:
    """Of how many workers PostgreSQL has heard lately, whoever started them."""
    return status.publishers if lane.job == "publish" else status.appliers

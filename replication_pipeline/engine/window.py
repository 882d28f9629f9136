"""A window: cycles repeated until time is over, the queue is drained, or someone asks to stop.

A window that has ``overtime`` goes on for as long when its time is over and nobody has come to take its
work: a successor may be slow to start.

Draining goes on without pause while there is work. After the last event pauses stay at ``FIRST_PAUSE``
for ``EAGER_LOOKS``, as more is likely to come; then they double up to ``poll_interval``, and fall back
to the first at the next event. Transient errors are retried for
as long as the window lasts, with growing pauses; fatal ones end it. The stop flag is looked at
between cycles only, so no batch is ever torn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, Protocol

from tenacity import Retrying

from replication_pipeline.domain.errors import FatalError, PoisonError, TransientError
from replication_pipeline.domain.model import BatchResult, Role, WindowEnd, WindowTotals
from replication_pipeline.engine.retrying import retrying
from replication_pipeline.engine.stopping import StopToken

FIRST_PAUSE: Final = timedelta(milliseconds=1)
EAGER_LOOKS: Final = 50
Until = Literal["time", "drained", "one_cycle"]


class Cycle(Protocol):
    """Some claims or a poll, through to their commit."""

    def __call__(self) -> Sequence[BatchResult]:
        """What each batch did; nothing when there was nothing to do."""

    def abandon(self) -> None:
        """Give up what an interrupted call left open."""


class Observer(Protocol):
    """Told of every batch that had events, and of every failed attempt."""

    def batch(self, result: BatchResult, totals: WindowTotals) -> None: ...

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None: ...


@dataclass(slots=True, kw_only=True)
class Window:
    """Runs ``cycle`` for ``length`` (``None``: for ever)."""

    role: Role
    cycle: Cycle
    stop: StopToken
    observer: Observer
    length: timedelta | None
    until: Until = "time"
    poll_interval: timedelta = timedelta(seconds=1)
    caught_up: Callable[[], bool] = lambda: True
    overtime: timedelta = timedelta()
    relieved: Callable[[], bool] = lambda: True
    """Whether another worker is there. Asked when time is over and there is overtime."""
    finish: Callable[[], Sequence[BatchResult]] = lambda: ()
    """Called after the last cycle, even if that failed; what it returns is counted as well."""

    def run(self) -> WindowTotals:
        """Repeat cycles to the window's end and return its totals.

        Raises ``FatalError`` as it comes; ``TransientError`` never leaves.
        """
        totals = WindowTotals(role=self.role)
        started = time.monotonic()
        deadline = started + self.length.total_seconds() if self.length is not None else None
        attempts = self._retrying(totals, deadline)
        try:
            self._repeat(attempts, totals, deadline)
        except Exception:  # an impatient Ctrl+C waits for nothing
            self._count(self.finish(), totals)
            raise
        self._count(self.finish(), totals)
        totals.elapsed = timedelta(seconds=time.monotonic() - started)
        return totals

    def _repeat(self, attempts: Retrying, totals: WindowTotals, deadline: float | None) -> None:
        pause, looks = min(FIRST_PAUSE, self.poll_interval), 0
        while totals.end is None:
            try:
                results = attempts(self._try)
            except TransientError:  # time over, or asked to stop, while a server was away
                totals.end = "stopped" if self.stop else "time"
                break
            except PoisonError as error:  # the cycle should have parked it
                raise FatalError(error.message, remedy=error.remedy) from None
            self._count(results, totals)
            if results:
                pause, looks = min(FIRST_PAUSE, self.poll_interval), 0
            totals.end = self._end(idle=not results, deadline=deadline)
            if totals.end is None and not results:
                self.stop.wait(_bounded(pause, deadline))
                looks += 1
                if looks > EAGER_LOOKS:
                    pause = min(pause * 2, self.poll_interval)

    def _try(self) -> Sequence[BatchResult]:
        began = time.monotonic()
        try:
            return self.cycle()
        except TransientError as error:
            error.took = timedelta(seconds=time.monotonic() - began)
            raise

    def _count(self, results: Sequence[BatchResult], totals: WindowTotals) -> None:
        for result in results:
            totals.add(result)
            if result.count:
                self.observer.batch(result, totals)

    def _end(self, *, idle: bool, deadline: float | None) -> WindowEnd | None:
        if self.stop:
            return "stopped"
        if self.until == "one_cycle":
            return "one_cycle"
        if self.until == "drained" and idle and self.caught_up():
            return "drained"
        return "time" if self._over(deadline) else None

    def _over(self, deadline: float | None) -> bool:
        if deadline is None or (late := time.monotonic() - deadline) < 0:
            return False
        return late >= self.overtime.total_seconds() or self.relieved()

    def _retrying(self, totals: WindowTotals, deadline: float | None) -> Retrying:
        def over() -> bool:
            return bool(self.stop) or (deadline is not None and time.monotonic() >= deadline)

        def told(error: TransientError, attempt: int, pause: timedelta) -> None:
            totals.retries += 1
            self.observer.retrying(error, attempt, pause)

        return retrying(self.stop, over=over, abandon=self.cycle.abandon, told=told)


def _bounded(pause: timedelta, deadline: float | None) -> timedelta:
    if deadline is None or (left := deadline - time.monotonic()) <= 0:
        return pause
    return min(pause, timedelta(seconds=left))

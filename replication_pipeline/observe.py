"""One place that turns batch results into log lines.

Every batch has a line, and nothing is written while nothing happens. Where that is too much,
``logging.batch_lines`` bounds them; what is left out is counted in the next one. Batches with refused
or parked events always have theirs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from replication_pipeline.domain.contours import Registry, State, skew
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import MILLISECOND, BatchResult, Role, WindowTotals
from replication_pipeline.engine.snapshot import Progress
from replication_pipeline.logs import get_logger


@dataclass(slots=True)
class BatchLog:
    """Writes one JSON line a batch, at most ``most`` in a second."""

    role: Role
    instance: str
    most: int | None = None
    _second: int = field(default=0)
    _lines: int = field(default=0)
    _left_out: int = field(default=0)

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        """Log one batch, unless this second has had its share."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        beyond = self.most is not None and self._lines > self.most
        if beyond and not result.parked and not result.failed:
            self._left_out += 1
            return
        extra = {"batches_not_logged": self._left_out} if self._left_out else {}
        self._left_out = 0
        get_logger(self.role).info(
            "batch",
            instance=self.instance,
            count=result.count,
            duration_ms=round(result.duration / MILLISECOND),
            total_processed=totals.processed,
            lag_ms=round(result.lag / MILLISECOND),
            **_nonzero(result, ("failed", "parked", "skipped", "own", "duplicates", "conflicts")),
            **extra,
        )

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log a failed attempt that will be made again."""
        _log_retry(self.role, error, attempt, pause, instance=self.instance)


def log_window(totals: WindowTotals, instance: str) -> None:
    """The last line of a window: its totals and why it ended."""
    get_logger(totals.role).info(
        "window ended",
        instance=instance,
        end=totals.end,
        batches=totals.batches,
        total_processed=totals.processed,
        total_failed=totals.failed,
        retries=totals.retries,
        duration_ms=round(totals.elapsed / MILLISECOND),
        **_nonzero(totals, ("parked", "applied", "skipped", "own", "duplicates", "conflicts")),
    )


def _nonzero(source: BatchResult | WindowTotals, names: tuple[str, ...]) -> dict[str, int]:
    return {name: value for name in names if (value := getattr(source, name))}


@dataclass(slots=True)
class ContoursLog:
    """Tells when a contour comes, is fenced or comes back, and when clocks drift apart."""

    skew_warning: timedelta
    _states: Mapping[str, State] | None = field(default=None)
    _skewed: bool = field(default=False)

    def news(self, registry: Registry) -> None:
        """Called with each new state of the registry."""
        states = {name: contour.state for name, contour in registry.contours.items()}
        log = get_logger("heartbeat")
        for name, state in states.items() if self._states is not None else ():
            if self._states is not None and self._states.get(name) != state:
                (log.info if state == "active" else log.warning)("contour is now " + state, of=name)
        self._states = states
        seconds = skew(registry.contours.values())
        skewed = seconds > self.skew_warning.total_seconds()
        if skewed and not self._skewed:
            log.warning(
                "clocks of two contours differ",
                clock_skew_seconds=round(seconds, 3),
                warning_above_seconds=self.skew_warning.total_seconds(),
            )
        self._skewed = skewed

    def outage(self, error: TransientError) -> None:
        """Heartbeats go on when it is over; meanwhile nobody is kept waiting but tombstones."""
        get_logger("heartbeat").warning(
            "heartbeats are held up", error=error.message, remedy=error.remedy
        )


class RepublishLog:
    """Failed attempts of sending events again; progress is for a terminal."""

    def progress(self, sent: int, total: int) -> None:
        """Not logged."""

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log a failed attempt that will be made again."""
        _log_retry("republisher", error, attempt, pause)


class SnapshotLog:
    """Failed attempts of a snapshot; progress is for a terminal."""

    def progress(self, progress: Progress, waits: str) -> None:
        """Not logged."""

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log a failed attempt that will be made again."""
        _log_retry("snapshot", error, attempt, pause)


class ReplayLog:
    """Failed attempts of replaying; what was replayed is for a terminal."""

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        """Not logged."""

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        """Log a failed attempt that will be made again."""
        _log_retry("replayer", error, attempt, pause)


def _log_retry(
    component: str, error: TransientError, attempt: int, pause: timedelta, **context: str
) -> None:
    get_logger(component).warning(
        "retrying",
        **context,
        error=error.message,
        attempt=attempt,
        pause_ms=round(pause / MILLISECOND),
    )

"""What a window remembers of its batches: the last ones, the slowest, every failed one, and its course.

A window may be ten thousand batches, so memory is bounded: lists have their most, and the course keeps
``COURSE`` points, each twice as long once there would be more. A batch that fails is tried again until
it gets through; these tries are one row, with their number. It holds counts, times and kinds of
errors, never row values.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import MILLISECOND, BatchResult

LAST: Final = 20
SLOWEST: Final = 10
FAILED: Final = 100
COURSE: Final = 240

Outcome = Literal["tried again", "refused", "parked"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, or the tries of one that failed. ``error`` is ``None`` when nothing was wrong."""

    ended: datetime
    events: int
    duration_ms: float
    lag_ms: float = 0.0
    attempts: int = 1
    error: str | None = None


@dataclass(slots=True)
class Trouble:
    """How often one kind of error came: in so many batches (or tries), for so many events."""

    outcome: Outcome
    batches: int = 0
    events: int = 0


@dataclass(slots=True)
class Point:
    """What happened in one stretch of the course."""

    events: int = 0
    batches: int = 0
    failed: int = 0
    max_lag_ms: float = 0.0
    max_duration_ms: float = 0.0

    def add(self, other: Point) -> None:
        """Make this the stretch of both."""
        self.events += other.events
        self.batches += other.batches
        self.failed += other.failed
        self.max_lag_ms = max(self.max_lag_ms, other.max_lag_ms)
        self.max_duration_ms = max(self.max_duration_ms, other.max_duration_ms)


@dataclass(slots=True)
class Batches:
    """Told of every batch with events, and of every try that failed."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    last: deque[Batch] = field(default_factory=lambda: deque(maxlen=LAST))
    failed: deque[Batch] = field(default_factory=lambda: deque(maxlen=FAILED))
    failed_count: int = 0
    trouble: dict[str, Trouble] = field(default_factory=dict)
    width: timedelta = timedelta(seconds=1)
    _course: dict[int, Point] = field(default_factory=dict)
    _slowest: list[tuple[float, int, Batch]] = field(default_factory=list)
    _seen: int = 0
    _tries: int = 0  # that failed since the last batch

    def add(self, result: BatchResult) -> None:
        """A batch that is committed, if it had events."""
        if not result.count:
            return
        now = datetime.now(UTC)
        error = ", ".join(f"{number} {kind}" for kind, number in result.errors.items()) or None
        batch = Batch(
            now,
            result.count,
            result.duration / MILLISECOND,
            result.lag / MILLISECOND,
            self._tries + 1,
            error,
        )
        self._seen += 1
        self._tries = 0
        self.last.append(batch)
        entry = (batch.duration_ms, self._seen, batch)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        elif entry > self._slowest[0]:
            heapq.heapreplace(self._slowest, entry)
        if error is not None:
            outcome: Outcome = "refused" if result.role == "publisher" else "parked"
            for kind, number in result.errors.items():
                self._count(kind, outcome, number)
            self._fail(batch)
        self._at(now).add(
            Point(
                events=result.processed,
                batches=1,
                failed=int(error is not None),
                max_lag_ms=batch.lag_ms,
                max_duration_ms=batch.duration_ms,
            )
        )

    def add_failed_try(self, error: TransientError) -> None:
        """A try that was rolled back."""
        now = datetime.now(UTC)
        self._count(error.kind, "tried again", error.events)
        self._at(now).failed += 1
        self._tries += 1
        row = Batch(
            now, error.events, error.took / MILLISECOND, attempts=self._tries, error=error.message
        )
        if self._tries > 1:
            before = self.failed.pop()
            self.failed.append(
                replace(
                    row,
                    events=max(before.events, row.events),
                    duration_ms=before.duration_ms + row.duration_ms,
                )
            )
        else:
            self._fail(row)

    @property
    def slowest(self) -> Sequence[Batch]:
        """The slowest first."""
        return [batch for _, _, batch in sorted(self._slowest, reverse=True)]

    @property
    def course(self) -> Sequence[tuple[datetime, Point]]:
        """When each stretch began in which anything happened, and what; in order."""
        return [(self.began + self.width * i, self._course[i]) for i in sorted(self._course)]

    def _fail(self, batch: Batch) -> None:
        self.failed_count += 1
        self.failed.append(batch)

    def _count(self, kind: str, outcome: Outcome, events: int) -> None:
        trouble = self.trouble.setdefault(kind, Trouble(outcome))
        trouble.batches += 1
        trouble.events += events

    def _at(self, now: datetime) -> Point:
        index = max(0, (now - self.began) // self.width)
        while index >= COURSE:
            self.width *= 2
            halved: dict[int, Point] = {}
            for i, point in self._course.items():
                halved.setdefault(i // 2, Point()).add(point)
            self._course = halved
            index = (now - self.began) // self.width
        return self._course.setdefault(index, Point())

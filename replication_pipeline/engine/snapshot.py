"""Loading a table into other contours while everybody writes: its rows as events, with their versions.

Versions decide where the events arrive, so a row may be sent at any moment and more than once. What is
sent goes through the queue, in chunks; each chunk is one short transaction together with how far its
part has come. Hence a run that was killed is gone on with, and several may work on one run: whoever
locks a part goes on with it.

Invariants, kept by the ``Source``:
* no event of a row stands behind a newer change of its key that this contour made;
* a run ends only when each row that was there at its beginning was queued, or has been written or
  deleted since.

The load is bounded here: by a rate, by how many events may wait to be published, so that changes stay
quick, and by how long a chunk may hold its locks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol

from tenacity import Retrying

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.engine.retrying import retrying
from replication_pipeline.engine.stopping import StopToken

FIRST_ROWS: Final = 250  # of a chunk; how large rows are is not known yet
AIM: Final = 0.07  # seconds a chunk should take
LOOK_EVERY: Final = timedelta(milliseconds=200)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator asks for. ``to``: the contour that is to apply it, if not all others; ``where``:
    SQL over the table's columns, which rows are sent.
    """

    table: str
    to: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is prepared. ``resumed``: an earlier call began it."""

    id: int
    table: str
    to: str | None
    where: str | None
    started: datetime
    finished: datetime | None = None
    given_up: datetime | None = None
    rows: int = 0
    deletes: int = 0
    by: str = ""
    resumed: bool = False


class Step(NamedTuple):
    """What one transaction did. ``rest``: nothing for now, as others have all that is left, or it
    ``waits`` for transactions that write to the table. ``end``: nothing is left.
    """

    kind: Literal["chunk", "rest", "end"]
    queued: int = 0
    waits: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the whole run, whoever works on it. Rows and deletes are queued; ``skipped`` rows wait."""

    rows: int
    deletes: int
    parts_left: int
    skipped: int
    estimate: int
    finished: bool = False
    given_up: bool = False


class Source(Protocol):
    """One connection's view of the run. Every method may raise ``TransientError``."""

    def step(self, rows: int) -> Step:
        """Queue about ``rows`` more, in one transaction."""

    def waiting(self, limit: int) -> int:
        """How many events are unpublished, counted up to ``limit``."""

    def publishers(self) -> int:
        """How many publishers are alive."""

    def progress(self) -> Progress: ...

    def finish(self) -> None:
        """Mark the run as finished, if nothing is left of it."""

    def abandon(self) -> None:
        """Drop what is unfinished after a failure. Never raises."""


class Watcher(Protocol):
    """Told what goes on. ``waits``: what for, or nothing."""

    def progress(self, progress: Progress, waits: str) -> None: ...

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """``rate`` in rows a second; ``most_waiting`` events unpublished; ``most_rows`` in a chunk."""

    workers: int = 2
    rate: float | None = None
    most_waiting: int = 20_000
    most_rows: int = 2_000


@dataclass(frozen=True, slots=True)
class Totals:
    """How it ended, and what this process queued of it."""

    end: Literal["done", "stopped", "given up"]
    queued: int
    progress: Progress
    retries: int
    elapsed: timedelta


@dataclass(slots=True)
class Gate:
    """Lets workers on, one at a time, as rate and queue allow. ``why``: what they wait for."""

    contour: str
    limits: Limits
    stop: StopToken
    why: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _due: float = 0.0
    _room: int = 0  # events that may come before the queue is looked at again

    def admit(self, source: Source) -> None:
        """Wait until a chunk may be queued, or the run is to stop."""
        with self._lock:
            while not self.stop and self._room <= 0:
                most = self.limits.most_waiting
                found = source.waiting(most)
                # At least a quarter, so that counting stays rare.
                if found <= most * 3 // 4:
                    self._room = most - found
                    break
                self.why = f"{found:,} events are unpublished" + (
                    "" if source.publishers() else f", and no publisher runs in {self.contour}"
                )
                self.stop.wait(LOOK_EVERY)
            self.why = ""
            while not self.stop and (pause := self._due - time.monotonic()) > 0:
                self.stop.wait(min(LOOK_EVERY, timedelta(seconds=pause)))

    def passed(self, queued: int) -> None:
        """So many were queued."""
        with self._lock:
            self._room -= queued
            if self.limits.rate is not None:
                self._due = max(self._due, time.monotonic()) + queued / self.limits.rate


@dataclass(slots=True)
class Snapshot:
    """One process's part of a run, that is prepared: ``open_source`` gives connections to it."""

    contour: str
    open_source: Callable[[], Source]
    limits: Limits
    watcher: Watcher
    stop: StopToken
    _gate: Gate = field(init=False)
    _ends: StopToken = field(init=False)
    _failures: list[BaseException] = field(default_factory=list)
    _waits: str = ""  # what for, as a worker has told last
    _queued: int = 0
    _retries: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._ends = StopToken()
        self._gate = Gate(self.contour, self.limits, self._ends)

    def run(self) -> Totals:
        """Until nothing is left, or until asked to stop; outages are waited out."""
        started = time.monotonic()
        source = self.open_source()
        workers = [
            threading.Thread(target=self._work, name=f"snapshot {n}", daemon=True)
            for n in range(self.limits.workers)
        ]
        for worker in workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in workers):
                if self.stop:
                    self._ends.set("asked to stop")
                self._tell(source)
                for worker in [each for each in workers if each.is_alive()][:1]:
                    worker.join(LOOK_EVERY.total_seconds())
        finally:
            self._ends.set("over")
            for worker in workers:
                worker.join()
        try:
            if self._failures:
                raise self._failures[0]
            insist = self._insisting(source)
            if not self.stop:
                insist(source.finish)
            progress = insist(source.progress)
        finally:
            source.abandon()
        end: Literal["done", "stopped", "given up"] = "stopped"
        if progress.finished or progress.given_up:
            end = "done" if progress.finished else "given up"
        elapsed = timedelta(seconds=time.monotonic() - started)
        return Totals(end, self._queued, progress, self._retries, elapsed)

    def _tell(self, source: Source) -> None:
        try:
            progress = source.progress()
        except TransientError:
            source.abandon()
            return  # the workers say so
        self.watcher.progress(progress, self._gate.why or self._waits)

    def _work(self) -> None:
        source = self.open_source()
        insist = self._insisting(source)
        rows = FIRST_ROWS
        try:
            while not self._ends:
                insist(self._gate.admit, source)
                if self._ends:
                    return
                if self.limits.rate is not None:
                    rows = max(1, min(rows, int(self.limits.rate / 4)))
                began = time.monotonic()
                step = insist(source.step, rows)
                took = time.monotonic() - began
                match step.kind:
                    case "end":
                        return
                    case "rest":
                        self._waits = step.waits
                        self._ends.wait(LOOK_EVERY)
                    case "chunk":
                        self._waits = ""
                        self._gate.passed(step.queued)
                        with self._counting:
                            self._queued += step.queued
                        factor = min(2.0, AIM / max(took, 0.001))
                        rows = min(self.limits.most_rows, max(20, int(rows * factor)))
        except BaseException as error:  # noqa: BLE001  raised by ``run``
            if not (self.stop and isinstance(error, TransientError)):
                self._failures.append(error)
            self._ends.set("failed")
        finally:
            source.abandon()

    def _insisting(self, source: Source) -> Retrying:
        """Outages are waited out. The last failure, when asked to stop while the server is away."""

        def told(error: TransientError, attempt: int, pause: timedelta) -> None:
            with self._counting:
                self._retries += 1
            self.watcher.retrying(error, attempt, pause)

        return retrying(
            self.stop,
            over=lambda: bool(self.stop) or bool(self._ends),
            abandon=source.abandon,
            told=told,
        )

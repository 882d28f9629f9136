"""Batches of one applier whose transactions are not over yet.

Each waits for the one before: offsets move in order, and what a batch has written is there for the
next. When one fails those behind it are given up. Whoever has to know how far the contour has come
waits for all of them.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, Consumed

if TYPE_CHECKING:
    from replication_pipeline.engine.ports import Inbox


def at_once() -> None:
    """The turn of a batch that nobody is ahead of."""


@dataclass(frozen=True, slots=True)
class Running:
    """A batch, and what becomes of it in another thread."""

    batch: Consumed
    inbox: Inbox
    """Over whose connection."""
    future: Future[BatchResult]

    def turn_behind(self) -> None:
        """Wait until it is committed. ``TransientError``: it has failed."""
        if self.future.exception() is not None:
            raise TransientError("given up, as the batch ahead of it was not applied")


@dataclass(slots=True)
class UnderWay:
    """At most two: one is applied, and the other one is read."""

    _running: list[Running] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def newest(self) -> Running | None:
        return self._running[-1] if self._running else None

    def add(self, running: Running) -> None:
        """A batch that has begun."""
        self._running.append(running)

    def take_oldest(self) -> Running:
        """The next that will be over."""
        return self._running.pop(0)

    def wait(self) -> None:
        """Until all are over, done or failed."""
        wait([running.future for running in self._running])

    def give_up(self) -> None:
        """Those behind one that has failed: they fail by themselves."""
        self.wait()
        self._running.clear()

"""What a publisher under test has to be."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any, Final, Protocol

import psycopg

from replication_pipeline.domain.names import topic_for
from replication_pipeline.settings import Settings

PROCESSES: Final = multiprocessing.get_context("spawn")  # a fork would copy librdkafka's threads


@dataclass(slots=True)
class Progress:
    """How many of ``events`` all publishers of a run have published together, across processes."""

    events: int | None
    """``None``: publish until told to stop."""
    published: Any = field(default_factory=lambda: PROCESSES.Value("q", 0))
    over: Event = field(default_factory=PROCESSES.Event)

    def add(self, count: int) -> None:
        with self.published.get_lock():
            self.published.value += count
            if self.events is not None and self.published.value >= self.events:
                self.over.set()

    def when_over(self, call: Callable[[], None]) -> None:
        """Call from another thread, once the run is over."""

        def wait() -> None:
            self.over.wait()
            call()

        threading.Thread(target=wait, daemon=True, name="progress").start()


@dataclass(frozen=True, slots=True)
class Published:
    """What one process did."""

    events: int
    ended: float
    """When its last event was acknowledged and, if it marks, committed; ``time.monotonic``."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected to PostgreSQL and to Kafka, and waiting for the word."""

    connection: psycopg.Connection[Any]
    run: Callable[[], Published]


class Publisher(Protocol):
    """Opens what a publisher needs; ``run`` of what it yields publishes until the run is over."""

    def __call__(self, settings: Settings, progress: Progress) -> AbstractContextManager[Ready]: ...


def users_topic(settings: Settings) -> str:
    return topic_for("users", prefix=settings.kafka.topic_prefix)


def now() -> float:
    """One clock for all processes of this machine."""
    return time.monotonic()

"""How many events may be parked: what can't be applied is kept, but must not fill the disk.

Parked events are never dropped, so beyond the limit no more are taken in: a batch that would park more
is rolled back, and its topics stay where they are until there is room again. Other topics go on, as
what they bring (a parent, a column) may be what the parked events wait for.

Counting costs a scan of what is parked, so it is done when events are parked, and then only once the
room that was left at the last count is used up, or is some seconds old. Each applier may exceed the
limit by what others park meanwhile, a batch of each at most.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from replication_pipeline.domain.errors import FatalError, ParkedFullError
from replication_pipeline.domain.model import Message
from replication_pipeline.domain.parked import NEAR_LIMIT
from replication_pipeline.logs import get_logger
from replication_pipeline.postgres import queries
from replication_pipeline.settings import ConsumerSettings, Settings

SQL: Final = queries.load("parked")
COUNT_AGAIN: Final = 5.0  # seconds
REMEDY: Final = (
    "see replication-pipeline parked list: mend what they wait for, or discard them; or raise "
    "consumer.max_parked_events and max_parked_bytes. Nothing is lost: Kafka has what waits, for as "
    "long as the topic keeps it"
)


def taken(consumer: ConsumerSettings, events: int, size: int) -> float:
    """How much of the limits this is: the greater part of the two."""
    return max(events / consumer.max_parked_events, size / consumer.max_parked_bytes)


def space_taken(connection: psycopg.Connection[Any], settings: Settings) -> float:
    """How much of what may be parked is, by the limits of these settings."""
    ((events, size),) = connection.execute(SQL["how_much"]).fetchall()
    return taken(settings.consumer, events, size)


@dataclass(slots=True)
class ParkingSpace:
    """Of one worker. ``patient``: whether a topic that must wait can be left alone."""

    settings: Settings
    patient: bool = True
    _events: int = field(default=0)  # how many more there may be, as far as this worker knows
    _bytes: int = field(default=0)
    _due: float = field(default=0.0)
    _warned: bool = field(default=False)

    def take(self, connection: psycopg.Connection, parked: Sequence[Message]) -> None:
        """Before the transaction that has just parked ``parked`` is committed.

        Raises ``ParkedFullError`` when that is too much; ``FatalError`` if it can't be waited for.
        """
        if not parked:
            return
        self._events -= len(parked)
        self._bytes -= sum(len(message.value or b"") for message in parked)
        near = self._used(self._events, self._bytes) >= NEAR_LIMIT and not self._warned
        if near or min(self._events, self._bytes) < 0 or time.monotonic() >= self._due:
            self._count(connection, frozenset(message.topic for message in parked))

    def _used(self, left: int, left_bytes: int) -> float:
        consumer = self.settings.consumer
        return taken(
            consumer, consumer.max_parked_events - left, consumer.max_parked_bytes - left_bytes
        )

    def _count(self, connection: psycopg.Connection, topics: frozenset[str]) -> None:
        row = connection.execute(SQL["how_much"]).fetchone()
        assert row is not None
        events, size = row
        consumer, contour = self.settings.consumer, self.settings.contour.name
        self._events = consumer.max_parked_events - events
        self._bytes = consumer.max_parked_bytes - size
        self._due = time.monotonic() + COUNT_AGAIN
        used = self._used(self._events, self._bytes)
        if used >= NEAR_LIMIT and not self._warned:
            get_logger("applier").warning(
                "parked events come near their limit",
                parked=events,
                bytes=size,
                limit=consumer.max_parked_events,
                limit_bytes=consumer.max_parked_bytes,
                advice=REMEDY,
            )
        self._warned = used >= NEAR_LIMIT
        if min(self._events, self._bytes) >= 0:
            return
        self._due = 0.0
        names = ", ".join(sorted(topics))
        message = (
            f"contour {contour}: no more events are parked: consumer.max_parked_events "
            f"({consumer.max_parked_events:,}) or max_parked_bytes ({consumer.max_parked_bytes:,}) "
            f"would be passed by events of {names}, which wait in Kafka now"
        )
        if not self.patient:
            raise FatalError(message, remedy=REMEDY)
        raise ParkedFullError(message, remedy=REMEDY, topics=topics)

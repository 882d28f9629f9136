"""A contour whose events a test carries by hand: real triggers, real publisher's claims, the real
apply cycle; only Kafka is a list, so that a test decides what arrives when, how often, and what fails.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from unittest.mock import patch

import psycopg

from replication_pipeline.domain.errors import ParkedFullError, TransientError
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.outbox import events

Carried = tuple[str, bytes]  # a table and an event of it
CrashPoint = Literal["before the commit", "after the commit"]


@dataclass(slots=True)
class Hand:
    """Kafka's consuming side for one batch."""

    batch: Consumed | None = None

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        batch, self.batch = self.batch, None
        return batch

    def caught_up(self) -> bool:
        return self.batch is None

    def hold(self, error: ParkedFullError) -> None:
        """Nothing is read but what the test hands over."""

    def rewind(self) -> None:
        """The place looks by itself where the offsets are."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Place:
    """One contour; ``on_the_way`` is what has been published elsewhere and is not applied yet."""

    contour: Contour
    on_the_way: list[Carried] = field(default_factory=list)
    delivered: list[Carried] = field(default_factory=list)
    shifted: bool = False
    _offsets: dict[Topic, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.contour.settings
        self.outbox = PostgresOutbox(settings, "carried")
        self.inbox = PostgresInbox(settings, "carries")
        self.hand = Hand()
        self.cycle = ApplyCycle(
            self.hand, self.inbox, 1_000, 1_000, timedelta(), timedelta(hours=1)
        )

    def close(self) -> None:
        self.outbox.close()
        self.inbox.close()

    def publish(self) -> list[Carried]:
        return [(event.table, event.value) for event in events(self.outbox)]

    def deliver(self, carried: Sequence[Carried], crash: CrashPoint | None = None) -> list[Carried]:
        """Apply a batch as it is. What must come again, after a crash or a deadlock: the contour's own
        offsets say, as part of a batch may have been committed.
        """
        batch = self.hand.batch = self._batch(carried)
        try:
            with crashing(crash) if crash else contextlib.nullcontext():
                self.cycle()
        except TransientError:
            stored = self.inbox.offsets((topic, 0) for topic in self._offsets)
            self._offsets = {topic: stored.get((topic, 0), 0) for topic in self._offsets}
        return [
            one
            for one, message in zip(carried, batch.messages, strict=True)
            if message.offset >= self._offsets[message.topic]
        ]

    def retry(self) -> None:
        """Parked events, and deletes that settle; a deadlock leaves them for the next time."""
        with contextlib.suppress(TransientError):
            self.inbox.retry_parked(1_000, eagerly=True)

    def set_clock(self, seconds: int) -> None:
        """So many seconds ahead of the machine's clock."""
        self.contour.run("select replication.install_clock(make_interval(secs => %s))", seconds)
        self.shifted = seconds != 0

    def empty(self, tables: Iterable[str]) -> None:
        """As new, but for the ids that sequences have given out."""
        if self.shifted:
            self.set_clock(0)
        with self.contour.app.transaction():
            self.contour.run("set local session_replication_role = replica")
            for table in [*tables, *(f"replication.{name}" for name in BOOKS)]:
                self.contour.run(f"delete from {table}")
        self.on_the_way.clear()
        self.delivered.clear()
        self._offsets.clear()

    def _batch(self, carried: Sequence[Carried]) -> Consumed:
        messages: list[Message] = []
        starts: dict[Topic, int] = {}
        for table, value in carried:
            topic = Topic(topic_for(table, prefix=self.contour.settings.kafka.topic_prefix))
            offset = self._offsets.setdefault(topic, 0)
            starts.setdefault(topic, offset)
            messages.append(Message(topic, 0, offset, value))
            self._offsets[topic] = offset + 1
        advances = tuple(
            PartitionAdvance(topic, 0, start, self._offsets[topic], self._offsets[topic])
            for topic, start in starts.items()
        )
        return Consumed(tuple(messages), advances)


BOOKS = (
    "replication_queue", "replication_tombstones", "parked_events", "processed_events",
    "consumer_offsets", "replication_conflicts", "displaced_keys",
)  # fmt: skip


@contextmanager
def crashing(point: CrashPoint) -> Iterator[None]:
    """The next connection that commits something it wrote is lost at that moment."""
    commit = psycopg.Connection.commit
    done = False

    def crash(connection: psycopg.Connection[Any]) -> None:
        nonlocal done
        if done or not _has_written(connection):
            commit(connection)
            return
        done = True
        if point == "after the commit":
            commit(connection)
        connection.close()
        raise psycopg.OperationalError

    with patch.object(psycopg.Connection, "commit", crash):
        yield


def _has_written(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("select pg_current_xact_id_if_assigned() is not null").fetchone()
    return bool(row and row[0])


def newest_writes(places: Iterable[Place]) -> dict[tuple[str, int], tuple[int, Any]]:
    """What Last-Write-Wins says: version and row of each key's newest event in all queues."""
    newest: dict[tuple[str, int], tuple[int, Any]] = {}
    for place in places:
        for table, key, version, payload in place.contour.run(
            "select table_name, record_key, version, payload from replication.replication_queue"
        ):
            name = (table, json.loads(key)["id"])
            if version > newest.get(name, (0, None))[0]:
                newest[name] = (version, payload)
    return newest


def rows_of(place: Place, tables: Iterable[str]) -> dict[tuple[str, int], tuple[int, Any]]:
    """Version and row of each key."""
    union = " union all ".join(
        f"select '{table}', id, replication_version, to_jsonb(t) - 'replication_version' from {table} t"
        for table in tables
    )
    return {(table, key): (version, row) for table, key, version, row in place.contour.run(union)}

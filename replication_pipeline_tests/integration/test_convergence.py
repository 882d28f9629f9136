"""Three contours write the same few rows at once, under skewed clocks; events arrive in any order
and more than once. In the end all are equal, and equal to the newest committed write of each key.

Real triggers, real apply code, real concurrency; only Kafka is left out, so that delivery can be
shuffled from a seed. What is under test: total order of versions, tombstones, the max rule, rows
lifted above tombstones, whole-row upserts, and deletes that settle.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.outbox import events

pytestmark = pytest.mark.integration

KEYS = 12
WRITERS = 2
SKEWS = ("-20 seconds", "0", "20 seconds")


@dataclass
class Delivery:
    """One contour's inbox and the events still on their way to it."""

    contour: Contour
    random: random.Random
    inbox: PostgresInbox = field(init=False)
    offset: int = 0
    on_the_way: list[bytes] = field(default_factory=list)
    delivered: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inbox = PostgresInbox(self.contour.settings, f"test-{self.contour.name}")

    def step(self, size: int) -> None:
        """Apply some of the events, shuffled, with some that have been applied before."""
        self.random.shuffle(self.on_the_way)
        batch, rest = self.on_the_way[:size], self.on_the_way[size:]
        repeats = self.random.sample(self.delivered, min(len(self.delivered), len(batch) // 10 + 1))
        values = [*batch, *repeats]
        topic = Topic(topic_for("users", prefix=self.contour.settings.kafka.topic_prefix))
        end = self.offset + len(values)
        messages = tuple(Message(topic, 0, self.offset + n, v) for n, v in enumerate(values))
        try:
            self.inbox.apply(
                Consumed(messages, (PartitionAdvance(topic, 0, self.offset, end, end),))
            )
        except TransientError:
            return  # a deadlock or lock timeout: the same events come again
        self.offset = end
        self.on_the_way = rest
        self.delivered += batch
        # The ledger must not be what makes repeats harmless.
        self.contour.run("delete from replication.processed_events")
        self.retry()

    def retry(self) -> None:
        """Look after parked events and unsettled deletes; a deadlock leaves them for next time."""
        with contextlib.suppress(TransientError):
            self.inbox.retry_parked(1000, eagerly=True)


def write(contour: Contour, seed: int, until: float) -> int:
    """A writer: single and two-key transactions on few keys, upserts, deletes and key moves."""
    chance = random.Random(seed)
    committed = 0
    pace = threading.Event()  # never set: a writer leaves the others time to answer
    with psycopg.connect(contour.dsn) as connection:
        while time.monotonic() < until:
            pace.wait(0.003)
            try:
                for _ in range(chance.choice((1, 1, 1, 2))):
                    _write_one(connection, chance)
                connection.commit()
                committed += 1
            except (
                psycopg.errors.UniqueViolation,
                psycopg.errors.DeadlockDetected,
                psycopg.errors.SerializationFailure,
            ):
                connection.rollback()
    return committed


def _write_one(connection: psycopg.Connection[Any], chance: random.Random) -> None:
    key, other, value = chance.randrange(KEYS), chance.randrange(KEYS), chance.random()
    match chance.choices(("insert", "upsert", "update", "delete", "move"), (20, 15, 35, 25, 5))[0]:
        case "insert":
            connection.execute(
                "insert into users (id, name) values (%s, %s) on conflict (id) do nothing",
                (key, str(value)),
            )
        case "upsert":
            connection.execute(
                "insert into users (id, name) values (%s, %s) "
                "on conflict (id) do update set name = excluded.name",
                (key, str(value)),
            )
        case "update":
            connection.execute("update users set name = %s where id = %s", (str(value), key))
        case "delete":
            connection.execute("delete from users where id = %s", (key,))
        case "move":
            connection.execute("update users set id = %s where id = %s", (other, key))


@pytest.mark.parametrize("seed", [1, 2])
def test_contours_converge_whatever_the_order_and_the_clocks(
    make_contours: MakeContours, seed: int
) -> None:
    contours = make_contours(
        "create table users (id bigint primary key, name text)", ["users"], count=3
    )
    for contour, skew in zip(contours, SKEWS, strict=True):
        contour.run(f"select replication.install_clock(interval '{skew}')")
    deliveries = [Delivery(c, random.Random(seed * 10 + n)) for n, c in enumerate(contours)]
    outboxes = [PostgresOutbox(c.settings, f"test-{c.name}") for c in contours]
    history: list[bytes] = []

    def distribute() -> int:
        count = 0
        for contour, outbox in zip(contours, outboxes, strict=True):
            values = [event.value for event in events(outbox)]
            history.extend(values)
            count += len(values)
            for delivery in deliveries:
                if delivery.contour is not contour:
                    delivery.on_the_way += values
        return count

    until = time.monotonic() + 6
    committed: list[int] = []
    writers = [
        threading.Thread(target=lambda c=c, n=n: committed.append(write(c, seed * 100 + n, until)))
        for n, c in enumerate(c for c in contours for _ in range(WRITERS))
    ]
    try:
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            distribute()
            for delivery in deliveries:
                delivery.step(300)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            moved = distribute()
            for delivery in deliveries:
                if delivery.on_the_way:
                    delivery.step(200)
                delivery.retry()
            waiting = sum(
                c.value(
                    "select (select count(*) from replication.parked_events) + (select count(*) "
                    "from replication.replication_tombstones where unsettled)"
                )
                for c in contours
            )
            if not moved and not waiting and not any(d.on_the_way for d in deliveries):
                break
        assert sum(committed) > 100, "the writers hardly wrote: the test would prove nothing"
        assert same_rows(contours, "users"), _differences(contours)
        assert _rows(contours[0]) == _newest(history)
        for contour in contours:
            assert contour.run(
                "select u.id from users u join replication.replication_tombstones s "
                "on s.record_key = format('{\"id\":%s}', u.id) "
                "where u.replication_version <= s.version"
            ) == []  # fmt: skip
    finally:
        for outbox in outboxes:
            outbox.close()
        for delivery in deliveries:
            delivery.inbox.close()


def _rows(contour: Contour) -> dict[int, tuple[str, int]]:
    return {
        key: (name, version)
        for key, name, version in contour.run("select id, name, replication_version from users")
    }


def _newest(history: list[bytes]) -> dict[int, tuple[str, int]]:
    """What Last-Write-Wins says of all that was ever committed."""
    newest: dict[int, tuple[int, dict[str, Any] | None]] = {}
    for value in history:
        event = json.loads(value)
        key = (event["after"] or event["before"])["id"]
        version = int(event["source"]["row_version"])
        if version > newest.get(key, (0, None))[0]:
            newest[key] = (version, event["after"])
    return {key: (row["name"], version) for key, (version, row) in newest.items() if row}


def _differences(contours: list[Contour]) -> dict[int, list[Any]]:
    contents = [_rows(contour) for contour in contours]
    keys = {key for content in contents for key in content}
    found = {key: [content.get(key) for content in contents] for key in sorted(keys)}
    return {key: rows for key, rows in found.items() if any(row != rows[0] for row in rows)}

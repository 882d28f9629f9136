"""A large batch of one table is applied over two connections, each with partitions and a transaction of
its own: whatever happens to one of them, nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.outbox import events
from replication_pipeline_tests.integration.place import Hand

pytestmark = pytest.mark.integration

ROWS = 60
PARTITIONS = 3
WRITTEN_BY = "select count(distinct xmin::text) from users"


@contextmanager
def two_lanes(contour: Contour, batch_size: int = ROWS // 2) -> Iterator[tuple[ApplyCycle, Hand]]:
    hand = Hand()
    with (
        closing(PostgresInbox(contour.settings, "applier")) as inbox,
        closing(PostgresInbox(contour.settings, "applier")) as beside,
        closing(
            ApplyCycle(
                hand, inbox, batch_size, ROWS, timedelta(), timedelta(hours=1), beside=beside
            )
        ) as cycle,
    ):
        yield cycle, hand


def batch_for(contour: Contour, values: list[bytes]) -> Consumed:
    """What is not applied yet of a topic with ``values``, each in the partition that its bytes say."""
    topic = Topic(topic_for("users", prefix=contour.settings.kafka.topic_prefix))
    logs: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for value in values:
        logs[zlib.crc32(value) % PARTITIONS].append(value)
    with closing(PostgresInbox(contour.settings, "looks")) as inbox:
        stored = inbox.offsets((topic, n) for n in range(PARTITIONS))
    return Consumed(
        tuple(
            Message(topic, n, offset, value)
            for n, log in enumerate(logs)
            for offset, value in enumerate(log)
            if offset >= stored.get((topic, n), 0)
        ),
        tuple(
            PartitionAdvance(topic, n, stored.get((topic, n), 0), len(log), len(log))
            for n, log in enumerate(logs)
            if len(log) > stored.get((topic, n), 0)
        ),
    )


@pytest.fixture
def users(make_contours: MakeContours) -> tuple[Contour, Contour, list[bytes]]:
    """Contours a and b, and the events of a's rows."""
    a, b = make_contours(USERS, ["users"])
    a.run("insert into users select g, 'user ' || g from generate_series(1, %s) g", ROWS)
    with closing(PostgresOutbox(a.settings, "publisher")) as outbox:
        return a, b, [event.value for event in events(outbox)]


def test_a_large_batch_is_applied_in_two_transactions(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    a, b, values = users
    with two_lanes(b) as (cycle, hand):
        hand.batch = batch_for(b, values)
        (result,) = cycle()
    assert (result.count, result.applied, result.parked) == (ROWS, ROWS, 0)
    assert same_rows([a, b], "users")
    assert b.value(WRITTEN_BY) == 2
    assert batch_for(b, values).messages == ()
    assert b.value("select sum(processed) from replication.workers") == ROWS


def test_a_small_batch_is_one_transaction(users: tuple[Contour, Contour, list[bytes]]) -> None:
    a, b, values = users
    with two_lanes(b, batch_size=ROWS) as (cycle, hand):
        hand.batch = batch_for(b, values)
        cycle()
    assert same_rows([a, b], "users")
    assert b.value(WRITTEN_BY) == 1


def test_a_bad_event_is_parked_and_the_rest_of_both_parts_goes_on(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    _, b, values = users
    with two_lanes(b) as (cycle, hand):
        hand.batch = batch_for(b, [*values, b'{"op": "c"}'])
        (result,) = cycle()
    assert (result.applied, result.parked) == (ROWS, 1)
    assert b.run("select reason from parked_events") == [("malformed",)]


@pytest.mark.parametrize("lost", ["first", "second"])
def test_when_one_connection_is_lost_the_other_part_stands(
    users: tuple[Contour, Contour, list[bytes]], lost: str
) -> None:
    a, b, values = users
    with two_lanes(b) as (cycle, hand):
        assert cycle.beside is not None
        inboxes = [cycle.inbox, cycle.beside]
        victim = inboxes[lost == "second"]
        assert isinstance(victim, PostgresInbox)
        with victim._transaction("connecting") as connection:
            pid = connection.info.backend_pid
        b.run("select pg_terminate_backend(%s, 10000)", pid)
        hand.batch = batch_for(b, values)
        with pytest.raises(TransientError):
            cycle()
        left = batch_for(b, values)
        assert 0 < len(left.messages) < ROWS
        assert b.value("select count(*) from users") == ROWS - len(left.messages)
        hand.batch = left
        (result,) = cycle()
        assert result.applied == len(left.messages)
    assert same_rows([a, b], "users")

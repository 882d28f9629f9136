"""A large batch is put in as if all of it were new; where it is not, nothing differs but the time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from replication_pipeline.domain.model import BatchResult, Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.postgres.apply_steps import SMALL
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.outbox import events
from replication_pipeline_tests.publishing import until

pytestmark = pytest.mark.integration

ROWS = SMALL + 100
WAITS = """
select exists (select from pg_stat_activity
                where application_name = 'replicator_consumer' and datname = current_database()
                  and wait_event_type = 'Lock')"""


@pytest.fixture
def users(make_contours: MakeContours) -> tuple[Contour, Contour]:
    a, b = make_contours(USERS, ["users"])
    a.run("insert into users (id, name) select g, 'a' from generate_series(1, %s) g", ROWS)
    return a, b


def captured(contour: Contour) -> list[bytes]:
    with closing(PostgresOutbox(contour.settings, "publisher")) as outbox:
        return [event.value for event in events(outbox)]


def apply(contour: Contour, values: list[bytes], first: int = 0) -> BatchResult:
    """As one batch at offset ``first``."""
    topic = Topic(topic_for("users", prefix=contour.settings.kafka.topic_prefix))
    end = first + len(values)
    batch = Consumed(
        tuple(Message(topic, 0, first + n, value) for n, value in enumerate(values)),
        (PartitionAdvance(topic, 0, first, end, end),),
    )
    with closing(PostgresInbox(contour.settings, "applier")) as inbox:
        return inbox.apply(batch)


def test_events_that_are_known_are_told_apart(users: tuple[Contour, Contour]) -> None:
    a, b = users
    values = captured(a)
    assert apply(b, values).applied == ROWS
    a.run("insert into users (id, name) select g, 'new' from generate_series(-%s, -1) g", ROWS)
    new = captured(a)
    mixed = [value for pair in zip(values, new, strict=True) for value in pair]
    result = apply(b, mixed, first=ROWS)
    assert (result.duplicates, result.applied, result.skipped) == (ROWS, ROWS, 0)
    assert same_rows([a, b], "users")
    known = "select count(*) from replication.processed_events"
    assert b.value(known) == 2 * ROWS


@pytest.mark.parametrize("wins", ["the event", "the row"])
def test_a_row_that_comes_meanwhile_is_decided_by_version(
    users: tuple[Contour, Contour], wins: str
) -> None:
    a, b = users
    row = "insert into users (id, name) values (7, 'b')"
    if wins == "the row":
        values = captured(a)
    with psycopg.connect(b.dsn) as other, ThreadPoolExecutor(1) as thread:
        other.execute(row)
        if wins == "the event":
            a.run("update users set name = 'later' where id = 7")
            values = captured(a)
        result = thread.submit(apply, b, values)
        until(lambda: b.value(WAITS) is True, "the batch to wait for the row")
        other.commit()
        found = result.result()
    assert found.parked == 0
    assert b.value("select count(*) from users") == ROWS
    name = "b" if wins == "the row" else "later"
    assert b.run("select name from users where id = 7") == [(name,)]
    assert b.value("select count(*) from replication.processed_events") == len(values)

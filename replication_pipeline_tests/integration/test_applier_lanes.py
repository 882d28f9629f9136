"""On backlog a batch is read over a second connection while the one before is applied: whatever happens
to either of them, order holds, nothing is lost and nothing counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from replication_pipeline.domain.errors import ParkedFullError, TransientError
from replication_pipeline.domain.model import BatchResult, Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.outbox import events
from replication_pipeline_tests.publishing import until

pytestmark = pytest.mark.integration

SMALL, LARGE = 100, 200  # smaller ones go in one round trip
ROWS = SMALL + 3 * LARGE
APPLIERS = """
select count(*) from pg_stat_activity
 where application_name = 'replicator_consumer' and datname = current_database()"""
APPLIED = f"{APPLIERS} and wait_event_type = 'Lock'"
READ = f"{APPLIERS} and state = 'idle in transaction'"


@dataclass
class Log:
    """A topic of one partition, handed over from where the contour stands."""

    inbox: PostgresInbox
    topic: Topic
    values: list[bytes]
    next: int = 0

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        del timeout
        first, self.next = self.next, min(self.next + limit, len(self.values))
        if first == self.next:
            return None
        messages = tuple(
            Message(self.topic, 0, offset, self.values[offset])
            for offset in range(first, self.next)
        )
        advance = PartitionAdvance(self.topic, 0, first, self.next, len(self.values))
        return Consumed(messages, (advance,))

    def caught_up(self) -> bool:
        return self.next == len(self.values)

    def hold(self, error: ParkedFullError) -> None:
        raise AssertionError(error)

    def rewind(self) -> None:
        self.next = self.inbox.offsets([(self.topic, 0)]).get((self.topic, 0), 0)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Lanes:
    """An applier with two connections."""

    b: Contour
    inbox: PostgresInbox
    cycle: ApplyCycle

    def work(self) -> list[BatchResult]:
        """Cycles until nothing is left."""
        found: list[BatchResult] = []
        while results := self.cycle():
            found += results
        return found

    @contextmanager
    def held_up(self) -> Iterator[psycopg.Connection[Any]]:
        """The first large batch can't be written within the block."""
        with psycopg.connect(self.b.dsn) as holder:
            holder.execute("lock table users in exclusive mode")
            yield holder

    def first_waits_and_second_is_read(self) -> bool:
        return (self.b.value(APPLIED), self.b.value(READ)) == (1, 1)


@contextmanager
def two_lanes(b: Contour, values: list[bytes]) -> Iterator[Lanes]:
    topic = Topic(topic_for("users", prefix=b.settings.kafka.topic_prefix))
    with (
        closing(PostgresInbox(b.settings, "applier")) as inbox,
        closing(PostgresInbox(b.settings, "applier")) as beside,
        closing(
            ApplyCycle(
                Log(inbox, topic, values), inbox, SMALL, LARGE, timedelta(), timedelta(hours=1),
                beside=beside,
            )
        ) as cycle,
    ):  # fmt: skip
        (first,) = cycle()  # no backlog is known yet
        assert first.count == SMALL
        yield Lanes(b, inbox, cycle)


@pytest.fixture
def users(make_contours: MakeContours) -> tuple[Contour, Contour, list[bytes]]:
    """Contours a and b, and the events of a's rows: each of the last half changes one of the first."""
    a, b = make_contours(USERS, ["users"])
    a.run("insert into users select g, 'user ' || g from generate_series(1, %s) g", ROWS // 2)
    a.run("update users set name = 'again'")
    with closing(PostgresOutbox(a.settings, "publisher")) as outbox:
        return a, b, [event.value for event in events(outbox)]


def test_the_next_batch_is_read_while_one_is_applied(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    a, b, values = users
    with two_lanes(b, values) as lanes, ThreadPoolExecutor(1) as threads:
        with lanes.held_up():
            results = threads.submit(lanes.work)
            until(lanes.first_waits_and_second_is_read, "two batches under way")
            assert b.value("select count(*) from users") == SMALL
        assert [result.count for result in results.result()] == [LARGE] * 3
    assert same_rows([a, b], "users")
    assert b.value("select sum(processed) from replication.workers") == ROWS


def test_positions_are_told_when_all_batches_are_over(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    """As when a partition goes and comes back while two are under way."""
    _, b, values = users
    with two_lanes(b, values) as lanes, ThreadPoolExecutor(1) as threads:
        log = lanes.cycle.consumer
        assert isinstance(log, Log)
        with lanes.held_up():
            results = threads.submit(lanes.cycle)
            until(lanes.first_waits_and_second_is_read, "two batches under way")
        (result,) = results.result()
        assert result.count == LARGE
        log.rewind()
        assert log.next == SMALL + 2 * LARGE
        assert [result.count for result in lanes.work()] == [LARGE, LARGE]


def test_what_is_under_way_at_the_end_is_finished(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    _, b, values = users
    with two_lanes(b, values) as lanes:
        (first,) = lanes.cycle()
        (second,) = lanes.cycle.finish()
        assert (first.count, second.count) == (LARGE, LARGE)
        assert lanes.cycle.finish() == []
    assert b.value("select sum(processed) from replication.workers") == SMALL + 2 * LARGE


def test_a_bad_event_is_parked_and_the_rest_goes_on(
    users: tuple[Contour, Contour, list[bytes]],
) -> None:
    a, b, values = users
    b.run("alter table users alter name type varchar(8)")
    a.run("insert into users (id, name) values (9999, 'does not fit')")
    with closing(PostgresOutbox(a.settings, "publisher")) as outbox:
        bad = [event.value for event in events(outbox)]
    at = SMALL + LARGE // 2
    with two_lanes(b, [*values[:at], *bad, *values[at:]]) as lanes:
        results = lanes.work()
    assert sum(result.parked for result in results) == 1
    assert b.run("select reason from parked_events") == [("bad_value",)]
    assert b.value("select count(*) from users where name = 'again'") == ROWS // 2
    assert b.value("select sum(processed) from replication.workers") == ROWS


@pytest.mark.parametrize("lost", ["the one that is applied", "the one that is read"])
def test_when_a_connection_is_lost_all_that_was_not_committed_comes_again(
    users: tuple[Contour, Contour, list[bytes]], lost: str
) -> None:
    a, b, values = users
    state = APPLIED if lost == "the one that is applied" else READ
    with two_lanes(b, values) as lanes, ThreadPoolExecutor(1) as threads:
        with lanes.held_up():
            results = threads.submit(lanes.work)
            until(lanes.first_waits_and_second_is_read, "two batches under way")
            end = state.replace("count(*)", "pg_terminate_backend(pid)")
            until(lambda: bool(b.run(end)), "the connection to be there")
        with pytest.raises(TransientError):
            results.result()
        stands = SMALL if state is APPLIED else SMALL + LARGE
        assert b.value("select sum(next_offset) from replication.consumer_offsets") == stands
        assert sum(result.count for result in lanes.work()) == ROWS - stands
    assert same_rows([a, b], "users")
    assert b.value("select sum(processed) from replication.workers") == ROWS

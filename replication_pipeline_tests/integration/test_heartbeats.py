"""Heartbeats on real servers: what every contour knows is forgotten, and not before; who was silent
for too long is fenced at the same place of the log everywhere; clocks are compared.

Steps are made by hand, so that nothing waits for an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from replication_pipeline import runtime
from replication_pipeline.domain.contours import Registry, skew
from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.heartbeat import Beat, Identity, encode
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.heartbeat import Beating, Listening
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.heartbeats import KafkaHeartbeats
from replication_pipeline.postgres.cleanup import clean_up
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.heartbeats import PostgresHeart, read_registry
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.tombstones import Collected
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours, same_rows
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration

LONG = timedelta(days=7)


T = TypeVar("T")


def insist(step: Callable[[], T]) -> T:
    """A topic that was made a moment ago may have no leader yet."""
    done: list[T] = []

    def does() -> bool:
        try:
            done.append(step())
        except TransientError:
            return False
        return True

    until(does, "Kafka to answer", 20)
    return done[0]


@dataclass
class Beater:
    """A contour with its heartbeats in hand."""

    contour: Contour
    heart: PostgresHeart
    topic: KafkaHeartbeats
    inbox: PostgresInbox
    events: Consumer

    def beat(self, fence_after: timedelta = LONG) -> None:
        """Beats until the round in hand has gone out."""

        def complete() -> bool:
            self.one_beat(fence_after)
            return self._between_rounds()

        until(complete, "the round to be complete", 20)

    def apply(self) -> None:
        """Apply what is in Kafka, without the time that a group takes to form."""
        topic = topic_for("users", prefix=self.contour.settings.kafka.topic_prefix)
        ends = {
            (topic, n): end
            for n, end in enumerate(insist(lambda: self.topic.ends(["users"]))[topic])
        }
        stored = self.inbox.offsets(ends)
        new = {k: stored.get(k, 0) for k, end in ends.items() if stored.get(k, 0) < end}
        self.events.assign([TopicPartition(*key, offset) for key, offset in new.items()])
        found: list[Message] = []
        while len(found) < sum(ends[key] - offset for key, offset in new.items()):
            message = self.events.poll(10)
            assert message is not None
            assert message.error() is None
            offset, number, value = message.offset(), message.partition(), message.value()
            assert offset is not None
            assert number is not None
            assert isinstance(value, bytes)
            found.append(Message(topic, number, offset, value))
        if found:
            advances = [PartitionAdvance(*key, new[key], ends[key], ends[key]) for key in new]
            self.inbox.apply(Consumed(tuple(found), tuple(advances)))

    def retry_parked(self) -> None:
        self.contour.run("update replication.parked_events set retried_at = '-infinity'")
        self.inbox.retry_parked(100, eagerly=True)

    def one_beat(self, fence_after: timedelta = LONG) -> None:
        insist(Beating(self.heart, self.topic, timedelta(), fence_after))

    def read(self) -> None:
        insist(Listening(self.heart, self.topic, lambda _: None))

    def clean_up(self) -> Collected:
        with connect(self.contour.settings, application_name="test") as connection:
            result = clean_up(connection, self.contour.settings)
        return Collected(result.tombstones, result.tombstones_waiting)

    def registry(self) -> Registry:
        with connect(self.contour.settings, application_name="test") as connection:
            return read_registry(connection)

    def states(self) -> dict[str, str]:
        return {name: contour.state for name, contour in self.registry().contours.items()}

    def tombstones(self) -> int:
        count = self.contour.value("select count(*) from replication.replication_tombstones")
        assert isinstance(count, int)
        return count

    def _between_rounds(self) -> bool:
        return self.contour.value("select round_at is null from replication.heartbeat") is True


@contextmanager
def beating(contour: Contour) -> Iterator[Beater]:
    with (
        runtime.open_heartbeats(contour.settings) as (heart, topic),
        runtime.open_inbox(contour.settings, "test") as inbox,
    ):
        servers = contour.settings.kafka.bootstrap_servers
        events = Consumer({"bootstrap.servers": servers, "group.id": "never joined"})
        yield Beater(contour, heart, topic, inbox, events)
        events.close()


@pytest.fixture
def beaters(make_contours: MakeContours, kafka: EmbeddedKafka) -> Iterator[list[Beater]]:
    contours = make_contours(
        USERS,
        ["users"],
        count=3,
        monitoring={"heartbeat_interval": 0},
        cleanup={"tombstones": 0},
    )
    with ExitStack() as stack:
        yield [stack.enter_context(beating(contour)) for contour in contours]


def everyone(beaters: list[Beater]) -> None:
    """All publish, apply, take a round and read those of the others."""
    for beater in beaters:
        beater.contour.publish()
    for beater in beaters:
        beater.apply()
        beater.beat()
    for beater in beaters:
        beater.read()


def test_a_tombstone_stays_until_every_contour_knows_its_delete(beaters: list[Beater]) -> None:
    a, b, c = beaters
    a.contour.run("insert into users (id) select generate_series(1, 5)")
    everyone(beaters)
    a.contour.run("delete from users where id <= 3")
    a.contour.publish()
    b.apply()
    for beater in (a, b, c):
        beater.beat()
    a.read()
    assert a.clean_up() == Collected(0, {"b": 3, "c": 3})  # b's round is still to be read past
    a.apply()
    assert a.clean_up() == Collected(0, {"c": 3})
    # c still has the rows, and writes one of them in ignorance of the delete, by a clock far behind.
    c.contour.run("select replication.install_clock(interval '-1 hour')")
    c.contour.run("update users set name = 'late' where id = 1")
    c.contour.publish()
    a.apply()
    assert a.contour.value("select count(*) from users where id = 1") == 0
    everyone(beaters)
    everyone(beaters)  # each has read what the others wrote before
    assert [x.clean_up() for x in beaters] == [Collected(3, {})] * 3
    assert [x.tombstones() for x in beaters] == [0, 0, 0]
    assert same_rows([x.contour for x in beaters], "users")


def test_what_is_still_to_be_published_or_committed_holds_a_round_up(
    beaters: list[Beater],
) -> None:
    a, *_ = beaters
    with a.contour.session() as open_transaction:
        open_transaction.execute("insert into users (id) values (1)")
        a.one_beat()
        a.one_beat()
        assert a.contour.value("select round_mark from replication.heartbeat") is None
        open_transaction.commit()
    until_marked(a)
    assert a.contour.value("select round_at is not null from replication.heartbeat")
    a.contour.publish()
    a.one_beat()
    assert a.contour.value("select round_at is null from replication.heartbeat")
    a.contour.run("insert into users (id) values (2)")
    a.contour.run("update replication_queue set held = true, parked_at = now() where not published")
    a.one_beat()
    until_marked(a)
    assert a.contour.value("select round_at is not null from replication.heartbeat")


def test_a_parked_delete_does_not_count_as_applied(beaters: list[Beater]) -> None:
    a, *_ = beaters
    a.contour.run(
        "insert into replication.consumer_offsets (topic, partition, next_offset) "
        "values ('t', 0, 50), ('t', 2, 70), ('u', 1, 9)"
    )
    for offset, reason in ((20, "missing_parent"), (30, "referenced"), (40, "clock_skew")):
        a.contour.run(
            "insert into replication.parked_events (topic, partition, kafka_offset, reason, event) "
            "values ('t', 0, %s, %s, '')",
            offset,
            reason,
        )
    a.beat()
    a.read()
    ((applied,),) = a.contour.run("select applied from replication.contour_rounds limit 1")
    assert applied == {"t": [30, 0, 70], "u": [0, 9]}


def until_marked(beater: Beater) -> None:
    def marked() -> bool:
        beater.one_beat()
        return bool(
            beater.contour.value("select round_mark is not null from replication.heartbeat")
        )

    until(marked, "the transactions before the round to end", 5)


def test_an_old_event_of_a_forgotten_delete_is_parked_not_applied(beaters: list[Beater]) -> None:
    a, b, _ = beaters
    a.contour.run("insert into users (id, name) values (1, 'old')")
    everyone(beaters)
    a.contour.run("delete from users")
    everyone(beaters)
    everyone(beaters)
    b.clean_up()
    assert b.tombstones() == 0
    # Sent again, long after: the ids of events are forgotten as well, and the delete is lost.
    b.contour.run("delete from replication.processed_events")
    a.contour.run(
        "update replication_queue set published = false, published_at = null "
        "where operation = 'INSERT'"
    )
    a.contour.publish()
    b.apply()
    assert b.contour.value("select count(*) from users") == 0
    assert b.contour.run("select reason from replication.parked_events") == [("too_old",)]
    # A newer write of the key settles it.
    a.contour.run("insert into users (id, name) values (1, 'new')")
    a.contour.publish()
    b.apply()
    b.retry_parked()
    assert b.contour.value("select name from users") == "new"
    assert b.contour.value("select count(*) from replication.parked_events") == 0


def test_tombstones_of_parked_keys_and_unsettled_ones_stay(beaters: list[Beater]) -> None:
    a, _, _ = beaters
    a.contour.run("insert into users (id) select generate_series(1, 3); delete from users")
    everyone(beaters)
    everyone(beaters)
    a.contour.run(
        "insert into replication.parked_events (topic, partition, kafka_offset, table_name, "
        "record_key, reason, event) values ('t', 0, 0, 'users', '{\"id\":1}', 'missing_parent', '')"
    )
    a.contour.run(
        "update replication.replication_tombstones set unsettled = true where record_key = '{\"id\":2}'"
    )
    a.clean_up()
    assert a.contour.run(
        "select record_key from replication.replication_tombstones order by 1"
    ) == [('{"id":1}',), ('{"id":2}',)]


def test_a_silent_contour_is_fenced_everywhere_at_the_same_beat_and_admitted_again(
    beaters: list[Beater],
) -> None:
    a, b, c = beaters
    c.one_beat()
    c.contour.run("insert into users (id) values (1)")
    a.one_beat()

    def long_silent() -> bool:
        b.one_beat()
        a.one_beat()
        a.read()
        known = a.registry()
        return known.log_seconds - known.contours["c"].last_heard > 1

    until(long_silent, "the log to go on without c", 10)
    a.one_beat(timedelta(seconds=0.9))
    a.read()
    assert a.states() == {"a": "active", "b": "active", "c": "fenced"}
    b.read()
    with pytest.raises(FatalError, match="contour c is fenced") as refused:
        c.read()
    assert "contours admit c" in str(refused.value)
    assert c.registry() == b.registry() == a.registry()
    with pytest.raises(FatalError, match="fenced"):
        c.one_beat()
    # Its windows end with it, and what it sends all the same is parked.
    on = with_settings(c.contour.settings, monitoring={"heartbeat_interval": timedelta(seconds=1)})
    with pytest.raises(FatalError, match="fenced"):
        runtime.apply(on, stop=StopToken(), length=timedelta(seconds=20))
    c.contour.publish()
    a.apply()
    assert a.contour.run("select reason from replication.parked_events") == [("fenced_contour",)]
    assert a.contour.value("select count(*) from users") == 0

    c.topic.send(encode(c.heart.admission("c")))
    for beater in beaters:
        beater.read()
        assert beater.states() == {"a": "active", "b": "active", "c": "active"}
    a.retry_parked()
    assert a.contour.value("select count(*) from users") == 1
    c.beat()
    a.read()
    assert a.registry().contours["c"].sequence == c.heart.standing().sequence


def test_an_event_of_a_fenced_contour_hides_no_other_one_of_its_key(
    beaters: list[Beater],
) -> None:
    a, b, c = beaters
    b.contour.run("insert into users (id, name) values (1, 'of b')")
    b.contour.publish()
    c.apply()
    c.contour.run("update users set name = 'of c'")
    c.contour.publish()
    c.one_beat()
    a.read()
    a.contour.run("update replication.contours set state = 'fenced'")
    a.apply()
    assert a.contour.value("select name from users") == "of b"
    assert a.contour.run("select reason from replication.parked_events") == [("fenced_contour",)]


def test_a_second_database_of_a_name_or_id_refuses_to_go_on(beaters: list[Beater]) -> None:
    a, b, c = beaters
    a.one_beat()
    for beater in (b, c):
        beater.heart.standing()
    b.contour.run("update replication.contour set id = 1")  # a's
    c.contour.run("update replication.contour set name = 'a', id = 3")
    for second in (b, c):  # connected already, as what they were
        second.one_beat()
        with pytest.raises(FatalError, match="another database takes part"):
            second.read()
        with pytest.raises(FatalError, match="another database takes part"):
            second.one_beat()
    a.read()
    assert a.states() == {"a": "active"}


def test_a_database_that_has_gone_back_in_time_has_to_be_admitted(beaters: list[Beater]) -> None:
    a, b, _ = beaters
    a.one_beat()
    a.one_beat()
    a.contour.run("update replication.heartbeat set sequence = 1")  # restored from a backup
    with pytest.raises(FatalError, match="it has never sent"):
        a.read()
    with pytest.raises(FatalError, match="it has never sent"):
        a.one_beat()
    a.topic.send(encode(a.heart.admission("a")))
    a.read()
    a.one_beat()
    b.read()
    assert b.registry().contours["a"].sequence == a.heart.standing().sequence


def test_the_skew_of_two_clocks_is_measured(beaters: list[Beater]) -> None:
    a, b, _ = beaters
    b.contour.run("select replication.install_clock(interval '2 seconds')")
    for _ in range(3):
        a.one_beat()
        b.one_beat()
    a.read()
    measured = a.contour.value("select clock_skew_seconds from replication.status")
    assert measured == pytest.approx(2, abs=0.2)
    assert skew(a.registry().contours.values()) == pytest.approx(measured)


def test_a_contour_that_misses_part_of_the_log_is_fenced(beaters: list[Beater]) -> None:
    a, b, _ = beaters
    a.one_beat()
    a.read()
    b.one_beat()
    b.one_beat()
    b.one_beat()
    b.read()
    with connect(b.contour.settings, application_name="test") as connection:
        end = connection.execute("select next_offset from replication.heartbeat_log").fetchone()
    assert end is not None
    start = a.heart.standing().next_offset  # a beat whose answer was lost is sent again
    assert start
    records, _ = insist(lambda: a.topic.read(start))
    assert [record.offset for record in records] == list(range(start, start + len(records)))
    assert len(records) >= 3
    a.heart.follow(start, records[1:], gap=True)
    assert a.states()["a"] == "fenced"


def test_beats_are_sent_and_read_by_windows_that_run(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    (a,) = make_contours(
        USERS,
        ["users"],
        count=1,
        monitoring={"heartbeat_interval": "100ms"},
        cleanup={"tombstones": 0},
    )
    a.run("insert into users (id) values (1); delete from users")
    a.publish()
    a.apply()
    with connect(a.settings, application_name="test") as connection:

        def gone() -> bool:
            a.publish()
            a.apply()
            return clean_up(connection, a.settings).tombstones == 1

        until(gone, "the tombstone of the only contour to go", 20)


def test_a_missing_topic_is_told_and_waited_out(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    (a,) = make_contours(USERS, ["users"], count=1)
    elsewhere = with_settings(a.settings, kafka={"topic_prefix": "nowhere."})
    with runtime.open_heartbeats(elsewhere) as (heart, topic):
        with pytest.raises(TransientError, match="replication_heartbeats") as told:
            topic.send(
                encode(Beat(Identity("a", 1, "00000000-0000-0000-0000-000000000000"), 1, 0, 1))
            )
        assert "setup-table" in str(told.value)
        with pytest.raises(TransientError, match="replication_heartbeats"):
            topic.read(None)
        assert heart.standing().state is None


def test_beats_are_read_on_when_the_broker_comes_back(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    """A client goes on asking with the leader's epoch that it knows, and is refused for it."""
    writer, reader = KafkaHeartbeats(users[0].settings), KafkaHeartbeats(users[0].settings)
    try:
        insist(lambda: writer.send(b"first"))
        (first,) = insist(lambda: reader.read(None))[0]
        kafka.kill()
        kafka.start()
        insist(lambda: writer.send(b"second"))
        (second,) = insist(lambda: reader.read(first.offset + 1))[0]
        assert second.offset > first.offset
        assert insist(lambda: writer.ends(["users"])) != {}
    finally:
        writer.close()
        reader.close()


def test_an_idle_beat_costs_few_statements(beaters: list[Beater]) -> None:
    a, *_ = beaters
    a.beat()
    a.read()
    counted: list[str] = []
    original = psycopg.Connection.execute

    def execute(self: psycopg.Connection, query: str, *args: object, **named: object) -> object:
        counted.append(query)
        return original(self, query, *args, **named)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", execute)
        a.one_beat()
        sending = len(counted)
        a.read()
        reading = len(counted) - sending
        a.read()
    assert sending <= 6
    assert reading <= 13
    assert len(counted) - sending - reading == 1

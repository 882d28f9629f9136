"""Kafka → tables: contours end equal, whatever is written where, in which order it arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from replication_pipeline import runtime
from replication_pipeline.domain.errors import OffsetConflictError
from replication_pipeline.domain.model import (
    BatchResult,
    Consumed,
    Message,
    PartitionAdvance,
)
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows, settle
from replication_pipeline_tests.integration.outbox import events, publisher
from replication_pipeline_tests.proxy import PoolersKeys
from replication_pipeline_tests.publishing import with_settings

pytestmark = pytest.mark.integration


def take(contour: Contour) -> list[bytes]:
    """Every waiting event as Kafka would carry it, marked as published."""
    with publisher(contour.settings, "test") as outbox:
        return [event.value for event in events(outbox)]


class Feed:
    """Hands events to a contour's inbox as if one partition of Kafka had carried them."""

    def __init__(self, contour: Contour, table: str = "users") -> None:
        self.inbox = PostgresInbox(contour.settings, f"test-{table}")
        self.topic = Topic(topic_for(table, prefix=contour.settings.kafka.topic_prefix))
        self.offset = 0

    def batch(self, values: list[bytes]) -> Consumed:
        messages = tuple(
            Message(self.topic, 0, self.offset + n, value) for n, value in enumerate(values)
        )
        end = self.offset + len(values)
        return Consumed(messages, (PartitionAdvance(self.topic, 0, self.offset, end, end),))

    def close(self) -> None:
        self.inbox.close()

    def apply(self, values: list[bytes]) -> BatchResult:
        result = self.inbox.apply(self.batch(values))
        self.offset += len(values)
        return result


MakeFeed = Callable[..., Feed]


@pytest.fixture
def feed_of() -> Iterator[MakeFeed]:
    """Feeds that are closed with the test."""
    made: list[Feed] = []

    def make(contour: Contour, table: str = "users") -> Feed:
        made.append(Feed(contour, table))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def test_writes_of_both_contours_reach_the_other(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    a.run(
        "insert into users select g, 'a' || g, null, g * 1.5, '{}', now() from generate_series(1, 50) g"
    )
    b.run("insert into users (id, name) select g, 'b' from generate_series(101, 150) g")
    settle(users, rounds=1)
    a.run("update users set name = 'from a' where id > 100")
    b.run("delete from users where id <= 20")
    settle(users, rounds=1)
    assert same_rows(users, "users")
    assert a.value("select count(*) from users") == 80
    assert b.value("select count(*) from users where name = 'from a'") == 50


def test_applied_changes_are_not_captured_again(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id) values (1); update users set name = 'x'")
    settle(users, rounds=1)
    assert b.value("select count(*) from users") == 1
    assert b.queue() == []


def role_of(feed: Feed) -> str:
    """What writes of the applier's session would be taken for now."""
    connection, _ = feed.inbox._session.connection()
    ((role,),) = connection.execute("show session_replication_role").fetchall()
    connection.rollback()
    return str(role)


def test_triggers_are_off_in_a_session_of_its_own(users: list[Contour], feed_of: MakeFeed) -> None:
    a, b = users
    a.run("insert into users (id) values (1)")
    feed = feed_of(b)
    feed.apply(take(a))
    assert role_of(feed) == "replica"
    assert b.queue() == []


def test_triggers_are_off_for_the_transaction_only_behind_a_pooler(
    users: list[Contour], feed_of: MakeFeed
) -> None:
    """It may hand the applier's session to a writer, whose changes have to be captured."""
    a, b = users
    a.run("insert into users (id) values (1)")
    server = conninfo_to_dict(b.dsn)
    with PoolersKeys(int(str(server["port"]))) as pooler:
        dsn = make_conninfo(b.dsn, port=pooler.port)
        feed = feed_of(
            replace(b, settings=with_settings(b.settings, postgres={"dsn": SecretStr(dsn)}))
        )
        for _ in range(2):
            a.run("insert into users (id) select 1 + max(id) from users")
            feed.apply(take(a))
            assert role_of(feed) == "origin"
        assert b.value("select count(*) from users") == 3
        assert b.queue() == []
        feed.close()


def test_own_events_come_home_unapplied(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, _ = users
    a.run("insert into users (id) values (1)")
    a.publish()
    totals = a.apply()
    assert (totals.own, totals.applied) == (1, 0)


def test_the_last_write_wins_in_both_orders(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id, name) values (1, 'start')")
    settle(users, rounds=1)
    a.run("update users set name = 'first'")
    b.run("update users set name = 'second'")
    settle(users, rounds=1)
    assert [c.value("select name from users") for c in users] == ["second", "second"]
    assert [c.value("select count(*) from replication_conflicts") for c in users] == [1, 1]
    assert a.value("select winner from replication_conflicts") == "incoming"
    assert b.value("select winner from replication_conflicts") == "current"


def test_a_late_event_is_no_conflict(users: list[Contour], feed_of: MakeFeed) -> None:
    a, b = users
    a.run(
        "insert into users (id) values (1); update users set name = 'x'; update users set name = 'y'"
    )
    feed = feed_of(b)
    insert, first, second = take(a)
    feed.apply([insert])
    feed.apply([second])
    result = feed.apply([first])
    assert (result.skipped, result.conflicts) == (1, 0)
    assert same_rows(users, "users")


def test_repeated_events_change_nothing(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id, name) select g, 'x' from generate_series(1, 100) g")
    a.run("delete from users where id <= 50")
    settle(users, rounds=1)
    before = b.run("select t.*, xmin from users t order by id")
    b.run("delete from replication.consumer_offsets")
    assert b.apply().duplicates == 150
    b.run("delete from replication.consumer_offsets; delete from replication.processed_events")
    totals = b.apply()
    assert (totals.applied, totals.processed) == (0, 150)
    assert b.run("select t.*, xmin from users t order by id") == before


def test_a_deleted_row_does_not_come_back(users: list[Contour], feed_of: MakeFeed) -> None:
    a, b = users
    a.run("insert into users (id) values (1); update users set name = 'x'; delete from users")
    insert, update, delete = take(a)
    feed = feed_of(b)
    for value in (delete, update, insert):
        feed.apply([value])
    assert b.value("select count(*) from users") == 0
    assert b.value("select count(*) from replication_tombstones") == 1


def test_a_local_delete_beats_an_older_update_that_arrives_later(
    users: list[Contour], feed_of: MakeFeed
) -> None:
    a, b = users
    a.run("insert into users (id) values (1)")
    feed = feed_of(b)
    feed.apply(take(a))
    a.run("update users set name = 'older'")
    b.run("delete from users")
    assert feed.apply(take(a)).skipped == 1
    assert b.value("select count(*) from users") == 0


def test_an_insert_under_way_does_not_survive_a_newer_delete(
    users: list[Contour], feed_of: MakeFeed
) -> None:
    """The delete arrives while a local insert of the key, with an older version, is not committed:
    neither sees the other. The delete is looked at again once that transaction is over."""
    a, b = users
    local = b.session()
    local.execute("insert into users (id, name) values (1, 'unseen')")
    a.run("insert into users (id) values (1); delete from users")
    feed = feed_of(b)
    feed.apply(take(a))
    local.commit()
    assert b.value("select count(*) from users") == 1
    settled = threading.Event()
    for _ in range(50):
        feed.inbox.retry_parked(10, eagerly=False)
        if b.value("select count(*) from users") == 0:
            break
        settled.wait(0.02)
    assert b.value("select count(*) from users") == 0
    assert b.value("select count(*) from replication_tombstones where unsettled") == 0


def test_an_insert_that_waited_for_a_delete_is_above_it(
    users: list[Contour], feed_of: MakeFeed
) -> None:
    """A local insert waits for a remote delete from a contour whose clock runs ahead."""
    a, b = users
    feed = feed_of(b)
    a.run("insert into users (id) values (1)")
    feed.apply(take(a))
    a.run("select replication.install_clock(interval '30 seconds'); delete from users")
    blocker = b.session()
    blocker.execute("select from users where id = 1 for key share")
    applied: list[Any] = []
    inserted = threading.Event()
    applier = threading.Thread(target=lambda: applied.append(feed.apply(take(a))))
    writer = b.session(autocommit=True)

    def insert() -> None:
        writer.execute(
            "insert into users (id, name) values (1, 'new') "
            "on conflict (id) do update set name = 'updated'"
        )
        inserted.set()

    applier.start()
    _wait_for_lock(b)
    blocker.rollback()
    inserter = threading.Thread(target=insert)
    inserter.start()
    applier.join(20)
    inserter.join(20)
    assert inserted.is_set()
    b_values = take(b)
    feed_of(a).apply(b_values)
    assert same_rows(users, "users")


def _wait_for_lock(contour: Contour) -> None:
    pause = threading.Event()
    for _ in range(500):
        if contour.value("select count(*) from pg_locks where not granted"):
            return
        pause.wait(0.01)
    pytest.fail("nobody waits for a lock")


FAMILY = """
create table parents (id bigint primary key, name text);
create table children (
  id bigint primary key, parent bigint not null references parents on delete cascade, name text
);
create table nodes (id bigint primary key, up bigint references nodes)
"""
FAMILY_TABLES = ["parents", "children", "nodes"]


def test_a_child_waits_for_its_parent(make_contours: MakeContours, feed_of: MakeFeed) -> None:
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    a.run("insert into parents values (1); insert into children values (7, 1)")
    parent, child = take(a)
    children, parents = feed_of(b, "children"), feed_of(b, "parents")
    assert children.apply([child]).parked == 1
    assert b.value("select count(*) from children") == 0
    assert b.run("select reason, detail from replication.parked_events") == [
        ("missing_parent", "children_parent_fkey")
    ]
    parents.apply([parent])
    assert parents.inbox.retry_parked(10, eagerly=True).applied == 1
    assert same_rows([a, b], "children")
    assert b.value("select count(*) from replication.parked_events") == 0


def test_an_event_at_fault_keeps_no_child_from_its_parent(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    """They are tried again together, and only one of them fails for its content."""
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    a.run("insert into parents values (1), (2)")
    a.run("insert into children values (6, 1, 'ok'), (7, 1, 'does not fit'), (8, 2, 'ok')")
    one, two, *its_children = take(a)
    children, parents = feed_of(b, "children"), feed_of(b, "parents")
    children.apply(its_children)
    b.run("alter table children alter column name type varchar(3)")
    parents.apply([one])
    assert parents.inbox.retry_parked(10, eagerly=True).applied == 1
    parents.apply([two])
    b.run(
        "update replication.parked_events set retried_at = '-infinity' where reason = 'bad_value'"
    )
    assert parents.inbox.retry_parked(10, eagerly=True).applied == 1
    assert b.run("select id from children order by id") == [(6,), (8,)]
    assert b.run("select reason from replication.parked_events") == [("bad_value",)]


def test_a_newer_event_replaces_a_parked_one(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    a.run("insert into parents values (1); insert into children values (7, 1)")
    a.run("update children set name = 'newer'")
    parent, child, newer = take(a)
    children, parents = feed_of(b, "children"), feed_of(b, "parents")
    children.apply([child])
    parents.apply([parent])
    children.apply([newer])
    children.inbox.retry_parked(10, eagerly=True)
    assert b.run("select name from children") == [("newer",)]
    assert b.value("select count(*) from replication.parked_events") == 0


def test_a_parent_is_deleted_after_its_children(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    a.run("insert into parents values (1); insert into children values (7, 1)")
    parent, child = take(a)
    children, parents = feed_of(b, "children"), feed_of(b, "parents")
    parents.apply([parent])
    children.apply([child])
    a.run("delete from parents")
    gone = {
        ("parents" if b'"table":"parents"' in value else "children"): value for value in take(a)
    }
    assert parents.apply([gone["parents"]]).parked == 1
    assert b.value("select count(*) from parents") == 1
    children.apply([gone["children"]])
    children.inbox.retry_parked(10, eagerly=True)
    assert b.run("select * from parents") == b.run("select * from children") == []


def test_a_tree_in_one_table_comes_and_goes_in_one_batch(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    a.run("insert into nodes values (1, null), (2, 1), (3, 2)")
    feed = feed_of(b, "nodes")
    grown = take(a)
    feed.apply(list(reversed(grown)))
    assert same_rows([a, b], "nodes")
    a.run("delete from nodes")
    feed.apply(take(a))
    assert b.value("select count(*) from nodes") == 0
    assert b.value("select count(*) from replication.parked_events") == 0


def test_rows_that_reference_each_other_go_together(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(
        "create table left_rows (id int primary key, other int); "
        "create table right_rows (id int primary key, other int references left_rows); "
        "alter table left_rows add foreign key (other) references right_rows",
        ["left_rows", "right_rows"],
    )
    a.run("insert into left_rows values (1, null); insert into right_rows values (1, 1)")
    a.run("update left_rows set other = 1")
    left, right = feed_of(b, "left_rows"), feed_of(b, "right_rows")
    for value in take(a):
        (left if b'"table":"left_rows"' in value else right).apply([value])
    assert same_rows([a, b], "left_rows")
    a.run("update left_rows set other = null; delete from right_rows; delete from left_rows")
    gone = [value for value in take(a) if b'"op":"d"' in value]
    messages = left.batch([gone[1]]), right.batch([gone[0]])
    if b'"table":"left_rows"' in gone[0]:
        messages = left.batch([gone[0]]), right.batch([gone[1]])
    left.inbox.apply(
        Consumed(
            messages[0].messages + messages[1].messages,
            messages[0].advances + messages[1].advances,
        )
    )
    assert b.run("select 1 from left_rows union all select 1 from right_rows") == []
    assert b.value("select count(*) from replication.parked_events") == 0


def test_a_delete_does_not_settle_on_a_row_with_children(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(FAMILY, FAMILY_TABLES)
    local = b.session()
    local.execute("insert into parents values (1, 'unseen')")
    local.execute("insert into children values (7, 1)")
    a.run("insert into parents values (1); delete from parents")
    parents = feed_of(b, "parents")
    parents.apply(take(a))
    local.commit()
    for _ in range(5):
        parents.inbox.retry_parked(10, eagerly=False)
    orphans = (
        "select count(*) from children c where not exists (select from parents where id = c.parent)"
    )
    assert b.value(orphans) == 0
    b.run("delete from children")
    for _ in range(5):
        parents.inbox.retry_parked(10, eagerly=False)
    assert b.value("select count(*) from parents") == 0


ODD = """
create domain named as text not null;
create table "odd %s" (
  i inet, c text, r int, "100%" int primary key, s named, version int, seq text, excluded text,
  serial int generated always as identity, doubled int generated always as (r * 2) stored
)
"""


def test_columns_may_be_called_anything_and_be_made_by_the_database(
    make_contours: MakeContours, feed_of: MakeFeed
) -> None:
    a, b = make_contours(ODD, ["odd %s"])
    a.app.execute("insert into \"odd %s\" (i, c, r, \"100%\", s) values ('::1', 'x', 4, 1, 'n')")
    b_feed = feed_of(b, "odd %s")
    b_feed.apply(take(a))
    a.app.execute("update \"odd %s\" set r = 5, s = 'm'")
    b.app.execute('update "odd %s" set r = 6')
    b_feed.apply(take(a))
    feed_of(a, "odd %s").apply(take(b))
    assert same_rows([a, b], '"odd %s"')
    assert a.value("select count(*) from replication_conflicts") == 1
    a.app.execute('delete from "odd %s"')
    b_feed.apply(take(a))
    assert b.app.execute('select count(*) from "odd %s"').fetchone() == (0,)
    assert b.value("select count(*) from replication.parked_events") == 0


def test_an_offset_is_made_only_from_the_beginning(users: list[Contour], feed_of: MakeFeed) -> None:
    a, b = users
    a.run("insert into users (id) values (1)")
    feed = feed_of(b)
    feed.offset = 500
    with pytest.raises(OffsetConflictError):
        feed.apply(take(a))
    assert b.value("select count(*) from users") == 0


def test_families_from_both_sides_are_equal_in_the_end(
    make_contours: MakeContours, kafka: EmbeddedKafka
) -> None:
    contours = make_contours(FAMILY, FAMILY_TABLES)
    for number, contour in enumerate(contours):
        base = number * 1000
        contour.run(f"insert into parents select {base} + g from generate_series(1, 300) g")
        contour.run(
            f"insert into children select {base} + g, {base} + g from generate_series(1, 300) g"
        )
        contour.run(f"delete from parents where id between {base} + 10 and {base} + 20")
    settle(contours, rounds=2)
    for table in ("parents", "children"):
        assert same_rows(contours, table)
        assert contours[0].value(f"select count(*) from {table}") == 578
    assert all(c.value("select count(*) from replication.parked_events") == 0 for c in contours)


def test_a_consumer_that_lost_its_partition_writes_nothing(
    users: list[Contour], feed_of: MakeFeed
) -> None:
    a, b = users
    a.run("insert into users (id) values (1), (2)")
    first, second = take(a)
    zombie, owner = feed_of(b), feed_of(b)
    owner.apply([first, second])
    b.run("delete from users")
    with pytest.raises(OffsetConflictError):
        zombie.apply([first])
    assert b.value("select next_offset from replication.consumer_offsets") == 2
    assert b.value("select count(*) from users") == 0


GARBAGE = [
    b"not json",
    b"{}",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b'{"source":{},"op":"t"}',
    b" ",
    b"{},{}",
    b"{\x00}",
    b'{"source":{"contour":"x","event_id":"no uuid","row_version":"1"},"op":"c","after":{"id":1}}',
    b'{"source":{"contour":"x","event_id":"7d444840-9dc0-11d1-b245-5ffdce74fad2"},"op":"c"}',
]


def test_garbage_is_parked_and_the_rest_goes_on(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id) select generate_series(1, 20)")
    a.publish()
    topic = topic_for("users", prefix=a.settings.kafka.topic_prefix)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for garbage in [*GARBAGE, None]:
        producer.produce(topic, garbage, b"key")
    assert producer.flush(20) == 0
    a.run("insert into users (id) select generate_series(21, 40)")
    a.publish()
    totals = b.apply()
    assert (totals.applied, totals.parked) == (40, len(GARBAGE) + 1)
    parked = {event for (event,) in b.run("select event from replication.parked_events")}
    assert parked == {*GARBAGE, b""}
    again = b.apply()
    assert (again.processed, again.parked) == (0, 0)


def test_a_value_that_does_not_fit_parks_its_event_until_it_does(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    b.run("alter table users alter column name type varchar(3)")
    a.run("insert into users (id, name) values (1, 'ok'), (2, 'too long'), (3, 'ok')")
    a.publish()
    assert b.apply().applied == 2
    ((reason, detail),) = b.run("select reason, detail from replication.parked_events")
    assert reason == "bad_value"
    assert "too long" not in detail.replace("too_long", "").replace("value too long", "")
    b.run("alter table users alter column name type text")
    b.run("update replication.parked_events set retried_at = now() - interval '1 hour'")
    b.apply()
    assert same_rows([a, b], "users") or b.value("select count(*) from users") == 3
    assert b.value("select count(*) from replication.parked_events") == 0


def test_an_unknown_column_waits_for_the_migration(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    a.run("alter table users add column extra int")
    a.run("insert into users (id, extra) values (1, 5)")
    a.publish()
    assert b.apply().parked == 1
    assert b.run("select reason, detail from replication.parked_events") == [
        ("unknown_column", "extra")
    ]
    b.run("alter table users add column extra int")
    b.run("update replication.parked_events set retried_at = now() - interval '1 hour'")
    b.apply()
    assert b.run("select id, extra from users") == [(1, 5)]


def test_a_missing_column_keeps_its_local_value(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id) values (1)")
    settle(users, rounds=1)
    b.run("alter table users add column extra int default 5")
    b.run("update users set extra = 6")
    a.run("update users set name = 'x' where id = 1; insert into users (id) values (2)")
    a.publish()
    b.apply()
    assert b.run("select id, name, extra from users order by id") == [(1, "x", 6), (2, None, 5)]


def test_events_from_the_future_are_held(users: list[Contour], feed_of: MakeFeed) -> None:
    a, b = users
    a.run("select replication.install_clock(interval '1 hour'); insert into users (id) values (1)")
    feed = feed_of(b)
    assert feed.apply(take(a)).parked == 1
    assert b.value("select reason from replication.parked_events") == "clock_skew"
    assert b.value("select count(*) from users") == 0


def test_user_triggers_do_not_alter_applied_rows(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    b.run(
        "create function touch() returns trigger language plpgsql as "
        "$$ begin new.name := 'touched'; return new; end $$; "
        "create trigger touch before insert or update on users for each row execute function touch()"
    )
    a.run("insert into users (id, name) values (1, 'untouched')")
    settle(users, rounds=1)
    assert same_rows(users, "users")


def test_a_batch_too_slow_for_the_timeouts_gets_through_in_parts(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    b.run(
        "create function slow() returns boolean language plpgsql as "
        "$$ begin perform pg_sleep(0.1); return true; end $$; "
        "alter table users add check (slow())"
    )
    a.run("insert into users (id) select generate_series(1, 24)")
    a.publish()
    hasty = with_settings(b.settings, postgres={"statement_timeout": timedelta(milliseconds=500)})
    totals = Contour(hasty, b.app, b.dsn).apply()
    assert totals.applied == 24
    assert totals.retries > 0
    assert totals.batches > 1


def test_a_second_applier_takes_over(users: list[Contour], kafka: EmbeddedKafka) -> None:
    a, b = users
    a.run("insert into users (id) select generate_series(1, 500)")
    a.publish()
    stop = StopToken()
    workers = [
        threading.Thread(
            target=runtime.apply,
            args=(b.settings,),
            kwargs={"stop": stop, "length": timedelta(seconds=60)},
        )
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    pause = threading.Event()
    for _ in range(600):
        if b.value("select count(*) from users") == 500:
            break
        pause.wait(0.05)
    stop.set()
    for worker in workers:
        worker.join(30)
    assert same_rows(users, "users")
    assert b.value("select sum(applied) from replication.workers") == 500

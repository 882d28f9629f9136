"""The queue's ring of partitions: it turns, it empties itself, and no event is lost on the way."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from replication_pipeline.postgres.cleanup import CleanupResult, clean_up
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.parked import retry_parked
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import (
    Shared,
    assert_queue_tells,
    setup,
)
from replication_pipeline_tests.integration.outbox import drain, publisher
from replication_pipeline_tests.publishing import until, with_settings

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, name text)"
RING_PUBLISHER = "ring_publisher"


@pytest.fixture
def items(shared: Shared) -> Iterator[Contour]:
    """One table, and a ring that begins with partition 0."""
    shared.contour.run("update replication.queue_ring set active_slot = 0, active_since = now()")
    yield shared(ITEMS, ["items"])
    shared.empty()
    shared.contour.run("delete from replication.workers")


def active(contour: Contour) -> int:
    slot = contour.value("select active_slot from replication.queue_ring")
    assert isinstance(slot, int)
    return slot


def age_ring(contour: Contour, age: str = "4 days") -> None:
    contour.run("update replication.queue_ring set active_since = now() - %s::interval", age)


def rotate(contour: Contour) -> int:
    removed = contour.value("select replication.rotate_queue('7 days')")
    assert isinstance(removed, int)
    return removed


def turn(contour: Contour) -> None:
    """To the next partition."""
    slot = active(contour)
    age_ring(contour)
    rotate(contour)
    assert active(contour) == (slot + 1) % 4


def finish(contour: Contour, where: str = "true", age: str = "8 days") -> None:
    """Published so long ago."""
    contour.run(
        "update replication_queue set published = true, published_at = now() - %s::interval, "
        f"parked_at = null where {where}",
        age,
    )


def slots(contour: Contour) -> dict[int, list[int]]:
    """The ids of the rows whose events lie in each partition, in queue order."""
    found: dict[int, list[int]] = defaultdict(list)
    for slot, key in contour.run(
        "select ring_slot, (record_key::json->>'id')::bigint from replication_queue order by id"
    ):
        found[slot].append(key)
    assert contour.value(
        "select coalesce(bool_and(tableoid = ('replication_queue_' || ring_slot)::regclass), true) "
        "from replication_queue"
    )
    return dict(found)


def insert(contour: Contour, *ids: int) -> None:
    contour.run("insert into items (id) select unnest(%s::bigint[])", list(ids))


def test_capture_writes_into_the_active_partition(items: Contour) -> None:
    insert(items, 1, 2)
    items.run("update items set name = 'x' where id = 1")
    items.run("delete from items where id = 2")
    assert slots(items) == {0: [1, 2, 1, 2]}


def test_the_ring_turns_at_half_the_retention(items: Contour) -> None:
    age_ring(items, "3 days 11 hours")
    rotate(items)
    assert active(items) == 0
    age_ring(items, "3 days 13 hours")
    rotate(items)
    assert active(items) == 1
    rotate(items)
    assert active(items) == 1, "a partition that has just become active stays so"
    insert(items, 1)
    assert slots(items) == {1: [1]}


def test_sessions_with_warm_plans_follow_the_turn(items: Contour) -> None:
    sessions = [items.session(autocommit=True, prepare_threshold=0) for _ in range(2)]

    def write(start: int) -> None:
        for number, session in enumerate(sessions):
            for id_ in range(start + number * 10, start + number * 10 + 8):  # generic plans from 6
                session.execute("insert into items (id) values (%s)", (id_,))
                session.execute("update items set name = 'x' where id = %s", (id_,))
                session.execute("delete from items where id = %s", (id_,))

    write(100)
    turn(items)
    write(200)
    turn(items)
    write(300)
    found = slots(items)
    assert sorted(found) == [0, 1, 2]
    assert all({id_ // 100 for id_ in found[slot]} == {slot + 1} for slot in found)
    assert [len(ids) for ids in found.values()] == [48, 48, 48]
    assert_queue_tells(items, "items")


def test_every_way_of_capture_follows_the_turn(items: Contour) -> None:
    """Rows too large for the compiled statement, TRUNCATE, a changed and a new table."""
    items.run("create table emptied (id bigint primary key)")
    setup(items, "emptied", capture_truncate=True)
    items.run("insert into emptied values (1)")
    turn(items)
    items.run("truncate emptied")
    items.run("insert into items values (2, repeat('x', 300000))")
    items.run("alter table items add column more integer")
    insert(items, 3)
    items.run("create table later (id bigint primary key)")
    setup(items, "later")
    items.run("insert into later values (4)")
    assert slots(items) == {0: [1], 1: [1, 2, 3, 4]}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_transaction_that_spans_the_turn_loses_nothing(items: Contour, isolation: str) -> None:
    insert(items, 1)
    finish(items)
    writer = items.session(autocommit=True)
    writer.execute(f"begin isolation level {isolation}")
    writer.execute("insert into items (id) values (2)")
    turn(items)
    writer.execute("insert into items (id) values (3)")
    insert(items, 4)
    rotate(items)  # the partition is still written to
    writer.execute("commit")
    rotate(items)
    found = slots(items)
    assert {2, 3, 4} <= set(found[0]) | set(found[1])
    assert 2 in found[0]
    assert found[1][-1] == 4
    with publisher(items.settings) as outbox:
        assert sorted(key for _, key in drain(outbox)) == ['{"id":2}', '{"id":3}', '{"id":4}']


def test_a_full_round(items: Contour) -> None:
    for number in range(9):
        assert active(items) == number % 4
        insert(items, number)
        finish(items, f"record_key = '{{\"id\":{number}}}'")
        turn(items)
    assert slots(items) == {0: [8]}, "each turn empties what was finished before it"
    rotate(items)
    assert slots(items) == {}
    insert(items, 9)
    assert slots(items) == {1: [9]}
    assert items.value("select id from replication_queue") == items.value(
        "select last_value from replication.replication_queue_id_seq"
    )


def test_a_finished_partition_is_emptied(items: Contour) -> None:
    items.run("insert into items (id) select generate_series(1, 1000)")
    finish(items)
    items.run("analyze replication_queue_0")
    assert rotate(items) == 0, "the active partition stays"
    turn(items)
    assert rotate(items) == 1000
    assert items.value("select pg_relation_size('replication_queue_0')") == 0


@pytest.mark.parametrize(
    "state",
    [
        "published = false, published_at = null",
        "published = false, published_at = null, held = true, parked_at = now() - interval '30 days'",
        "published_at = now() - interval '6 days'",
    ],
    ids=["waiting", "parked", "published lately"],
)
def test_a_partition_that_is_still_needed_is_not_emptied(items: Contour, state: str) -> None:
    insert(items, *range(50))
    finish(items)
    turn(items)
    items.run(f"update replication_queue set {state} where record_key = '{{\"id\":49}}'")
    assert rotate(items) == 0
    assert slots(items) == {0: list(range(50))}


def test_the_ring_waits_while_the_next_partition_is_not_empty(items: Contour) -> None:
    insert(items, 1)
    for _ in range(3):
        turn(items)
    for _ in range(2):
        age_ring(items)
        rotate(items)
        assert active(items) == 3
    insert(items, 2)
    finish(items, "ring_slot = 0")
    rotate(items)
    assert active(items) == 0
    insert(items, 3)
    assert slots(items) == {3: [2], 0: [3]}


def test_a_locked_partition_is_left_for_the_next_time(items: Contour) -> None:
    """A publisher in the middle of a claim, say. Others wait for the cleanup 0.2 s at most."""
    insert(items, 1)
    finish(items)
    turn(items)
    claiming = items.session()
    claiming.execute("select from replication_queue limit 1")
    items.run("set statement_timeout = '3s'")
    age_ring(items)
    assert rotate(items) == 0
    assert slots(items) == {0: [1]}
    assert active(items) == 2, "only the emptying is put off"
    claiming.rollback()
    rotate(items)
    assert slots(items) == {}


def test_a_second_cleanup_leaves_the_ring_to_the_first(items: Contour) -> None:
    age_ring(items)
    first = items.session()
    first.execute("select replication.rotate_queue('7 days')")
    items.run("set statement_timeout = '3s'")
    assert rotate(items) == 0
    first.commit()
    assert active(items) == 1
    rotate(items)
    assert active(items) == 1


def test_two_cleanups_at_once(items: Contour) -> None:
    """Nothing is removed twice, nothing fails, the ring turns once."""
    items.run("insert into items (id) select generate_series(1, 2000)")
    finish(items, "record_key <> '{\"id\":7}'")
    age_ring(items)
    settings = with_settings(items.settings, cleanup={"batch_size": 100})
    both = threading.Barrier(2, timeout=30)
    results: list[CleanupResult] = []

    def clean() -> None:
        with connect(settings, application_name="cleanup") as connection:
            both.wait()
            results.append(clean_up(connection, settings))

    threads = [threading.Thread(target=clean) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert active(items) == 1
    # A batch that meets the other's locks may end early; the next cleanup takes the rest.
    with connect(settings, application_name="cleanup") as connection:
        results.append(clean_up(connection, settings))
    assert len(results) == 3
    assert sum(result.published for result in results) == 1999
    assert slots(items) == {0: [7]}


def test_the_plain_statement_removes_from_all_partitions(items: Contour) -> None:
    for number in range(4):
        insert(items, number * 10, number * 10 + 1, number * 10 + 2)
        if number < 3:
            turn(items)
    finish(items, "mod((record_key::json->>'id')::int, 10) = 0")
    finish(items, "mod((record_key::json->>'id')::int, 10) = 1", "6 days")
    deleted = items.app.execute(
        "DELETE FROM replication_queue WHERE published AND published_at < now() - interval '7 days'"
    )
    assert deleted.rowcount == 4
    assert slots(items) == {number: [number * 10 + 1, number * 10 + 2] for number in range(4)}


def test_rows_are_deleted_where_a_partition_cannot_be_emptied(items: Contour) -> None:
    """From the active partition and from one with a waiting row, in batches; else TRUNCATE will."""
    insert(items, 1, 2, 3, 4)
    turn(items)
    insert(items, 11, 12, 13)
    turn(items)
    insert(items, 21, 22, 23)
    finish(items, "record_key not in ('{\"id\":4}', '{\"id\":23}')")
    finish(items, "record_key = '{\"id\":23}'", "6 days")
    removed: list[int] = []
    while not removed or removed[-1]:
        removed.append(items.value("select replication.remove_published('7 days', 2)"))
    assert removed == [2, 2, 1, 0]
    assert slots(items) == {0: [4], 1: [11, 12, 13], 2: [23]}


@pytest.fixture
def as_publisher(items: Contour) -> Iterator[Settings]:
    """Settings that log in as a mere member of replication_publisher."""
    items.run(f"create role {RING_PUBLISHER} login in role replication_publisher")
    try:
        yield Settings(
            contour=items.settings.contour.model_dump(),
            postgres={"dsn": items.dsn, "user": RING_PUBLISHER},
            kafka={"bootstrap_servers": "unused:1"},
        )
    finally:
        # A session takes its temporary functions with it only when its server process has ended.
        sessions = "select count(*) from pg_stat_activity where usename = %s"
        until(lambda: items.value(sessions, RING_PUBLISHER) == 0, "its sessions to end")
        items.run(f"drop role {RING_PUBLISHER}")


def test_cleaning_up_needs_no_more_than_the_publishers_rights(
    items: Contour, as_publisher: Settings
) -> None:
    insert(items, 1)
    finish(items)
    turn(items)
    insert(items, 2, 3)
    finish(items, "record_key = '{\"id\":2}'")
    items.run("analyze replication_queue_0, replication_queue_1")
    age_ring(items)
    with connect(as_publisher, application_name="cleanup") as connection:
        assert connection.info.user == RING_PUBLISHER
        assert clean_up(connection, as_publisher).published == 2
    insert(items, 4)
    items.run("update items set name = 'x' where id = 4")
    assert slots(items) == {1: [3], 2: [4, 4]}
    assert items.value(
        "select count(*) from pg_proc where pronamespace = 'replication'::regnamespace "
        "and proname ~ '^capture_[0-9]+$' and proowner <> 'replication_owner'::regrole"
    ) == 0  # fmt: skip


def test_publishing_needs_no_more_than_the_publishers_rights(
    items: Contour, as_publisher: Settings
) -> None:
    insert(items, 1, 2)
    turn(items)
    insert(items, 3)
    with publisher(as_publisher) as outbox:
        assert [key for _, key in drain(outbox)] == ['{"id":1}', '{"id":2}', '{"id":3}']


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_keys_events_are_published_in_order_over_partitions(items: Contour, limit: int) -> None:
    insert(items, *range(20))
    for _ in range(3):
        items.run("update items set name = concat(name, 'x')")
        turn(items)
    items.run("update items set name = 'last'")
    assert sorted(slots(items)) == [0, 1, 2, 3]
    with publisher(items.settings) as outbox:
        claimed = drain(outbox, limit)
    of_key: dict[str, list[int]] = defaultdict(list)
    for id_, key in claimed:
        of_key[key].append(id_)
    assert len(of_key) == 20
    assert all(len(ids) == 5 and ids == sorted(ids) for ids in of_key.values())


def test_a_fence_holds_over_partitions(items: Contour) -> None:
    insert(items, 1, 2)
    items.run(
        "update replication_queue set parked_at = now(), held = true "
        "where record_key = '{\"id\":1}'"
    )
    turn(items)
    items.run("update items set name = 'x'")
    with publisher(items.settings) as outbox:
        assert {key for _, key in drain(outbox)} == {'{"id":2}'}
        assert drain(outbox) == []
        assert retry_parked(items.app, "publish") == 1
        assert [key for _, key in drain(outbox)] == ['{"id":1}', '{"id":1}']


def test_status_counts_over_partitions(items: Contour) -> None:
    for number in range(4):
        insert(items, number * 10, number * 10 + 1, number * 10 + 2)
        if number < 3:
            turn(items)
    finish(items, "mod((record_key::json->>'id')::int, 10) = 0")
    items.run(
        "update replication_queue set parked_at = now(), created_at = now() - interval '1 hour' "
        "where record_key = '{\"id\":21}'"
    )
    ((unpublished, parked, oldest),) = items.run(
        "select unpublished, parked_publish, oldest_unpublished_seconds from replication.status"
    )
    assert (unpublished, parked) == (8, 1)
    assert oldest >= 3600
    assert items.value("SELECT COUNT(*) FROM replication_queue WHERE published = FALSE") == 8


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_others_write_while_the_ring_turns(items: Contour, ending: str) -> None:
    """They wait for nothing. A rolled-back rotation leaves everything as it was."""
    insert(items, 1)
    finish(items)
    turn(items)
    age_ring(items)
    rotating = items.session(autocommit=True)
    rotating.execute("begin")
    rotating.execute("select replication.rotate_queue('7 days')")
    items.run("set statement_timeout = '3s'")
    insert(items, 2)
    rotating.execute(ending)
    insert(items, 3)
    if ending == "commit":
        assert slots(items) == {1: [2], 2: [3]}
    else:
        assert active(items) == 1
        assert slots(items) == {0: [1], 1: [2, 3]}


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
def test_an_event_that_commits_while_its_partition_is_being_emptied_stays(
    items: Contour, default: str
) -> None:
    """TRUNCATE takes what no snapshot shows: the last look must be younger than the lock."""
    insert(items, 1)
    finish(items)
    writer = items.session()
    writer.execute("insert into items (id) values (2)")
    turn(items)
    database = items.app.info.dbname
    items.run(f"alter database {database} set default_transaction_isolation = '{default}'")
    try:
        with connect(items.settings, application_name="cleanup") as connection:
            _while_waiting(items, connection, writer.commit)
    finally:
        items.run(f"alter database {database} reset default_transaction_isolation")
    assert slots(items) == {0: [1, 2]}


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_nor_is_it_lost_to_a_caller_with_an_old_snapshot(items: Contour, isolation: str) -> None:
    insert(items, 1)
    finish(items)
    writer = items.session()
    writer.execute("insert into items (id) values (2)")
    turn(items)
    rotating = items.session(autocommit=True)
    rotating.execute(f"set default_transaction_isolation = '{isolation}'")
    with contextlib.suppress(psycopg.errors.FeatureNotSupported):
        _while_waiting(items, rotating, writer.commit)
    writer.commit()
    assert slots(items) == {0: [1, 2]}


def _while_waiting(contour: Contour, connection: psycopg.Connection[Any], act: Any) -> None:
    """Rotate through ``connection``, and ``act`` while it waits for its lock."""
    failed: list[psycopg.Error] = []
    pid = connection.info.backend_pid
    connection.execute("set statement_timeout = '30s'")

    def rotation() -> None:
        try:
            connection.execute("select replication.rotate_queue('7 days')")
        except psycopg.Error as error:
            failed.append(error)

    # The function's own patience would make this a race.
    contour.run("alter function replication.rotate_queue set lock_timeout = '20s'")
    try:
        thread = threading.Thread(target=rotation)
        thread.start()
        waits = "select count(*) from pg_locks where pid = %s and not granted"
        while thread.is_alive() and not contour.value(waits, pid):
            pass
        act()
        thread.join(30)
    finally:
        contour.run("alter function replication.rotate_queue set lock_timeout = '200ms'")
    assert not thread.is_alive()
    if failed:
        raise failed[0]

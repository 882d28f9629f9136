"""The publisher's floors: they spare dead index entries, and never hide a row that waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from replication_pipeline.domain.model import Part
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.outbox import LARGE, SQL, PostgresOutbox
from replication_pipeline.postgres.parked import retry_parked
from replication_pipeline.postgres.shards import SHARDS
from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.costs import costs_no_more
from replication_pipeline_tests.integration.history import Shared, contour_in
from replication_pipeline_tests.integration.outbox import drain, due, publisher, settle
from replication_pipeline_tests.publishing import with_settings

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, name text)"
DEEP = 20_000


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[Shared]:
    with contour_in(postgres, templates["a"], "low_water") as contour:
        # A refused event is parked at once.
        contour.settings = with_settings(contour.settings, publisher={"max_attempts": 1})
        yield Shared(contour)


@pytest.fixture
def items(shared: Shared) -> Iterator[Contour]:
    yield shared(ITEMS, ["items"])
    for (prepared,) in shared.contour.run(  # a failed test's locks would hold the next ones up
        "select gid from pg_prepared_xacts where database = current_database()"
    ):
        shared.contour.run(f"rollback prepared '{prepared}'")
    shared.empty()
    shared.contour.run("delete from replication.workers")


@pytest.fixture
def outbox(items: Contour) -> Iterator[PostgresOutbox]:
    with publisher(items.settings) as outbox:
        yield outbox


def insert(contour: Contour, *ids: int) -> None:
    contour.run("insert into items (id) select unnest(%s::bigint[])", list(ids))


def last_id(contour: Contour) -> int:
    id_ = contour.value("select last_value from replication.replication_queue_id_seq")
    assert isinstance(id_, int)
    return id_


def floors(outbox: PostgresOutbox) -> dict[int, int]:
    return dict(outbox._low_water.floors)


def raise_floors(contour: Contour, outbox: PostgresOutbox, to: int | None = None) -> None:
    """Idle claims until the floors of shards where nothing waits reach ``to``, or the last id.

    They wait for every transaction of the server that began before.
    """
    goal = last_id(contour) if to is None else to
    pause = threading.Event()
    for _ in range(1000):
        due(outbox)
        assert outbox.claim(1000) is None
        if max(floors(outbox).values()) >= goal:
            return
        pause.wait(0.01)
    pytest.fail("the floors stay where they are")


def test_floors_rise_to_what_is_published(items: Contour, outbox: PostgresOutbox) -> None:
    insert(items, *range(100))
    assert set(floors(outbox).values()) == {0}
    assert len(drain(outbox)) == 100
    raise_floors(items, outbox)
    assert set(floors(outbox).values()) == {last_id(items)}
    insert(items, *range(100, 200))
    assert len(drain(outbox, 30)) == 100


def test_floors_stay_below_what_waits(items: Contour, outbox: PostgresOutbox) -> None:
    """Every shard for itself, at each step of a slow publisher."""
    insert(items, *range(200))
    left = 200
    while left:
        due(outbox)
        claim = outbox.claim(20)
        assert claim is not None
        settle(outbox, claim)
        left -= len(claim.events)
        waiting = dict(
            items.run("select shard, min(id) from replication_queue where not published group by 1")
        )
        assert all(floors(outbox)[shard] < first for shard, first in waiting.items())


@pytest.mark.parametrize("how", ["plain", "savepoint", "prepared"])
def test_an_id_that_commits_late_is_claimed(
    items: Contour, outbox: PostgresOutbox, how: str
) -> None:
    """Its transaction drew it before others that have been published since."""
    late = items.session(autocommit=True)
    late.execute("begin")
    if how == "savepoint":
        late.execute("savepoint a")
    late.execute("insert into items (id) values (1)")
    drawn = last_id(items)
    if how == "savepoint":
        late.execute("savepoint b")
    if how == "prepared":
        late.execute("prepare transaction 'late'")
        late.close()
    for id_ in range(100, 150):
        insert(items, id_)
    assert len(drain(outbox, 7)) == 50
    for _ in range(3):
        due(outbox)
        assert outbox.claim(1000) is None
    assert max(floors(outbox).values()) < drawn
    if how == "prepared":
        items.run("commit prepared 'late'")
    else:
        late.execute("commit")
    assert drain(outbox) == [(drawn, '{"id":1}')]
    raise_floors(items, outbox)


def test_the_very_first_event_of_a_queue_is_claimed(items: Contour, outbox: PostgresOutbox) -> None:
    """A publisher that was there before it does not take its id for one that is over."""
    items.run("alter sequence replication.replication_queue_id_seq restart")
    for _ in range(4):
        assert outbox.claim(10) is None
        due(outbox)
    insert(items, 1)
    assert [id_ for id_, _ in drain(outbox)] == [1]


def test_an_id_that_is_rolled_back_holds_nothing_up(items: Contour, outbox: PostgresOutbox) -> None:
    late = items.session()
    late.execute("insert into items (id) values (1)")
    insert(items, 2)
    assert len(drain(outbox)) == 1
    late.rollback()
    raise_floors(items, outbox)


def test_a_parked_row_pins_its_floor(items: Contour, outbox: PostgresOutbox) -> None:
    insert(items, 1)
    items.run("update items set name = 'second'")
    claim = outbox.claim(1000)
    assert claim is not None
    parked, fenced = (event.id for event in claim.events)
    settle(outbox, claim, parked)
    insert(items, *range(100, 200))
    items.run("update items set name = 'third' where id = 1")
    third = last_id(items)
    assert len(drain(outbox)) == 100
    raise_floors(items, outbox)
    shard = items.value("select shard from replication_queue where id = %s", parked)
    assert floors(outbox)[shard] < parked
    assert min(floor for of, floor in floors(outbox).items() if of != shard) == last_id(items)
    with connect(items.settings, application_name="test") as connection:
        assert retry_parked(connection, "publish") == 1
    assert [id_ for id_, _ in drain(outbox)] == [parked, fenced, third]
    raise_floors(items, outbox)
    assert floors(outbox)[shard] == last_id(items)


def test_a_row_set_back_by_hand_is_published_when_the_floors_are_forgotten(
    items: Contour, outbox: PostgresOutbox
) -> None:
    insert(items, 1, 2)
    drain(outbox)
    raise_floors(items, outbox)
    items.run(
        "update replication_queue set published = false, published_at = null "
        "where record_key = '{\"id\":1}'"
    )
    due(outbox)
    assert outbox.claim(1000) is None, "half a minute's delay is the price"
    outbox._low_water._next_forget = 0.0
    due(outbox)
    assert [key for _, key in drain(outbox)] == ['{"id":1}']


def test_a_floor_crosses_partitions(items: Contour, outbox: PostgresOutbox) -> None:
    late = items.session()
    late.execute("insert into items (id) values (1)")
    drawn = last_id(items)
    items.run("update replication.queue_ring set active_since = now() - interval '30 days'")
    items.run("select replication.rotate_queue('7 days')")
    insert(items, *range(2, 50))
    slots = "select count(distinct ring_slot) from replication_queue"
    assert items.value(slots) == 1
    assert len(drain(outbox)) == 48
    late.commit()
    assert items.value(slots) == 2
    assert drain(outbox) == [(drawn, '{"id":1}')]
    raise_floors(items, outbox)


def test_a_row_parked_by_another_publisher_fences_at_once(items: Contour) -> None:
    """Between the look at the queue and the locks on its shards another one parks a row."""

    class Overtaken(PostgresOutbox):
        def _lock_shards(self, connection: psycopg.Connection, part: Part) -> None:
            if not parked:
                parked.append(mine.events[0].id)
                settle(other, mine, *parked)
            self._share = SHARDS
            PostgresOutbox._lock_shards(self, connection, part)

    parked: list[int] = []
    insert(items, 1)
    outbox = Overtaken(items.settings, "second")
    try:
        with publisher(items.settings, "first") as other:
            claim = other.claim(1000)
            assert claim is not None
            mine = claim
            items.run("update items set name = 'later'")
            fenced = outbox.claim(1000)
            assert fenced is not None
            assert fenced.events == [], "it has overtaken the parked row of its key"
            assert len(fenced.fenced) == 1
            assert parked
    finally:
        outbox.close()


def test_publishers_see_each_statement_by_itself_whatever_the_default(items: Contour) -> None:
    """Locks first, then a snapshot: under another isolation level neither order nor floors hold."""
    database = items.app.info.dbname
    items.run(f"alter database {database} set default_transaction_isolation = 'serializable'")
    try:
        with connect(items.settings, application_name="test") as connection:
            assert connection.execute("show transaction_isolation").fetchone() == (
                "read committed",
            )
    finally:
        items.run(f"alter database {database} reset default_transaction_isolation")


@pytest.mark.costs
def test_a_claim_does_not_walk_over_dead_entries(items: Contour, outbox: PostgresOutbox) -> None:
    """While an old snapshot keeps vacuum away, floors make a claim's cost that of its own rows."""
    reader = items.session()
    reader.execute("begin isolation level repeatable read")
    reader.execute("select count(*) from items")
    items.run("insert into items (id) select generate_series(1, %s)", DEEP)
    assert len(drain(outbox, 5000)) == DEEP
    raise_floors(items, outbox)
    insert(items, DEEP + 1)
    high = floors(outbox)
    with_floors = _buffers(outbox, [high[shard] for shard in range(SHARDS)])
    without = _buffers(outbox, [0] * SHARDS)
    reader.rollback()
    costs_no_more("claim_pages_beside_an_old_snapshot", with_floors)
    assert without > 10 * with_floors


def _buffers(outbox: PostgresOutbox, floors: list[int]) -> int:
    """Pages that the two statements of a claim touch. Each is run once before, to plan it."""
    connection, _ = outbox._session.connection()
    shards = list(range(SHARDS))
    parameters: dict[str, Any] = {"shards": shards, "floors": floors}
    total = 0
    for name, more in (
        ("anything_waiting", {}),
        (
            "claim",
            {
                "limit": 500,
                "each": 500,
                "large": LARGE,
                "in_hand": [],
                "seen": None,
                "heads": "{}",
                "sent": 0,
            },
        ),
    ):
        for _ in range(2):
            row = connection.execute(
                "explain (analyze, buffers, format json) " + SQL[name], parameters | more
            ).fetchone()
            connection.rollback()
        assert row is not None
        plan = row[0][0]["Plan"]
        total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return total

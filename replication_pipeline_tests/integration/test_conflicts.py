"""Concurrent writes: what lost is kept, with both images; what is merely old is no conflict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.commands import call
from replication_pipeline_tests.integration.test_apply import Feed, take

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, note text, amount numeric, doc jsonb)"


class Case(NamedTuple):
    """What a and b do to one row without knowing of each other; b is the later one.

    ``start``: whether the row was there before, in all contours. ``reasons`` are those recorded in
    each of the contours; ``batched`` are those of c when all comes in one batch.
    """

    name: str
    start: bool
    a: tuple[str, ...]
    b: tuple[str, ...]
    at_a: tuple[str, ...]
    at_b: tuple[str, ...]
    at_c: tuple[str, ...]
    batched: tuple[str, ...]


INSERT: Final = "insert into items values ({id}, '{who}', 1.10, 'null')"
UPDATE: Final = "update items set note = '{who}' where id = {id}"
AGAIN: Final = "update items set note = '{who} again' where id = {id}"
DELETE: Final = "delete from items where id = {id}"
NOTHING: Final = ()

CASES: Final = (
    Case("update, update", True, (UPDATE,), (UPDATE,), *(("update_update",),) * 4),
    Case("update, delete", True, (UPDATE,), (DELETE,), *(("update_delete",),) * 4),
    Case("delete, update", True, (DELETE,), (UPDATE,), *(("delete_update",),) * 4),
    Case("delete, delete", True, (DELETE,), (DELETE,), *(NOTHING,) * 4),
    Case("insert, insert", False, (INSERT,), (INSERT,), *(("insert_insert",),) * 4),
    Case("two of one writer", True, (UPDATE, AGAIN), (UPDATE,), *(("update_update",),) * 4),
    Case("two that win", True, (UPDATE,), (UPDATE, AGAIN), *(("update_update",),) * 4),
    Case("one writer only", True, (UPDATE, AGAIN, DELETE), (), *(NOTHING,) * 4),
    Case(
        "insert, insert and delete",
        False,
        (INSERT,),
        (INSERT, DELETE),
        ("insert_delete",),
        ("insert_delete",),
        ("insert_insert",),
        ("insert_delete",),
    ),
    Case(
        "insert and delete, insert",
        False,
        (INSERT, DELETE),
        (INSERT,),
        NOTHING,
        NOTHING,
        NOTHING,
        ("delete_update",),  # the delete comes behind an insert that it did not know of
    ),
)


@pytest.fixture
def feeds(make_contours: MakeContours) -> Iterator[list[tuple[Contour, Feed]]]:
    """Three contours with one table, each with an inbox."""
    contours = make_contours(ITEMS, ["items"], count=3)
    made = [(contour, Feed(contour, "items")) for contour in contours]
    yield made
    for _, feed in made:
        feed.close()


def exchange(feeds: list[tuple[Contour, Feed]]) -> None:
    """Everything that waits, to everyone else, in the order of contours."""
    written = [(contour, take(contour)) for contour, _ in feeds]
    for contour, feed in feeds:
        feed.apply([v for writer, values in written if writer is not contour for v in values])


def recorded(contour: Contour, key: int) -> tuple[str, ...]:
    rows = contour.run(
        "select reason from replication_conflicts where record_key = %s order by id",
        f'{{"id":{key}}}',
    )
    return tuple(reason for (reason,) in rows)


def test_every_pair_of_writes_is_judged_alike_in_every_contour(
    feeds: list[tuple[Contour, Feed]],
) -> None:
    (a, to_a), (b, to_b), (c, to_c) = feeds
    keys = {case.name: 2 * n for n, case in enumerate(CASES)}
    for key, case in zip(keys.values(), CASES, strict=True):
        for id_ in (key, key + 1):
            if case.start:
                a.run(INSERT.format(id=id_, who="start"))
    exchange(feeds)
    for key, case in zip(keys.values(), CASES, strict=True):
        for id_ in (key, key + 1):
            for contour, statements in ((a, case.a), (b, case.b)):
                for statement in statements:
                    contour.run(statement.format(id=id_, who=contour.name))
    from_a, from_b = take(a), take(b)
    # At c even keys come event by event, odd ones all at once and the newer ones first.
    one_by_one = [[v] for v in [*from_a, *from_b] if key_of(v) % 2 == 0]
    at_once = [v for v in [*from_b, *from_a] if key_of(v) % 2 == 1]
    deliveries = [(to_a, [from_b]), (to_b, [from_a]), (to_c, [*one_by_one, at_once])]
    for feed, batches in deliveries:
        for batch in batches:
            feed.apply(batch)
    found = {
        name: (recorded(a, key), recorded(b, key), recorded(c, key), recorded(c, key + 1))
        for name, key in keys.items()
    }
    assert found == {case.name: case[4:] for case in CASES}
    assert same_rows([a, b, c], "items")
    before = [count(contour) for contour, _ in feeds]
    for feed, batches in deliveries:
        for batch in batches:
            assert feed.apply(batch).conflicts == 0
    for contour, feed, values in ((a, to_a, from_b), (b, to_b, from_a)):
        contour.run("delete from replication.processed_events")  # the second line of defence
        feed.apply(values)
    assert [count(contour) for contour, _ in feeds] == before, "a repeat is no second conflict"


def test_both_images_are_whole_and_exact(feeds: list[tuple[Contour, Feed]]) -> None:
    (a, to_a), (b, to_b), _ = feeds
    a.run("insert into items values (1, 'start', 1.10, 'null'), (2, 'start', 'NaN', '{}')")
    exchange(feeds)
    a.run("update items set note = 'a'")
    b.run("update items set amount = 2.50 where id = 1; delete from items where id = 2")
    from_a = take(a)
    to_a.apply(take(b))
    to_b.apply(from_a)
    of_a = {"id": "1", "note": "a", "amount": "1.10", "doc": "null"}
    of_b = {"id": "1", "note": "start", "amount": "2.50", "doc": "null"}
    left = {"id": "2", "note": "a", "amount": "NaN", "doc": "{}"}
    images = "select incoming_row, current_row from replication_conflicts order by record_key"
    assert a.run(images) == [(of_b, of_a), (None, left)]
    assert b.run(images) == [(of_a, of_b), (left, None)]
    # What Last-Write-Wins by rows does not do: the change of another column is lost, but for the image.
    assert [c.run("select note, amount::text from items") for c in (a, b)] == [
        [("start", "2.50")]
    ] * 2


def test_a_parked_event_that_others_overtook_is_late(make_contours: MakeContours) -> None:
    """b may have seen the event that waited here; a local write cannot have."""
    a, b, c = make_contours(ITEMS, ["items"], count=3)
    a.run("insert into items (id) values (1), (2)")
    from_a = take(a)
    for contour in (b, c):
        deliver(contour, from_a)
    a.run("alter table items add extra int; update items set note = 'a', extra = 1")
    b.run("alter table items add extra int")
    from_a = take(a)
    deliver(b, from_a)
    b.run("update items set note = 'b', extra = null where id = 1")
    deliver(c, from_a)
    assert c.value("select count(*) from replication.parked_events") == 2
    c.run("update items set note = 'c' where id = 2")
    c.run("alter table items add extra int")
    c.run("update replication.parked_events set retried_at = '-infinity'")
    deliver(c, take(b))
    assert c.value("select count(*) from replication.parked_events") == 0
    assert (recorded(c, 1), recorded(c, 2)) == ((), ("update_update",))


def deliver(contour: Contour, values: list[bytes]) -> None:
    """By an applier that has just started, and knows the tables as they are."""
    feed = Feed(contour, "items")
    feed.offset = contour.value(
        "select coalesce(max(next_offset), 0) from replication.consumer_offsets"
    )
    feed.apply(values)
    feed.inbox.retry_parked(10, eagerly=False)
    feed.close()


def count(contour: Contour) -> int:
    return int(contour.value("select count(*) from replication_conflicts"))


def key_of(value: bytes) -> int:
    event = json.loads(value)
    return int((event["after"] or event["before"])["id"])


ORDERS = """
create table customers (id int primary key, note text);
create table orders (
  id bigint primary key, customer int references customers, code text unique, doc jsonb,
  times timestamptz[], raw bytea, number int generated always as identity,
  doubled bigint generated always as (id * 2) stored
)
"""
ORDER: Final = "insert into orders values (%s, null, %s, 'null', '{now,infinity}', 'a\\000')"


@pytest.fixture
def concurrent(make_contours: MakeContours) -> list[Contour]:
    """Orders 1 to 4: a changed all of them and b, later, deleted 3 and 4 and changed the others."""
    a, b = make_contours(ORDERS, ["customers", "orders"])
    for key in range(1, 5):
        a.run(ORDER, key, f"start {key}")
    pass_on([a, b])
    a.run("update orders set code = 'a' || id, raw = null")
    b.run("update orders set code = 'b' || id where id < 3; delete from orders where id > 2")
    pass_on([a, b])
    return [a, b]


def pass_on(contours: list[Contour]) -> None:
    written = [take(contour) for contour in contours]
    for contour in contours:
        feed = Feed(contour, "orders")
        feed.offset = contour.value(
            "select coalesce(max(next_offset), 0) from replication.consumer_offsets"
        )
        feed.apply([v for values in written for v in values])
        feed.close()


def conflict_of(contour: Contour, key: int) -> int:
    return int(
        contour.value(
            "select id from replication_conflicts where record_key = %s", f'{{"id":{key}}}'
        )
    )


def test_the_loser_may_win_by_a_new_change(concurrent: list[Contour], tmp_path: Path) -> None:
    a, b = concurrent
    conflicts = partial(call, b, tmp_path, "conflicts")
    exact = "select times::text, doc::text, number, doubled from orders where id = 1"
    before = b.run(exact)
    for key, outcome in ((1, "updated"), (3, "inserted")):
        done = conflicts("resolve", conflict_of(b, key), "--winner", "incoming", "--json")
        assert json.loads(done.stdout)["outcome"] == outcome
    assert b.run(exact) == before
    kept = conflicts("resolve", conflict_of(b, 2), "--winner", "current")
    assert "stays as it is" in kept.stdout
    back = call(a, tmp_path, "conflicts", "resolve", conflict_of(a, 4), "--winner", "current")
    assert "is there again" in back.stdout
    pass_on(concurrent)
    assert same_rows(concurrent, "orders")
    assert a.run("select id, code, raw from orders order by id") == [
        (1, "a1", None),
        (2, "b2", b"a\0"),
        (3, "a3", None),
        (4, "a4", None),
    ]
    assert all(
        contour.value("select count(*) from replication_conflicts") == 4 for contour in concurrent
    )
    states = b.run("select resolution, resolved_by from replication_conflicts order by record_key")
    assert [state for state, _ in states] == ["incoming", "current", "incoming", None]
    assert states[0][1].startswith("postgres (")


def test_a_row_that_moved_on_is_not_undone_without_force(
    concurrent: list[Contour], tmp_path: Path
) -> None:
    _, b = concurrent
    conflicts = partial(call, b, tmp_path, "conflicts")
    b.run("update orders set doc = '1' where id = 1; insert into orders (id) values (3)")
    for key in (1, 3):
        refused = conflicts("resolve", conflict_of(b, key), "--winner", "incoming")
        assert isinstance(refused.exception, RefusedError)
        assert "was written again since, by the contour with id 2" in str(refused.exception)
    queued = len(b.queue())
    forced = ("--winner", "incoming", "--force", "--json")
    done = conflicts("resolve", conflict_of(b, 3), *forced)
    assert json.loads(done.stdout)["outcome"] == "updated"
    assert len(b.queue()) == queued + 1
    again = conflicts("resolve", conflict_of(b, 3), "--winner", "current")
    assert "resolved already" in str(again.exception)


def test_what_the_table_refuses_is_refused_whole(concurrent: list[Contour], tmp_path: Path) -> None:
    a, b = concurrent
    conflicts = partial(call, b, tmp_path, "conflicts")
    b.run("insert into orders (id, code) values (9, 'a1')")
    b.run(
        "alter table orders add constraint parent foreign key (id) references customers not valid"
    )
    for key, complaint in ((1, "orders_code_key"), (3, "parent")):
        refused = conflicts("resolve", conflict_of(b, key), "--winner", "incoming")
        assert complaint in str(refused.exception)
        assert "a1" not in str(refused.exception), "no values of rows in errors"
    assert b.value("select count(*) from replication_conflicts where resolved_at is not null") == 0
    unknown = conflicts("resolve", 99, "--winner", "incoming")
    assert "no conflict 99" in str(unknown.exception)
    a.run("select remove_table_from_replication('orders')")
    gone = call(a, tmp_path, "conflicts", "resolve", conflict_of(a, 1), "--winner", "current")
    assert "not set up in this contour any more" in str(gone.exception)


def test_conflicts_are_listed_and_shown(concurrent: list[Contour], tmp_path: Path) -> None:
    a, _ = concurrent
    conflicts = partial(call, a, tmp_path, "conflicts")
    whole = conflicts("list").stdout
    assert "update_delete" in whole
    assert "b (won)" in whole
    assert "start" not in whole, "a list shows no values of rows"
    chosen = ("--table", "orders", "--since", "1h", "--json")
    only = json.loads(conflicts("list", *chosen, "--key", '{"id": 2}').stdout)
    assert [row["record_key"] for row in only] == ['{"id":2}']
    assert isinstance(only[0]["incoming_version"], str)
    assert json.loads(conflicts("list", "--json", "--limit", 3).stdout)[0]["id"]
    assert "no conflict is recorded" in conflicts("list", "--table", "x").stdout
    shown = conflicts("show", conflict_of(a, 2)).stdout
    lines = {
        line.split()[-3]: line.startswith("≠") for line in shown.splitlines() if " a2 " in line
    }
    assert lines == {"code": True}
    assert "(deleted)" in conflicts("show", conflict_of(a, 3)).stdout
    both = json.loads(conflicts("show", conflict_of(a, 2), "--json").stdout)
    assert (both["incoming_row"]["code"], both["current_row"]["code"]) == ("b2", "a2")

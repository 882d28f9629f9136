"""Tables whose columns are not the same everywhere, for a while: events wait, and come in by themselves
after the migration; other tables go on. The fingerprint in an event is that of the row's own time.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replication_pipeline.domain.errors import PoisonError, TransientError
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.commands import call
from replication_pipeline_tests.integration.test_apply import Feed, take

pytestmark = pytest.mark.integration

ITEMS = "create table items (id bigint primary key, note text, amount int)"
OTHER = "; create table others (id bigint primary key)"


class Applier:
    """Batches through an inbox that has just looked at the tables; what fails by itself is parked."""

    def __init__(self, contour: Contour, table: str = "items") -> None:
        self.contour = contour
        self.feed = Feed(contour, table)
        self.feed.offset = contour.value(
            "select coalesce(max(next_offset), 0) from replication.consumer_offsets where topic = %s",
            self.feed.topic,
        )

    def __enter__(self) -> Applier:
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.close()

    def give(self, values: list[bytes]) -> None:
        for value in values:
            try:
                self.feed.apply([value])
            except PoisonError as error:
                self.feed.inbox.park(self.feed.batch([value]), error)
                self.feed.offset += 1

    def retry(self) -> None:
        self.contour.run("update replication.parked_events set retried_at = '-infinity'")
        self.feed.inbox.retry_parked(100, eagerly=False)


def deliver(contour: Contour, values: list[bytes], table: str = "items") -> None:
    with Applier(contour, table) as applier:
        applier.give(values)
        applier.retry()


def reasons(contour: Contour) -> list[str]:
    rows = contour.run("select reason from replication.parked_events order by id")
    return [reason for (reason,) in rows]


def fingerprints(values: list[bytes]) -> list[str]:
    return [json.loads(value)["source"]["schema_fingerprint"] for value in values]


def write(contour: Contour, statement: str) -> str:
    contour.run(statement)
    (found,) = fingerprints(take(contour))
    return found


def test_equal_columns_have_one_fingerprint_everywhere(make_contours: MakeContours) -> None:
    a, b = make_contours(ITEMS, ["items"])
    b.run("create type mood as enum ('x'); drop table items")
    b.run("create table items (amount int, gone mood, id bigint primary key, note text)")
    b.run("alter table items drop gone; select setup_table_for_replication('items')")
    usual = write(a, "insert into items values (1)")
    assert write(b, "insert into items (id) values (2)") == usual
    assert len(usual) == 8
    a.run("create table replaced (id bigint primary key, note text, amount bigint)")
    a.run("select setup_table_for_replication('replaced')")
    other = {write(a, "insert into replaced values (1)")}
    a.run("alter table items alter amount type bigint")
    assert write(a, "update items set note = 'x'") in other
    a.run("alter table items rename note to words")
    assert write(a, "delete from items") not in {usual, *other}


def test_a_queued_event_keeps_the_fingerprint_of_its_time(make_contours: MakeContours) -> None:
    (a,) = make_contours(ITEMS, ["items"], count=1)
    a.run("insert into items values (1)")
    with a.app.transaction():
        a.run("insert into items values (2); alter table items add extra int")
        a.run("insert into items values (3)")
    a.run("alter event trigger replication_follow_ddl disable")
    a.run("alter table items drop extra")
    a.run("insert into items values (4)")  # by a statement that is made on the fly
    first, second, third, fourth = fingerprints(take(a))
    assert first == second == fourth != third


def test_a_column_that_comes_later_here(make_contours: MakeContours, tmp_path: Path) -> None:
    a, b = make_contours(ITEMS, ["items"])
    a.run("alter table items add extra int; insert into items values (1, 'x', 1, 5)")
    deliver(b, take(a))
    assert reasons(b) == ["unknown_column"]
    shown = json.loads(call(b, tmp_path, "parked", "show", "apply", 1, "--json").stdout)[
        "fingerprints"
    ]
    b.run("alter table items add extra int")
    assert shown["there"] == write(b, "insert into items (id) values (9)") != shown["here"]
    b.run("delete from items")
    deliver(b, [])
    assert same_rows([a, b], "items")
    assert reasons(b) == []


def test_a_column_that_goes_first_here(make_contours: MakeContours) -> None:
    """What it held is not dropped in silence; the next write of the row needs it no more."""
    a, b = make_contours(ITEMS, ["items"])
    b.run("alter table items drop amount")
    a.run("insert into items values (1, 'x', 1)")
    deliver(b, take(a))
    assert reasons(b) == ["unknown_column"]
    a.run("alter table items drop amount; update items set note = 'y'")
    deliver(b, take(a))
    assert same_rows([a, b], "items")
    assert reasons(b) == []


def test_a_type_that_changes_later_here(make_contours: MakeContours) -> None:
    a, b = make_contours(ITEMS, ["items"])
    a.run("alter table items alter amount type text")
    a.run("insert into items values (1, 'x', '12'), (2, 'y', 'many')")
    deliver(b, take(a))
    assert reasons(b) == ["bad_value"]
    assert b.run("select id, amount from items") == [(1, 12)], "what fits comes in"
    b.run("alter table items alter amount type text")
    deliver(b, [])
    assert same_rows([a, b], "items")


def test_a_table_that_is_missing_holds_up_no_other(make_contours: MakeContours) -> None:
    a, b = make_contours(ITEMS + OTHER, ["items", "others"])
    a.run("insert into items values (1); insert into others values (1)")
    of_items, of_others = take(a)
    with Applier(b) as items, Applier(b, "others") as others:
        items.feed.inbox.offsets([])
        b.run("drop table items")
        with pytest.raises(TransientError, match="a table has changed"):
            items.feed.apply([of_items])
        result = items.feed.apply([of_items])
        assert (result.parked, result.processed, result.applied) == (1, 0, 0)
        assert others.feed.apply([of_others]).applied == 1
        items.retry()
        assert b.run("select reason, detail, attempts from replication.parked_events") == [
            ("missing_table", "items", 1)
        ]
        assert items.feed.inbox.anything_parked
    b.run(ITEMS)
    b.run("select setup_table_for_replication('items')")
    deliver(b, [])
    assert same_rows([a, b], "items")
    assert reasons(b) == []


def test_a_running_applier_follows_a_migration(make_contours: MakeContours) -> None:
    a, b = make_contours(ITEMS, ["items"])
    a.run("insert into items values (1, 'x', 1)")
    with Applier(b) as applier:
        applier.give(take(a))
        for contour in (a, b):
            contour.run("alter table items drop amount")
        a.run("update items set note = 'y'")
        (value,) = take(a)
        with pytest.raises(TransientError, match="a table has changed"):
            applier.feed.apply([value])
        assert applier.feed.apply([value]).applied == 1
    assert same_rows([a, b], "items")

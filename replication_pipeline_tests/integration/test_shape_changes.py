"""A changed table is captured as it is by the very next statement, whoever runs it, with no set-up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from replication_pipeline_tests.conftest import Contour
from replication_pipeline_tests.integration.history import (
    Shared,
    assert_queue_tells,
    events,
    mark,
    payloads,
    remove,
    setup,
)

pytestmark = pytest.mark.integration

DDL = """
create type mood as enum ('fine', 'sad');
create table things (id int primary key, name text, amount int not null default 0);
create schema attic
"""


@dataclass(frozen=True)
class Change:
    """DDL, how the table and its key are called afterwards, and a new row with its payload."""

    ddl: str
    insert: str
    payload: dict[str, Any]
    table: str = "things"
    key: str = "id"


ROW = {"id": 100, "name": "new", "amount": 7}

CHANGES: dict[str, Change] = {
    "column added": Change(
        "alter table things add column extra text",
        "(id, name, amount, extra) values (100, 'new', 7, 'x')",
        ROW | {"extra": "x"},
    ),
    "column with a default added": Change(
        "alter table things add column extra int[] not null default '{1,2}'",
        "(id, name, amount) values (100, 'new', 7)",
        ROW | {"extra": [1, 2]},
    ),
    "identity column added": Change(
        "alter table things add column extra int generated always as identity (start 50)",
        "(id, name, amount) values (100, 'new', 7)",
        ROW | {"extra": 53},
    ),
    "generated column added": Change(
        "alter table things add column twice int generated always as (amount * 2) stored",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
    ),
    "generated column made an ordinary one": Change(
        "alter table things add column twice int generated always as (amount * 2) stored; "
        "alter table things alter column twice drop expression",
        "(id, name, amount, twice) values (100, 'new', 7, 5)",
        ROW | {"twice": 5},
    ),
    "column dropped": Change(
        "alter table things drop column name",
        "(id, amount) values (100, 7)",
        {"id": 100, "amount": 7},
    ),
    "all columns but the key dropped": Change(
        "alter table things drop column name, drop column amount",
        "(id) values (100)",
        {"id": 100},
    ),
    "column renamed": Change(
        "alter table things rename column name to title",
        "(id, title, amount) values (100, 'new', 7)",
        {"id": 100, "title": "new", "amount": 7},
    ),
    "columns' names swapped": Change(
        "alter table things rename column name to x; alter table things rename amount to name; "
        "alter table things rename column x to amount",
        "(id, name, amount) values (100, 7, 'new')",
        {"id": 100, "amount": "new", "name": 7},
    ),
    "column retyped": Change(
        "alter table things alter column amount type numeric(8,2)",
        "(id, name, amount) values (100, 'new', 7)",
        ROW | {"amount": "7.00"},
    ),
    "precision changed": Change(
        "alter table things alter column amount type numeric(8,2); "
        "alter table things alter column amount type numeric(8,4)",
        "(id, name, amount) values (100, 'new', 7)",
        ROW | {"amount": "7.0000"},
    ),
    "column retyped by an expression": Change(
        "alter table things alter column name type jsonb using to_jsonb(name)",
        "(id, name, amount) values (100, '{\"a\":1}', 7)",
        ROW | {"name": '{"a": 1}'},
    ),
    "column retyped to an array": Change(
        "alter table things alter column name type text[] using array[name]",
        "(id, name, amount) values (100, '{new,null}', 7)",
        ROW | {"name": ["new", None]},
    ),
    "column retyped to an enum": Change(
        "alter table things alter column name type mood using 'fine'::mood",
        "(id, name, amount) values (100, 'sad', 7)",
        ROW | {"name": "sad"},
    ),
    "column dropped and added again": Change(
        "alter table things drop column name; alter table things add column name text",
        "(id, name, amount) values (100, 'new', 7)",
        {"id": 100, "amount": 7, "name": "new"},
    ),
    "column dropped and added again with another type": Change(
        "alter table things drop column name, add column name timestamptz",
        "(id, name, amount) values (100, '2026-02-03 04:05:06+00', 7)",
        {"id": 100, "amount": 7, "name": "2026-02-03T04:05:06Z"},
    ),
    "table renamed": Change(
        "alter table things rename to objects",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
        table="objects",
    ),
    "table renamed, another takes its name": Change(
        "alter table things rename to objects; create table things (id text, odd point)",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
        table="objects",
    ),
    "schema moved": Change(
        "alter table things set schema attic",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
        table="attic.things",
    ),
    "schema moved and renamed": Change(
        "alter table things set schema attic; alter schema attic rename to loft",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
        table="loft.things",
    ),
    "key renamed": Change(
        "alter table things rename column id to number",
        "(number, name, amount) values (100, 'new', 7)",
        {"number": 100, "name": "new", "amount": 7},
        key="number",
    ),
    "key retyped": Change(
        "alter table things alter column id type bigint",
        "(id, name, amount) values (5000000000, 'new', 7)",
        ROW | {"id": 5000000000},
    ),
    "key retyped to text": Change(
        "alter table things alter column id type text",
        "(id, name, amount) values ('x', 'new', 7)",
        ROW | {"id": "x"},
    ),
    "constraint of the key renamed": Change(
        "alter table things rename constraint things_pkey to things_key",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
    ),
    "table clustered and rewritten": Change(
        "cluster things using things_pkey; alter table things alter column name set storage plain",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
    ),
    "owner changed": Change(
        "grant create on schema public to pg_monitor; alter table things owner to pg_monitor",
        "(id, name, amount) values (100, 'new', 7)",
        ROW,
    ),
}


@pytest.fixture
def things(make: Shared) -> Contour:
    return make(DDL, ["things"])


def warm(session: psycopg.Connection[Any]) -> None:
    """Write often enough for every plan to be cached for good, and leave the rows 1, 2 and 3."""
    for number in range(1, 10):
        session.execute(f"insert into things (id, name) values ({number}, 'old')")
        session.execute(f"update things set amount = 1 where id = {number}")
        session.execute("delete from things where id > 3")
    session.execute("update things set id = id + 10")
    session.execute("update things set id = id - 10")


def write(session: psycopg.Connection[Any], change: Change) -> None:
    session.execute(f"insert into {change.table} {change.insert}")
    session.execute(f"update {change.table} set {change.key} = {change.key}")  # changes nothing
    value = "'11'" if change.payload[change.key] == "x" else "11"
    session.execute(
        f"update {change.table} set {change.key} = {value} where {change.key}::text = '1'"
    )
    session.execute(f"delete from {change.table} where {change.key}::text = '2'")


@pytest.mark.parametrize("who", ["the same session", "another session", "the same transaction"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_next_statement_sees_the_change(things: Contour, change: Change, who: str) -> None:
    writer = things.session(autocommit=True) if who == "another session" else things.app
    writer.execute("set search_path = public")
    warm(writer)
    start = mark(things)
    if who == "the same transaction":
        writer.execute("begin")
    for statement in change.ddl.split("; "):
        things.app.execute(statement)
    write(writer, change)
    if who == "the same transaction":
        writer.execute("commit")
    payload = payloads(things, after=start)[0]
    assert payload == change.payload
    assert list(payload) == list(change.payload)
    new_key = change.payload[change.key]
    made = events(things, "things", after=start)
    assert made[0] == f"INSERT {new_key}"
    assert sorted(made[1:3]) == ["DELETE 1", "INSERT 11"]
    assert made[3:] == ["DELETE 2"]
    keys = things.run(
        "select distinct json_object_keys(record_key::json) "
        "from replication.replication_queue where id > %s",
        start,
    )
    assert keys == [(change.key,)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_rolled_back_is_none(things: Contour, change: Change) -> None:
    warm(things.app)
    start = mark(things)
    with things.app.transaction(force_rollback=True):
        for statement in change.ddl.split("; "):
            if not statement.startswith("cluster"):
                things.run(statement)
        write(things.app, change)
    things.run("insert into things values (100, 'new', 7)")
    assert payloads(things, after=start) == [ROW]


@pytest.mark.parametrize("full_before", [False, True])
def test_many_changes_in_one_transaction(make: Shared, *, full_before: bool) -> None:
    contour = make(DDL, ["things"], full_before=full_before)
    with contour.app.transaction():
        contour.run("insert into things values (1, 'x', 1)")
        contour.run("alter table things add column extra text")
        contour.run("update things set extra = 'a'")
        contour.run("savepoint s")
        contour.run("alter table things drop column extra")
        contour.run("update things set amount = 5")
        contour.run("rollback to s")
        contour.run("update things set amount = 6")
        contour.run("alter table things rename column extra to more")
        contour.run("delete from things")
    assert payloads(contour) == [
        {"id": 1, "name": "x", "amount": 1},
        {"id": 1, "name": "x", "amount": 1, "extra": "a"},
        {"id": 1, "name": "x", "amount": 6, "extra": "a"},
        None,
    ]
    before = contour.value("select before from replication_queue where operation = 'DELETE'")
    assert before == ({"id": 1, "name": "x", "amount": 6, "more": "a"} if full_before else None)


def test_a_primary_key_replaced_by_a_wider_one(things: Contour) -> None:
    """Events of rows that the old key can't tell apart must not be taken for one row."""
    things.run("insert into things values (1, 'x', 1)")
    start = mark(things)
    with things.app.transaction():
        things.run("alter table things drop constraint things_pkey")
        things.run("alter table things add primary key (id, amount)")
    things.run("insert into things values (1, 'y', 2)")
    things.run("update things set name = 'z' where amount = 2")
    things.run("delete from things where amount = 1")
    assert events(things, after=start) == ["INSERT 1/2", "UPDATE 1/2", "DELETE 1/1"]


def test_a_primary_key_dropped_and_made_again(things: Contour) -> None:
    """In between nobody can tell rows apart, and a write may fail; afterwards all goes on."""
    things.run("insert into things values (1, 'x', 1)")
    things.run("alter table things drop constraint things_pkey")
    with suppress(psycopg.Error):
        things.run("update things set name = 'y'")
    things.run("alter table things add primary key (id)")
    things.run("update things set name = 'z'")
    assert payloads(things)[-1] == {"id": 1, "name": "z", "amount": 1}


def test_names_of_values_follow_their_type(things: Contour) -> None:
    things.run("alter table things add column feels mood default 'sad'")
    things.run("insert into things values (1, 'x', 1)")
    things.run("alter type mood rename value 'sad' to 'blue'; alter type mood rename to feeling")
    things.run("update things set amount = 2")
    things.run("create type pair as (a int, b int); alter table things add column p pair")
    things.run("update things set p = (1, 2)")
    things.run("alter type pair add attribute c text")
    things.run("update things set p = (1, 2, 'x')")
    assert [payload.get("feels") for payload in payloads(things)] == ["sad", *["blue"] * 3]
    assert [payload.get("p") for payload in payloads(things)[2:]] == ["(1,2)", "(1,2,x)"]


def test_set_up_again_after_a_change(things: Contour) -> None:
    """Which only compiles the capture function anew: same name, same events."""
    things.run("alter table things add column extra text; alter table things rename id to number")
    things.run("alter table things rename to objects")
    setup(things, "objects")
    things.run("insert into objects (number, extra) values (1, 'x')")
    assert events(things, "things") == ["INSERT 1"]
    assert payloads(things) == [{"number": 1, "name": None, "amount": 0, "extra": "x"}]


def test_a_table_dropped_and_made_again(things: Contour) -> None:
    """The new one is another table: not captured before it is set up, and then under its name."""
    things.run("insert into things values (1, 'x', 1)")
    things.run("drop table things; create table things (id int primary key)")
    things.run("insert into things values (2)")
    assert events(things) == ["INSERT 1"]
    setup(things, "things")
    things.run("insert into things values (3)")
    assert events(things) == ["INSERT 1", "INSERT 3"]


def test_a_dropped_table_does_not_stand_in_the_way_of_an_upgrade(things: Contour) -> None:
    """The last statement of the schema files compiles every capture function again."""
    things.run("create table other (id int primary key)")
    setup(things, "other")
    things.run("drop table things")
    things.run(
        "select replication.refresh_capture(t.table_id) from replication.replicated_tables t"
    )
    things.run("insert into other values (1)")
    assert events(things) == ["INSERT 1"]


def test_two_tables_that_swap_their_names(things: Contour) -> None:
    things.run("create table others (like things including all)")
    setup(things, "others")
    warm(things.app)
    start = mark(things)
    with things.app.transaction():
        things.run("alter table things rename to x")
        things.run("alter table others rename to things")
        things.run("alter table x rename to others")
    things.run("update others set amount = 5 where id = 1")
    things.run("insert into things values (50)")
    things.run("delete from others where id = 1")
    assert events(things, "things", after=start) == ["UPDATE 1", "DELETE 1"]
    assert events(things, "others", after=start) == ["INSERT 50"]


def test_removed_and_set_up_again_between_two_writes(things: Contour) -> None:
    """With the plans of another session cached all the while."""
    writer = things.session(autocommit=True)
    warm(writer)
    remove(things, "things")
    start = mark(things)
    writer.execute("insert into things (id) values (50)")
    assert events(things, after=start) == []
    setup(things, "things")
    writer.execute("update things set amount = 5 where id = 50")
    writer.execute("delete from things where id = 50")
    assert events(things, "things", after=start) == ["UPDATE 50", "DELETE 50"]


# While others write

Pause = Callable[[], None]


@contextmanager
def writing(contour: Contour, statements: list[str]) -> Iterator[Pause]:
    """Runs the statements in turn, ``{n}`` being a new number, until the block ends.

    Yields a function that waits until all of them have been run once more.
    """
    progress = threading.Condition()
    rounds = 0
    over = False
    failure: list[BaseException] = []

    def run() -> None:
        nonlocal rounds
        try:
            with psycopg.connect(contour.dsn, autocommit=True) as connection:
                connection.execute("set search_path = public, attic")
                while not over:
                    for statement in statements:
                        connection.execute(statement.format(n=rounds))
                    with progress:
                        rounds += 1
                        progress.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            failure.append(error)
            with progress:
                progress.notify_all()

    def pause() -> None:
        with progress:
            goal = rounds + 2
            assert progress.wait_for(lambda: rounds >= goal or failure, timeout=60)
        if failure:
            raise failure[0]

    writer = threading.Thread(target=run, name="writer")
    writer.start()
    try:
        pause()
        yield pause
        pause()
    finally:
        over = True
        writer.join(timeout=60)
    assert not writer.is_alive()


ALTERS = {
    "columns": [
        "alter table things add column extra text default 'x'",
        "alter table things alter column extra type varchar(10)",
        "alter table things rename column extra to more",
        "alter table things alter column name type varchar(50)",
        "alter table things drop column more",
        "alter table things add column extra int",
        "alter table things alter column id type bigint",
        "alter table things drop column name",
        "select replication.setup_table_for_replication('things')",
        "alter table things add column name text",
        "alter table things drop column extra",
    ],
    "schema": ["alter table things set schema attic", "alter table attic.things set schema public"],
}


@pytest.mark.parametrize("alters", ALTERS.values(), ids=ALTERS)
@pytest.mark.parametrize("block", [False, True], ids=["single statements", "transactions"])
def test_nothing_is_lost_while_a_table_changes(
    things: Contour, alters: list[str], *, block: bool
) -> None:
    statements = [
        "insert into things (id) values ({n}), (-{n} - 1)",
        "update things set amount = {n} + 1 where id = {n}",
        "update things set id = -1000000 - {n} where id = -{n} - 1",
        "delete from things where id = {n} and {n} % 2 = 0",
    ]
    if block:
        statements = ["begin", *statements, "commit"]
    with writing(things, statements) as pause:
        for alter in alters:
            things.run(alter)
            pause()
    told: dict[str, int] = {}
    for operation, key, version in things.run(
        "select operation, record_key, version from replication_queue order by id"
    ):
        told[key] = version
        if operation == "DELETE":
            del told[key]
    rows = things.run("select '{\"id\":' || id || '}', replication_version from things")
    assert told == dict(rows)
    counts = dict(things.run("select operation, count(*) from replication_queue group by 1"))
    assert counts["INSERT"] - counts["DELETE"] == len(rows)


def test_nothing_is_lost_while_a_table_is_set_up_and_removed(things: Contour) -> None:
    """What is captured follows the set-up exactly: events are those of the rows it was there for."""
    with writing(things, ["insert into things (id) values ({n})"]) as pause:
        for _ in range(3):
            with things.app.transaction():
                remove(things, "things")
                setup(things, "things")
            pause()
    assert_queue_tells(things, "things")
    assert things.value("select count(*) from things") == things.value(
        "select count(*) from replication_queue"
    )

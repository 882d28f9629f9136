"""Tables that merge columns: writes of different columns at once all stand, and counters add up.

Real triggers and real apply between three contours; the network delivers in any order, repeated.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import psycopg
import pytest

from replication_pipeline.domain.errors import RefusedError, TransientError
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.embedded.process import wait_until
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.conflicts import resolve
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import Contour, MakeContours, same_rows
from replication_pipeline_tests.integration.merging import (
    DDL,
    OPTIONS,
    assert_equal,
    history,
    replay,
    rows,
)
from replication_pipeline_tests.integration.wire import Wire, wire_between

pytestmark = pytest.mark.integration


@pytest.fixture
def wire(make_contours: MakeContours) -> Iterator[Wire]:
    with wire_between(make_contours(DDL, OPTIONS, count=3), seed=1) as made:
        yield made


def contours(wire: Wire) -> list[Contour]:
    return [receiver.contour for receiver in wire.receivers]


INSERT: Final = "insert into items values ({id}, 'new', 'new', '{{x}}', 10, 1.50)"
NAME: Final = "update items set name = '{who}' where id = {id}"
NOTE: Final = "update items set note = '{who}' where id = {id}"
ADD: Final = "update items set stock = stock + {number}, worth = worth - 0.25 where id = {id}"
DELETE: Final = "delete from items where id = {id}"
MINE: Final = "insert into items values ({id}, '{who}', null, null, {number})"
COUNT: Final = (
    "insert into items (id, stock) values ({id}, 1) "
    "on conflict (id) do update set stock = items.stock + 1"
)
Image = tuple[str | None, str | None, int] | None


class Case(NamedTuple):
    """What a, b and c do to one row at once, c last; what it comes to everywhere, and the reasons of
    conflicts in any of the contours.
    """

    name: str
    start: bool
    a: tuple[str, ...]
    b: tuple[str, ...]
    c: tuple[str, ...]
    end: Image
    reasons: set[str]


CASES: Final = (
    Case("different columns", True, (NAME,), (NOTE,), (ADD,), ("a", "b", 13), set()),
    Case("one column", True, (NAME,), (NAME,), (NOTE,), ("b", "c", 10), {"same_column"}),
    Case("counters", True, (ADD, ADD), (ADD,), (ADD, ADD), ("new", "new", 20), set()),
    Case("update, delete", True, (NAME,), (DELETE,), (), None, {"update_delete"}),
    Case("delete, update", True, (DELETE,), (NAME,), (), ("b", "new", 10), {"delete_update"}),
    Case(
        "what loses to a delete comes back with the row",
        True,
        (ADD, NOTE),
        (DELETE,),
        (NAME, ADD),
        ("c", "a", 14),
        {"update_delete", "delete_update"},
    ),
    Case("inserts", False, (MINE,), (MINE,), (MINE,), ("c", None, 6), {"insert_insert"}),
    Case("first counts", False, (COUNT, COUNT), (COUNT,), (COUNT, ADD), (None, None, 7), set()),
    Case("insert anew", True, (ADD,), (DELETE, MINE), (), ("b", None, 2), {"update_delete"}),
    Case(
        "insert anew, then add", True, (DELETE, MINE), (), (ADD,), ("a", None, 1), {"delete_update"}
    ),
    Case("both delete", True, (DELETE,), (DELETE,), (), None, set()),
    Case(
        "both insert anew",
        True,
        (DELETE, MINE),
        (DELETE, MINE),
        (),
        ("b", None, 2),
        {"update_delete", "insert_delete"},
    ),
)


def test_every_case_comes_to_the_same_everywhere(wire: Wire) -> None:
    for id_, case in enumerate(CASES):
        if case.start:
            contours(wire)[0].run(INSERT.format(id=id_))
    wire.run_dry()
    for id_, case in enumerate(CASES):
        for number, (contour, statements) in enumerate(
            zip(contours(wire), (case.a, case.b, case.c), strict=True), start=1
        ):
            for statement in statements:
                contour.run(statement.format(id=id_, who=contour.name, number=number))
    wire.publish()
    for receiver in wire.receivers:  # in the order of Kafka; at b one by one
        values, receiver.waiting = receiver.waiting, []
        for batch in [[v] for v in values] if receiver.contour.name == "b" else [values]:
            receiver.apply(batch)
    wire.run_dry()
    assert_equal(wire)
    found = rows(contours(wire)[0])
    ends = {n: (row["name"], row["note"], row["stock"]) for n, row in found.items()}
    assert {c.name: ends.get(n) for n, c in enumerate(CASES)} == {c.name: c.end for c in CASES}
    reasons: dict[str, set[str]] = {case.name: set() for case in CASES}
    for contour in contours(wire):
        for key, reason in contour.run("select record_key, reason from replication_conflicts"):
            reasons[CASES[json.loads(key)["id"]].name].add(reason)
    assert reasons == {case.name: case.reasons for case in CASES}
    replay(wire, history(contours(wire)))
    assert_equal(wire)


def test_a_bank_keeps_its_sum(wire: Wire) -> None:
    """Increments from everywhere, repeated and replayed: none is lost or counted twice."""
    chance = random.Random(5)
    a, *_ = contours(wire)
    a.run("insert into items (id) select generate_series(1, 3)")
    wire.run_dry()
    sums = dict.fromkeys((1, 2, 3), 0)
    for _ in range(60):
        contour, id_, added = (
            chance.choice(contours(wire)),
            chance.randint(1, 3),
            chance.randint(-9, 9),
        )
        contour.run(f"update items set stock = stock + {added} where id = {id_}")
        sums[id_] += added
        if chance.random() < 0.2:
            wire.publish()
            wire.deliver(chance.choice(wire.receivers), chance.randint(1, 5))
    wire.run_dry()
    replay(wire, history(contours(wire)))
    assert_equal(wire)
    assert {id_: row["stock"] for id_, row in rows(a).items()} == sums
    assert [c.value("select count(*) from replication_conflicts") for c in contours(wire)] == [
        0,
        0,
        0,
    ]


KINDS: Final = (
    MINE, COUNT, NAME, NAME, NOTE, ADD, ADD, ADD, DELETE, DELETE + "; " + MINE,
    "update items set id = {other} where id = {id}",
    "update items set stock = stock * 2, tags = array[note, null, '{who}'] where id <= {id}",
    "begin; " + ADD + "; " + NAME + "; " + DELETE + "; " + COUNT + "; " + NOTE + "; commit",
    "begin; " + ADD + "; rollback",
)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_any_history_in_any_order_comes_to_what_the_events_say(
    make_contours: MakeContours, seed: int
) -> None:
    chance = random.Random(seed)
    with wire_between(make_contours(DDL, OPTIONS, count=3), seed) as wire:
        for number, contour in enumerate(contours(wire)):
            contour.run(f"select replication.install_clock(interval '{number} s')")
        for number in range(50):
            contour = chance.choice(contours(wire))
            id_, other = chance.sample((1, 2, 3, 4), 2)
            statement = chance.choice(KINDS).format(id=id_, other=other, who=number, number=number)
            try:
                contour.run(statement)
            except psycopg.errors.UniqueViolation:
                contour.app.rollback()
            if chance.random() < 0.4:
                wire.publish()
                wire.deliver(chance.choice(wire.receivers), chance.randint(1, 6))
        wire.run_dry()
        assert_equal(wire)
        replay(wire, history(contours(wire)))
        assert_equal(wire)


def test_the_event_tells_outsiders_the_row_and_contours_the_rest(wire: Wire) -> None:
    a, b, _ = contours(wire)
    a.run(INSERT.format(id=1))
    a.run(NAME.format(id=1, who="a"))
    a.run(ADD.format(id=1, number=5))
    a.run(DELETE.format(id=1))
    inserted, named, added, deleted = (json.loads(value) for value in history([a]))
    assert "merge" not in inserted["source"]
    assert "merge" not in deleted["source"]
    version = inserted["source"]["row_version"]
    assert named["source"]["merge"] == {
        "versions": {"name": named["source"]["row_version"], "note": version, "tags": version},
        "totals": {
            "stock": {f"{version}.1": ["10", version]},
            "worth": {f"{version}.1": ["1.50", version]},
        },
        "bases": {"name": version},
    }
    assert added["after"] == named["after"] | {"stock": 15, "worth": "1.25"}
    assert added["source"]["merge"]["totals"]["stock"] == {
        f"{version}.1": ["15", added["source"]["row_version"]]
    }
    wire.run_dry()
    assert b.queue() == []  # nothing applied is captured


def test_the_one_who_lost_a_column_can_be_let_win(wire: Wire) -> None:
    a, b, c = contours(wire)
    a.run(INSERT.format(id=1))
    wire.run_dry()
    a.run("update items set name = 'a', tags = '{lost}' where id = 1")
    b.run("update items set name = 'b', tags = '{won}' where id = 1")
    c.run(NOTE.format(id=1, who="c"))
    wire.run_dry()
    images = a.run("select id, winner, incoming_row, current_row from replication_conflicts")
    assert images == [
        (1, "incoming", {"name": "b", "tags": "{won}"}, {"name": "a", "tags": "{lost}"})
    ]
    with pytest.raises(RefusedError, match="was written again since"):
        resolve(a.app, 1, "current")
    assert resolve(a.app, 1, "current", force=True) == "updated"
    wire.run_dry()
    assert_equal(wire)
    assert rows(c)[1].items() >= {"name": "a", "note": "c", "tags": ["lost"]}.items()


def test_a_contour_that_does_not_merge_writes_whole_rows(wire: Wire) -> None:
    """Options that differ are a mistake, but those that merge still end equal."""
    a, *others = wire.receivers
    a.contour.run(INSERT.format(id=1))
    wire.run_dry()
    others[0].contour.run(ADD.format(id=1, number=5))
    a.contour.run("update items set stock = 100, name = 'whole' where id = 1")
    values = []
    for event in map(json.loads, history([a.contour])):
        event["source"].pop("merge", None)
        values.append(json.dumps(event).encode())
    wire.publish()
    for receiver in others:
        receiver.waiting = [
            v for v in receiver.waiting if b'"contour":"a"' not in v.replace(b" ", b"")
        ] + values
    wire.run_dry()
    one, other = (rows(receiver.contour) for receiver in others)
    assert one == other
    assert (one[1]["stock"], one[1]["name"]) == (100, "whole")


def test_counters_that_differ_wait(make_contours: MakeContours) -> None:
    a, *_ = make_contours(DDL, OPTIONS, count=1)
    _, b = make_contours(DDL, {"items": {"delta_columns": ["stock"]}}, count=2)
    a.run(INSERT.format(id=1))
    a.run(ADD.format(id=1, number=5))
    with wire_between([b], seed=1) as wire:
        wire.receivers[0].apply(history([a]))
    assert b.run("select reason, detail from parked_events") == [
        ("unknown_column", "delta_columns differ")
    ]
    assert rows(b)[1]["stock"] == 10


FAMILY: Final = """
create table shops (id bigint primary key, name text, visits integer not null);
create table items (
  id bigint primary key, shop bigint references shops, code text unique, stock integer not null);
create function touch() returns trigger language plpgsql as $$
begin
  if pg_trigger_depth() = 1 then
    update shops set name = name || '!', visits = visits + 100 where id = new.id;
  end if;
  return null;
end $$;
create trigger touch after insert or update on shops for each row execute function touch();
"""


def test_the_rest_of_apply_goes_by_merged_rows(make_contours: MakeContours) -> None:
    """Triggers that write the row again; a parent missing, a parent deleted, a value twice."""
    options = {"shops": {"delta_columns": ["visits"]}, "items": {"delta_columns": ["stock"]}}
    made = make_contours(FAMILY, options, count=3, consumer={"foreign_key_patience": 0})
    with wire_between(made, seed=3) as wire:
        a, b, c = made
        a.run("insert into shops values (1, 'one', 0), (2, 'two', 0)")
        a.run("insert into items values (1, 1, 'x', 0)")
        wire.run_dry()
        a.run("update shops set visits = visits + 1 where id = 1")
        b.run("update shops set visits = visits + 10 where id = 1")
        c.run("update items set stock = stock + 1, code = 'y' where id = 1")
        a.run("update items set stock = stock + 10 where id = 1")
        b.run("delete from shops where id = 2")
        c.run("insert into items values (2, 2, 'x', 5)")  # its parent is going, and comes back
        b.run("update items set stock = stock + 100 where id = 1")
        wire.run_dry()
        a.run("update shops set visits = visits + 1000 where id = 2")
        c.run("update shops set name = 'back' where id = 2")
        wire.run_dry()
        for table in options:
            assert same_rows(made, table)
        assert a.run("select id, visits from shops order by id") == [(1, 311), (2, 1300)]
        assert a.run("select id, code, stock from items order by id") == [
            (1, "y", 111),
            (2, "x", 5),
        ]


@pytest.mark.parametrize("event_trigger", [True, False])
def test_columns_may_be_added(wire: Wire, event_trigger: bool) -> None:
    a, b, c = contours(wire)
    a.run(INSERT.format(id=1))
    wire.run_dry()
    a.run(NAME.format(id=1, who="a"))
    for contour in contours(wire):
        if not event_trigger:
            contour.run("drop event trigger replication_follow_ddl")
        contour.run("alter table items add column more text, drop column tags")
    b.run("update items set more = 'b' where id = 1")
    c.run(ADD.format(id=1, number=1))
    for receiver in wire.receivers:
        receiver.inbox._plans.forget()
    wire.publish()
    for (
        receiver
    ) in wire.receivers:  # what was written before has a column more, and would wait for ever
        receiver.waiting = [v.replace(b',"tags":["x"]', b"") for v in receiver.waiting]
    wire.run_dry()
    for contour in contours(wire):
        assert rows(contour)[1].items() >= {"name": "a", "more": "b", "stock": 11}.items()


def test_a_writer_that_comes_between_is_merged_too(wire: Wire) -> None:
    a, b, _ = contours(wire)
    a.run(MINE.format(id=1, who="a", number=1))
    wire.publish()
    receiver = next(r for r in wire.receivers if r.contour is b)
    with b.session() as writer:
        writer.execute(MINE.format(id=1, who="b", number=2))
        applier = threading.Thread(
            target=lambda: failed.append(_failure(receiver.apply, receiver.waiting))
        )
        failed: list[str] = []
        applier.start()
        wait_until(lambda: bool(b.value(WAITING)), timeout=20, what="the applier to wait")
        writer.commit()
    applier.join(20)
    assert "were inserted here while the batch was applied" in failed[0]
    receiver._offsets.clear()
    wire.run_dry()
    assert_equal(wire)
    assert rows(a)[1]["stock"] == 3


WAITING: Final = (
    "select exists (select from pg_stat_activity where datname = current_database() "
    "and application_name = 'replicator_consumer' and wait_event_type = 'Lock')"
)


def _failure(step: Callable[[list[bytes]], None], values: list[bytes]) -> str:
    with pytest.raises(TransientError) as caught:
        step(values)
    return caught.value.message


def test_a_delete_that_settles_keeps_what_the_row_was(wire: Wire) -> None:
    """A delete overtakes an insert that is not committed; a newer update then brings the row back."""
    a, b, c = contours(wire)
    to_b, to_c = wire.receivers[1:]
    a.run(MINE.format(id=1, who="a", number=1))
    wire.publish()
    to_c.apply(to_c.waiting)
    with b.session() as writer:
        writer.execute(MINE.format(id=1, who="b", number=2))
        a.run(DELETE.format(id=1))
        wire.publish()
        to_b.apply(to_b.waiting)
        assert b.value("select unsettled from replication_tombstones")
        writer.commit()
    to_c.waiting.clear()
    while b.value("select unsettled from replication_tombstones"):
        to_b.inbox.retry_parked(1, eagerly=True)
    assert rows(b) == {}
    to_b.waiting.clear()
    c.run(NOTE.format(id=1, who="c"))  # without having heard of the delete
    wire.publish()
    to_c.apply([v for v in history([a]) if b'"op":"d"' in v])
    wire.run_dry()
    assert_equal(wire)
    assert rows(b)[1].items() >= {"name": "b", "note": "c", "stock": 2}.items()


def test_what_is_kept_goes_with_the_tombstone_and_the_table(wire: Wire) -> None:
    a, *_ = contours(wire)
    kept = "select record_key from merge_states order by 1"
    for id_ in (1, 2, 3):
        a.run(INSERT.format(id=id_))
        a.run(ADD.format(id=id_, number=1))
    a.run("delete from items where id < 3")
    a.run(MINE.format(id=2, who="a", number=1))
    a.run(ADD.format(id=2, number=1))
    assert len(a.run(kept)) == 3
    a.run(
        queries.load("maintenance")["remove_tombstones"].replace("%(table)s", "'items'")
        .replace("%(before)s", "(2::bigint ^ 52)::bigint").replace("%(limit)s", "100")
    )  # fmt: skip
    assert a.run(kept) == [('{"id":2}',), ('{"id":3}',)]
    a.run("select remove_table_from_replication('items')")
    assert a.run(kept) == []
    assert (
        a.run(
            "select tgname from pg_trigger where tgrelid = 'items'::regclass and not tgisinternal"
        )
        == []
    )
    assert a.value("select to_regproc('replication.merge_1')") is None


@pytest.mark.parametrize(
    ("options", "state", "message"),
    [
        ("merge => 'cells'", "22023", "merge is 'cells'"),
        ("merge => 'row', delta_columns => array['n']", "22023", "merge is 'row'"),
        ("delta_columns => array['m']", "42703", "has no delta column m"),
        (
            "delta_columns => array['id']",
            "42809",
            "can't be a delta column: it tells which row or write it is",
        ),
        (
            "delta_columns => array['f']",
            "42809",
            "can't be a delta column: its type is double precision",
        ),
        ("delta_columns => array['free']", "42809", "can't be a delta column: its type is numeric"),
        ("delta_columns => array['empty']", "42809", "can't be a delta column: it may be null"),
        (
            "delta_columns => array['made']",
            "42809",
            "can't be a delta column: its value is the database's",
        ),
        (
            "merge => 'columns', exclude => array['f']",
            "0A000",
            "exclude does not go with merge => 'columns'",
        ),
        (
            "merge => 'columns', displace => true",
            "0A000",
            "displace does not go with merge => 'columns'",
        ),
    ],
)
def test_what_can_not_be_merged_is_refused(
    things: Contour, options: str, state: str, message: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        things.run(f"select setup_table_for_replication('things', {options})")
    assert refused.value.sqlstate == state
    assert message in (refused.value.diag.message_primary or "")
    assert refused.value.diag.message_hint


@pytest.fixture(scope="module")
def things(postgres: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[Contour]:
    dsn = postgres.create_database("merge_refusals", template=templates["a"])
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": dsn},
        kafka={"bootstrap_servers": "unused:1"},
    )
    contour = Contour(settings, psycopg.connect(dsn, autocommit=True), dsn)
    contour.run("set search_path = public, replication")
    contour.run(
        "create table things (id int primary key, n int not null, f float not null, "
        "free numeric not null, empty int, made int not null generated always as (1) stored)"
    )
    yield contour
    contour.close()


def test_options_stay_and_whole_rows_are_as_they_were(things: Contour) -> None:
    things.run("create table plain (id int primary key, n int not null)")
    things.run("select setup_table_for_replication('plain')")
    things.run("select setup_table_for_replication('things', delta_columns => array['n'])")
    things.run("select setup_table_for_replication('things')")
    kept = "select merge, delta_columns from replicated_tables order by table_name"
    assert things.run(kept) == [("row", []), ("columns", ["n"])]
    for options in ("merge => 'row'", "delta_columns => array['n', 'id']", "delta_columns => '{}'"):
        with pytest.raises(psycopg.Error):
            things.run(f"select setup_table_for_replication('things', {options})")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="with another merge"):
        things.run("select setup_table_for_replication('plain', merge => 'columns')")
    things.run("insert into plain values (1, 1)")
    things.run("update plain set n = 2")
    assert things.run("select merge from replication_queue where table_name = 'plain'") == [
        (None,),
        (None,),
    ]
    assert things.run("select * from merge_states") == []
    assert things.run(
        "select proname from pg_proc where proname like 'capture\\_%' and prosrc like '%merge%' "
        "and proname <> 'capture_statement'"
    ) == [("capture_2",)]

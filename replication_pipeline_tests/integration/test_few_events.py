"""A few events in one round trip do what the steps do, one by one."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Final

import psycopg
import pytest

from bench.round_trips import connections, counted
from replication_pipeline.domain.model import Consumed
from replication_pipeline.postgres.apply_steps import Staged
from replication_pipeline.postgres.few_events import FewEvents
from replication_pipeline.postgres.plans import Plans
from replication_pipeline_tests.conftest import Contour, MakeContours
from replication_pipeline_tests.integration.costs import costs_no_more
from replication_pipeline_tests.integration.wire import Receiver, wire_between
from replication_pipeline_tests.publishing import with_settings

pytestmark = pytest.mark.integration

DDL: Final = """
create table parents (id int primary key, code text unique, "note %s" text);
create table children (id int primary key, parent int references parents on delete cascade, doc jsonb);
create table numbered (id int primary key, number int generated always as identity, bytes bytea,
                       list int[], tag varchar(5));
"""
TABLES: Final = ["parents", "children", "numbered"]
KEYS: Final = 6  # of each table: few, so that writes meet
WRITES: Final = [
    """insert into parents values ({k}, 'c{v}', 'n"{n}\\,(') on conflict (id) do update
         set code = excluded.code, "note %s" = excluded."note %s" """,
    """update parents set "note %s" = '{n}' where id = {k}""",
    "update parents set code = null where id = {k}",
    "delete from parents where id = {k}",
    """insert into children values ({k}, {v}, '{{"n": "{n}"}}') on conflict (id) do update
         set parent = excluded.parent, doc = excluded.doc""",
    "delete from children where id = {k}",
    """insert into numbered (id, bytes, list, tag) values ({k}, '\\x00{n:02}', '{{{n},null}}', '{n}')
         on conflict (id) do update set bytes = excluded.bytes, list = excluded.list""",
    "update numbered set number = default where id = {k}",
    "delete from numbered where id = {k}",
]
STATE: Final = {
    **{table: f"select t::text from {table} t order by 1" for table in TABLES},
    "tombstones": "select table_name, record_key, version from replication.replication_tombstones "
    "order by 1, 2",
    "conflicts": "select table_name, record_key, event_id, incoming_contour, incoming_version, "
    "incoming_base, current_version, winner, reason, incoming_row::text, current_row::text "
    "from replication.replication_conflicts order by 1, 2, 3, 7",
    "parked": "select topic ~ 'parents', event_id, table_name, record_key, version, reason, detail, "
    "blocked_by from replication.parked_events order by 2",
    "known": "select event_id from replication.processed_events order by 1",
    "counters": "select processed, failed, applied, skipped, conflicts, bytes "
    "from replication.workers where role = 'applier'",
}


def writes(contour: Contour, chance: random.Random, count: int) -> None:
    for number in range(count):
        statement = chance.choice(WRITES).format(
            k=chance.randrange(KEYS), v=chance.randrange(KEYS), n=number % 90
        )
        try:
            contour.run(statement)
        except (psycopg.errors.ForeignKeyViolation, psycopg.errors.UniqueViolation):
            continue


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many batches worker ``few`` did at once and gave back, and how many ``steps`` did."""
    told = {"at once": 0, "given back": 0, "steps": 0}
    fit, apply = FewEvents.fit, FewEvents.apply

    def fits(self: FewEvents, batch: Consumed) -> bool:
        if self.instance == "steps":
            told["steps"] += 1
            return False
        return fit(self, batch)

    def applies(
        self: FewEvents, connection: psycopg.Connection, batch: Consumed, plans: Plans
    ) -> list[Staged] | None:
        found = apply(self, connection, batch, plans)
        if self.instance == "few":
            told["given back" if found is None else "at once"] += 1
        return found

    monkeypatch.setattr(FewEvents, "fit", fits)
    monkeypatch.setattr(FewEvents, "apply", applies)
    return told


@pytest.mark.parametrize("seed", range(3))
def test_the_same_comes_of_the_same_events(
    make_contours: MakeContours, taken: dict[str, int], seed: int
) -> None:
    chance = random.Random(seed)
    a, b, few = make_contours(DDL, TABLES, count=3)
    steps = make_contours(DDL, TABLES, count=3)[2]
    # Nothing is decided by how long it took, which differs between the two.
    patient = {"foreign_key_patience": timedelta(hours=1)}
    few, steps = (
        replace(each, settings=with_settings(each.settings, consumer=patient))
        for each in (few, steps)
    )
    with wire_between([a, b, few, steps], seed) as wire:
        *_, one, other = wire.receivers
        one.inbox.instance = one.inbox._few.instance = "few"
        other.inbox.instance = other.inbox._few.instance = "steps"
        for _ in range(6):
            for writer in (a, b):
                writes(writer, chance, 25)
            wire.publish()
            for sender in wire.receivers[:2]:
                wire.deliver(sender)
            wire.publish()  # what policies and displacements have written
            values = one.waiting
            other.waiting, one.waiting = [], []
            chance.shuffle(values)
            while values:
                count = chance.randint(1, 4)
                batch, values = values[:count], values[count:]
                for receiver in (one, other):
                    receiver.apply(batch)
                    receiver.inbox.retry_parked(1000, eagerly=True)
            assert state(one) == state(other)
    assert taken["at once"] > 30, taken
    assert taken["given back"] > 5, taken
    assert taken["steps"] == taken["at once"] + taken["given back"], taken


def state(receiver: Receiver) -> dict[str, object]:
    return {name: receiver.contour.run(question) for name, question in STATE.items()}


@pytest.mark.costs
def test_an_event_takes_three_round_trips(make_contours: MakeContours) -> None:
    """The transaction's begin, all that is done, its end."""
    a, b = make_contours(DDL, TABLES)
    with wire_between([a, b], 0) as wire:
        _, receiver = wire.receivers
        for _ in range(3):
            a.run("insert into numbered (id) select coalesce(max(id), 0) + 1 from numbered")
        wire.publish()
        receiver.apply(receiver.waiting[:1])
        receiver.apply(receiver.waiting[1:2])
        sessions = [
            s for s in connections("replicator_consumer") if s.info.dbname == b.app.info.dbname
        ]
        with counted(*sessions) as trips:
            receiver.apply(receiver.waiting[2:])
    costs_no_more("apply_event_round_trips", trips.count)
    assert b.value("select count(*) from numbered") == 3


def test_large_batches_and_large_events_go_in_steps(
    make_contours: MakeContours, taken: dict[str, int]
) -> None:
    a, b = make_contours(DDL, TABLES)
    with wire_between([a, b], 0) as wire:
        _, receiver = wire.receivers
        receiver.inbox._few.instance = "few"
        a.run("insert into numbered (id) select generate_series(1, 200)")
        wire.publish()
        receiver.apply(receiver.waiting)
        a.run("insert into children values (1, null, to_jsonb(repeat('x', 300000)))")
        receiver.waiting.clear()
        wire.publish()
        receiver.apply(receiver.waiting)
    assert taken["at once"] == taken["given back"] == 0
    assert b.value("select count(*) from numbered") == 200
    assert b.value("select count(*) from children") == 1

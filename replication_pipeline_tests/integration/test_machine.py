"""Hypothesis drives three real contours through whatever it can think of, and shrinks what breaks them
to a short story.

Steps: single and multi-row writes, key moves, cascades; events delivered in any order, in parts, and
again; clocks that jump; connections that are lost before and after a commit. After every step, in
every contour: no live row at or below its tombstone, no orphan, and no key whose version falls. At the
end everything is delivered, and all contours are equal and equal to the newest write of each key.

Exempt is what waits by design: an event whose row would break a unique constraint is parked, and
contours may differ on its key until somebody decides. A parent's delete that waits for children of
another contour is helped by deleting those, as an operator would.

``MACHINE_EXAMPLES=500`` tries that many histories, other ones each time, and longer ones; from 100 on
it shrinks what it finds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from replication_pipeline_tests.conftest import MakeContours
from replication_pipeline_tests.integration.place import (
    CrashPoint,
    Place,
    newest_writes,
    rows_of,
)

EXAMPLES: Final = int(os.environ.get("MACHINE_EXAMPLES", "0"))
pytestmark = [pytest.mark.integration, *([pytest.mark.timeout(0)] if EXAMPLES else [])]
PROFILE: Final = settings(
    max_examples=EXAMPLES or 20,
    stateful_step_count=60 if EXAMPLES else 40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate, *([Phase.shrink] if EXAMPLES >= 100 else [])],
    suppress_health_check=list(HealthCheck),
)

TABLES: Final = ("item", "parent", "child", "account")
DDL: Final = """
create table item (id int primary key, value int, other int);
create table parent (id int primary key, value int);
create table child (id int primary key, value int,
                    parent_id int not null references parent on delete cascade);
create table account (id int primary key, email text unique)
"""
WRITES: Final = {
    "insert": "insert into item values (%(key)s, %(value)s, %(value)s) on conflict do nothing",
    "upsert": "insert into item values (%(key)s, %(value)s) "
    "on conflict (id) do update set value = excluded.value",
    "update": "update item set value = %(value)s where id = %(key)s",
    "update other": "update item set other = %(value)s where id = %(key)s",
    "update all": "update item set value = value + %(value)s",
    "delete": "delete from item where id = %(key)s",
    "delete many": "delete from item where id >= %(key)s",
    "delete and insert": "with gone as (delete from item where id = %(key)s) "
    "insert into item values (%(other)s, %(value)s) on conflict do nothing",
    "move": "update item set id = %(other)s where id = %(key)s",
    "rotate": "update item set id = (id + %(key)s) %% 3",
    "merge": "merge into item t using (values (%(key)s), (%(other)s)) as s(id) on t.id = s.id "
    "when matched then update set value = %(value)s "
    "when not matched then insert (id, value) values (s.id, %(value)s)",
    "insert parent": "insert into parent values (%(key)s, %(value)s) on conflict do nothing",
    "update parent": "update parent set value = %(value)s where id = %(key)s",
    "delete parent": "delete from parent where id = %(key)s",
    "insert child": "insert into child (id, value, parent_id) values (%(key)s, %(value)s, %(other)s) "
    "on conflict do nothing",
    "adopt child": "update child set parent_id = %(other)s where id = %(key)s",
    "delete child": "delete from child where id = %(key)s",
    "insert account": "insert into account values (%(key)s, %(other)s) on conflict do nothing",
    "update account": "update account set email = %(other)s where id = %(key)s",
    "delete account": "delete from account where id = %(key)s",
}
places_of = st.integers(0, 2)
keys = st.integers(0, 2)
writes = st.tuples(st.sampled_from(sorted(WRITES)), keys, keys, st.integers(0, 99))
randoms = st.integers(0, 999).map(Random)

UNION: Final = " union all ".join(
    f"select '{table}' as name, id, replication_version from {table}" for table in TABLES
)
STATE: Final = f"""
select coalesce(r.name, b.table_name), coalesce(r.id, (b.record_key::json ->> 'id')::int),
       r.replication_version, b.version, b.unsettled
  from ({UNION}) r
  full join replication.replication_tombstones b
    on b.table_name = r.name and b.record_key = format('{{"id":%s}}', r.id)
"""
ORPHANS: Final = "select c.id from child c where c.parent_id not in (select id from parent)"
WAITING: Final = """
select (select count(*) from replication.replication_queue where not published)
     + (select count(*) from replication.parked_events where table_name <> 'account')
     + (select count(*) from replication.replication_tombstones where unsettled)
"""


class Contours(RuleBasedStateMachine):
    """``places`` are made once; each history begins in empty tables."""

    places: list[Place]
    patience = 20.0  # seconds until all must be quiet

    def __init__(self) -> None:
        super().__init__()
        for place in self.places:
            place.empty(TABLES)
        self.highest: list[dict[tuple[str, int], int]] = [{} for _ in self.places]
        self.touched: set[int] = set()
        self.written: set[int] = set()  # contours whose queue may not be empty

    # --- steps -----------------------------------------------------------------------------------

    @rule(at=places_of, transaction=st.lists(writes, min_size=1, max_size=3))
    def write(self, at: int, transaction: list[tuple[str, int, int, int]]) -> None:
        """A transaction of one to three statements. What PostgreSQL refuses is rolled back whole."""
        contour = self.places[at].contour
        self.touched.add(at)
        self.written.add(at)
        refusals = (psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
        with suppress(*refusals), contour.app.transaction():
            for what, key, other, value in transaction:
                contour.app.execute(WRITES[what], {"key": key, "other": other, "value": value})

    @rule(at=places_of, what=writes)
    def write_again(self, at: int, what: tuple[str, int, int, int]) -> None:
        self.write(at, [what])

    @rule(at=places_of, parent=keys, child=keys, value=st.integers(0, 99))
    def write_family(self, at: int, parent: int, child: int, value: int) -> None:
        self.write(
            at, [("insert parent", parent, 0, value), ("insert child", child, parent, value)]
        )

    @rule(to=places_of, count=st.integers(1, 12), repeats=st.integers(0, 3), chance=randoms)
    def deliver(self, to: int, count: int, repeats: int, chance: Random) -> None:
        """Some of what is on the way, in any order, with some that has been delivered before."""
        self._deliver(to, count, repeats, chance, None)

    @rule(to=places_of, chance=randoms)
    def deliver_one(self, to: int, chance: Random) -> None:
        self._deliver(to, 1, 0, chance, None)

    @rule(
        to=places_of,
        count=st.integers(1, 6),
        chance=randoms,
        point=st.sampled_from(["before the commit", "after the commit"]),
    )
    def crash(self, to: int, count: int, chance: Random, point: CrashPoint) -> None:
        self._deliver(to, count, 0, chance, point)

    @rule(at=places_of, seconds=st.sampled_from([None, None, -3600, -10, 0, 10, 30]))
    def jump_clock_or_retry(self, at: int, seconds: int | None) -> None:
        if seconds is None:
            self.touched.add(at)
            self.places[at].retry()
        else:
            self.places[at].set_clock(seconds)

    def _publish(self, at: int) -> None:
        carried = self.places[at].publish()
        for number, place in enumerate(self.places):
            if number != at:
                place.on_the_way += carried

    def _deliver(
        self, to: int, count: int, repeats: int, chance: Random, crash: CrashPoint | None
    ) -> None:
        place = self.places[to]
        for number in self.written - {to}:
            self._publish(number)
        self.written &= {to}
        chance.shuffle(place.on_the_way)
        batch = place.on_the_way[:count]
        again = chance.sample(place.delivered, min(repeats, len(place.delivered)))
        if not batch and not again:
            return
        self.touched.add(to)
        left = place.deliver([*batch, *again], crash)
        place.on_the_way[:count] = [one for one in batch if one in left]
        place.delivered += [one for one in batch if one not in left]
        # The ledger must not be what makes repeats harmless.
        place.contour.run("delete from replication.processed_events")

    # --- what holds at any time ------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        for number in self.touched:
            contour = self.places[number].contour
            for table, key, living, buried, unsettled in contour.run(STATE):
                story = f"contour {contour.name}, {table} {key}"
                if living is not None and buried is not None and not unsettled:
                    assert living > buried, f"{story}: lives at or below its tombstone"
                version = max(living or 0, buried or 0)
                known = self.highest[number].get((table, key), 0)
                assert version >= known, f"{story}: its version falls"
                self.highest[number][table, key] = version
            assert contour.run(ORPHANS) == [], f"contour {contour.name} has orphans"
        self.touched.clear()

    # --- the end ---------------------------------------------------------------------------------

    def teardown(self) -> None:
        self._heal()
        expected = {
            name: (version, row)
            for name, (version, row) in newest_writes(self.places).items()
            if row is not None
        }
        undecided = self._undecided()
        contents = [
            {name: row for name, row in rows_of(place, TABLES).items() if name not in undecided}
            for place in self.places
        ]
        expected = {name: row for name, row in expected.items() if name not in undecided}
        for place, content in zip(self.places, contents, strict=True):
            assert content == expected, f"contour {place.contour.name}"

    def _heal(self) -> None:
        chance = Random(0)
        # A delete settles once all transactions of the server are over: also those of others.
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            for number in range(len(self.places)):
                self._publish(number)
            for number, place in enumerate(self.places):
                while place.on_the_way and time.monotonic() < deadline:
                    self._deliver(number, 50, 5, chance, None)
                place.retry()
                self._help(place)
            self.touched = set(range(len(self.places)))
            self.holds()
            quiet = all(place.contour.value(WAITING) == 0 for place in self.places)
            if quiet and not any(place.on_the_way for place in self.places):
                return
        raise AssertionError(f"not quiet after {self.patience} s: {self._parked()}")

    def _help(self, place: Place) -> None:
        """What an operator does about a parent's delete that waits for children."""
        place.contour.run(
            "delete from child where parent_id in (select (record_key::json ->> 'id')::int "
            "from replication.parked_events where table_name = 'parent' and reason = 'referenced')"
        )

    def _undecided(self) -> set[tuple[str, int]]:
        return {
            (table, key)
            for place in self.places
            for table, key in place.contour.run(
                "select table_name, (convert_from(event, 'UTF8')::json "
                "-> case when op = 'd' then 'before' else 'after' end ->> 'id')::int "
                "from replication.parked_events, "
                "lateral (select convert_from(event, 'UTF8')::json ->> 'op' as op) e"
            )
        }

    def _parked(self) -> list[Any]:
        return [
            (place.contour.name, *row)
            for place in self.places
            for row in place.contour.run(
                "select table_name, record_key, version, reason from replication.parked_events "
                "union all select table_name, record_key, version, 'unsettled' "
                "from replication.replication_tombstones where unsettled "
                "union all select table_name, record_key, version, 'unpublished' "
                "from replication.replication_queue where not published"
            )
        ]


@pytest.fixture
def places(make_contours: MakeContours) -> Iterator[list[Place]]:
    made = [Place(contour) for contour in make_contours(DDL, list(TABLES), count=3)]
    yield made
    for place in made:
        place.close()


def test_contours_converge_whatever_hypothesis_does(places: list[Place]) -> None:
    machine = type("Machine", (Contours,), {"places": places})
    run_state_machine_as_test(machine, settings=PROFILE)

"""What applying costs, in what can be counted: round trips, WAL, dead rows, rows looked at. Never time.

What is allowed stands in ``costs.toml``; a change that breaks it is to be wanted, or mended.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr

from bench import plans
from bench.database import with_database
from bench.round_trips import connections, counted
from bench.users import insert
from replication_pipeline import runtime
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres import queries
from replication_pipeline_tests.conftest import LONGEST, Contour, MakeContours
from replication_pipeline_tests.integration.costs import Batches, costs_no_more, wal_bytes
from replication_pipeline_tests.integration.wire import Receiver, Wire, wire_between

pytestmark = [pytest.mark.integration, pytest.mark.costs]

STATEMENTS = {
    f"{file.stem}.{name}": text
    for file in (queries.sql_directory() / "queries").glob("*.sql")
    for name, text in queries.load(file.stem).items()
}
# These still compare each staged event with each other; nothing may join them.
STILL_QUADRATIC = {
    "apply.park_orphans",
    "apply.park_referenced",
    "apply.park_staged",
}
ONLY_OF_LARGE = {
    "apply.remember_new": "apply.remember",
    "apply.insert_new": "apply.upsert",
}  # what takes whose place
TOLERANCE = 1.5
SMALL = 1000  # rows that no batch is too small for
FAMILY = """
create table parents (id bigint primary key, code text unique, note text);
create table children (
  id bigint primary key, parent bigint references parents, code text references parents (code));
create index on children (parent);
create index on children (code);
"""
KINDS = 10  # of events in a batch, see `events_of_every_kind`
FEW, MANY = 20, 200  # events of each kind
BASE = 5 * (FEW + MANY)  # rows of each table before; each event of a kind changes others of them
LATE = "its event has not come"

EVENTS = 5000
WARM_UP = 2  # batches
OF_AN_END = 20  # looks for parked events and unsettled deletes while nothing comes
IDLE_COUNTS = 10  # heartbeats
HISTOGRAMS = 2  # of batches, and of the table's arrivals
DEAD = """
select relname::text, n_dead_tup::bigint from pg_stat_user_tables where n_dead_tup > 0
"""


def events_of_every_kind(contour: Contour, number: int, each: int) -> None:
    """Changes in ``contour``, ``each`` of a kind; ``number`` rows of the base are used up already."""
    parts = [5 * number + each * part + 1 for part in range(5)]
    changed, moved, childless, gone, conflicting = ((part, part + each - 1) for part in parts)
    new = (BASE + 5 * number + 1, BASE + 5 * number + each)
    late = (-number - each, -number - 1)
    for statement, between in (
        (
            "insert into parents select g, 'p' || g, 'new' from generate_series(%s::int, %s::int) g",
            new,
        ),
        (
            "insert into children select g, g, 'p' || g from generate_series(%s::int, %s::int) g",
            new,
        ),
        ("update parents set code = 'q' || id where id between %s and %s", changed),
        ("update children set parent = 1 + id %% 10 where id between %s and %s", moved),
        ("delete from children where id between %s and %s", childless),
        ("delete from children where id between %s and %s", gone),
        ("delete from parents where id between %s and %s", gone),
        ("update parents set note = 'there' where id between %s and %s", conflicting),
        (
            f"insert into parents select g, null, '{LATE}' from generate_series(%s::int, %s::int) g",
            late,
        ),
        ("insert into children select g, g from generate_series(%s::int, %s::int) g", late),
    ):
        contour.run(statement, *between)


def here(contour: Contour, number: int, each: int) -> None:
    """Changes of the rows that ``events_of_every_kind`` changes last."""
    first = 5 * number + 4 * each + 1
    contour.run(
        "update parents set note = 'here' where id between %s and %s", first, first + each - 1
    )


@contextmanager
def explained(server: EmbeddedPostgres, contours: list[Contour]) -> Iterator[Wire]:
    """A network between them, whose appliers log the plans of what they run."""

    def logging(contour: Contour) -> Contour:
        dsn = SecretStr(with_database(contour.dsn, options=plans.LOGGED))
        postgres = contour.settings.postgres.model_copy(update={"dsn": dsn})
        settings = contour.settings.model_copy(update={"postgres": postgres})
        return dataclasses.replace(contour, settings=settings)

    with wire_between([logging(contour) for contour in contours], seed=0) as wire:
        yield wire


def arrived(receiver: Receiver) -> list[bytes]:
    """What waits for ``receiver``, but for the parents that are late."""
    values, receiver.waiting = receiver.waiting, []
    return [value for value in values if LATE.encode() not in value]


def rows_handled(server: EmbeddedPostgres, receiver: Receiver, values: list[bytes]) -> Counter[str]:
    """By statement: what applying these as one batch makes the server look at."""
    offset = server.log_file.stat().st_size
    receiver.apply(values)
    receiver.inbox.retry_parked(len(values), eagerly=True)
    found: Counter[str] = Counter()
    for plan in plans.parse(plans.read_from(server.log_file, offset), STATEMENTS):
        found[ONLY_OF_LARGE.get(plan.name, plan.name)] += plan.rows
    return found


def test_no_statement_of_a_batch_takes_more_than_its_share_of_a_larger_one(
    make_contours: MakeContours, postgres: EmbeddedPostgres
) -> None:
    a, b = contours = make_contours(FAMILY, ["parents", "children"])
    a.run("insert into parents select g, 'p' || g from generate_series(1, %s::int) g", BASE)
    a.run("insert into children select g, g from generate_series(1, %s::int) g", BASE)
    with explained(postgres, contours) as wire:
        _, receiver = wire.receivers
        wire.publish()
        receiver.apply(arrived(receiver))
        handled = []
        for number, each in ((0, FEW), (FEW, MANY)):
            here(b, number, each)
            events_of_every_kind(a, number, each)
            wire.publish()
            batch = arrived(receiver)
            assert len(batch) == (KINDS - 1) * each
            handled.append(rows_handled(postgres, receiver, batch))
            assert b.value("select count(*) from parked_events") == number + each
    few, many = handled
    assert {"apply.decide", "apply.upsert", "apply.lock_parents", "apply.bury"} <= many.keys()
    grown = {
        name: (few[name], rows)
        for name, rows in many.items()
        if rows > few[name] * MANY / FEW * TOLERANCE + SMALL and name not in STILL_QUADRATIC
    }
    assert not grown, "rows handled in a batch, and in one ten times as large"


def test_a_backlog_costs_few_round_trips_little_wal_and_no_dead_rows(
    users: list[Contour], kafka: EmbeddedKafka
) -> None:
    a, b = users
    with (
        runtime.open_inbox(b.settings, "costs") as inbox,
        runtime.open_consumer(b.settings, inbox) as consumer,
    ):

        def apply() -> list[int]:
            """The sizes of the batches."""
            seen = Batches()
            runtime.apply_window(
                b.settings,
                inbox=inbox,
                consumer=consumer,
                stop=StopToken(),
                length=LONGEST,
                until="drained",
                observer=seen,
            )
            return seen.counts

        for number in range(1, WARM_UP + 1):
            a.run(insert(-number, -number))
            a.publish()
            apply()
        a.run(insert(1, EVENTS))
        a.publish()
        sessions = [
            s for s in connections("replicator_consumer") if s.info.dbname == b.app.info.dbname
        ]
        before = sum(wal_bytes(session) for session in sessions)
        with counted(*sessions) as trips:
            batches = apply()
        written = sum(wal_bytes(session) for session in sessions) - before
    assert sessions
    assert sum(batches) == EVENTS
    costs_no_more("apply_batch_round_trips", (trips.count - OF_AN_END) / len(batches))
    costs_no_more("apply_backlog_round_trips", trips.count / EVENTS * 1000)
    costs_no_more("apply_backlog_wal", written / EVENTS)
    b.run("select pg_stat_force_next_flush()")
    dead = dict(b.run(DEAD))
    done = len(batches) + WARM_UP
    costs_no_more("apply_backlog_dead_offsets", dead.pop("consumer_offsets") / done)
    costs_no_more("apply_backlog_dead_counters", dead.pop("workers") / (done + IDLE_COUNTS))
    assert dead.pop("histograms", 0) <= HISTOGRAMS * IDLE_COUNTS  # each heartbeat merges them
    assert dead.keys() <= {"replicated_tables", "consumer_topics"}  # since it was set up

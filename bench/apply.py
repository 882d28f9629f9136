"""Scenario ``apply``: how fast a topic that is full is applied, and what each event costs whom.

Contour ``bench`` captures rows and publishes them once a run; ``b`` applies them again and again, each
time into a new copy of its database, so from the topics' starts. Appliers run in processes of their own
and have joined their group before the clock starts; nothing is fetched in advance. It ends with the
commit of the last event. Afterwards ``b`` must hold the newer one of each row that either had, with its
version, and our appliers must have kept what they are to keep, else the run fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import psycopg
from psycopg import Connection
from rich.console import Console

from bench.appliers.ours import ours
from bench.appliers.plain_loop import plain_loop
from bench.broker import (
    messages_in,
    other_contour,
    running_broker,
    topics_for,
    wait_until_shared_out,
)
from bench.contestants.ours import contour_settings, install_contour
from bench.database import copy_of, exists, settle_down
from bench.results import Result, recorder
from bench.subjects import SOURCE, Subject
from bench.throughput import (
    FLOOR,
    SERVER,
    WARM_UP,
    Start,
    Value,
    costs,
    measure_in_rounds,
    refuse_unless,
    run_together,
)
from bench.windows import LONGEST
from bench.workers import Progress, Worker
from bench.workloads import WORKLOADS, Name, Workload
from replication_pipeline import logs, runtime
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.settings import Settings

NEWEST: Final = "select id, replication_version, hashtextextended(t::text, 0) from {table} t"
Contents = dict[str, tuple[int, int]]
"""Number of rows and the sum of their hashes, by table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A contestant: ``processes`` appliers at once."""

    applier: Worker
    processes: int = 1
    in_group: bool = False
    """They share a contour's consumer group."""


WAYS: Final[Mapping[str, Way]] = {
    "plain loop": Way(applier=plain_loop),
    "ours": Way(applier=ours, in_group=True),
    "ours, two appliers": Way(applier=ours, processes=2, in_group=True),
}
"""The first one is what the others are compared with. The floor is last, and the workload's."""


def make_target(server: EmbeddedPostgres, subject: Subject) -> str:
    """Contour b's database with empty tables. Returns its name."""
    name = f"template b, {len(subject.tables)} tables"
    if not exists(server, name):
        dsn = server.create_database(name)
        settings = contour_settings(dsn, name="b", number=2, tables=subject.tables)
        make_tables(dsn, subject, settings)
    return name


def make_tables(dsn: str, subject: Subject, settings: Settings) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(subject.ddl)
        install_contour(connection, settings)


def make_source(server: EmbeddedPostgres, subject: Subject, rows: int) -> str:
    """A contour whose queue holds as many events, none of them published. Its connection string."""
    dsn = server.create_database(SOURCE)
    make_tables(dsn, subject, contour_settings(dsn, tables=subject.tables))
    with psycopg.connect(dsn, autocommit=True) as connection:
        subject.fill(connection, rows)
        settle_down(connection)
    return dsn


def make_both(server: EmbeddedPostgres, workload: Workload, events: int) -> tuple[str, str]:
    """As many events wait in the source's queue. Its connection string, and the name of a template of
    ``b`` that they have not come to.
    """
    subject, template = workload.subject, f"template of {workload.scenario}"
    source, target = server.create_database(SOURCE), server.create_database(template)
    make_tables(source, subject, contour_settings(source, tables=subject.tables))
    make_tables(
        target, subject, contour_settings(target, name="b", number=2, tables=subject.tables)
    )
    with (
        psycopg.connect(source, autocommit=True) as a,
        psycopg.connect(target, autocommit=True) as b,
    ):
        workload.happen(a, b, events)
        settle_down(a)
        settle_down(b)
    return source, template


@contextmanager
def published(
    broker: EmbeddedKafka,
    dsn: str,
    tables: Sequence[str],
    events: int,
    *,
    partitions: int | None = None,
) -> Iterator[Settings]:
    """Settings of the contour at ``dsn``, which has published the events that it had."""
    with topics_for(broker, dsn, tables, partitions=partitions) as settings:
        logs.configure(settings.logging, contour=settings.contour.name)
        runtime.publish(settings, stop=StopToken(), length=LONGEST, until="drained")
        refuse_unless("publishing", {"messages in Kafka": (messages_in(settings), events)})
        yield settings


def contents(connection: Connection[Any], subject: Subject) -> Contents:
    """Of whole rows, versions included."""
    found: Contents = {}
    for table in subject.tables:
        ((rows, hashes),) = connection.execute(
            f"select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) from {table} t"
        )
        found[table] = (rows, int(hashes))
    return found


def contents_of(dsn: str, subject: Subject) -> Contents:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return contents(connection, subject)


def newest(a: str, b: str, subject: Subject) -> Contents:
    """What ``b`` has to hold when all of ``a``'s changes have come: of each row the newer one, and none
    that ``a`` has no more.
    """
    found: Contents = {}
    with psycopg.connect(a) as of_a, psycopg.connect(b) as of_b:
        for table in subject.tables:
            query = NEWEST.format(table=table)
            rows = {key: (version, row) for key, version, row in of_a.execute(query)}
            for key, version, row in of_b.execute(query):
                if key in rows:
                    rows[key] = max(rows[key], (version, row))
            found[table] = (len(rows), sum(row for _, row in rows.values()))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 200_000
    rounds: int = 3
    workload: Name = "one-table"

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        workload = WORKLOADS[self.workload]
        ways = {**WAYS, FLOOR: Way(applier=workload.floor)}
        results = recorder(
            workload.scenario,
            server,
            contestants=[*ways],
            events=self.events,
            workload=self.workload,
            tables=len(workload.subject.tables),
            rounds=self.rounds,
            aim=f"{workload.aim} events/s by one applier" if workload.aim else None,
            warm_up=WARM_UP,
        )
        with running_broker(server) as broker:
            console.print(f"publishing {self.events} events", highlight=False)
            source, template = make_both(server, workload, self.events)
            expected = newest(source, server.dsn(template), workload.subject)
            with published(broker, source, workload.subject.tables, self.events) as settings:

                def measure(name: str, way: Way, count: bool) -> dict[str, Value]:
                    with copy_of(server, template) as dsn:
                        return measured(
                            other_contour(settings, dsn),
                            broker,
                            name,
                            way,
                            workload,
                            expected=expected,
                            events=self.events,
                            count=count,
                        )

                measure_in_rounds(
                    ways, measure, rounds=self.rounds, results=results, console=console
                )
        return results.results


def measured(
    settings: Settings,
    broker: EmbeddedKafka,
    name: str,
    way: Way,
    workload: Workload,
    *,
    expected: Contents,
    events: int,
    count: bool,
) -> dict[str, Value]:
    """What contour ``settings`` takes to apply all that its topics hold."""

    def joined() -> None:
        if way.in_group:
            wait_until_shared_out(settings, way.processes)

    with psycopg.connect(settings.postgres.dsn.get_secret_value(), autocommit=True) as observer:
        settle_down(observer)
        run = run_together(
            [Start(way.applier, settings, Progress(events))] * way.processes,
            observer=observer,
            broker=broker,
            count=count,
            connected=joined,
        )
        values = costs(run, events, observer=observer, whose="appliers", count=count)
        found: dict[str, tuple[Any, Any]] = {
            "rows": (contents(observer, workload.subject), expected)
        }
        if way.in_group:
            values["parked"] = Value(sum(one.parked for one in run.done) / events, "share")
            for table, share in workload.kept.items():
                ((rows,),) = observer.execute(f"select count(*) from {table}")
                found[table] = (rows, round(events * share))
        refuse_unless(name, found)
        return values

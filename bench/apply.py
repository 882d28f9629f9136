"""Scenario ``apply``: how fast a topic that is full is applied, and what each event costs whom.

Contour ``bench`` captures rows and publishes them once a run; ``b`` applies them again and again, each
time into a new copy of its database, so from the topics' starts. Appliers run in processes of their own
and have joined their group before the clock starts; nothing is fetched in advance. It ends with the
commit of the last event. Afterwards ``b`` must hold the same rows with the same versions, else the run
fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import psycopg
from psycopg import Connection
from rich.console import Console

from bench.appliers.floor import floor
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
from bench.subjects import SOURCE, SUBJECTS, Subject
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
from replication_pipeline import logs, runtime
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.settings import Settings

AIMS: Final = {1: 60_000, 5: 30_000}  # events/s of one applier, by the number of tables
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
    FLOOR: Way(applier=floor),
}
"""The first one is what the others are compared with."""


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


@contextmanager
def published(
    server: EmbeddedPostgres, broker: EmbeddedKafka, subject: Subject, events: int
) -> Iterator[Settings]:
    """Settings of a contour that has published so many events."""
    dsn = make_source(server, subject, events)
    with topics_for(broker, dsn, subject.tables) as settings:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 200_000
    rounds: int = 3
    tables: int = 1
    """Five have foreign keys between them."""

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        subject = SUBJECTS[self.tables]
        results = recorder(
            "apply" if self.tables == 1 else "apply-family",
            server,
            contestants=[*WAYS],
            events=self.events,
            tables=self.tables,
            rounds=self.rounds,
            aim=f"{AIMS[self.tables]} events/s by one applier",
            warm_up=WARM_UP,
        )
        target = make_target(server, subject)
        with running_broker(server) as broker:
            console.print(f"publishing {self.events} events", highlight=False)
            with published(server, broker, subject, self.events) as settings:
                source = contents_of(settings.postgres.dsn.get_secret_value(), subject)

                def measure(name: str, way: Way, count: bool) -> dict[str, Value]:
                    with (
                        copy_of(server, target) as dsn,
                        psycopg.connect(dsn, autocommit=True) as observer,
                    ):
                        settle_down(observer)
                        values = self._measure(
                            observer, broker, other_contour(settings, dsn), way, count=count
                        )
                        refuse_unless(name, {"rows": (contents(observer, subject), source)})
                        return values

                measure_in_rounds(
                    WAYS, measure, rounds=self.rounds, results=results, console=console
                )
        return results.results

    def _measure(
        self,
        observer: Connection[Any],
        broker: EmbeddedKafka,
        settings: Settings,
        way: Way,
        *,
        count: bool,
    ) -> dict[str, Value]:
        def joined() -> None:
            if way.in_group:
                wait_until_shared_out(settings, way.processes)

        run = run_together(
            [Start(way.applier, settings, Progress(self.events))] * way.processes,
            observer=observer,
            broker=broker,
            count=count,
            connected=joined,
        )
        values = costs(run, self.events, observer=observer, whose="appliers", count=count)
        parked = sum(one.parked for one in run.done) / self.events
        return values | ({"parked": Value(parked, "share")} if way.in_group else {})

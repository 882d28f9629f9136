"""Scenario ``publish``: how fast a full queue is drained, and what each event costs whom.

Every measurement has a new copy of the filled database and a new topic. Publishers run in processes of
their own and are connected before the clock starts, as in a window that has been running for a while.
It ends when the last event is acknowledged and its mark committed. Afterwards the queue must be
empty and Kafka must hold every event once, else the run fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.broker import messages_in, running_broker, topics_for
from bench.capture import extensions
from bench.contestants.ours import Ours
from bench.contestants.pgq_logutriga import PgqLogutriga
from bench.database import copy_of, exists, make_template, settle_down
from bench.publishers import pgq, plain_loop
from bench.publishers.floor import floor
from bench.publishers.ours import ours
from bench.queue_health import fill
from bench.results import Result, recorder
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
from bench.workers import Progress, Worker
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.settings import Settings

QUEUE: Final = "replication.replication_queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A contestant: ``processes`` publishers at once on one queue."""

    publisher: Worker
    queue: str
    """The table whose rows are published."""
    processes: int = 1
    marks: bool = True
    waiting: str = ""
    """Counts what isn't marked, where that is no column of the table."""

    @property
    def count_waiting(self) -> str:
        return self.waiting or f"select count(*) from {self.queue} where not published"


WAYS: Final[Mapping[str, Way]] = {
    "plain loop": Way(publisher=plain_loop.plain_loop, queue="plain_queue"),
    "ours": Way(publisher=ours, queue=QUEUE),
    "ours, two publishers": Way(publisher=ours, queue=QUEUE, processes=2),
    FLOOR: Way(publisher=floor, queue=QUEUE, marks=False),
}
"""The first one is what the others are compared with."""
WITH_PGQ: Final[Mapping[str, Way]] = {
    **WAYS,
    "pgq": Way(publisher=pgq.pgq, queue=pgq.QUEUE, waiting=pgq.WAITING),
}
"""On a server that has the extension."""


def filled_templates(server: EmbeddedPostgres, events: int) -> dict[str, str]:
    """Databases with so many events waiting, by the name of the queue."""
    ours_, plain = f"queue of {events}", f"plain queue of {events}"
    if not exists(server, ours_):
        dsn = server.create_database(ours_, template=make_template(server, Ours()))
        fill(dsn, 1, events)
        only_the_queue(dsn)
        with psycopg.connect(
            server.create_database(plain, template=ours_), autocommit=True
        ) as connection:
            connection.execute(plain_loop.TABLE)
            connection.execute(f"truncate {QUEUE}")
            settle_down(connection)
    return {QUEUE: ours_, "plain_queue": plain}


def only_the_queue(dsn: str) -> None:
    """Publishing never looks at the captured rows; copies are made faster without them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter table users disable trigger all")
        connection.execute("truncate users")
        connection.execute("alter table users enable trigger all")
        settle_down(connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 500_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            missing = PgqLogutriga().missing(connection)
            more_versions = extensions(connection)
        if missing:
            console.print(f"without pgq: {missing}", highlight=False)
        ways = WAYS if missing else WITH_PGQ
        results = recorder(
            "publish",
            server,
            contestants=[*ways],
            more_versions=more_versions,
            events=self.events,
            rounds=self.rounds,
            warm_up=WARM_UP,
        )
        console.print(f"filling queues of {self.events} events", highlight=False)
        templates = filled_templates(server, self.events)
        if not missing:
            templates[pgq.QUEUE] = pgq.filled_template(server, self.events)
        with running_broker(server) as broker:

            def measure(name: str, way: Way, count: bool) -> dict[str, Value]:
                return self.measure(server, broker, templates[way.queue], name, way, count=count)

            measure_in_rounds(ways, measure, rounds=self.rounds, results=results, console=console)
        return results.results

    def measure(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        template: str,
        name: str,
        way: Way,
        *,
        count: bool,
    ) -> dict[str, Value]:
        with copy_of(server, template) as dsn, topics_for(broker, dsn) as settings:
            return measured(settings, broker, name, way, events=self.events, count=count)


def measured(
    settings: Settings, broker: EmbeddedKafka, name: str, way: Way, *, events: int, count: bool
) -> dict[str, Value]:
    """What it takes to publish all that waits. ``RuntimeError``: some was not, or more than once."""
    with psycopg.connect(settings.postgres.dsn.get_secret_value(), autocommit=True) as observer:
        settle_down(observer)
        start = Start(way.publisher, settings, Progress(events))
        run = run_together([start] * way.processes, observer=observer, broker=broker, count=count)
        ((waiting,),) = observer.execute(way.count_waiting)
        refuse_unless(
            name,
            {
                "events published": (run.events, events),
                "messages in Kafka": (messages_in(settings), events),
                "events left unmarked": (waiting, 0 if way.marks else events),
            },
        )
        return costs(run, events, observer=observer, whose="publishers", count=count)

"""Scenario ``publish``: how fast a full queue is drained, and what each event costs whom.

Every measurement has a new copy of the filled database and a new topic. Publishers run in processes of
their own and are connected before the clock starts, as in a window that has been running for a while.
It ends when the last event is acknowledged and its mark committed. Afterwards the queue must be
empty and Kafka must hold every event once, else the run fails.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, ClassVar, Final

import psycopg
from psycopg import Connection
from rich.console import Console

from bench.broker import messages_in, running_broker, topics_for
from bench.children import Child, cpu_seconds
from bench.contestants.ours import Ours
from bench.database import copy_of, exists, make_template, settle_down, wal_position
from bench.measure import rotated
from bench.publishers import plain_loop
from bench.publishers.base import Progress, Publisher, now
from bench.publishers.floor import floor
from bench.publishers.ours import ours
from bench.queue_health import fill
from bench.results import Result, recorder
from bench.round_trips import counted
from replication_pipeline import logs
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.settings import Settings

SERVER: Final[Mapping[str, str]] = {
    "autovacuum": "off",  # so that dead rows can be counted
    "shared_buffers": "1GB",  # the queue, and its marked rows beside it
    "max_parallel_workers_per_gather": "0",  # one backend's processor time is all there is
}
QUEUE: Final = "replication.replication_queue"
FLOOR: Final = "floor"
SPEED: Final = "speed"
ROUND_TRIPS: Final = "round trips"

DEAD: Final = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A contestant: ``processes`` publishers at once on one queue."""

    publisher: Publisher
    queue: str
    """The table whose rows are published."""
    processes: int = 1
    marks: bool = True


WAYS: Final[Mapping[str, Way]] = {
    "plain loop": Way(publisher=plain_loop.plain_loop, queue="plain_queue"),
    "ours": Way(publisher=ours, queue=QUEUE),
    "ours, two publishers": Way(publisher=ours, queue=QUEUE, processes=2),
    FLOOR: Way(publisher=floor, queue=QUEUE, marks=False),
}
"""The first one is what the others are compared with."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A publisher is ready; this is its backend."""

    backend: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one publisher has done, and used."""

    events: int
    began: float
    ended: float
    cpu: float
    """Seconds of its process, all threads."""
    backend_cpu: float
    round_trips: int
    """0 unless counted."""


def publish_in_child(
    pipe: Pipe, publisher: Publisher, settings: Settings, progress: Progress, count: bool
) -> None:
    """Says ``Connected``, waits for the word, publishes, says ``Done``."""
    logs.configure(settings.logging, contour=settings.contour.name)
    with publisher(settings, progress) as ready:
        backend = ready.connection.info.backend_pid
        with counted(ready.connection) if count else nullcontext() as trips:
            pipe.send(Connected(backend))
            pipe.recv()
            began, cpu, backend_cpu = now(), time.process_time(), cpu_seconds(backend)
            published = ready.run()
            cpu, backend_cpu = time.process_time() - cpu, cpu_seconds(backend) - backend_cpu
        pipe.send(
            Done(
                events=published.events,
                began=began,
                ended=published.ended,
                cpu=cpu,
                backend_cpu=backend_cpu,
                round_trips=trips.count if trips else 0,
            )
        )


def filled_templates(server: EmbeddedPostgres, events: int) -> dict[str, str]:
    """Databases with so many events waiting, by the name of the queue."""
    ours_, plain = f"queue of {events}", f"plain queue of {events}"
    if not exists(server, ours_):
        dsn = server.create_database(ours_, template=make_template(server, Ours()))
        fill(dsn, events)
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


@dataclass(frozen=True, slots=True)
class Value:
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 500_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "publish",
            server,
            contestants=[*WAYS],
            events=self.events,
            rounds=self.rounds,
            warm_up="one round, in which round trips are counted",
        )
        console.print(f"filling queues of {self.events} events", highlight=False)
        templates = filled_templates(server, self.events)
        round_trips: dict[str, Value] = {}
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                speeds: dict[str, float] = {}
                for name, way in rotated([*WAYS.items()], turn):
                    template = templates[way.queue]
                    values = self._measure(server, broker, template, name, way, count=not turn)
                    if turn == 0:  # counted while nothing is timed; they hardly vary
                        round_trips[name] = values[ROUND_TRIPS]
                        continue
                    if turn == 1:
                        values[ROUND_TRIPS] = round_trips[name]
                    speeds[name] = values[SPEED].value
                    for metric, value in values.items():
                        results.add(name, metric, value.value, value.unit, run=turn)
                for name, speed in speeds.items():
                    share = speed / speeds[FLOOR]
                    results.add(name, "speed by the floor's", share, "share", run=turn)
        return results.results

    def _measure(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        template: str,
        name: str,
        way: Way,
        *,
        count: bool,
    ) -> dict[str, Value]:
        with (
            copy_of(server, template) as dsn,
            topics_for(broker, dsn) as settings,
            psycopg.connect(dsn, autocommit=True) as observer,
        ):
            settle_down(observer)
            progress = Progress(self.events)
            broker_pid = broker.pid
            assert broker_pid is not None
            with ExitStack() as until_done:
                children = [
                    until_done.enter_context(
                        Child(publish_in_child, way.publisher, settings, progress, count)
                    )
                    for _ in range(way.processes)
                ]
                for child in children:
                    child.receive()
                wal, cpu = wal_position(observer), cpu_seconds(broker_pid)
                for child in children:
                    child.send()
                done: list[Done] = [child.receive() for child in children]
                cpu = cpu_seconds(broker_pid) - cpu
                wal = wal_position(observer) - wal
            self._verify(observer, settings, name, way, done)
            ((dead,),) = observer.execute(DEAD)
        seconds = max(one.ended for one in done) - min(one.began for one in done)

        def per_event(total: float, unit: str, scale: float = 1.0) -> Value:
            return Value(total * scale / self.events, f"{unit}/event")

        if count:
            trips = sum(one.round_trips for one in done) * 1000 / self.events
            return {ROUND_TRIPS: Value(trips, "/1000 events")}
        return {
            SPEED: Value(self.events / seconds, "events/s"),
            "CPU of publishers": per_event(sum(one.cpu for one in done), "µs", 1e6),
            "CPU of their backends": per_event(sum(one.backend_cpu for one in done), "µs", 1e6),
            "CPU of the broker": per_event(cpu, "µs", 1e6),
            "WAL": per_event(wal, "bytes"),
            "dead rows": per_event(dead, "rows"),
        }

    def _verify(
        self,
        observer: Connection[Any],
        settings: Settings,
        name: str,
        way: Way,
        done: list[Done],
    ) -> None:
        """Raise ``RuntimeError`` unless every event was published exactly once."""
        ((waiting,),) = observer.execute(f"select count(*) from {way.queue} where not published")
        found = {
            "events published": (sum(one.events for one in done), self.events),
            "messages in Kafka": (messages_in(settings), self.events),
            "events left unmarked": (waiting, 0 if way.marks else self.events),
        }
        wrong = [f"{what}: {n}, not {m}" for what, (n, m) in found.items() if n != m]
        if wrong:
            raise RuntimeError(f"{name}: {'; '.join(wrong)}")

"""Scenario ``end-to-end``: from a commit in one database to the row in another, through Kafka.

``backlog``: the queue is full when publisher and applier, both connected, begin at once; the clock
stops at the commit of the last event in ``b``. The latencies: a writer commits single-row transactions
at a steady pace; the clock of each stops when a reader of ``b``, who asks again and again for rows it
has not seen, has got it. ``native`` is PostgreSQL's own logical replication, of plain tables without
capture, with the same writer and reader: the floor.

Both databases are on one server, which shares its processors, disk and WAL with everything else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.appliers import ours as applier
from bench.apply import contents_of, make_source, make_target
from bench.broker import other_contour, running_broker, topics_for, wait_until_shared_out
from bench.children import Child, cpu_seconds
from bench.contestants.ours import Ours, contour_settings
from bench.contestants.plain import Plain
from bench.database import copy_of, make_template, settle_down
from bench.measure import rotated
from bench.native import replicating
from bench.pacing import (
    LAST_ARRIVAL,
    WARM_UP_SECONDS,
    Moments,
    Paced,
    committing,
    figures,
    rows_of,
    write_in_child,
)
from bench.publishers import ours as publisher
from bench.results import Recorder, Result, recorder
from bench.subjects import SOURCE, SUBJECTS
from bench.throughput import Start, refuse_unless, run_together
from bench.workers import Done, Progress, work_in_child
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.settings import Settings

SERVER: Final[Mapping[str, str]] = {
    "autovacuum": "on",
    "shared_buffers": "1GB",
    "wal_level": "logical",  # which native replication needs
}
NATIVE, OURS = "native", "ours"
AIMS: Final = {"backlog, events/s": 40_000, "p50, ms": 6.0, "p99, ms": 20.0}
A, B = "trial a", "trial b"
USERS: Final = SUBJECTS[1]
LOOK: Final = 0.0005  # seconds between a look at b that found nothing new and the next
NEW: Final = "select id from users where id > %s"


@dataclass(frozen=True, slots=True)
class Read:
    arrived: Moments
    cpu: float
    """Cores that the reader and its backend kept busy."""


def read_in_child(pipe: Pipe, dsn: str, last: int) -> None:
    """Looks at ``users`` until the rows 1 to ``last`` have come; sends ``Read``."""
    arrived: Moments = {}
    seen = 0  # every row up to this one
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The table is empty in statistics.
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_bitmapscan = off")
        backend = connection.info.backend_pid
        pipe.send("ready")
        began, used = time.monotonic(), cpu_seconds(backend) + time.process_time()
        deadline = began + LAST_ARRIVAL
        while len(arrived) < last and time.monotonic() < deadline:
            rows = connection.execute(NEW, [seen], prepare=True).fetchall()
            at = time.time()
            new = [number for (number,) in rows if number not in arrived]
            if not new:
                time.sleep(LOOK)
                continue
            arrived |= dict.fromkeys(new, at)
            while seen + 1 in arrived:
                seen += 1
            deadline = time.monotonic() + LAST_ARRIVAL
        used = cpu_seconds(backend) + time.process_time() - used
        pipe.send(Read(arrived, used / (time.monotonic() - began)))


@dataclass(slots=True)
class Link:
    """Two databases, and what replicates from the first to the second."""

    a: Settings
    b: str
    cpu: float = 0.0
    """Seconds of processor time that replicating took; known once it has ended."""


@contextmanager
def native(server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
    del broker
    template = make_template(server, Plain())
    with (
        copy_of(server, template, A) as a,
        copy_of(server, template, B) as b,
        replicating(a, b) as processes,
    ):
        link = Link(contour_settings(a), b)
        before = sum(map(cpu_seconds, processes))
        yield link
        link.cpu = sum(map(cpu_seconds, processes)) - before


@contextmanager
def ours(server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
    """Publisher and applier with default settings."""
    with (
        copy_of(server, make_template(server, Ours()), A) as a,
        copy_of(server, make_target(server, USERS), B) as b,
        topics_for(broker, a) as settings,
        ExitStack() as until_done,
    ):
        progress, other = Progress(None), other_contour(settings, b)
        children = [
            until_done.enter_context(Child(work_in_child, worker, of, progress, False))
            for worker, of in ((publisher.ours, settings), (applier.ours, other))
        ]
        for child in children:
            child.receive()
        wait_until_shared_out(other, 1)
        for child in children:
            child.send()
        link = Link(settings, b)
        yield link
        progress.over.set()
        done: list[Done] = [child.receive() for child in children]
        link.cpu = sum(one.cpu + one.backend_cpu for one in done)


LINKS: Final = {NATIVE: native, OURS: ours}
"""The first one is what the other is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 100_000
    """Of the backlog."""
    rates: Sequence[float] = (200, 1000)
    """Transactions a second."""
    seconds: int = 20
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "end-to-end",
            server,
            contestants=[*LINKS],
            events=self.events,
            rates=[*self.rates],
            seconds=self.seconds,
            rounds=self.rounds,
            aims=AIMS,
            warm_up=f"one round; {WARM_UP_SECONDS} s before each measurement of latency",
        )
        console.print(f"filling a queue of {self.events} events", highlight=False)
        make_source(server, USERS, self.events)
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                found = dict(self._backlog(server, broker))
                if turn:
                    for metric, (value, unit) in found.items():
                        results.add(OURS, metric, value, unit, run=turn)
                for rate in self.rates:
                    for name in rotated([*LINKS], turn):
                        self._latency(
                            server, broker, name, rate, results=results if turn else None, turn=turn
                        )
        return results.results

    def _backlog(
        self, server: EmbeddedPostgres, broker: EmbeddedKafka
    ) -> Iterator[tuple[str, tuple[float, str]]]:
        with (
            copy_of(server, SOURCE, A) as a,
            copy_of(server, make_target(server, USERS), B) as b,
            topics_for(broker, a) as settings,
            psycopg.connect(b, autocommit=True) as observer,
        ):
            settle_down(observer)
            other = other_contour(settings, b)
            run = run_together(
                [
                    Start(publisher.ours, settings, Progress(self.events)),
                    Start(applier.ours, other, Progress(self.events)),
                ],
                observer=observer,
                broker=broker,
                count=False,
                connected=lambda: wait_until_shared_out(other, 1),
            )
            refuse_unless(OURS, {"rows": (contents_of(b, USERS), contents_of(a, USERS))})
        published, applied = run.done
        seconds = applied.ended - min(published.began, applied.began)
        yield "backlog: speed", (self.events / seconds, "events/s")
        for part, cpu in {
            "publisher": published.cpu,
            "applier": applied.cpu,
            "their backends": published.backend_cpu + applied.backend_cpu,
            "the broker": run.broker_cpu,
        }.items():
            yield f"backlog: CPU of {part}", (cpu * 1e6 / self.events, "µs/event")

    def _latency(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        name: str,
        rate: float,
        *,
        results: Recorder | None,
        turn: int,
    ) -> None:
        seconds = self.seconds if results else WARM_UP_SECONDS
        with ExitStack() as until_done:
            with LINKS[name](server, broker) as link:
                reader = until_done.enter_context(
                    Child(read_in_child, link.b, rows_of(rate, seconds))
                )
                writer = until_done.enter_context(
                    Child(write_in_child, committing, link.a, rate, seconds)
                )
                for child in (reader, writer):
                    child.receive()
                began = time.monotonic()
                writer.send()
                paced: Paced = writer.receive()
                read: Read = reader.receive()
                passed = time.monotonic() - began
        if results is None:
            return
        for metric, value in figures(paced, read.arrived).items():
            results.add(name, f"{metric} at {rate:g}/s", value, "ms", run=turn)
        for who, cores in {"replicating": link.cpu / passed, "reading": read.cpu}.items():
            results.add(name, f"CPU, {who} at {rate:g}/s", cores * 100, "% of a core", run=turn)

"""Scenario ``publish-split``: where a publisher's time goes, event by event.

``one by one`` drives the publisher's own outbox and producer without overlap: a batch of the largest
size is claimed, produced, acknowledged and marked before the next, four to a commit. Its parts add up.
``as it runs`` is the publish cycle itself with the same objects: parts happen beside each other, so
their times add up to more than ``all``; their processor times remain.

Publisher's CPU is that of the thread which made the call; librdkafka's own threads, and whatever else
the process does, are ``rest``.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection as Pipe
from typing import Any, ClassVar, Final

import psycopg
from rich.console import Console

from bench.broker import messages_in, running_broker, topics_for
from bench.children import Child, cpu_seconds
from bench.database import copy_of, settle_down
from bench.measure import rotated
from bench.publish import QUEUE, filled_templates
from bench.results import Result, recorder
from bench.throughput import SERVER
from replication_pipeline import logs, runtime
from replication_pipeline.domain.model import (
    WHOLE,
    BatchResult,
    Claim,
    ClaimedEvent,
    Deliveries,
    DeliveryFailure,
    Part,
)
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.engine.ports import EventProducer, Flight, Outbox
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.outbox import SQL
from replication_pipeline.settings import Settings

ONE_BY_ONE, AS_IT_RUNS = "one by one", "as it runs"
TO_A_COMMIT: Final = 4  # batches; about what the cycle's time of a turn allows
LONGEST: Final = timedelta(minutes=10)
CLAIM, ROWS, REST_OF_CLAIM = "claim: statement", "claim: rows to events", "claim: locks, looks"
PRODUCE, ACKNOWLEDGE, MARK, COMMIT = "produce", "acknowledge", "mark", "commit"
ALL, REST = "all", "rest"
PARTS: Final = (CLAIM, ROWS, REST_OF_CLAIM, PRODUCE, ACKNOWLEDGE, MARK, COMMIT)


@dataclass(slots=True)
class Spent:
    """Seconds."""

    time: float = 0.0
    cpu: float = 0.0
    backend: float = 0.0

    def __iadd__(self, other: Spent) -> Spent:
        self.time += other.time
        self.cpu += other.cpu
        self.backend += other.backend
        return self


@dataclass(slots=True)
class Meter:
    """Sums by part. A part that happens within another is taken off it."""

    backend: int
    parts: defaultdict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))
    _within: threading.local = field(default_factory=threading.local)

    @contextmanager
    def part(self, name: str, *, asks: bool = True) -> Iterator[None]:
        """``asks``: the backend works for this part; one call at a time does."""
        outer = getattr(self._within, "spent", None)
        inner = self._within.spent = Spent()
        before = self._now(asks=asks)
        try:
            yield
        finally:
            after = self._now(asks=asks)
            total = Spent(
                after.time - before.time, after.cpu - before.cpu, after.backend - before.backend
            )
            self.parts[name] += Spent(
                total.time - inner.time, total.cpu - inner.cpu, total.backend - inner.backend
            )
            if outer is not None:
                outer += total
            self._within.spent = outer

    def _now(self, *, asks: bool) -> Spent:
        backend = cpu_seconds(self.backend) if asks else 0.0
        return Spent(time.perf_counter(), time.thread_time(), backend)


def metered_cursor(meter: Meter) -> type[psycopg.Cursor[Any]]:
    """A cursor that tells the claim's statement and the reading of its rows from the rest."""

    class MeteredCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            if query != SQL["claim"]:
                return super().execute(query, *arguments, **options)
            with meter.part(CLAIM):
                return super().execute(query, *arguments, **options)

        def fetchall(self) -> list[Any]:
            with meter.part(ROWS, asks=False):
                return super().fetchall()

    return MeteredCursor


@dataclass(slots=True)
class MeteredOutbox:
    outbox: Outbox
    meter: Meter

    def claim(self, limit: int, part: Part = WHOLE) -> Claim | None:
        with self.meter.part(REST_OF_CLAIM):
            return self.outbox.claim(limit, part)

    def request(self, limit: int) -> Callable[[], Claim | None]:
        with self.meter.part(REST_OF_CLAIM):
            take = self.outbox.request(limit)

        def metered() -> Claim | None:
            with self.meter.part(REST_OF_CLAIM, asks=False):
                return take()

        return metered

    def settle(
        self,
        published: Sequence[ClaimedEvent],
        refused: Sequence[DeliveryFailure] = (),
        fenced: Sequence[ClaimedEvent] = (),
    ) -> int:
        with self.meter.part(MARK):
            return self.outbox.settle(published, refused, fenced)

    def commit(self, results: Sequence[BatchResult]) -> None:
        with self.meter.part(COMMIT):
            self.outbox.commit(results)

    def anything_held(self) -> bool:
        return self.outbox.anything_held()

    def to_overtake(self) -> Sequence[ClaimedEvent]:
        return self.outbox.to_overtake()

    def overtaken(self) -> None:
        self.outbox.overtaken()

    def abandon(self, *, sent: bool = False) -> None:
        self.outbox.abandon(sent=sent)

    def close(self) -> None:
        self.outbox.close()


@dataclass(slots=True)
class MeteredFlight:
    flight: Flight
    meter: Meter

    def wait(self, stop: StopToken) -> Deliveries:
        with self.meter.part(ACKNOWLEDGE, asks=False):
            return self.flight.wait(stop)


@dataclass(slots=True)
class MeteredProducer:
    producer: EventProducer
    meter: Meter

    def send(self, events: Sequence[ClaimedEvent], stop: StopToken) -> MeteredFlight:
        with self.meter.part(PRODUCE, asks=False):
            return MeteredFlight(self.producer.send(events, stop), self.meter)

    def close(self) -> None:
        self.producer.close()


def one_by_one(settings: Settings, outbox: Outbox, producer: EventProducer) -> int:
    """Publish until nothing waits, each step after the one before."""
    stop, published = StopToken(), 0
    limit = settings.publisher.max_batch_size
    while True:
        results: list[BatchResult] = []
        while len(results) < TO_A_COMMIT and (claim := outbox.claim(limit)):
            deliveries = producer.send(claim.events, stop).wait(stop)
            if deliveries.refused or claim.fenced:
                raise RuntimeError("a measurement must not be disturbed by refusals")
            outbox.settle(claim.events)
            count = len(claim.events)
            results.append(BatchResult(role="publisher", count=count, processed=count))
        if not results:
            return published
        outbox.commit(results)
        published += sum(result.processed for result in results)


def as_it_runs(settings: Settings, outbox: Outbox, producer: EventProducer) -> int:
    return runtime.publish_window(
        settings,
        outbox=outbox,
        producer=producer,
        stop=StopToken(),
        length=LONGEST,
        until="drained",
    ).processed


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    events: int
    all: Spent
    parts: Mapping[str, Spent]


def split_in_child(pipe: Pipe, name: str, settings: Settings) -> None:
    """Publishes all there is; sends ``Split``."""
    logs.configure(settings.logging, contour=settings.contour.name)
    run = {ONE_BY_ONE: one_by_one, AS_IT_RUNS: as_it_runs}[name]
    with (
        runtime.open_outbox(settings, "split") as outbox,
        runtime.open_producer(settings) as producer,
    ):
        connection = outbox._connection()
        meter = Meter(connection.info.backend_pid)
        connection.cursor_factory = metered_cursor(meter)

        def now() -> Spent:
            return Spent(time.perf_counter(), time.process_time(), cpu_seconds(meter.backend))

        before = now()
        events = run(settings, MeteredOutbox(outbox, meter), MeteredProducer(producer, meter))
        after = now()
    spent = Spent(after.time - before.time, after.cpu - before.cpu, after.backend - before.backend)
    pipe.send(Split(events=events, all=spent, parts=dict(meter.parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSplit:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 200_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "publish-split",
            server,
            contestants=[ALL, *PARTS, REST],
            events=self.events,
            rounds=self.rounds,
            batches_to_a_commit_one_by_one=TO_A_COMMIT,
            warm_up="one round",
        )
        console.print(f"filling a queue of {self.events} events", highlight=False)
        template = filled_templates(server, self.events)[QUEUE]
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                for name in rotated([ONE_BY_ONE, AS_IT_RUNS], turn):
                    with (
                        copy_of(server, template) as dsn,
                        topics_for(broker, dsn) as settings,
                    ):
                        with psycopg.connect(dsn, autocommit=True) as connection:
                            settle_down(connection)
                        with Child(split_in_child, name, settings) as child:
                            split: Split = child.receive()
                        if not split.events == messages_in(settings) == self.events:
                            raise RuntimeError(f"{name}: not every event was published once")
                    if turn:
                        for part, metric, seconds in figures(name, split):
                            value = seconds * 1e6 / self.events
                            results.add(part, metric, value, "µs/event", run=turn)
        return results.results


def figures(name: str, split: Split) -> Iterator[tuple[str, str, float]]:
    """``(part, metric, seconds)``; the report's ratio is a part's share of ``all``."""
    for part, spent in {ALL: split.all, **split.parts}.items():
        yield part, f"{name}, time", spent.time
        yield part, f"{name}, publisher's CPU", spent.cpu
        if spent.backend:
            yield part, f"{name}, backend's CPU", spent.backend
    known = sum(spent.cpu for spent in split.parts.values())
    yield REST, f"{name}, publisher's CPU", split.all.cpu - known

"""Scenario ``publish-latency``: how long after its commit an event is in Kafka.

A writer commits single-row transactions at a steady pace, whatever the others do, and notes when each
commit returned; a consumer notes when each event arrived. Both are processes of their own on one
machine, so their clocks are one. What the producer, the broker and the consumer take of it is seen in
``no database``: the same pace, producer options and consumer, but the writer hands its events to the
producer itself, and the publisher beside it has nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import ClassVar, Final

from confluent_kafka import Consumer, Producer
from rich.console import Console

from bench.broker import partitions_of, running_broker, topics_for, users_topic
from bench.children import Child
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template
from bench.measure import rotated
from bench.pacing import (
    LAST_ARRIVAL,
    WARM_UP_SECONDS,
    Moments,
    Pace,
    Paced,
    Write,
    Writer,
    committing,
    figures,
    rows_of,
    write_in_child,
)
from bench.publishers.ours import ours
from bench.results import Recorder, Result, recorder
from bench.workers import Progress, work_in_child
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.producer import producer_options
from replication_pipeline.settings import Settings

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on"}
OURS, NO_DATABASE = "ours", "no database"
AIMS: Final = {"p50": 4.0, "p99": 12.0}  # milliseconds


@contextmanager
def producing(settings: Settings) -> Iterator[Write]:
    """No PostgreSQL: an event's time starts when it is handed to the producer."""
    producer = Producer(producer_options(settings))
    topic, filling = users_topic(settings), b'{"after":"' + b"x" * 480 + b'"}'

    def write(number: int) -> float:
        began = time.time()
        producer.produce(topic, filling, b'{"id":%d}' % number)
        producer.poll(0)
        return began

    yield write
    producer.flush(20)


WRITERS: Final[Mapping[str, Writer]] = {NO_DATABASE: producing, OURS: committing}


def consume_in_child(pipe: Pipe, settings: Settings, last: int) -> None:
    """Reads all partitions from now on, until the rows 1 to ``last`` have come; sends ``Moments``."""
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "bench",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            # An event is handed over as soon as it is there.
            "fetch.min.bytes": 1,
            "fetch.wait.max.ms": 100,
            "socket.nagle.disable": True,
        }
    )
    parts = partitions_of(settings)
    for part in parts:
        part.offset = 0
    consumer.assign(parts)
    consumer.poll(1)
    pipe.send("ready")
    arrived: Moments = {}
    missing, deadline = last, time.monotonic() + LAST_ARRIVAL
    while missing and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is None:
            continue
        at = time.time()
        if error := message.error():
            raise RuntimeError(error.str())
        number = row_of(message.key())
        if number > 0:  # what warms the writer up is not counted
            missing -= number not in arrived
            arrived.setdefault(number, at)
        deadline = time.monotonic() + LAST_ARRIVAL
    consumer.close()
    pipe.send(arrived)


def row_of(key: object) -> int:
    """42 of ``{"id":42}``."""
    assert isinstance(key, bytes)
    return int(key.partition(b":")[2].rstrip(b"}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishLatency:
    server: ClassVar[Mapping[str, str]] = SERVER
    rate: float = 200
    """Transactions a second."""
    seconds: int = 20
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "publish-latency",
            server,
            contestants=[*WRITERS],
            rate=self.rate,
            seconds=self.seconds,
            rounds=self.rounds,
            aims_ms=AIMS,
            warm_up=f"one round; {WARM_UP_SECONDS} s before each measurement",
        )
        template = make_template(server, Ours())
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                for name in rotated([*WRITERS], turn):
                    self._measure(
                        server,
                        broker,
                        template,
                        name=name,
                        results=results if turn else None,
                        turn=turn,
                    )
        return results.results

    def _measure(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        template: str,
        *,
        name: str,
        results: Recorder | None,
        turn: int,
    ) -> None:
        seconds = self.seconds if turn else WARM_UP_SECONDS
        with (
            copy_of(server, template) as dsn,
            topics_for(broker, dsn) as settings,
            ExitStack() as until_done,
        ):
            consumer = until_done.enter_context(
                Child(consume_in_child, settings, rows_of(self.rate, seconds))
            )
            writer = until_done.enter_context(
                Child(write_in_child, WRITERS[name], settings, Pace(self.rate, seconds))
            )
            progress = Progress(None)
            publisher = until_done.enter_context(
                Child(work_in_child, ours, settings, progress, False)
            )
            for child in (consumer, writer, publisher):
                child.receive()
            publisher.send()
            writer.send()
            paced: Paced = writer.receive()
            arrived: Moments = consumer.receive()
            progress.over.set()
            publisher.receive()
        if results is None:
            return
        for metric, value in figures(paced, arrived).items():
            results.add(name, metric, value, "ms", run=turn)

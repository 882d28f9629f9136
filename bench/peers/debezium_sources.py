"""Debezium's source without a sink: what a table's rows, or an outbox's, take to be in a topic.

The outbox is the table that its EventRouter expects, with the same rows as JSON. Everything is written
and committed behind several slots before the first connector is posted, so that one worker can be
measured twice on equal work: newly started, and warm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench import users
from bench.contestants.plain import Plain
from bench.database import copy_of, make_template, settle_down
from bench.latency import used_by, used_since
from bench.peers.connect import Connect
from bench.peers.databases import backends_in, harness
from bench.peers.debezium import (
    NO_SCHEMAS,
    TUNED_SOURCE,
    Properties,
    connectors,
    new_name,
    source,
    topic_of,
)
from bench.peers.native import slot
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

TRANSACTIONS: Final = 200  # in which the events are written
LOOK: Final = 0.005  # seconds between looks at the topic
LONGEST_SILENCE: Final = 60.0  # seconds without a new event
DATABASE: Final = "debezium"
OUTBOX: Final = """
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null,
  aggregateid text not null, type text not null, payload jsonb)
"""


def into_outbox(first: int, last: int) -> str:
    return f"""
insert into outbox (aggregatetype, aggregateid, type, payload)
select 'users', g, 'INSERT', to_jsonb(r) from generate_series({first}, {last}) g,
  lateral (select g, {users.VALUES}) as r ({users.NAMES})"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One set of settings."""

    name: str
    table: str
    more: Properties = field(default_factory=dict)

    def topic(self, name: str) -> str:
        return f"{name}.public.users"

    def configuration(self, name: str, dsn: str) -> dict[str, str]:
        more = dict(self.more)
        if self.table == "outbox":
            more |= {
                "transforms": "outbox",
                "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
                "transforms.outbox.route.topic.replacement": self.topic(name),
            }
        return source(name, dsn, self.table, more)


SOURCES: Final = [
    Source(name=f"{title}, {how}", table=table, more=more)
    for title, table in (("debezium", "users"), ("debezium outbox", "outbox"))
    for how, more in {
        "default": {},
        "tuned": TUNED_SOURCE,
        "tuned, no schemas": {**TUNED_SOURCE, **NO_SCHEMAS},
    }.items()
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """From the post of the connector to the last event in Kafka."""

    start_up: float
    """Seconds until the first event was there."""
    seconds: float
    messages: int
    cpu: float
    backend_cpu: float
    broker_cpu: float


@contextmanager
def captured(
    server: EmbeddedPostgres, table: str, events: int, times: int
) -> Iterator[tuple[str, list[str]]]:
    """A database with so many events committed; and the slots, each of which has all of them."""
    with (
        copy_of(server, make_template(server, Plain()), DATABASE) as dsn,
        harness(dsn) as connection,
    ):
        connection.execute(OUTBOX)
        names = [new_name() for _ in range(times)]
        with slot(connection, *names, table=table):
            each = max(1, events // TRANSACTIONS)
            for first in range(1, events + 1, each):
                last = min(first + each - 1, events)
                write = into_outbox if table == "outbox" else users.insert
                connection.execute(write(first, last))
            settle_down(connection)
            yield dsn, names


def streamed(
    connect: Connect, broker: EmbeddedKafka, of: Source, *, dsn: str, name: str, events: int
) -> Streamed:
    """What is behind slot ``name``, into a new topic. Raises ``RuntimeError`` when it doesn't come."""
    topic = of.topic(name)

    def processes() -> Mapping[str, list[int]]:
        return {
            "own": [connect.pid],
            "backends": backends_in(dsn),
            "broker": [broker.pid or 0],
        }

    with topic_of(broker, topic), connectors(connect, name):
        before = {part: used_by(pids) for part, pids in processes().items()}
        began = time.monotonic()
        connect.post(name, of.configuration(name, dsn))
        first, ended, messages = _until_there(broker, topic, events)
        used = {
            part: sum(used_since(before[part], pids).values()) for part, pids in processes().items()
        }
    return Streamed(
        start_up=first - began,
        seconds=ended - began,
        messages=messages,
        cpu=used["own"],
        backend_cpu=used["backends"],
        broker_cpu=used["broker"],
    )


def _until_there(broker: EmbeddedKafka, topic: str, events: int) -> tuple[float, float, int]:
    """When the first was there, when the last; and how many there are."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "bench"})
    partition = TopicPartition(topic, 0)
    first, count, changed = 0.0, 0, time.monotonic()
    try:
        while count < events:
            try:
                _, high = consumer.get_watermark_offsets(partition, 5)
            except KafkaException:  # a new topic has no leader yet
                high = 0
            now = time.monotonic()
            if high > count:
                first, count, changed = first or now, high, now
            elif now - changed > LONGEST_SILENCE:
                raise RuntimeError(f"{count} of {events} events have come to {topic}")
            else:
                time.sleep(LOOK)
    finally:
        consumer.close()
    return first, changed, count

"""Reading topics whole, and writing what does not belong there: repeats and poison.

What the harness writes carries a header, so that checkers can tell it from what publishers wrote.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

HEADER: Final = "chaos"
AWAY: Final = (KafkaException, OSError)  # what a broker that can't be reached leads to


@dataclass(frozen=True, slots=True)
class Record:
    """One message. ``injected`` is ``b"repeat"`` or ``b"poison"`` if the harness wrote it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    injected: bytes | None

    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.value)
        return event


@contextmanager
def reader(bootstrap: str) -> Iterator[Consumer]:
    """A consumer that joins no group."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "never joined", "log_level": 0}
    )
    try:
        yield consumer
    finally:
        consumer.close()


def ends(consumer: Consumer, topics: Sequence[str], partitions: int) -> dict[tuple[str, int], int]:
    """The end of each partition. Raises while the broker is away, see ``AWAY``."""
    found = {}
    for topic, number in itertools.product(topics, range(partitions)):
        marks = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5)
        if marks is None:
            raise TimeoutError
        found[topic, number] = marks[1]
    return found


def read_all(bootstrap: str, topics: Sequence[str], partitions: int) -> list[Record]:
    """Every record of the topics; those of a partition in its order."""
    with reader(bootstrap) as consumer:
        wanted = {place: end for place, end in ends(consumer, topics, partitions).items() if end}
        consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t, p in wanted])
        return list(_until(consumer, wanted)) if wanted else []


def _until(consumer: Consumer, wanted: dict[tuple[str, int], int]) -> Iterator[Record]:
    left = set(wanted)
    while left:
        messages = consumer.consume(1_000, timeout=20)
        if not messages:
            raise TimeoutError(f"{len(left)} partitions could not be read to their ends")
        for message in messages:
            record = _record(message)
            place = (record.topic, record.partition)
            if record.offset < wanted[place]:
                yield record
            if record.offset + 1 >= wanted[place]:
                left.discard(place)


def some_old(
    bootstrap: str, topics: Sequence[str], partitions: int, chance: random.Random, count: int
) -> list[Record]:
    """A few records from anywhere in one partition."""
    with reader(bootstrap) as consumer:
        filled = [(place, end) for place, end in ends(consumer, topics, partitions).items() if end]
        if not filled:
            return []
        (topic, number), end = chance.choice(filled)
        start = chance.randrange(end)
        consumer.assign([TopicPartition(topic, number, start)])
        messages = consumer.consume(min(count, end - start), timeout=5)
        found = [_record(message) for message in messages if message.error() is None]
        return [record for record in found if record.injected is None]


def inject(bootstrap: str, records: Sequence[Record]) -> int:
    """Write ``records`` at the ends of their partitions. How many have arrived."""
    arrived = 0

    def told(error: object, _: object) -> None:
        nonlocal arrived
        arrived += error is None

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "log_level": 0,
            "message.timeout.ms": 15_000,
        }
    )
    for record in records:
        producer.produce(
            record.topic,
            partition=record.partition,
            key=record.key,
            value=record.value,
            headers=[(HEADER, record.injected or b"repeat")],
            on_delivery=told,
        )
    producer.flush(20)
    return arrived


def _record(message: Any) -> Record:
    if message.error() is not None:
        raise KafkaException(message.error())
    headers = dict(message.headers() or [])
    return Record(
        message.topic(), message.partition(), message.offset(), message.key() or b"",
        message.value() or b"", headers.get(HEADER),
    )  # fmt: skip

"""The broker of a run, topics for each measurement, and what has arrived in them."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from bench.contestants.ours import contour_settings
from replication_pipeline.domain.names import consumer_group, topic_for
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.settings import KafkaSettings, LoggingSettings, Settings

LONGEST_JOIN: Final = 60.0  # seconds


@contextlib.contextmanager
def running_broker(server: EmbeddedPostgres) -> Iterator[EmbeddedKafka]:
    """A new broker whose data are beside the server's."""
    with EmbeddedKafka(server.log_file.parent / "kafka") as broker:
        yield broker


@contextlib.contextmanager
def topics_for(
    broker: EmbeddedKafka,
    dsn: str,
    tables: Sequence[str] = ("users",),
    *,
    partitions: int | None = None,
) -> Iterator[Settings]:
    """Default settings for one measurement, with new topics that are deleted afterwards."""
    kafka = KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers, topic_prefix=f"{uuid.uuid4().hex[:8]}."
    )
    settings = contour_settings(dsn, tables=tables).model_copy(
        update={
            "kafka": kafka.model_copy(update={"partitions": partitions or kafka.partitions}),
            "logging": LoggingSettings(level="warning"),
        }
    )
    ensure_topics(settings, [*tables])
    admin = admin_client(settings)
    try:
        yield settings
    finally:
        for future in admin.delete_topics(topics_of(settings)).values():
            future.result(20)


def users_topic(settings: Settings) -> str:
    return topic_for("users", prefix=settings.kafka.topic_prefix)


def topics_of(settings: Settings) -> list[str]:
    prefix = settings.kafka.topic_prefix
    return [topic_for(table, prefix=prefix) for table in settings.tables]


def partitions_of(settings: Settings) -> list[TopicPartition]:
    return [
        TopicPartition(topic, number)
        for topic in topics_of(settings)
        for number in range(settings.kafka.partitions)
    ]


def messages_in(settings: Settings) -> int:
    """How many there are, by the offsets that the broker tells."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "bench"}
    )
    try:
        ranges = [consumer.get_watermark_offsets(part, 20) for part in partitions_of(settings)]
    finally:
        consumer.close()
    return sum(high - low for low, high in ranges)


def other_contour(settings: Settings, dsn: str) -> Settings:
    """Default settings of contour ``b``, which reads the topics of ``settings``."""
    other = contour_settings(dsn, name="b", number=2, tables=settings.tables)
    return other.model_copy(update={"kafka": settings.kafka, "logging": settings.logging})


def wait_until_shared_out(settings: Settings, members: int) -> None:
    """Until the contour's group has so many members, each partition belongs to one of them, and none
    has nothing while there is enough for all.
    """
    group, wanted = consumer_group(settings.contour.name), len(partitions_of(settings))
    admin = admin_client(settings)
    deadline = time.monotonic() + LONGEST_JOIN
    while time.monotonic() < deadline:
        time.sleep(0.1)
        with contextlib.suppress(KafkaException):  # a new broker has no coordinator at first
            description = admin.describe_consumer_groups([group])[group].result(20)
            shares = [len(member.assignment.topic_partitions) for member in description.members]
            busy = sum(share > 0 for share in shares)
            if (len(shares), busy, sum(shares)) == (members, min(members, wanted), wanted):
                return
    raise RuntimeError(f"{group}: not shared out among {members} in {LONGEST_JOIN:g} s")

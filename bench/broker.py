"""The broker of a run, topics for each measurement, and what has arrived in them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

from confluent_kafka import Consumer, TopicPartition

from bench.contestants.ours import contour_settings
from bench.publishers.base import users_topic
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.settings import KafkaSettings, LoggingSettings, Settings


@contextlib.contextmanager
def running_broker(server: EmbeddedPostgres) -> Iterator[EmbeddedKafka]:
    """A new broker whose data are beside the server's."""
    with EmbeddedKafka(server.log_file.parent / "kafka") as broker:
        yield broker


@contextlib.contextmanager
def topics_for(broker: EmbeddedKafka, dsn: str) -> Iterator[Settings]:
    """Default settings for one measurement, with a new topic that is deleted afterwards."""
    settings = contour_settings(dsn).model_copy(
        update={
            "kafka": KafkaSettings(
                bootstrap_servers=broker.bootstrap_servers,
                topic_prefix=f"{uuid.uuid4().hex[:8]}.",
            ),
            "logging": LoggingSettings(level="warning"),
        }
    )
    ensure_topics(settings, ["users"])
    admin = admin_client(settings.kafka)
    try:
        yield settings
    finally:
        for future in admin.delete_topics([users_topic(settings)]).values():
            future.result(20)


def partitions_of(settings: Settings) -> list[TopicPartition]:
    topic = users_topic(settings)
    return [TopicPartition(topic, number) for number in range(settings.kafka.partitions)]


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

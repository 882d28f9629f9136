"""Making topics: explicit partitions, replication factor and retention; existing ones are kept.

Partitions of an existing topic are never changed: a key would move to another partition, and other
readers would see its events out of order on the way. (Appliers go by versions, and find partitions
that somebody has added.) The heartbeat topic has one, and the broker's clock on each record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.names import heartbeat_topic, topic_for
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.settings import Settings

TIMEOUT: Final = 15.0


def ensure_topics(settings: Settings, tables: list[str]) -> dict[str, bool]:
    """Create the topics of ``tables``, and the heartbeat topic, that are missing. Returns topic →
    whether it was created.

    Raises ``TransientError`` when no broker answers, ``FatalError`` when Kafka refuses.
    """
    admin = admin_client(settings)
    wanted = {topic_for(t, prefix=settings.kafka.topic_prefix): t for t in tables}
    futures: Mapping[str, object] = admin.create_topics(
        [
            *(_new_topic(settings, topic, table) for topic, table in wanted.items()),
            _heartbeat_topic(settings),
        ],
        operation_timeout=TIMEOUT,
        request_timeout=TIMEOUT,
    )
    return {topic: _created(settings, topic, future) for topic, future in futures.items()}


def _new_topic(settings: Settings, topic: str, table: str) -> NewTopic:
    kafka = settings.kafka
    options = settings.tables.get(table)
    return NewTopic(
        topic,
        num_partitions=(options and options.partitions) or kafka.partitions,
        replication_factor=kafka.replication_factor,
        config={
            "retention.ms": str(round(kafka.retention.total_seconds() * 1000)),
            "max.message.bytes": str(kafka.max_message_bytes),
            "cleanup.policy": "delete",
        },
    )


def _heartbeat_topic(settings: Settings) -> NewTopic:
    """Kept for longer than any contour may be silent, so that none misses a verdict on itself."""
    kept = max(settings.kafka.retention, settings.monitoring.fence_after * 2)
    return NewTopic(
        heartbeat_topic(prefix=settings.kafka.topic_prefix),
        num_partitions=1,
        replication_factor=settings.kafka.replication_factor,
        config={
            "retention.ms": str(round(kept.total_seconds() * 1000)),
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
        },
    )


def _created(settings: Settings, topic: str, future: object) -> bool:
    try:
        future.result(TIMEOUT + 5)  # type: ignore[attr-defined]
    except TimeoutError:
        raise TransientError(
            f"contour {settings.contour.name}: topic {topic}: no broker answered in time",
            remedy="check kafka.bootstrap_servers and that a broker runs",
        ) from None
    except KafkaException as error:
        cause: KafkaError = error.args[0]
        if cause.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        message = f"contour {settings.contour.name}: topic {topic}: {cause.str()}"
        if cause.retriable() or cause.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
            raise TransientError(
                message, remedy="check kafka.bootstrap_servers and that a broker runs"
            ) from None
        raise FatalError(
            message, remedy="create the topic by hand, or let this client create topics"
        ) from None
    return True

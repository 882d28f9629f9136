"""Reading a contour's topics from the offsets that its own database holds.

Kafka's group only shares the partitions out. Where to read comes from the database at every
assignment, and ``auto.offset.reset=error`` turns a position that the log no longer has (retention
ran past it, the topic was made anew) into a halt with a remedy instead of a silent jump. Offsets are
committed to Kafka as well, but only for the stock tools to show; nothing ever reads them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import ConfigurationError, FatalError, TransientError
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, consumer_group, topic_for
from replication_pipeline.kafka.client import (
    QUIET,
    admin_client,
    client_options,
    refuse_bad_options,
)
from replication_pipeline.settings import Settings

COMMIT_EVERY: Final = 1.0  # seconds between commits to Kafka, which are for display only
Partition = tuple[Topic, int]


class OffsetStore(Protocol):
    """Where the next offsets are kept: the inbox."""

    def offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The stored next offsets; partitions never read are absent."""


def consumer_options(settings: Settings) -> dict[str, Any]:
    """Options of the consumer; holds secrets."""
    session = round(settings.consumer.session_timeout.total_seconds() * 1000)
    return client_options(settings.kafka) | {
        "client.id": f"replicator-consumer-{settings.contour.name}",
        "group.id": consumer_group(settings.contour.name),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # Partitions that stay with a member are read on while others move.
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session,
        "heartbeat.interval.ms": min(1_000, session // 3),
        "max.poll.interval.ms": 300_000,
        # An event is handed over as soon as the broker has it.
        "fetch.wait.max.ms": 500,
        "fetch.min.bytes": 1,
        "fetch.error.backoff.ms": 100,
        "queued.max.messages.kbytes": 32_768,
        "fetch.message.max.bytes": max(1_048_576, settings.kafka.max_message_bytes),
        "topic.metadata.refresh.interval.ms": 30_000,
        "isolation.level": "read_committed",
        "check.crcs": True,
    }


@dataclass(slots=True)
class KafkaEventConsumer:
    """One member of the contour's group."""

    settings: Settings
    store: OffsetStore
    _consumer: Consumer | None = field(default=None)
    _positions: dict[Partition, int] = field(default_factory=dict)
    _stale: bool = field(default=False)
    _callback_error: Exception | None = field(default=None)
    _next_commit: float = field(default=0.0)

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        """Up to ``limit`` messages as soon as there are any; ``None`` after ``timeout``.

        What was handed over counts as done unless ``rewind`` is called before the next poll.
        Raises ``FatalError`` when a position is no longer in the log.
        """
        consumer = self._connected()
        if self._stale:
            self._seek_to_stored(consumer)
        self._commit_for_display(consumer)
        try:
            first = consumer.poll(timeout.total_seconds())
            self._raise_from_callback()
            if first is None:
                return None
            polled = [first, *(consumer.consume(limit - 1, 0) if limit > 1 else [])]
            self._raise_from_callback()
            messages = tuple(self._mine(polled))
        except BaseException:
            # librdkafka has moved past whatever it had handed over: go back before the next poll.
            self._stale = True
            raise
        return self._consumed(consumer, messages) if messages else None

    def caught_up(self) -> bool:
        """Ask the broker for the ends of all assigned partitions; false before any assignment."""
        if not self._positions:
            return False
        wanted = {TopicPartition(t, p): OffsetSpec.latest() for t, p in self._positions}  # type: ignore[no-untyped-call]
        # Through a connection of its own: on the consumer's the question would wait behind a fetch
        # that the broker holds back until events come.
        # (It is kept in a variable because its futures never end once it is collected.)
        admin = admin_client(self.settings.kafka)
        futures = admin.list_offsets(wanted, request_timeout=10)
        try:
            ends = {(Topic(p.topic), p.partition): f.result(15).offset for p, f in futures.items()}
        except (KafkaException, TimeoutError):
            return False
        return all(position >= ends[key] for key, position in self._positions.items())

    def rewind(self) -> None:
        """Before the next poll, go back to the stored offsets."""
        self._stale = True

    def close(self) -> None:
        """Leave the group, so that others take the partitions over at once."""
        consumer, self._consumer = self._consumer, None
        self._positions.clear()
        if consumer is not None:
            consumer.close()

    def _connected(self) -> Consumer:
        if self._consumer is None:
            topics: list[str] = [
                topic_for(table, prefix=self.settings.kafka.topic_prefix)
                for table in self.settings.tables
            ]
            if not topics:
                raise ConfigurationError(
                    "tables: no table is named, so there is nothing to apply",
                    remedy="list the replicated tables under tables:",
                )
            try:
                consumer = Consumer(consumer_options(self.settings), logger=QUIET)
            except (KafkaException, ValueError, TypeError) as error:
                raise refuse_bad_options(error) from None
            consumer.subscribe(
                topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            self._consumer = consumer
        return self._consumer

    # Callbacks run inside poll() on this thread; an exception there would be lost, so it is kept.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        keys = [(Topic(p.topic), p.partition) for p in partitions]
        try:
            stored = self.store.offsets(keys)
        except Exception as error:  # noqa: BLE001 - told by poll()
            self._callback_error = error
            # Nothing is handed over from here: this poll raises, and the next one first goes back to
            # the stored offsets.
            stored = {}
            self._stale = True
        for key in keys:
            self._positions[key] = stored.get(key, 0)
        consumer.incremental_assign(
            [TopicPartition(t, p, stored.get((t, p), OFFSET_BEGINNING)) for t, p in keys]
        )

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._positions.pop((Topic(partition.topic), partition.partition), None)
        with contextlib.suppress(KafkaException):
            consumer.incremental_unassign(partitions)

    def _raise_from_callback(self) -> None:
        error, self._callback_error = self._callback_error, None
        if error is not None:
            raise error

    def _seek_to_stored(self, consumer: Consumer) -> None:
        stored = self.store.offsets(self._positions)
        for key in self._positions:
            topic, partition = key
            self._positions[key] = stored.get(key, 0)
            try:
                consumer.seek(TopicPartition(topic, partition, stored.get(key, OFFSET_BEGINNING)))
            except KafkaException as error:
                raise TransientError(
                    f"contour {self.settings.contour.name}: can't go back in {topic}: "
                    f"{error.args[0].str()}"
                ) from None
        self._stale = False

    def _mine(self, polled: list[KafkaMessage]) -> Iterable[Message]:
        for message in polled:
            error = message.error()
            if error is not None:
                self._classify(error, message)
                continue
            topic, partition = message.topic(), message.partition()
            offset = message.offset()
            if topic is None or partition is None or offset is None:
                continue
            # A rebalance during the poll may have taken the partition away, or moved it back.
            position = self._positions.get((Topic(topic), partition))
            if position is not None and offset >= position:
                yield Message(Topic(topic), partition, offset, _bytes(message.value()))

    def _consumed(self, consumer: Consumer, messages: tuple[Message, ...]) -> Consumed:
        ends: dict[Partition, int] = {}
        for message in messages:
            ends[message.topic, message.partition] = message.offset + 1
        advances = []
        for key, next_offset in ends.items():
            topic, partition = key
            _, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            advances.append(
                PartitionAdvance(
                    topic, partition, self._positions[key], next_offset, max(high, next_offset)
                )
            )
            self._positions[key] = next_offset
        return Consumed(messages, tuple(advances))

    def _classify(self, error: KafkaError, message: KafkaMessage) -> None:
        contour = self.settings.contour.name
        match error.code():
            case KafkaError._AUTO_OFFSET_RESET | KafkaError.OFFSET_OUT_OF_RANGE:
                raise FatalError(
                    f"contour {contour}: the position stored for {message.topic()} "
                    f"[{message.partition()}] is not in Kafka any more: its retention ran past "
                    "this contour, or the topic was made anew",
                    remedy="events are missing here: load the table again from another contour, "
                    "then delete its rows in replication.consumer_offsets",
                )
            case KafkaError.TOPIC_AUTHORIZATION_FAILED | KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise FatalError(
                    f"contour {contour}: Kafka does not let us read {message.topic()}",
                    remedy=f"allow READ on the topics and on group {consumer_group(contour)}",
                )
            case KafkaError._PARTITION_EOF:
                return
            case _:
                raise TransientError(f"contour {contour}: Kafka: {error.name()}: {error.str()}")

    def _commit_for_display(self, consumer: Consumer) -> None:
        if time.monotonic() < self._next_commit or not self._positions:
            return
        self._next_commit = time.monotonic() + COMMIT_EVERY
        offsets = [
            TopicPartition(topic, partition, position)
            for (topic, partition), position in self._positions.items()
            if position > 0
        ]
        if offsets:
            with contextlib.suppress(KafkaException):
                consumer.commit(offsets=offsets, asynchronous=True)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value

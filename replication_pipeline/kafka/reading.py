"""What all readers of topics share: the client's options, batches with bounds, errors as verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import Message as KafkaMessage

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.model import Message
from replication_pipeline.domain.names import Topic, consumer_group
from replication_pipeline.domain.signatures import HEADER, Seal
from replication_pipeline.kafka.client import client_options, not_allowed
from replication_pipeline.settings import Settings

METADATA_EVERY: Final = 30.0  # seconds between looks for new partitions
Partition = tuple[Topic, int]


def consumer_options(settings: Settings) -> dict[str, Any]:
    """Options of a consumer; holds secrets."""
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
        "topic.metadata.refresh.interval.ms": round(METADATA_EVERY * 1000),
        "isolation.level": "read_committed",
        "check.crcs": True,
    }


@dataclass(slots=True)
class Intake:
    """Fetched messages on their way into batches of at most ``most_bytes``, or of one message."""

    most_bytes: int
    _held: list[KafkaMessage] = field(default_factory=list)

    def fetch(self, consumer: Consumer, limit: int, timeout: float) -> None:
        """Take in what has come. As long as something is held the consumer is asked all the same,
        as its callbacks and its group's heartbeat hang on that.
        """
        waits = not self._held
        first = consumer.poll(timeout if waits else 0)
        if first is None:
            return
        self._held.append(first)
        if waits and limit > 1:
            # What a callback drops meanwhile must be gone from the same list.
            more = consumer.consume(limit - 1, 0)
            self._held += more

    def take(self, limit: int) -> Sequence[KafkaMessage]:
        """As much as a batch may have, but at least one if there is any."""
        count = size = 0
        for message in self._held[:limit]:
            size += len(message)
            if size > self.most_bytes and count:
                break
            count += 1
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def keep(self, wanted: Callable[[Partition], bool]) -> None:
        """Drop what is held of other partitions."""
        self._held = [message for message in self._held if wanted(partition_of(message))]

    def clear(self) -> None:
        """Drop everything."""
        self._held.clear()


def partition_of(message: KafkaMessage) -> Partition:
    """Where a message, or an error, came from."""
    return Topic(message.topic() or ""), message.partition() or 0


def received(message: KafkaMessage, *, sealed: bool = False) -> Message | None:
    """The message as it is passed on; ``None`` without a place. ``sealed``: with key and signature."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        return None
    value = message.value()
    return Message(
        Topic(topic),
        partition,
        offset,
        value.encode() if isinstance(value, str) else value,
        seal_of(message) if sealed else None,
    )


def seal_of(message: KafkaMessage) -> Seal:
    """Key and signature as they came. Of several signatures none counts."""
    key = message.key()
    try:
        headers = message.headers() or ()
    except UnicodeDecodeError:  # a name of a header that is no text
        headers = ()
    told = [header[1] for header in headers if header[0] == HEADER]
    return Seal(
        key.encode() if isinstance(key, str) else key,
        told[0] if len(told) == 1 and isinstance(told[0], bytes) else None,
    )


def verdict(error: KafkaError, message: KafkaMessage, contour: str) -> FatalError | TransientError:
    """What to do about an error that came instead of a message."""
    if error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    ):
        return not_allowed(contour, message.topic())
    return TransientError(
        f"contour {contour}: Kafka: {error.name()}: {error.str()}", kind=f"Kafka: {error.name()}"
    )


def is_out_of_range(error: KafkaError) -> bool:
    """Whether the log does not have the position."""
    return error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)

"""The heartbeat topic: sending a record, reading on from an offset, and the ends of other topics.

Reading joins no group: every contour reads the whole topic, and where to go on is in its database.
The broker holds a fetch back until something comes, so waiting costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.heartbeat import Beat, Offsets, Record, decode
from replication_pipeline.domain.names import Topic, heartbeat_topic, topic_for
from replication_pipeline.domain.signatures import HEADER, Signer, Verifier
from replication_pipeline.engine.heartbeat import Stamped
from replication_pipeline.kafka.client import (
    QUIET,
    Admin,
    Headers,
    client_options,
    refuse_bad_options,
)
from replication_pipeline.kafka.lifeline import part
from replication_pipeline.kafka.reading import seal_of
from replication_pipeline.settings import Settings, signer_of, verifier_of

AT_ONCE: Final = 500  # records of one read
LONGEST_READ: Final = 5.0  # seconds until the end of the topic must be known
LONGEST_QUESTION: Final = 10.0  # seconds


@dataclass(slots=True)
class KafkaHeartbeats:
    """Used by one thread. Clients are made when first needed."""

    settings: Settings
    topic: Topic = field(init=False)
    _signer: Signer | None = field(init=False)
    _verifier: Verifier | None = field(init=False)
    _producer: Producer | None = field(default=None)
    _consumer: Consumer | None = field(default=None)
    _admin: Admin = field(init=False)
    _position: int | None = field(default=None)

    def __post_init__(self) -> None:
        self.topic = heartbeat_topic(prefix=self.settings.kafka.topic_prefix)
        self._admin = Admin(self.settings)
        self._signer, self._verifier = signer_of(self.settings), verifier_of(self.settings)

    def send(self, value: bytes) -> int:
        """The record's offset, once it is acknowledged. ``TransientError`` when it is not.

        Raises ``FatalError`` when no broker lets us in, and time won't heal that.
        """
        if self._producer is None:
            with self._admin.asking():  # it finds out whether and why no broker lets us in
                pass
            self._producer = self._made(
                Producer,
                {
                    "client.id": f"replicator-heartbeat-{self.settings.contour.name}",
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": 0,
                    "delivery.timeout.ms": round(LONGEST_QUESTION * 1000),
                    "topic.metadata.propagation.max.ms": 1_000,
                },
            )
        told: list[tuple[KafkaError | None, KafkaMessage]] = []
        signed: Headers = []
        if self._signer is not None:
            signed.append((HEADER, self._signer.sign(self.topic, b"", value)))
        try:
            self._producer.produce(
                self.topic,
                value,
                on_delivery=lambda error, message: told.append((error, message)),
                headers=signed,
            )
            self._producer.flush(LONGEST_QUESTION + 1)
        except (KafkaException, BufferError) as error:
            raise self._away(error.args[0]) from None
        if not told or told[0][0] is not None:
            self._drop_producer()
            raise self._away(told[0][0] if told else None)
        offset = told[0][1].offset()
        return -1 if offset is None else offset

    def ends(self, tables: Sequence[str]) -> Offsets:
        """The ends of the tables' topics now, on all partitions that the brokers know now."""
        prefix = self.settings.kafka.topic_prefix
        topics: list[str] = sorted({topic_for(table, prefix=prefix) for table in tables})
        if not topics:
            return {}
        return self._ends(self._partitions(topics))

    def read(self, position: int | None) -> tuple[Sequence[Stamped], bool]:
        """Records from ``position`` on, none at the end; and whether some before them are lost."""
        end = self._ends({self.topic: 1})[self.topic][0]
        if position == end:
            return (), False
        consumer = self._reader()
        if position != self._position or not consumer.assignment():
            known = position is not None and position <= end  # else the topic was made anew
            consumer.assign(
                [TopicPartition(self.topic, 0, position if known else OFFSET_BEGINNING)]  # type: ignore[arg-type]
            )
        self._position = None
        first = consumer.poll(LONGEST_READ) if end else None
        if first is None:
            if end == 0:
                return (), False
            self._drop_consumer()
            raise self._away(None)
        records = [self._stamped(m) for m in (first, *consumer.consume(AT_ONCE - 1, 0))]
        self._position = records[-1].offset + 1
        return records, position is not None and records[0].offset > position

    def close(self) -> None:
        """Close what was opened."""
        self._drop_producer()
        self._drop_consumer()
        self._admin.close()

    def _ends(self, partitions: Mapping[str, int]) -> dict[str, list[int]]:
        # Not through the consumer: there the question would wait behind a fetch that is held back.
        wanted = {
            TopicPartition(topic, number): OffsetSpec.latest()  # type: ignore[no-untyped-call]
            for topic, count in partitions.items()
            for number in range(count)
        }
        ends = {topic: [0] * count for topic, count in partitions.items()}
        if not wanted:
            return ends
        try:
            with self._admin.asking() as admin:
                asked = admin.list_offsets(wanted, request_timeout=LONGEST_QUESTION)
                for partition, future in asked.items():
                    offset = future.result(LONGEST_QUESTION + 5).offset
                    ends[partition.topic][partition.partition] = offset
        except (KafkaException, TimeoutError) as error:
            raise self._away(error.args[0] if error.args else None) from None
        return ends

    def _partitions(self, topics: list[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        with self._admin.asking() as admin:
            asked = admin.describe_topics(TopicCollection(topics), request_timeout=LONGEST_QUESTION)
            for topic, future in asked.items():
                try:
                    counts[topic] = len(future.result(LONGEST_QUESTION + 5).partitions)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise self._away(error.args[0]) from None
                    counts[topic] = 0  # nothing was ever written to it
                except TimeoutError:
                    raise self._away(None) from None
        return counts

    def _stamped(self, message: KafkaMessage) -> Stamped:
        if (error := message.error()) is not None:
            self._drop_consumer()
            raise self._away(error)
        kind, milliseconds = message.timestamp()
        if kind != TIMESTAMP_LOG_APPEND_TIME:
            raise FatalError(
                f"contour {self.settings.contour.name}: topic {self.topic} has its producers' clocks "
                "on its records, not the broker's",
                remedy="set message.timestamp.type=LogAppendTime on the topic",
            )
        value, offset = message.value(), message.offset()
        assert offset is not None
        bytes_ = value.encode() if isinstance(value, str) else value
        return Stamped(offset, milliseconds / 1000, self._believed(decode(bytes_), message, bytes_))

    def _believed(
        self, record: Record | None, message: KafkaMessage, value: bytes | None
    ) -> Record | None:
        """The record, if nobody asks who has signed it, or it was somebody who may: a beat is its
        contour's, an operator's word comes from any contour. Else it is passed by.
        """
        verifier = self._verifier
        if verifier is None or record is None:
            return record
        speakers = [record.identity.contour] if isinstance(record, Beat) else verifier.accepted
        seal = seal_of(message)
        for contour in speakers:
            if verifier.objection(contour, self.topic, seal, value or b"") is None:
                return record
        return None

    def _reader(self) -> Consumer:
        if self._consumer is None:
            self._position = None
            self._consumer = self._made(
                Consumer,
                {
                    "client.id": f"replicator-heartbeat-{self.settings.contour.name}",
                    "group.id": f"replicator-heartbeat-{self.settings.contour.name}",  # never joined
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 10_000,
                    "queued.max.messages.kbytes": 4_096,
                },
            )
        return self._consumer

    def _made(self, client: Any, options: dict[str, Any]) -> Any:
        try:
            return client(client_options(self.settings.kafka) | options, logger=QUIET)
        except (KafkaException, ValueError, TypeError) as error:
            raise refuse_bad_options(error) from None

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0.5)

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            part(consumer)

    def _away(self, error: object) -> TransientError:
        why = "no answer in time"
        remedy = "look at the brokers, and at kafka in the configuration"
        if isinstance(error, KafkaError):
            why = f"{error.name()}: {error.str()}"
            if error.code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
                remedy = "replication-pipeline setup-table makes the topic"
        return TransientError(
            f"contour {self.settings.contour.name}: topic {self.topic}: {why}", remedy=remedy
        )

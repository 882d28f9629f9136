"""Producing a batch and waiting until Kafka has told about every event of it.

The producer is idempotent with ``acks=all``, so retries inside librdkafka neither duplicate nor
reorder. What it reports as failed for lack of a broker is not a refusal: the caller rolls back, and
the same rows come again. A producer that failed is replaced, so that nothing of an abandoned batch
is still on its way when the next one starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import ClaimedEvent, Deliveries, DeliveryFailure
from replication_pipeline.domain.names import topic_for
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.client import (
    QUIET,
    REFUSALS,
    client_options,
    refuse_bad_options,
)
from replication_pipeline.settings import Settings

POLL_SLICE: Final = 0.1  # seconds between looks at the stop flag
STOP_GRACE: Final = 3.0  # seconds that an orderly stop gives Kafka for the batch in hand


def producer_options(settings: Settings) -> dict[str, Any]:
    """Options of the producer; holds secrets."""
    kafka = settings.kafka
    return client_options(kafka) | {
        "client.id": f"replicator-publisher-{settings.contour.name}",
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": kafka.compression,
        "linger.ms": kafka.linger.total_seconds() * 1000,
        "delivery.timeout.ms": round(kafka.delivery_timeout.total_seconds() * 1000),
        "message.max.bytes": kafka.max_message_bytes,
        # The same placement as Java clients, so that others may produce or look up by key.
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 200_000,
        # Errors come through delivery reports; success reports are what marks rows.
        "topic.metadata.propagation.max.ms": 5_000,
    }


@dataclass(slots=True)
class KafkaEventProducer:
    """Delivers one batch at a time."""

    settings: Settings
    _producer: Producer | None = field(default=None)
    _topics: dict[str, str] = field(default_factory=dict)

    def connect(self) -> None:
        """Start connecting in the background, so that the first batch need not wait for it.

        Raises ``ConfigurationError`` when the options can't be used; an absent broker is no error.
        """
        self._connected()

    def deliver(self, events: Sequence[ClaimedEvent], stop: StopToken) -> Deliveries:
        """Produce ``events`` in order and wait for all delivery reports, after ``stop`` not for long.

        Raises ``TransientError`` when any event's fate is open or an outage was reported: then
        nothing of the batch counts, and the producer is replaced.
        """
        producer = self._connected()
        reports = _Reports()
        try:
            for event in events:
                self._produce(producer, event, reports)
            remaining = self._wait(producer, reports, stop)
        except BaseException:
            self._replace()
            raise
        if remaining or reports.outage is not None:
            self._replace()
            why = reports.outage or "no acknowledgement in time"
            raise TransientError(f"contour {self.settings.contour.name}: Kafka is away: {why}")
        return Deliveries(frozenset(reports.acknowledged), tuple(reports.refused))

    def close(self) -> None:
        """Close; unacknowledged events are dropped, and were never marked."""
        self._replace()

    def _produce(self, producer: Producer, event: ClaimedEvent, reports: _Reports) -> None:
        topic = self._topic(event.table)
        report = reports.of(event.id)
        while True:
            try:
                producer.produce(topic, event.value, event.key, on_delivery=report)
                return
            except BufferError:  # librdkafka's queue is full: let it drain, lose nothing
                producer.poll(0.1)
            except KafkaException as error:
                report(error.args[0], None)
                return

    def _wait(self, producer: Producer, reports: _Reports, stop: StopToken) -> int:
        """Serve delivery reports until none is open or time is up; returns how many are open."""
        deadline = time.monotonic() + self.settings.kafka.delivery_timeout.total_seconds() + 5
        stopping = False
        while reports.open and time.monotonic() < deadline:
            producer.poll(POLL_SLICE)  # returns with the first reports; flush() waits for longer
            if stop and not stopping:
                stopping, deadline = True, min(deadline, time.monotonic() + STOP_GRACE)
        return reports.open

    def _topic(self, table: str) -> str:
        topic = self._topics.get(table)
        if topic is None:
            topic = topic_for(table, prefix=self.settings.kafka.topic_prefix)
            self._topics[table] = topic
        return topic

    def _connected(self) -> Producer:
        if self._producer is None:
            try:
                self._producer = Producer(producer_options(self.settings), logger=QUIET)
            except (KafkaException, ValueError, TypeError) as error:
                raise refuse_bad_options(error) from None
        return self._producer

    def _replace(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0.5)


@dataclass(slots=True)
class _Reports:
    """Collects the delivery reports of one batch."""

    acknowledged: set[int] = field(default_factory=set)
    refused: list[DeliveryFailure] = field(default_factory=list)
    outage: str | None = field(default=None)
    open: int = field(default=0)

    def of(self, event_id: int) -> Any:
        """The callback for one event, whose fate is open from now on."""
        self.open += 1

        def report(error: KafkaError | None, _message: Message | None) -> None:
            self.open -= 1
            if error is None:
                self.acknowledged.add(event_id)
            elif error.code() in REFUSALS:
                self.refused.append(DeliveryFailure(event_id, error.name(), error.str()))
            else:
                self.outage = f"{error.name()}: {error.str()}"

        return report

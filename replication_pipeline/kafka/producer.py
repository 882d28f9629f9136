"""Producing a batch, and waiting until Kafka has told about every event of it.

The producer is idempotent with ``acks=all``, so retries inside librdkafka neither duplicate nor
reorder. What it reports as failed for lack of a broker is not a refusal: the caller rolls back, and
the same rows come again. A producer that failed is replaced, so that nothing of an abandoned batch
is still on its way when the next one starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import ClaimedEvent, Deliveries, DeliveryFailure
from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.signatures import HEADER, Signer
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.kafka.client import (
    QUIET,
    REFUSALS,
    REFUSALS_OF_PACKETS,
    Headers,
    client_options,
    refuse_bad_options,
)
from replication_pipeline.kafka.handshakes import Handshakes
from replication_pipeline.settings import Settings, signer_of

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
        # An event of a missing topic is refused after this; the rest of its batch waits as long.
        "topic.metadata.propagation.max.ms": 1_000,
    }


@dataclass(slots=True)
class KafkaEventProducer:
    """Has one batch in flight at a time."""

    settings: Settings
    _producer: Producer | None = field(default=None)
    _signer: Signer | None = field(init=False)
    _topics: dict[str, str] = field(default_factory=dict)
    _handshakes: Handshakes | None = field(default=None)

    def __post_init__(self) -> None:
        self._signer = signer_of(self.settings)

    def connect(self) -> None:
        """Start connecting in the background, so that the first batch need not wait for it.

        Raises ``ConfigurationError`` when the options can't be used; an absent broker is no error.
        """
        self._connected()

    def send(self, events: Sequence[ClaimedEvent], stop: StopToken) -> KafkaFlight:
        """Hand ``events`` to librdkafka, in order.

        Waits only while its queue is full. Raises ``TransientError`` when asked to stop then.
        """
        producer = self._connected()
        flight = KafkaFlight(self, events)
        try:
            produce, told, topics = self._producing(producer), flight.told, self._topics
            for event in events:
                topic = topics.get(event.table) or self._topic(event.table)
                try:
                    produce(topic, event.value, event.key, on_delivery=told)
                except BufferError:
                    self._produce_when_there_is_room(producer, topic, event, flight, stop)
                except KafkaException as error:
                    flight.told(error.args[0], None, event)
        except BaseException:
            self.replace()
            raise
        return flight

    def poll(self) -> None:
        """Serve delivery reports; returns with the first ones (``flush`` would wait for longer).

        Raises ``FatalError`` when no broker lets us in, and time won't heal that.
        """
        self._connected().poll(POLL_SLICE)
        if self._handshakes is not None:
            self._handshakes.check()

    def welcomed(self) -> None:
        """Kafka has acknowledged something."""
        if self._handshakes is not None:
            self._handshakes.succeeded()

    def away(self, why: str) -> TransientError:
        """The error for an outage. The producer is replaced."""
        trouble = self._handshakes.last if self._handshakes else None
        self.replace()
        if trouble and trouble not in why:
            why += f" ({trouble})"
        return TransientError(
            f"contour {self.settings.contour.name}: Kafka is away: {why}",
            remedy="nothing is lost; look at the brokers, and at kafka in the configuration",
            kind="Kafka: away",
        )

    def close(self) -> None:
        """Close; unacknowledged events are dropped, and were never marked."""
        self.replace()

    def replace(self) -> None:
        """Drop the producer with all that it has queued; the next batch makes a new one."""
        producer, self._producer, self._handshakes = self._producer, None, None
        if producer is not None:
            producer.purge()
            producer.flush(0.5)

    def _produce_when_there_is_room(
        self,
        producer: Producer,
        topic: str,
        event: ClaimedEvent,
        flight: KafkaFlight,
        stop: StopToken,
    ) -> None:
        """Librdkafka's queue is full: let it drain. Its delivery timeout bounds the wait, as the first
        event that was not delivered gives up the batch.
        """
        produce = self._producing(producer)
        while not stop:
            self.poll()
            if flight.outage is not None:
                raise self.away(flight.outage)
            try:
                produce(topic, event.value, event.key, on_delivery=flight.told)
            except BufferError:
                continue
            return
        raise TransientError(
            f"contour {self.settings.contour.name}: stopped while Kafka takes no more events"
        )

    def _producing(self, producer: Producer) -> Callable[..., None]:
        """``produce``, with a signature if this contour signs. If it doesn't, that costs nothing."""
        signer = self._signer
        if signer is None:
            return producer.produce

        def produce(topic: str, value: bytes, key: bytes, *, on_delivery: Any) -> None:
            headers: Headers = [(HEADER, signer.sign(topic, key, value))]
            producer.produce(topic, value, key, on_delivery=on_delivery, headers=headers)

        return produce

    def _topic(self, table: str) -> str:
        topic = self._topics[table] = topic_for(table, prefix=self.settings.kafka.topic_prefix)
        return topic

    def _connected(self) -> Producer:
        if self._producer is None:
            self._handshakes = Handshakes(self.settings.kafka, self.settings.contour.name)
            options = producer_options(self.settings) | self._handshakes.options
            try:
                self._producer = Producer(options, logger=QUIET)
            except (KafkaException, ValueError, TypeError) as error:
                raise refuse_bad_options(error) from None
        return self._producer


@dataclass(slots=True)
class KafkaFlight:
    """A batch that Kafka has still to tell about.

    One callback serves all its events: making one for each costs as much as producing it. So a
    success only counts, and a refused event is found by its value, which holds its event id.
    """

    producer: KafkaEventProducer
    events: Sequence[ClaimedEvent]
    open: int = field(init=False)
    refused: list[DeliveryFailure] = field(default_factory=list)
    outage: str | None = field(default=None)
    _packets: list[DeliveryFailure] = field(default_factory=list)  # refused with their packets

    def __post_init__(self) -> None:
        self.open = len(self.events)

    def wait(self, stop: StopToken) -> Deliveries:
        """Serve delivery reports until none is open; after ``stop`` not for long.

        Raises ``TransientError`` when any event's fate is open or an outage was reported: then
        nothing of the batch counts, and the producer is replaced.
        """
        self._wait(stop)
        if self._packets:
            self._try_in_smaller_packets(stop, time.monotonic() + self._timeout)
        return Deliveries(tuple(self.refused))

    @property
    def _timeout(self) -> float:
        return self.producer.settings.kafka.delivery_timeout.total_seconds()

    def _wait(self, stop: StopToken) -> None:
        deadline = time.monotonic() + self._timeout + 5
        stopping = False
        try:
            while self.open and time.monotonic() < deadline:
                self.producer.poll()
                if stop and not stopping:
                    stopping, deadline = True, min(deadline, time.monotonic() + STOP_GRACE)
        except BaseException:
            self.producer.replace()
            raise
        if self.open or self.outage is not None:
            raise self.producer.away(self.outage or "no acknowledgement in time")
        self.producer.welcomed()

    def _try_in_smaller_packets(self, stop: StopToken, deadline: float) -> None:
        """A broker refuses a whole packet for the sake of one event, or of all together: halve, until
        each of them has got through or was refused alone. What follows one of them within its key
        goes once more as well, so that it comes after it.

        At ``deadline`` those that are left stay refused, to be tried again later.
        """
        failures, self._packets = {f.event.id: f for f in self._packets}, []
        keys: set[tuple[str, bytes]] = set()
        again: list[ClaimedEvent] = []
        for event in self.events:
            if event.id in failures:
                keys.add((event.table, event.key))
            if (event.table, event.key) in keys:
                again.append(event)
        middle = -(-len(again) // 2)
        alone = len(self.events) == 1
        for half in (again[:middle], again[middle:]):
            if alone or time.monotonic() >= deadline:
                self.refused += [failures[event.id] for event in half if event.id in failures]
            elif half:
                if stop:
                    raise TransientError("stopped before Kafka had taken or refused every event")
                flight = self.producer.send(half, stop)
                flight._wait(stop)
                if flight._packets:
                    flight._try_in_smaller_packets(stop, deadline)
                self.refused += flight.refused

    def told(
        self, error: KafkaError | None, message: Message | None, event: ClaimedEvent | None = None
    ) -> None:
        """What Kafka, or librdkafka in its place, says about one event."""
        self.open -= 1
        if error is None:
            return
        if message is not None:
            value = message.value()
            event = next((e for e in self.events if e.value == value), None)
        if event is None or error.code() not in REFUSALS:
            self.outage = f"{error.name()}: {error.str()}"
            return
        shared = message is not None and error.code() in REFUSALS_OF_PACKETS
        refused = self._packets if shared else self.refused
        refused.append(DeliveryFailure(event, error.name(), error.str()))

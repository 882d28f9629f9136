"""Reading a contour's topics from the offsets that its own database holds.

Kafka's group only shares the partitions out. Where to read comes from the database at every
assignment, and from offset 0 where nothing is stored. ``auto.offset.reset=error`` turns a position
that the log does not have (retention ran past it, or had cut the log before the first read) into a
halt with a remedy instead of a silent jump; ``TopicWatch`` notices topics that were made anew.
Partitions that are added are assigned within half a minute and read from their beginning.
Offsets are committed to Kafka as well, but only for the stock tools to show; nothing ever reads them.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka import Message as KafkaMessage

from replication_pipeline.domain.errors import (
    ConfigurationError,
    FatalError,
    ParkedFullError,
    TransientError,
)
from replication_pipeline.domain.model import Consumed, Message, PartitionAdvance
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.positions import SOUND, explain, halt, standing
from replication_pipeline.kafka.client import (
    QUIET,
    Admin,
    refuse_bad_options,
)
from replication_pipeline.kafka.handshakes import Handshakes
from replication_pipeline.kafka.lifeline import Lifeline, lost, part
from replication_pipeline.kafka.precedence import Precedence, ancestors_of
from replication_pipeline.kafka.reading import (
    Intake,
    Partition,
    consumer_options,
    is_out_of_range,
    partition_of,
    received,
    verdict,
)
from replication_pipeline.kafka.topic_logs import read_logs, read_ranges
from replication_pipeline.kafka.topic_watch import TopicStore, TopicWatch
from replication_pipeline.settings import Settings

HOLD: Final = 10.0  # seconds that a topic is left alone
LOOK: Final = 1.0  # seconds between looks whether parents are behind
COMMIT_EVERY: Final = 1.0  # seconds between commits to Kafka, which are for display only


class OffsetStore(TopicStore, Protocol):
    """Where the next offsets are kept: the inbox."""

    def offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The stored next offsets; partitions never read are absent."""

    def parents(self) -> Mapping[Topic, Set[Topic]]:
        """By topic those of the tables that its own refers to, as of the last look at the catalog."""


@dataclass(slots=True)
class KafkaEventConsumer:
    """One member of the contour's group."""

    settings: Settings
    store: OffsetStore
    _consumer: Consumer | None = field(default=None)
    _lifeline: Lifeline = field(init=False)
    _handshakes: Handshakes = field(init=False)
    _admin: Admin = field(init=False)
    _watch: TopicWatch = field(init=False)
    _intake: Intake = field(init=False)
    _positions: dict[Partition, int] = field(default_factory=dict)
    _stale: bool = field(default=False)
    _compared: bool = field(default=False)  # the topics' ids, since the last assignment
    _callback_error: Exception | None = field(default=None)
    _next_commit: float = field(default=0.0)
    _held: dict[str, tuple[float, ParkedFullError]] = field(
        default_factory=dict
    )  # topic: until, why
    _precedence: Precedence = field(default_factory=Precedence)
    _waiting: frozenset[Topic] | None = field(default=None)  # for their parents; None: look anew
    _next_look: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._intake = Intake(self.settings.consumer.max_batch_bytes)
        self._admin = Admin(self.settings)

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        """Up to ``limit`` messages, and ``consumer.max_batch_bytes`` of them, as soon as there are
        any; ``None`` after ``timeout``.

        What was handed over counts as done unless ``rewind`` is called before the next poll.
        Raises ``FatalError`` when a position is not in the log, or means another topic, and when no
        broker lets us in for a reason that time does not heal.
        """
        consumer = self._connected()
        self._let_go()
        if self._stale:
            self._seek_to_stored(consumer)
        self._watch.glance()
        self._commit_for_display(consumer)
        try:
            self._let_parents_first(consumer)
            self._intake.fetch(consumer, limit, timeout.total_seconds())
            self._raise_from_callback()
            self._handshakes.check()
            self._raise_if_cut_off()
            messages = tuple(self._mine(self._intake.take(limit)))
            if messages:
                self._handshakes.succeeded()
        except BaseException:
            # librdkafka has moved past whatever it had handed over: go back before the next poll.
            self._stale = True
            raise
        if len(messages) >= limit:
            self._next_look = 0.0
        return self._consumed(consumer, messages) if messages else None

    def caught_up(self) -> bool:
        """Ask the broker whether the contour's stored offsets are the ends of all its logs, those of
        partitions that other members have included: a member that died has them until its session is
        over. False before the group has assigned anything.

        Raises ``FatalError`` while a topic is held: its end can't be reached.
        """
        for _, error in self._held.values():
            raise FatalError(error.message, remedy=error.remedy)
        if not self._compared:
            return False
        # Through a connection of its own: on the consumer's the question would wait behind a fetch
        # that the broker holds back until events come.
        try:
            with self._admin.asking() as admin:
                logs = read_logs(admin, self.settings.contour.name, self._watch.topics)
        except TransientError:
            return False
        ends = {
            (topic, partition): log.end
            for topic, found in logs.items()
            for partition, log in found.ranges.items()
        }
        stored = self.store.offsets(ends)
        return all(stored.get(key, 0) == end for key, end in ends.items())

    def hold(self, error: ParkedFullError) -> None:
        """Read nothing of the error's topics for ``HOLD`` seconds; the others are read on."""
        until = time.monotonic() + HOLD
        self._held |= dict.fromkeys(error.topics, (until, error))

    def _let_go(self) -> None:
        over = [topic for topic, (until, _) in self._held.items() if time.monotonic() >= until]
        for topic in over:
            del self._held[topic]
            self._stale = True  # what came meanwhile was not handed over

    def rewind(self) -> None:
        """Before the next poll, go back to the stored offsets."""
        self._stale = True

    def close(self) -> None:
        """Leave the group, so that others take the partitions over at once."""
        consumer, self._consumer = self._consumer, None
        self._forget()
        if consumer is not None:
            part(consumer)

    def _connected(self) -> Consumer:
        if self._consumer is None:
            topics = {
                topic_for(table, prefix=self.settings.kafka.topic_prefix): table
                for table in self.settings.tables
            }
            if not topics:
                raise ConfigurationError(
                    "tables: no table is named, so there is nothing to apply",
                    remedy="list the replicated tables under tables:",
                )
            try:
                self._lifeline = Lifeline()
                self._handshakes = Handshakes(self.settings.kafka, self.settings.contour.name)
                options = (
                    consumer_options(self.settings)
                    | self._lifeline.options
                    | self._handshakes.options
                )
                consumer = Consumer(options, logger=QUIET)
            except (KafkaException, ValueError, TypeError) as error:
                raise refuse_bad_options(error) from None
            self._watch = TopicWatch(self.settings.contour.name, topics, self._admin, self.store)
            consumer.subscribe(
                list(topics),
                on_assign=self._assigned,
                on_revoke=self._revoked,
                on_lost=self._revoked,
            )
            self._consumer = consumer
        return self._consumer

    # Callbacks run inside poll() on this thread; an exception there would be lost, so it is kept. A
    # client that was parted from may still call, on its way out.

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        keys = [(Topic(p.topic), p.partition) for p in partitions]
        begin, self._compared, self._waiting, self._next_look = 0, False, None, 0.0
        self._handshakes.succeeded()
        try:
            self._compare()
            stored = self.store.offsets(keys)
        except Exception as error:  # noqa: BLE001 - told by poll()
            self._callback_error = error
            # Nothing is handed over from here: this poll raises, and the next one first goes back to
            # the stored offsets. Until then the log may begin wherever it does.
            stored, begin = {}, OFFSET_BEGINNING
            self._stale = True
        for key in keys:
            self._positions[key] = stored.get(key, 0)
        consumer.incremental_assign(
            [TopicPartition(t, p, stored.get((t, p), begin)) for t, p in keys]
        )

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        for partition in partitions:
            self._positions.pop((Topic(partition.topic), partition.partition), None)
        # Never to be mixed with what is read after the partition has come back.
        self._intake.keep(self._positions.__contains__)
        with contextlib.suppress(KafkaException):
            consumer.incremental_unassign(partitions)

    def _compare(self) -> None:
        self._watch.compare()
        self._compared = True

    def _raise_from_callback(self) -> None:
        error, self._callback_error = self._callback_error, None
        if error is not None:
            raise error

    def _raise_if_cut_off(self) -> None:
        """Begin anew with another client when this one has lost its way to Kafka."""
        if self._consumer is None or not self._lifeline.cut:
            return
        consumer, self._consumer = self._consumer, None
        self._forget()
        part(consumer, patience=0)
        raise lost(self.settings.contour.name)

    def _forget(self) -> None:
        self._positions.clear()
        self._intake.clear()
        self._stale = False

    def _seek_to_stored(self, consumer: Consumer) -> None:
        self._intake.clear()
        if not self._compared:
            self._compare()
        stored = self.store.offsets(self._positions)
        for key in self._positions:
            self._positions[key] = stored.get(key, 0)
            self._seek(consumer, key)
        self._pause_held(consumer)
        self._stale = False

    def _seek(self, consumer: Consumer, key: Partition) -> None:
        topic, partition = key
        try:
            consumer.seek(TopicPartition(topic, partition, self._positions[key]))
        except KafkaException as error:
            raise TransientError(
                f"contour {self.settings.contour.name}: can't go back in {topic}: "
                f"{error.args[0].str()}",
                kind="Kafka: away",
            ) from None

    def _pause_held(self, consumer: Consumer) -> None:
        """What is held need not be fetched either; a partition that comes later is only passed by."""
        quiet = self._held.keys() | (self._waiting or set())
        held = [TopicPartition(*key) for key in self._positions if key[0] in quiet]
        free = [TopicPartition(*key) for key in self._positions if key[0] not in quiet]
        with contextlib.suppress(KafkaException):
            consumer.pause(held)
            consumer.resume(free)

    def _let_parents_first(self, consumer: Consumer) -> None:
        """Look again after each full batch, and now and then."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        behind: Counter[Topic] = Counter()
        if ancestors := ancestors_of(self.store.parents()):
            for (topic, partition), position in self._positions.items():
                range_ = consumer.get_watermark_offsets(
                    TopicPartition(topic, partition), cached=True
                )
                behind[topic] += max(0, range_[1] - position)
        waiting = self._precedence.waiting(behind, ancestors, now)
        if waiting == self._waiting:
            return
        over = (self._waiting or frozenset()) - waiting
        self._waiting = waiting
        self._pause_held(consumer)
        # What had been fetched of them is gone; nothing is left to how the client goes on from there.
        self._intake.keep(lambda key: key[0] not in over)
        for key in self._positions:
            if key[0] in over:
                self._seek(consumer, key)

    def _mine(self, polled: Iterable[KafkaMessage]) -> Iterable[Message]:
        sealed = self.settings.security.signatures_required
        for message in polled:
            error = message.error()
            if error is not None:
                if is_out_of_range(error):
                    raise self._not_in_the_log(*partition_of(message))
                if error.code() != KafkaError._PARTITION_EOF:
                    raise verdict(error, message, self.settings.contour.name)
                continue
            event = received(message, sealed=sealed)
            if event is None or event.topic in self._held:
                continue
            # A rebalance during the poll may have taken the partition away, or moved it back.
            position = self._positions.get((event.topic, event.partition))
            if position is not None and event.offset >= position:
                yield event

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

    def _not_in_the_log(self, topic: Topic, partition: int) -> FatalError | TransientError:
        """What Kafka has instead of a position. A member that stood still may have fallen behind the
        log while another one went on: then the stored offset is sound, and it goes on from there.
        """
        contour, key = self.settings.contour.name, (topic, partition)
        self._watch.compare()
        stored = self.store.offsets([key]).get(key)
        with self._admin.asking() as admin:
            log = read_ranges(admin, contour, [key])[key]
        found = standing(stored, log)
        if (stored or 0) != self._positions.get(key) or found in SOUND:
            return TransientError(f"contour {contour}: {topic} [{partition}] is read anew")
        table = self._watch.topics[topic]
        return halt(contour, f"{topic} [{partition}]", table, explain(found, stored, log))

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

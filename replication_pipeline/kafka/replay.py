"""Reading topics once more, from a time or an offset to their ends as they are now.

Beside the contour's group and without a part in it: partitions are taken by explicit offsets, and no
position is stored anywhere, so appliers may go on meanwhile. What was handed over counts as done with
the next poll, unless ``rewind`` is called before. Whoever ends early begins anew the next time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import (
    FatalError,
    ParkedFullError,
    RefusedError,
    TransientError,
)
from replication_pipeline.domain.model import Consumed, Message
from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.positions import LogRange
from replication_pipeline.kafka.client import QUIET, admin_client, refuse_bad_options
from replication_pipeline.kafka.lifeline import Lifeline, lost, part
from replication_pipeline.kafka.reading import (
    Intake,
    Partition,
    consumer_options,
    is_out_of_range,
    partition_of,
    received,
    verdict,
)
from replication_pipeline.kafka.topic_logs import read_logs, read_offsets
from replication_pipeline.settings import Settings

Start = datetime | int


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is to be read. ``gone``: offsets that were asked for and that Kafka has removed; ``cut``:
    topics whose beginning it has removed.
    """

    ranges: Mapping[Partition, LogRange]
    gone: int
    cut: tuple[str, ...]

    @property
    def events(self) -> int:
        """How many there are, about: a log may have gaps."""
        return sum(part.end - part.start for part in self.ranges.values())


def plan_replay(settings: Settings, start: Start) -> ReplayPlan:
    """The topics of all tables of ``settings``. ``TransientError`` when Kafka does not answer."""
    admin, contour = admin_client(settings), settings.contour.name
    tables = {topic_for(t, prefix=settings.kafka.topic_prefix): t for t in settings.tables}
    logs = read_logs(admin, contour, tables)
    for topic, table in tables.items():
        if topic not in logs:
            raise RefusedError(
                f"contour {contour}: Kafka has no topic {topic}",
                remedy=f"replication-pipeline setup-table {table}",
            )
    whole = {(t, p): kept for t, log in logs.items() for p, kept in log.ranges.items()}
    if isinstance(start, int):
        starts = dict.fromkeys(whole, start)
    else:
        moment = OffsetSpec.for_timestamp(round(start.timestamp() * 1000))
        found = read_offsets(admin, contour, dict.fromkeys(whole, moment))
        starts = {key: kept.end if found[key] < 0 else found[key] for key, kept in whole.items()}
    return ReplayPlan(
        {
            key: LogRange(min(max(starts[key], kept.start), kept.end), kept.end)
            for key, kept in whole.items()
        },
        sum(max(0, kept.start - starts[key]) for key, kept in whole.items()),
        tuple(t for t, log in logs.items() if any(kept.start for kept in log.ranges.values())),
    )


@dataclass(slots=True)
class ReplayConsumer:
    """Hands over ``plan``'s events."""

    settings: Settings
    plan: ReplayPlan
    _consumer: Consumer | None = field(default=None)
    _lifeline: Lifeline = field(init=False)
    _intake: Intake = field(init=False)
    _done: dict[Partition, int] = field(init=False)
    _next: dict[Partition, int] = field(init=False)
    _stale: bool = field(default=False)

    def __post_init__(self) -> None:
        self._intake = Intake(self.settings.consumer.max_batch_bytes)
        self._done = {key: part.start for key, part in self.plan.ranges.items()}
        self._next = dict(self._done)

    @property
    def remaining(self) -> int:
        """How much of the plan's events is not handed over yet."""
        return sum(part.end - self._next[key] for key, part in self.plan.ranges.items())

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        """Up to ``limit`` messages, as soon as there are any; ``None`` after ``timeout``."""
        if self.caught_up() and not self._stale:
            return None
        consumer = self._connected()
        self._done = dict(self._next)
        try:
            self._intake.fetch(consumer, limit, timeout.total_seconds())
            self._raise_if_cut_off(consumer)
            messages = tuple(self._planned(self._intake.take(limit)))
            self._pause_finished(consumer)
        except BaseException:
            self._stale = True
            raise
        return Consumed(messages, ()) if messages else None

    def caught_up(self) -> bool:
        """Whether everything was handed over."""
        return self.remaining == 0

    def hold(self, error: ParkedFullError) -> None:
        """Who replays does not wait."""
        raise error

    def rewind(self) -> None:
        """Hand over once more what came with the last poll."""
        self._stale = True

    def close(self) -> None:
        """Disconnect."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            part(consumer)

    def _raise_if_cut_off(self, consumer: Consumer) -> None:
        if self._lifeline.cut:
            self._consumer = None
            part(consumer, patience=0)
            raise lost(self.settings.contour.name)

    def _connected(self) -> Consumer:
        if self._consumer is None or self._stale:
            self._next = dict(self._done)
            self._intake.clear()
            if self._consumer is None:
                # The end of a partition may lie beyond its last event: a log has gaps.
                self._lifeline = Lifeline()
                options = consumer_options(self.settings) | self._lifeline.options
                options["enable.partition.eof"] = True
                try:
                    self._consumer = Consumer(options, logger=QUIET)
                except (KafkaException, ValueError, TypeError) as error:
                    raise refuse_bad_options(error) from None
            self._assign(self._consumer)
            self._stale = False
        return self._consumer

    def _assign(self, consumer: Consumer) -> None:
        """Take up what is left; to assign anew drops what the client had fetched."""
        left = [
            TopicPartition(topic, number, self._next[topic, number])
            for (topic, number), part in self.plan.ranges.items()
            if self._next[topic, number] < part.end
        ]
        try:
            consumer.assign(left)
        except KafkaException as error:
            raise TransientError(
                f"contour {self.settings.contour.name}: Kafka: {error.args[0].str()}"
            ) from None

    def _pause_finished(self, consumer: Consumer) -> None:
        """What comes after the plan's end need not be fetched."""
        finished = [
            TopicPartition(*key)
            for key, part in self.plan.ranges.items()
            if self._done[key] < part.end == self._next[key]
        ]
        if finished:
            consumer.pause(finished)

    def _planned(self, messages: Iterable[KafkaMessage]) -> Iterable[Message]:
        contour = self.settings.contour.name
        sealed = self.settings.security.signatures_required
        for message in messages:
            key, offset = partition_of(message), message.offset()
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                event = received(message, sealed=sealed)
                if event is None or offset is None:
                    continue
                end = self.plan.ranges[key].end
                self._next[key] = min(end, max(self._next[key], offset + (error is None)))
                if error is None and offset < end:
                    yield event
            elif is_out_of_range(error):
                raise FatalError(
                    f"contour {contour}: Kafka removed events of {key[0]} [{key[1]}] while they were "
                    "read",
                    remedy="begin again with what is left: replication-pipeline replay",
                )
            else:
                raise verdict(error, message, contour)

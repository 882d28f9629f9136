"""Composition root of the engine: settings → adapters → a window that runs.

The command line and the Dagster ops both come through here, so a window is the same thing in both.
"""

from __future__ import annotations

import gc
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from replication_pipeline.domain.model import Role, WindowTotals
from replication_pipeline.domain.names import Topic
from replication_pipeline.engine.apply import ApplyCycle
from replication_pipeline.engine.companion import Accompanied, Companion
from replication_pipeline.engine.heartbeat import Beating, Listening
from replication_pipeline.engine.lanes import Lanes
from replication_pipeline.engine.ports import EventConsumer, EventProducer, Inbox, Outbox
from replication_pipeline.engine.publish import PublishCycle
from replication_pipeline.engine.republish import Republish, Selection, Watcher
from replication_pipeline.engine.snapshot import Limits, Run, Snapshot, Wanted
from replication_pipeline.engine.snapshot import Watcher as SnapshotWatcher
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.engine.window import Cycle, Observer, Until, Window
from replication_pipeline.kafka.client import admin_client
from replication_pipeline.kafka.consumer import KafkaEventConsumer
from replication_pipeline.kafka.heartbeats import KafkaHeartbeats
from replication_pipeline.kafka.producer import KafkaEventProducer
from replication_pipeline.kafka.replay import ReplayConsumer, ReplayPlan, Start
from replication_pipeline.kafka.replay import plan_replay as plan_kafka_replay
from replication_pipeline.kafka.topic_logs import TopicLog
from replication_pipeline.kafka.topic_logs import read_logs as read_topic_logs
from replication_pipeline.observe import BatchLog, ContoursLog, log_window
from replication_pipeline.postgres.heartbeats import PostgresHeart
from replication_pipeline.postgres.inbox import PostgresInbox
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.postgres.relief import Relief
from replication_pipeline.postgres.republish import PostgresArchive
from replication_pipeline.postgres.snapshot import PostgresSnapshot
from replication_pipeline.postgres.snapshot_runs import prepare as prepare_run
from replication_pipeline.settings import Settings


def instance_name(settings: Settings, role: Role) -> str:
    """A name for one worker that no other worker, past or present, shares."""
    process = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    return f"{settings.contour.name}-{role}-{process}"


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector look less often. Batches are thousands of tuples that hold no cycles
    and live for milliseconds; looking through them takes a tenth of a window's processor time.
    """
    usual = gc.get_threshold()
    gc.set_threshold(100_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def open_outbox(settings: Settings, instance: str, lane: int = 0) -> Iterator[PostgresOutbox]:
    """The contour's queue; connects at the first claim and again whenever the server was away."""
    outbox = PostgresOutbox(settings, instance, lane)
    try:
        yield outbox
    finally:
        outbox.close()


@contextmanager
def open_producer(settings: Settings) -> Iterator[KafkaEventProducer]:
    """Kafka's producing side."""
    producer = KafkaEventProducer(settings)
    producer.connect()
    try:
        yield producer
    finally:
        producer.close()


@contextmanager
def open_inbox(settings: Settings, instance: str) -> Iterator[PostgresInbox]:
    """The contour's tables and offsets."""
    inbox = PostgresInbox(settings, instance)
    try:
        yield inbox
    finally:
        inbox.close()


@contextmanager
def open_consumer(settings: Settings, inbox: PostgresInbox) -> Iterator[KafkaEventConsumer]:
    """Kafka's consuming side; starts each partition where ``inbox`` says."""
    consumer = KafkaEventConsumer(settings, inbox)
    try:
        yield consumer
    finally:
        consumer.close()


@contextmanager
def open_heartbeats(settings: Settings) -> Iterator[tuple[PostgresHeart, KafkaHeartbeats]]:
    """The registry of contours and the topic it follows."""
    heart, topic = PostgresHeart(settings), KafkaHeartbeats(settings)
    try:
        yield heart, topic
    finally:
        topic.close()
        heart.close()


@contextmanager
def with_heartbeats(settings: Settings, role: Role, cycle: Cycle) -> Iterator[Cycle]:
    """``cycle``, with heartbeats sent (publishing) or read (applying) beside it."""
    monitoring = settings.monitoring
    if not monitoring.heartbeat_interval:
        yield cycle
        return
    heart, topic = PostgresHeart(settings), KafkaHeartbeats(settings)  # closed by their thread
    log = ContoursLog(monitoring.clock_skew_warning)

    def goodbye() -> None:
        topic.close()
        heart.close()

    companion = Companion(
        Beating(heart, topic, monitoring.heartbeat_interval, monitoring.fence_after)
        if role == "publisher"
        else Listening(heart, topic, log.news),
        goodbye,
        monitoring.heartbeat_interval,
        log.outage,
        "heartbeat",
    )
    companion.start()
    try:
        yield Accompanied(cycle, companion)
    finally:
        companion.close()
    companion.check()  # a window may be over before it has had its say


def publish_window(
    settings: Settings,
    *,
    outbox: Outbox,
    producer: EventProducer,
    stop: StopToken,
    length: timedelta | None,
    until: Until = "time",
    observer: Observer | None = None,
    instance: str = "",
    overtime: timedelta = timedelta(),
) -> WindowTotals:
    """Publish for ``length`` (``None``: until stopped), or ``until`` the queue is drained; for
    ``overtime`` longer while no other publisher is alive.

    ``outbox`` and ``producer`` are the first lane's. On backlog more are opened, which count as the
    worker ``instance``; without its name there is one lane, and a window of one cycle is one batch.
    ``FatalError`` when an operator has to act; outages are waited out.
    """
    publisher = settings.publisher

    def cycle(outbox: Outbox, producer: EventProducer) -> PublishCycle:
        return PublishCycle(
            outbox,
            producer,
            publisher.batch_size,
            publisher.max_batch_size,
            stop,
            batch_a_turn=until == "one_cycle",
        )

    @contextmanager
    def another(lane: int) -> Iterator[PublishCycle]:
        with (
            open_outbox(settings, instance, lane) as own_outbox,
            open_producer(settings) as own_producer,
            closing(cycle(own_outbox, own_producer)) as opened,
        ):
            yield opened

    most = publisher.lanes if instance and until != "one_cycle" else 1
    with (
        rare_collections(),
        closing(Lanes(cycle(outbox, producer), another, most)) as lanes,
        with_heartbeats(settings, "publisher", lanes) as accompanied,
    ):
        return Window(
            role="publisher",
            cycle=accompanied,
            stop=stop,
            observer=observer or BatchLog("publisher", instance, settings.logging.batch_lines),
            length=length,
            overtime=overtime,
            relieved=Relief(settings, "publisher", instance),
            until=until,
            poll_interval=publisher.poll_interval,
            caught_up=lanes.caught_up,
            finish=lanes.finish,
        ).run()


def apply_window(
    settings: Settings,
    *,
    inbox: Inbox,
    consumer: EventConsumer,
    stop: StopToken,
    length: timedelta | None,
    until: Until = "time",
    observer: Observer | None = None,
    instance: str = "",
    heartbeats: bool = True,
    overtime: timedelta = timedelta(),
) -> WindowTotals:
    """Apply for ``length`` (``None``: until stopped), or ``until`` caught up with the topics' ends; for
    ``overtime`` longer while no other applier is alive. Without ``heartbeats`` it is nobody's affair
    how this contour stands with the others. With the worker's ``instance`` and two ``consumer.lanes``
    the next large batch is read while one is applied.

    ``FatalError`` when an operator has to act; outages are waited out.
    """
    two = bool(instance) and settings.consumer.lanes > 1 and until != "one_cycle"
    with ExitStack() as opened:
        opened.enter_context(rare_collections())
        beside = opened.enter_context(open_inbox(settings, instance)) if two else None
        cycle = ApplyCycle(
            consumer,
            inbox,
            batch_size=settings.consumer.batch_size,
            max_batch_size=settings.consumer.max_batch_size,
            poll_timeout=settings.consumer.poll_interval,
            retry_parked_every=settings.consumer.retry_parked,
            beside=beside,
        )
        opened.enter_context(closing(cycle))
        accompanied: Cycle = cycle
        if heartbeats:
            accompanied = opened.enter_context(with_heartbeats(settings, "applier", cycle))
        return Window(
            role="applier",
            cycle=accompanied,
            stop=stop,
            observer=observer or BatchLog("applier", instance, settings.logging.batch_lines),
            length=length,
            overtime=overtime,
            relieved=Relief(settings, "applier", instance),
            until=until,
            poll_interval=timedelta(),  # the consumer's poll is the wait
            caught_up=consumer.caught_up,
            finish=cycle.finish,
        ).run()


def publish(
    settings: Settings,
    *,
    stop: StopToken,
    length: timedelta | None,
    until: Until = "time",
    observer: Observer | None = None,
) -> WindowTotals:
    """A whole publish window: opens what it needs, runs, closes."""
    instance = instance_name(settings, "publisher")
    with open_outbox(settings, instance) as outbox, open_producer(settings) as producer:
        totals = publish_window(
            settings,
            outbox=outbox,
            producer=producer,
            stop=stop,
            length=length,
            until=until,
            observer=observer,
            instance=instance,
        )
    log_window(totals, instance)
    return totals


def apply(
    settings: Settings,
    *,
    stop: StopToken,
    length: timedelta | None,
    until: Until = "time",
    observer: Observer | None = None,
) -> WindowTotals:
    """A whole apply window: opens what it needs, runs, closes."""
    instance = instance_name(settings, "applier")
    with open_inbox(settings, instance) as inbox, open_consumer(settings, inbox) as consumer:
        totals = apply_window(
            settings,
            inbox=inbox,
            consumer=consumer,
            stop=stop,
            length=length,
            until=until,
            observer=observer,
            instance=instance,
        )
    log_window(totals, instance)
    return totals


def read_logs(settings: Settings, topics: Iterable[Topic]) -> dict[Topic, TopicLog]:
    """What Kafka has of ``topics``; those that it does not have are absent."""
    return read_topic_logs(admin_client(settings), settings.contour.name, topics)


@dataclass(slots=True)
class Replay:
    """Reading topics once more: ``plan`` says what, ``run`` does it."""

    settings: Settings
    plan: ReplayPlan
    stop: StopToken
    _consumer: ReplayConsumer = field(init=False)

    def __post_init__(self) -> None:
        self._consumer = ReplayConsumer(self.settings, self.plan)

    @property
    def done(self) -> int:
        """How many of the plan's events were read so far."""
        return self.plan.events - self._consumer.remaining

    def run(self, observer: Observer) -> WindowTotals:
        """Apply by version what is not here; outages are waited out."""
        inbox = PostgresInbox(
            self.settings, instance_name(self.settings, "applier"), replaying=True
        )
        with closing(inbox), closing(self._consumer):
            return apply_window(
                self.settings,
                inbox=inbox,
                consumer=self._consumer,
                stop=self.stop,
                length=None,
                until="drained",
                observer=observer,
                heartbeats=False,  # it is how a fenced or restored contour gets well
            )


def plan_replay(
    settings: Settings, start: Start, *, tables: Sequence[str] | None, stop: StopToken
) -> Replay:
    """Replaying all tables, or ``tables``, from a time or an offset of each partition on."""
    chosen = {name: settings.tables[name] for name in tables or settings.tables}
    settings = settings.model_copy(update={"tables": chosen})
    return Replay(settings, plan_kafka_replay(settings, start), stop)


@contextmanager
def open_republish(
    settings: Settings,
    selection: Selection,
    *,
    watcher: Watcher,
    stop: StopToken,
    rate: float | None = None,
) -> Iterator[Republish]:
    """Sending published events again: to be planned, then run."""
    archive = PostgresArchive(settings)
    try:
        with open_producer(settings) as producer:
            yield Republish(archive, producer, selection, watcher, stop, rate)
    finally:
        archive.close()


def prepare_snapshot(
    settings: Settings,
    wanted: Wanted,
    *,
    watcher: SnapshotWatcher,
    stop: StopToken,
    restart: bool = False,
    workers: int = 2,
    rate: float | None = None,
) -> tuple[Run, Snapshot]:
    """Begin a snapshot of a table, or find the one to go on with; ``run`` of the second does the work.

    ``RefusedError`` with nothing written, when it can't be as asked for.
    """
    run, statements = prepare_run(settings, wanted, restart=restart, workers=workers)
    limits = Limits(
        workers=workers,
        rate=rate,
        most_waiting=settings.snapshot.max_queue,
        most_rows=settings.snapshot.max_chunk,
    )
    return run, Snapshot(
        settings.contour.name,
        lambda: PostgresSnapshot(settings, run, statements),
        limits,
        watcher,
        stop,
    )

"""Publishers under test, and what must hold after whatever happened to them."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from replication_pipeline import runtime
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded.process import wait_until
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import Contour

PATIENCE = 40.0  # seconds


def until(condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    wait_until(condition, timeout=timeout, what=what)


def park_by_hand(contour: Contour, number: int, reason: str) -> None:
    """A new row of ``users`` whose event was parked two hours ago. What Kafka had against it is gone
    by now: the next attempt succeeds.
    """
    with contour.session() as session:  # one transaction: no window sees it before it is parked
        session.execute("set search_path = public, replication")
        session.execute("insert into users (id) values (%s)", [number])
        session.execute(
            "update replication_queue set held = true, attempts = 5, parked_at = now(), "
            "created_at = now() - interval '2 hours', last_error = %s where record_key = %s",
            [f"{reason}: by hand", f'{{"id":{number}}}'],
        )


def with_settings(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """``settings`` with some values changed: ``kafka={"delivery_timeout": …}``."""
    return settings.model_copy(
        update={
            name: getattr(settings, name).model_copy(update=values)
            for name, values in sections.items()
        }
    )


@dataclass
class Publisher:
    """A publish window in a thread, and what it has told so far."""

    settings: Settings
    length: timedelta = timedelta(minutes=3)
    processed: int = 0
    errors: list[str] = field(default_factory=list)
    totals: WindowTotals | None = None
    failure: BaseException | None = None
    _stop: StopToken = field(default_factory=StopToken)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.processed = totals.processed

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        self.errors.append(error.message)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> WindowTotals:
        """Stop it, if it has not ended by itself."""
        self._stop.set()
        self._thread.join(20)
        assert not self.running, "the publisher did not stop"
        assert self.failure is None, self.failure
        assert self.totals is not None
        return self.totals

    def _run(self) -> None:
        try:
            self.totals = runtime.publish(
                self.settings, stop=self._stop, length=self.length, observer=self
            )
        except BaseException as error:  # noqa: BLE001  told by `end`
            self.failure = error


@contextmanager
def publishing(
    settings: Settings, count: int = 1, *, length: timedelta = timedelta(minutes=3)
) -> Iterator[list[Publisher]]:
    """``count`` publishers, which must live through the block and stop after it."""
    publishers = [Publisher(settings, length) for _ in range(count)]
    try:
        yield publishers
        for publisher in publishers:
            assert publisher.running, publisher.failure
    finally:
        for publisher in publishers:
            publisher._stop.set()
        for publisher in publishers:
            publisher.end()


def unpublished(contour: Contour) -> int:
    count = contour.value("select count(*) from replication.replication_queue where not published")
    assert isinstance(count, int)
    return count


def until_published(contour: Contour, timeout: float = PATIENCE) -> None:
    until(lambda: unpublished(contour) == 0, "all events to be published", timeout)


def until_claimed(contour: Contour) -> None:
    """Until some publisher has claimed all rows that wait."""
    free = (
        "select count(*) from (select from replication.replication_queue where not published "
        "for update skip locked) q"
    )
    until(lambda: contour.value(free) == 0, "the rows to be claimed")


PUBLISHERS_SESSIONS = (
    "from pg_stat_activity where datname = current_database() "
    "and application_name = 'replicator_publisher'"
)


def sessions(contour: Contour) -> int:
    """How many publishers have, one a lane."""
    count = contour.value(f"select count(*) {PUBLISHERS_SESSIONS}")
    assert isinstance(count, int)
    return count


def attempts(contour: Contour) -> int:
    """The most that any event has."""
    most = contour.value("select coalesce(max(attempts), 0) from replication.replication_queue")
    assert isinstance(most, int)
    return most


def log_of(contour: Contour, table: str = "users") -> list[dict[str, Any]]:
    """The values of a table's topic; those of a key in the order in which Kafka has them."""
    settings = contour.settings.kafka
    topic = topic_for(table, prefix=settings.topic_prefix)
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": "never joined"}
    )
    try:
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        ends = [_end(consumer, partition) for partition in partitions]
        consumer.assign(
            [TopicPartition(topic, part.partition, OFFSET_BEGINNING) for part in partitions]
        )
        values: list[dict[str, Any]] = []
        while len(values) < sum(ends):
            messages = consumer.consume(sum(ends) - len(values), timeout=20)
            assert messages, "the topic could not be read to its end"
            for message in messages:
                value = message.value()
                assert message.error() is None, message.error()
                assert isinstance(value, bytes)
                values.append(json.loads(value))
        return values
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    """Where a partition ends; a broker that has just come back may not know it yet."""
    ends: list[int] = []

    def told() -> bool:
        try:
            ends.append(consumer.get_watermark_offsets(partition, timeout=20)[1])
        except KafkaException:
            return False
        return True

    until(told, "the broker to tell the end of a partition")
    return ends[0]


def assert_all_arrived(contour: Contour, *tables: str, repeats: bool = True) -> None:
    """Nothing is lost, each key's events end in the order of their versions, and the counters are
    exact. Without ``repeats`` no event is in Kafka twice.
    """
    assert unpublished(contour) == 0
    for table in tables or ("users",):
        sources = [value["source"] for value in log_of(contour, table)]
        found = [source["event_id"] for source in sources]
        queued = contour.run(
            "select event_id::text, record_key, version from replication.replication_queue "
            "where table_name = %s order by id",
            table,
        )
        missing = {event_id for event_id, *_ in queued} - set(found)
        assert not missing, f"{len(missing)} of {len(queued)} events are not in Kafka"
        assert set(found) == {event_id for event_id, *_ in queued}, "events that nobody committed"
        if not repeats:
            assert len(found) == len(queued), f"{len(found) - len(queued)} events came twice"
        last = {event_id: position for position, event_id in enumerate(found)}
        of_key: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for event_id, key, version in queued:
            of_key[key].append((version, last[event_id]))
        for key, places in of_key.items():
            positions = [position for _, position in sorted(places)]
            assert positions == sorted(positions), f"{table} {key} is out of order in Kafka"
    assert_counters_are_exact(contour)


def assert_counters_are_exact(contour: Contour) -> None:
    published, counted = contour.run(
        "select (select count(*) from replication.replication_queue where published), "
        "processed_total from replication.status"
    )[0]
    assert counted == published, f"{counted} are counted, {published} are published"

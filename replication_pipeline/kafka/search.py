"""Finding the events of one key in its topic, from a time on.

Only the partition that the key is placed in is read, and the others where that has none of it, as
partitions may have been added. Bounded by time; what was not read is told. No position is moved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.partitioner import partition_of
from replication_pipeline.domain.positions import LogRange
from replication_pipeline.domain.story import FROM_OPS, InKafka
from replication_pipeline.kafka.client import QUIET, admin_client, refuse_bad_options
from replication_pipeline.kafka.lifeline import part
from replication_pipeline.kafka.reading import Partition, consumer_options, is_out_of_range, verdict
from replication_pipeline.kafka.topic_logs import read_logs, read_offsets
from replication_pipeline.settings import Settings

AT_ONCE: Final = 500
POLL: Final = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Search:
    """``left``: messages that there was no time to read. ``cut``: Kafka has removed the log's
    beginning, which what was searched for may have been in. ``partition``: ``None`` without a topic.
    """

    records: Sequence[InKafka]
    partition: int | None
    left: int = 0
    cut: bool = False


def search(
    settings: Settings,
    topic: Topic,
    key: str,
    *,
    since: datetime | None,
    seconds: float,
    values: bool = False,
) -> Search:
    """Events of ``key`` since ``since``, or all. ``TransientError`` when Kafka does not answer."""
    admin, contour = admin_client(settings), settings.contour.name
    log = read_logs(admin, contour, [topic]).get(topic)
    if log is None:
        return Search((), None)
    places: list[Partition] = [(topic, number) for number in log.ranges]
    starts = {place: log.ranges[place[1]].start for place in places}
    if since is not None:
        moment = OffsetSpec.for_timestamp(round(since.timestamp() * 1000))
        for place, offset in read_offsets(admin, contour, dict.fromkeys(places, moment)).items():
            starts[place] = log.ranges[place[1]].end if offset < 0 else offset
    home = (topic, partition_of(key.encode(), len(places)))
    deadline = time.monotonic() + seconds
    options = consumer_options(settings) | {"client.id": f"replicator-trace-{contour}"}
    try:
        consumer = Consumer(options, logger=QUIET)
    except (KafkaException, ValueError, TypeError) as error:
        raise refuse_bad_options(error) from None
    try:
        reader = _Reader(consumer, contour, key.encode(), deadline, values)
        found, left = reader.read({home: LogRange(starts[home], log.ranges[home[1]].end)})
        if not found and not left:
            others = {
                place: LogRange(starts[place], log.ranges[place[1]].end)
                for place in places
                if place != home
            }
            found, left = reader.read(others)
    finally:
        part(consumer)
    cut = any(log.ranges[p[1]].start > 0 and starts[p] == log.ranges[p[1]].start for p in places)
    return Search(found, home[1], left, cut)


@dataclass(frozen=True, slots=True)
class _Reader:
    consumer: Consumer
    contour: str
    key: bytes
    deadline: float
    values: bool

    def read(self, ranges: Mapping[Partition, LogRange]) -> tuple[list[InKafka], int]:
        """The key's events in ``ranges``, and how many messages are left unread."""
        at = {place: kept.start for place, kept in ranges.items() if kept.start < kept.end}
        self.consumer.assign([TopicPartition(*place, offset) for place, offset in at.items()])
        found: list[InKafka] = []
        while any(offset < ranges[place].end for place, offset in at.items()):
            if time.monotonic() >= self.deadline:
                break
            for message in self.consumer.consume(AT_ONCE, POLL):
                place = (Topic(message.topic() or ""), message.partition() or 0)
                offset = message.offset()
                if (error := message.error()) is not None:
                    if is_out_of_range(error):
                        at[place] = ranges[place].end
                        continue
                    raise verdict(error, message, self.contour)
                if offset is not None and offset < ranges[place].end:
                    at[place] = offset + 1
                    if message.key() == self.key:
                        found += self._event(message, offset)
            # The end of a log may lie beyond its last message: what was read to its end is done.
            for place in [p for p, offset in at.items() if offset < ranges[p].end]:
                (there,) = self.consumer.position([TopicPartition(*place)])
                if there.offset >= ranges[place].end:
                    at[place] = ranges[place].end
        return found, sum(ranges[place].end - offset for place, offset in at.items())

    def _event(self, message: KafkaMessage, offset: int) -> Iterator[InKafka]:
        try:
            value: dict[str, Any] = json.loads(message.value() or b"")
            source = value["source"]
            base = source.get("base_version")
            yield InKafka(
                event_id=str(source["event_id"]),
                contour=str(source["contour"]),
                operation=FROM_OPS.get(value["op"], str(value["op"])),
                version=int(source["row_version"]),
                base_version=None if base is None else int(base),
                partition=message.partition() or 0,
                offset=offset,
                at=datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
                values=json.dumps(value["after"]) if self.values else None,
            )
        except (ValueError, KeyError, TypeError):
            return  # no event of ours; appliers park it as malformed

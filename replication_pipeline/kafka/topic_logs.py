"""What Kafka has of topics: their ids, and the range of offsets in each partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.positions import LogRange
from replication_pipeline.kafka.topic_watch import NO_ID, ask, described

PATIENCE: Final = 10.0  # seconds for an answer
FIRST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
NEXT: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]
Partition = tuple[Topic, int]


@dataclass(frozen=True, slots=True)
class TopicLog:
    """A topic; ``topic_id`` is ``None`` where the brokers know no ids."""

    topic_id: str | None
    ranges: Mapping[int, LogRange]


def read_logs(admin: AdminClient, contour: str, topics: Iterable[Topic]) -> dict[Topic, TopicLog]:
    """The topics that exist. ``TransientError`` when no broker answers."""
    ids: dict[Topic, str | None] = {}
    partitions: list[Partition] = []
    asked = ask(admin, list(topics))
    for topic in [Topic(name) for name in asked]:
        description = described(contour, topic, asked[topic])
        if description is not None:
            topic_id = str(description.topic_id)
            ids[topic] = None if topic_id == NO_ID else topic_id
            partitions += [(topic, p.id) for p in description.partitions]
    found = read_ranges(admin, contour, partitions)
    return {
        topic: TopicLog(topic_id, {p: found[t, p] for t, p in partitions if t == topic})
        for topic, topic_id in ids.items()
    }


def read_ranges(
    admin: AdminClient, contour: str, partitions: Iterable[Partition]
) -> dict[Partition, LogRange]:
    """First and next offsets of ``partitions``. ``TransientError`` when any is not told."""
    wanted = list(partitions)
    starts = read_offsets(admin, contour, dict.fromkeys(wanted, FIRST))
    ends = read_offsets(admin, contour, dict.fromkeys(wanted, NEXT))
    return {partition: LogRange(starts[partition], ends[partition]) for partition in wanted}


def read_offsets(
    admin: AdminClient, contour: str, wanted: Mapping[Partition, OffsetSpec]
) -> dict[Partition, int]:
    """The offset of each partition that its specification names; -1 where there is none."""
    if not wanted:
        return {}
    asked = admin.list_offsets(
        {TopicPartition(topic, number): spec for (topic, number), spec in wanted.items()},
        request_timeout=PATIENCE,
    )
    try:
        return {
            (Topic(p.topic), p.partition): answer.result(PATIENCE + 5).offset
            for p, answer in asked.items()
        }
    except TimeoutError:
        raise TransientError(f"contour {contour}: Kafka did not tell offsets in time") from None
    except KafkaException as error:
        raise TransientError(
            f"contour {contour}: Kafka did not tell offsets: {error.args[0].str()}"
        ) from None

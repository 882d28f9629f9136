"""Where the contour stands in Kafka's topics, for an operator to look at, and accepting a log as it is.

Accepting moves no position that Kafka can serve. All others go to the beginning of what Kafka has;
events that were applied before are skipped by their versions. It is done under the locks that appliers
take, so they may be running: they drop the batch in hand and read on from there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import Connection

from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.positions import SOUND, LogRange, standing
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating

SQL: Final = queries.load("positions")


@dataclass(frozen=True, slots=True)
class StoredTopic:
    """What is known of a topic here; ``next_offsets`` are of the partitions that were read."""

    topic_id: str | None = None
    next_offsets: Mapping[int, int] = field(default_factory=dict)


def read_positions(
    connection: Connection[Any], topics: Collection[Topic]
) -> dict[Topic, StoredTopic]:
    """Every one of ``topics``."""
    with translating("reading offsets"):
        parameters = {"topics": list(topics)}
        ids = dict(connection.execute(SQL["known_topics"], parameters).fetchall())
        offsets: dict[str, dict[int, int]] = {}
        for topic, partition, next_offset in connection.execute(SQL["positions"], parameters):
            offsets.setdefault(topic, {})[partition] = next_offset
    return {topic: StoredTopic(ids.get(topic), offsets.get(topic, {})) for topic in topics}


def accept(
    connection: Connection[Any],
    topic: Topic,
    topic_id: str | None,
    ranges: Mapping[int, LogRange],
) -> dict[int, int]:
    """Go on with ``topic`` as Kafka has it. The partitions whose position was moved, and where to."""
    moved = {}
    with translating(f"accepting {topic}"), connection.transaction():
        stored = dict(connection.execute(SQL["lock_positions"], {"topic": topic}).fetchall())
        known = read_positions(connection, [topic])[topic].topic_id
        same_topic = topic_id is None or known in (None, topic_id)
        if topic_id is not None:
            connection.execute(SQL["accept_topic"], {"topic": topic, "topic_id": topic_id})
        if not same_topic:
            connection.execute(SQL["forget_positions"], {"topic": topic})
            connection.execute(SQL["move_parked_aside"], {"topic": topic})
        for partition, log in ranges.items():
            if standing(stored.get(partition), log, same_topic=same_topic) in SOUND:
                continue
            connection.execute(
                SQL["set_position"],
                {
                    "topic": topic,
                    "partition": partition,
                    "next_offset": log.start,
                    "end": log.end,
                },
            )
            moved[partition] = log.start
    return moved

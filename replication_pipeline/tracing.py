"""``trace``: one row's story from all contours that can be reached, and from Kafka.

Composition alone. A contour or a Kafka that is away is told, and the story is that of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.names import Topic, topic_for
from replication_pipeline.domain.story import Event, Trail, events
from replication_pipeline.domain.storytelling import Moment, decision, moment_of, timeline
from replication_pipeline.kafka.search import Search, search
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.doctor import open_others
from replication_pipeline.postgres.status import read_contours
from replication_pipeline.postgres.trace import canonical, read_key, read_trail, with_processed
from replication_pipeline.settings import Settings

NAME = "replicator_trace"
MARGIN = timedelta(minutes=1)  # a producer's clock may be behind the database's


@dataclass(frozen=True, slots=True)
class Story:
    """``decisions``: by event and contour. ``unreached``: by contour, or Kafka, why."""

    table: str
    key: str
    topic: Topic
    trails: Sequence[Trail]
    events: Sequence[Event]
    timeline: Sequence[Moment]
    names: Mapping[int, str]
    search: Search | None
    since: datetime | None
    decisions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unreached: Mapping[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> bool:
        """Whether the row was ever heard of."""
        return bool(self.events) or any(trail.seen for trail in self.trails)


def trace(
    settings: Settings, table: str, written: str, *, values: bool = False, seconds: float = 10.0
) -> Story:
    """``ConfigurationError`` when ``written`` is no key; Kafka is read for ``seconds`` at most."""
    topic = topic_for(table, prefix=settings.kafka.topic_prefix)
    me = settings.contour.name
    with (
        closing(connect(settings, application_name=NAME)) as connection,
        open_others(settings, NAME) as others,
    ):
        here = read_key(connection, me, table)
        key = canonical(connection, me, here, written)
        trails = [read_trail(connection, me, here, key, topic, values=values)]
        connections = {trails[0].contour: connection}
        unreached: dict[str, str] = {}
        for name, other in others.items():
            if isinstance(other, ReplicationError):
                unreached[name] = other.message
                continue
            try:
                there = read_key(other, name, table)
                trail = read_trail(other, name, there, key, topic, values=values)
            except ReplicationError as error:
                unreached[name] = error.message
            else:
                trails.append(trail)
                connections[trail.contour] = other
        since = _earliest(trails)
        found: Search | None = None
        if seconds:
            try:
                found = search(settings, topic, key, since=since, seconds=seconds, values=values)
            except ReplicationError as error:
                unreached["Kafka"] = error.message
        changes = events(trails, found.records if found else ())
        ids = [event.event_id for event in changes]
        trails = [with_processed(connections[trail.contour], trail, ids) for trail in trails]
        names = {c.identity.id: c.identity.contour for c in read_contours(connection, me)}
    names |= {trail.contour_id: trail.contour for trail in trails}
    return Story(
        table=table,
        key=key,
        topic=topic,
        trails=trails,
        events=changes,
        timeline=timeline(changes, trails, names, topic),
        names=names,
        search=found,
        since=since,
        decisions={
            event.event_id: {t.contour: decision(event, t, names) for t in trails}
            for event in changes
        },
        unreached=unreached,
    )


def _earliest(trails: Sequence[Trail]) -> datetime | None:
    """The time before which nothing of the row needs to be looked for; ``None``: it is not known."""
    times = [row.created_at for trail in trails for row in trail.queue]
    versions = [
        version
        for trail in trails
        for version in (trail.version, trail.buried[0] if trail.buried else None)
        if version
    ]
    times += [moment_of(version) for version in versions]
    return min(times) - MARGIN if times else None

"""What waits too long, by the hour of its capture and by reason, and putting hours on their way again.

An event belongs to the hour, in UTC, in which its change was captured. Nothing is published here:
events are made due, and publishers take them as they take any other.

Invariants:
* rows change their state only under the locks of all shards (as in ``parked``);
* an event that can't be sent (too large for an image) stays parked, whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from psycopg import Connection
from psycopg.rows import class_row

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.parked import Side, retry_parked
from replication_pipeline.postgres.shards import lock_shards

SQL: Final = queries.load("stalled")
State = Literal["waiting", "refused", "behind", "parked"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Unpublished events of one hour, state and table. ``refused`` ones are tried again by themselves,
    those ``behind`` wait for an earlier event of their key. ``reason`` is empty unless Kafka refused.
    """

    hour: datetime
    state: State
    table_name: str
    reason: str
    events: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Group:
    """Parked events of one side, reason and table, the oldest ``since`` then."""

    side: Side
    reason: str
    table_name: str
    events: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """Events captured from ``since`` on (``None``: all) and before ``until``, of some tables or all."""

    since: datetime | None
    until: datetime
    tables: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, Any]:
        """As the queries take them."""
        return {
            "since": self.since,
            "until": self.until,
            "tables": list(self.tables) if self.tables else None,
        }


@dataclass(frozen=True, slots=True)
class Rearmed:
    """``retried`` were parked, ``hurried`` waited for their next attempt."""

    retried: int
    hurried: int


@dataclass(frozen=True, slots=True)
class TableFigures:
    """``rows`` is the server's estimate, ``bytes`` with indexes; ``conflicts`` are unresolved ones."""

    table_name: str
    rows: int
    bytes: int
    unpublished: int
    parked_apply: int
    conflicts: int


@dataclass(frozen=True, slots=True)
class TopicFigures:
    """As appliers last heard of it. ``events``: ever written, by the ends of its partitions."""

    topic: str
    events: int
    lag: int
    partitions: int


def read_clock(connection: Connection[Any]) -> datetime:
    """The server's."""
    with translating("reading the clock"):
        row = connection.execute(SQL["clock"]).fetchone()
    assert row is not None
    return _moment(row[0])


def read_hours(connection: Connection[Any], span: Span, *, first: datetime) -> list[Waiting]:
    """What is unpublished of ``span``, of all tables. What is older than ``first`` counts for it."""
    with (
        translating("looking at what waits"),
        connection.cursor(row_factory=class_row(Waiting)) as cursor,
    ):
        return cursor.execute(SQL["hours"], span.parameters | {"first": first}).fetchall()


def rearm(connection: Connection[Any], span: Span) -> Rearmed:
    """Parked events of ``span`` get all their attempts again, refused ones are due at once."""
    with translating("putting events on their way again"), connection.transaction():
        lock_shards(connection)
        hurried = connection.execute(SQL["hurry"], span.parameters).rowcount
        ids = [id_ for (id_,) in connection.execute(SQL["parked_ids"], span.parameters)]
        return Rearmed(retry_parked(connection, "publish", ids=ids), hurried)


def count_on_their_way(connection: Connection[Any], span: Span) -> int:
    """Unpublished events of ``span`` that neither an operator nor another event has to free."""
    with translating("counting what is on its way"):
        row = connection.execute(SQL["on_their_way"], span.parameters).fetchone()
    return int(row[0]) if row else 0


def count_undecided(connection: Connection[Any], ids: Sequence[int]) -> int:
    """How many of these events of the queue a publisher has still to take."""
    with translating("counting what is on its way"):
        row = connection.execute(SQL["undecided"], {"ids": list(ids)}).fetchone()
    return int(row[0]) if row else 0


def read_tries(connection: Connection[Any], ids: Sequence[int]) -> list[int]:
    """Attempts of each of those that are still parked on the apply side."""
    with translating("looking at parked events"):
        return [n for (n,) in connection.execute(SQL["tries"], {"ids": list(ids)})]


def read_groups(connection: Connection[Any], *, before: datetime) -> list[Group]:
    """What has been parked for longer, of both sides."""
    with (
        translating("looking at parked events"),
        connection.cursor(row_factory=class_row(Group)) as cursor,
    ):
        return cursor.execute(SQL["parked_groups"], {"before": before}).fetchall()


def read_tables(connection: Connection[Any]) -> list[TableFigures]:
    """All tables that are set up."""
    with (
        translating("looking at the tables"),
        connection.cursor(row_factory=class_row(TableFigures)) as cursor,
    ):
        return cursor.execute(SQL["tables"]).fetchall()


def read_topics(connection: Connection[Any]) -> list[TopicFigures]:
    """All topics that are read here. Kafka is not asked."""
    with (
        translating("looking at the topics"),
        connection.cursor(row_factory=class_row(TopicFigures)) as cursor,
    ):
        return cursor.execute(SQL["topics"]).fetchall()


def read_queue_size(connection: Connection[Any]) -> int:
    """Bytes of the queue, published rows and indexes included."""
    with translating("measuring the queue"):
        row = connection.execute(SQL["queue_size"]).fetchone()
    return int(row[0]) if row else 0


def stalled(waiting: Iterable[Waiting], *, now: datetime, patience: timedelta) -> Sequence[Waiting]:
    """What has been unpublished for longer than ``patience``, or is parked."""
    return [w for w in waiting if w.state == "parked" or now - w.oldest > patience]


def _moment(value: Any) -> datetime:
    assert isinstance(value, datetime)
    return value

"""What a broken turn had sent does not stay the last of its keys in Kafka.

A turn whose connection breaks has lost its locks, and others publish its keys at once, while what it
had sent may still be on its way and come to stand behind newer events. Once that has landed, or can't
any more, whatever was published of these keys since is sent once more, under the shards' locks, so that
the last occurrences ascend again. Nothing is written: rows stay published, and are not counted twice.

It is known only here, so it ends with the process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

import psycopg

from replication_pipeline.domain.model import ClaimedEvent
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.shards import lock_shards

SQL: Final = queries.load("outbox")
CLOCKS_MAY_STEP: Final = 5.0  # seconds
_told = attrgetter("table", "key", "id", "shard")


@dataclass(slots=True)
class BrokenTurns:
    """Of one lane. Times are seconds since 1970 by the server's clock."""

    _claimed: list[tuple[str, bytes, int, int]] = field(default_factory=list)  # in this turn
    _began: float = 0.0  # this turn
    _oldest: dict[tuple[str, bytes], int] = field(default_factory=dict)  # id that was lost, by key
    _shards: set[int] = field(default_factory=set)
    _since: float = 0.0  # the first of the broken turns

    def __bool__(self) -> bool:
        return bool(self._oldest)

    def begin(self, ahead: float) -> None:
        """A turn begins; the server's clock is so much ahead."""
        self._began = time.time() + ahead

    def claimed(self, events: Sequence[ClaimedEvent]) -> None:
        """The turn may send these."""
        self._claimed += map(_told, events)

    def end(self) -> None:
        """The turn is committed, or nothing of it was sent."""
        self._claimed = []

    def lost(self) -> None:
        """The turn is broken; what it had sent has landed, or won't any more."""
        for table, key, id_, shard in self._claimed:
            self._oldest[table, key] = min(id_, self._oldest.get((table, key), id_))
            self._shards.add(shard)
            self._since = min(self._began, self._since) if self._since else self._began
        self._claimed = []

    def published_later(
        self, connection: psycopg.Connection, cursor: psycopg.Cursor[ClaimedEvent], heads: str
    ) -> list[ClaimedEvent]:
        """In the transaction that is open: the events to be sent again, in their order. Their shards
        are locked until it ends.
        """
        lock_shards(connection, self._shards)
        cursor.execute(SQL["published_later"], self._parameters() | {"heads": heads})
        return cursor.fetchall()

    def overtaken(self) -> None:
        """Those events are in Kafka again."""
        self._oldest, self._shards, self._since = {}, set(), 0.0

    def _parameters(self) -> dict[str, object]:
        return {
            "tables": [table for table, _ in self._oldest],
            "keys": [key.decode() for _, key in self._oldest],
            "ids": list(self._oldest.values()),
            "since": self._since - CLOCKS_MAY_STEP,
            "sent": int(time.time() * 1000),
        }

"""The queue, as the publisher uses it: claim, settle, abandon.

Locks: first shard rows, then queue rows, both FOR UPDATE SKIP LOCKED, both until commit. A shard has
one holder at a time, so a key's events are claimed in the order of their ids, whatever the number of
publishers. Whoever holds the locks owns the work; between claims only the floors of ``LowWater`` are
remembered, which spare the claims dead index entries.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.types.string import ByteaBinaryLoader

from replication_pipeline import __version__
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, Claim, ClaimedEvent, DeliveryFailure
from replication_pipeline.domain.names import TableName
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import pin_plans
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.low_water import LowWater
from replication_pipeline.postgres.session import Session
from replication_pipeline.settings import Settings

SHARDS: Final = 16
HEARTBEAT_EVERY: Final = 5.0  # seconds; `replication.status` calls a worker dead after 15
SHARE_EVERY: Final = 1.0  # seconds between looks at how many publishers share the shards
CLAIM_BYTES: Final = 8 * 2**20  # of a batch's rows as they are stored, compressed; one row at least
SQL: Final = queries.load("outbox")
# Without sorting, the partitions of the queue are merged by their indexes.
PINNED: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_sort")


@dataclass(slots=True)
class PostgresOutbox:
    """One publisher's way to the queue. Not thread-safe: one connection, one claim at a time."""

    settings: Settings
    instance: str
    _session: Session = field(init=False)
    _rotation: int = field(default=0)
    _share: int = field(default=SHARDS)
    _next_heartbeat: float = field(default=0.0)
    _next_share: float = field(default=0.0)
    _low_water: LowWater = field(init=False)
    _claimed: dict[int, int] = field(default_factory=dict)  # id → shard

    def __post_init__(self) -> None:
        self._low_water = LowWater(SQL, tuple(range(SHARDS)))
        self._session = Session(self.settings, application_name="replicator_publisher")

    def claim(self, limit: int) -> Claim | None:
        """Lock this publisher's share of the shards and their oldest rows; ``None`` when idle.

        Leaves a transaction open for ``settle`` or ``abandon`` unless it returns ``None``.
        """
        with self._translating("claiming events"):
            connection = self._connection()
            self._beat(connection)
            self._renew_share(connection)
            self._low_water.refresh(connection)
            row = connection.execute(
                SQL["anything_waiting"], self._low_water.parameters(), prepare=True
            ).fetchone()
            if not (row and row[0]):
                connection.rollback()
                return None
            shards = self._lock_shards(connection)
            events, oldest = self._claim_rows(connection, shards, limit) if shards else ((), None)
            if not events or oldest is None:
                connection.rollback()
                return None
            age = max(timedelta(), datetime.now(UTC) - oldest)
            return Claim(events=events, shards=len(shards), oldest_age=age)

    def settle(
        self, published: Sequence[int], refused: Sequence[DeliveryFailure], result: BatchResult
    ) -> int:
        """Mark what Kafka has, count what it refused, and commit. Returns the newly parked."""
        with self._translating("marking published events"):
            connection, new = self._session.connection()
            if new:  # the claim's locks went with the connection that held them
                raise TransientError(
                    f"contour {self.settings.contour.name}: the connection that held the claim is gone"
                )
            if published:
                connection.execute(
                    SQL["mark_published"],
                    {"shards": self._shards(published), "ids": list(published)},
                    prepare=True,
                )
            parked = 0
            if refused:
                ids = [failure.event_id for failure in refused]
                cursor = connection.execute(
                    SQL["mark_refused"],
                    {
                        "shards": self._shards(ids),
                        "ids": ids,
                        "errors": [f"{f.code}: {f.message}" for f in refused],
                        "max_attempts": self.settings.publisher.max_attempts,
                    },
                )
                parked = sum(row[0] for row in cursor)
            self._count(connection, result)
            connection.commit()
            return parked

    def abandon(self) -> None:
        """Drop the connection: the server rolls back, every claimed row is free again."""
        self._session.drop()

    def close(self) -> None:
        """Mark the worker as ended and disconnect."""
        self._session.close(self.instance)

    def _connection(self) -> psycopg.Connection:
        connection, new = self._session.connection()
        if new:
            self._next_heartbeat = 0.0
            self._low_water = LowWater(SQL, tuple(range(SHARDS)))
            # Text goes from PostgreSQL to librdkafka as bytes, never decoded on the way.
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            # The queue is empty at one moment and deep at the next: always by its index.
            pin_plans(connection, *PINNED)
            connection.commit()
        return connection

    def _beat(self, connection: psycopg.Connection) -> None:
        now = time.monotonic()
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = now + HEARTBEAT_EVERY
        self._count(connection, BatchResult(role="publisher"))
        connection.execute(SQL["refresh_captures"])
        connection.commit()

    def _renew_share(self, connection: psycopg.Connection) -> None:
        now = time.monotonic()
        if now < self._next_share:
            return
        self._next_share = now + SHARE_EVERY
        row = connection.execute(SQL["publishers_alive"]).fetchone()
        alive = max(1, int(row[0]) if row else 1)
        self._share = -(-SHARDS // alive)

    def _count(self, connection: psycopg.Connection, result: BatchResult) -> None:
        connection.execute(
            SQL["count_published"],
            {
                "instance": self.instance,
                "batches": 1 if result.count else 0,
                "processed": result.processed,
                "failed": result.failed,
                "bytes": result.bytes,
            },
        )

    def _lock_shards(self, connection: psycopg.Connection) -> list[int]:
        self._rotation = (self._rotation + 1) % SHARDS  # another shard goes first each time
        rows = connection.execute(
            SQL["lock_shards"], {"rotation": self._rotation, "share": self._share}, prepare=True
        )
        return [shard for (shard,) in rows]

    def _claim_rows(
        self, connection: psycopg.Connection, shards: list[int], limit: int
    ) -> tuple[tuple[ClaimedEvent, ...], datetime | None]:
        cursor = connection.cursor(binary=True)
        cursor.execute(
            SQL["claim"],
            self._low_water.parameters(shards)
            | {
                "limit": limit,
                "bytes": CLAIM_BYTES,
                "source": self._source(connection),
            },
            prepare=True,
        )
        rows: list[tuple[int, int, bytes, bytes, int, datetime, bytes]] = cursor.fetchall()
        self._claimed = {row[0]: row[1] for row in rows}
        events = tuple(
            ClaimedEvent(
                id=id_, table=TableName(table.decode()), key=key, value=value, attempts=attempts
            )
            for id_, _, table, key, attempts, _, value in rows
        )
        return events, min((row[5] for row in rows), default=None)

    def _shards(self, ids: Sequence[int]) -> list[int]:
        return [self._claimed[id_] for id_ in ids]

    def _source(self, connection: psycopg.Connection) -> str:
        """The constant first part of an event's ``source`` object, up to the schema's value."""
        name = self.settings.contour.name
        fields: dict[str, Any] = {
            "connector": "replication_pipeline",
            "version": __version__,
            "name": name,
            "contour": name,
            "db": connection.info.dbname,
        }
        return json.dumps(fields, separators=(",", ":"))[:-1] + ',"schema":'

    def _translating(self, doing: str) -> Any:
        return translating(f"contour {self.settings.contour.name}: {doing}")

"""The published part of the queue, to be sent again: two temporary tables of keys and places.

What is chosen is noted once, on the server, so that this process needs memory for a page only. The
notes take about 60 bytes an event and a key's length a key of the server's temporary space.

Invariants:
* before the notes are made, the clock is read under each shard's lock: whatever a publisher marked
  before that is committed and seen, and whatever it marks later has a later ``published_at``;
* a shard's keys are sent under its lock, after the notes were brought up to that moment. They are
  already when no publisher has counted a batch since: counts are committed with the marks. For a
  clock that is set back while this runs, ``SLACK`` is allowed.

Locks: one row of publish_shards at a time. Nothing is written to the queue.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.types.string import ByteaBinaryLoader

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import ClaimedEvent
from replication_pipeline.engine.republish import KeyRange, Page, Plan, Selection, TablePlan
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import patient, pin_plans
from replication_pipeline.postgres.event_heads import read_heads
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.session import Session
from replication_pipeline.postgres.shards import SHARDS, lock_shards
from replication_pipeline.settings import Settings

PAGE_ROWS: Final = 1_000
PAGE_BYTES: Final = 2 * 2**20  # as stored; compressed values are several times as long
SLACK: Final = timedelta(seconds=2)
SQL: Final = queries.load("republish")


class Moment(NamedTuple):
    """The server's clock, and how many batches publishers had committed by then."""

    clock: datetime
    batches: int


@dataclass(slots=True)
class PostgresArchive:
    """One run's view of the queue. One connection, whose end takes the notes with it."""

    settings: Settings
    _session: Session = field(init=False)
    _seen: dict[int, Moment] = field(default_factory=dict)  # shard → the notes are up to there
    _heads: str = field(default="{}")  # of the plan's tables, as the queries take them
    _held_at: Moment | None = field(default=None)
    _held: int | None = field(default=None)

    def __post_init__(self) -> None:
        self._session = Session(patient(self.settings), application_name="replicator_republisher")

    def plan(self, selection: Selection) -> Plan:
        """Note keys and rows. The statements may take as long as they need."""
        self._session.drop()
        try:
            with self._translating("choosing events to send again"):
                return self._plan(selection)
        except BaseException:
            self._session.drop()  # half a plan is none
            raise

    def is_lost(self) -> bool:
        """Whether the notes have gone with their connection."""
        return not self._session.is_open

    def window(self, start: int, rows: int) -> KeyRange | None:
        """The next keys in the order of their first events."""
        with self._translating("reading what to send again"):
            connection = self._connection()
            first, last = connection.execute(
                SQL["window"], {"start": start, "rows": rows}
            ).fetchone() or (None, None)
            if first is None:
                connection.rollback()
                return None
            found = connection.execute(SQL["shards_of_window"], {"first": first, "last": last})
            shards = [shard for (shard,) in found]
            connection.rollback()
            return KeyRange(first, last, shards)

    def hold(self, keys: KeyRange, shard: int) -> int:
        """Lock the shard and note what has been published of its keys meanwhile."""
        with self._translating("waiting for a shard"):
            connection = self._connection()
            lock_shards(connection, [shard])
            self._held, self._held_at, seen = shard, _now(connection), self._seen[shard]
            if self._held_at.batches == seen.batches:
                return 0  # nothing at all was published meanwhile
            return connection.execute(
                SQL["catch_up"],
                {"shard": shard, "seen": seen.clock - SLACK, "first": keys.first},
            ).rowcount

    def page(self, keys: KeyRange, shard: int, after: int) -> Page | None:
        """Up to ``PAGE_ROWS`` rows or ``PAGE_BYTES``, one at least."""
        with self._translating("reading what to send again"):
            connection = self._connection()
            rows = connection.execute(
                SQL["page"],
                {
                    "first": keys.first,
                    "last": keys.last,
                    "shard": shard,
                    "after": after,
                    "rows": PAGE_ROWS,
                },
            )
            places: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
            size = count = last_id = 0
            for id_, slot, place, bytes_ in rows:
                size += bytes_
                if count and size > PAGE_BYTES:
                    break
                places[slot].append((id_, place))
                count, last_id = count + 1, id_
            if not count:
                return None
            events = [e for slot, ids in places.items() for e in self._read(connection, slot, ids)]
            events.sort(key=lambda event: event.id)
            return Page(events, count - len(events), last_id)

    def release(self) -> None:
        """End the transaction that holds the shard; its notes are up to when it began."""
        with self._translating("letting a shard go"):
            self._connection().commit()
            if self._held is not None and self._held_at is not None:
                self._seen[self._held] = self._held_at
            self._held = None

    def abandon(self) -> None:
        """Roll back, or drop what can't be rolled back."""
        self._held = None
        if self._session.is_open:
            try:
                connection, _ = self._session.connection()
                connection.rollback()
            except psycopg.Error:
                self._session.drop()

    def close(self) -> None:
        """Disconnect; the notes go."""
        self._session.drop()

    def _plan(self, selection: Selection) -> Plan:
        connection, _ = self._session.connection()
        connection.adapters.register_loader("text", ByteaBinaryLoader)
        for shard in range(SHARDS):
            lock_shards(connection, [shard])
            self._seen[shard] = _now(connection)
            connection.commit()
        connection.execute("set local statement_timeout = 0")
        connection.execute(SQL["create_notes"])
        filters = {
            "since": selection.since,
            "until": selection.until,
            "tables": None if selection.tables is None else list(selection.tables),
            "keys": None if selection.keys is None else list(selection.keys),
            "from_id": selection.from_id,
        }
        connection.execute(SQL["collect_keys"], filters)
        connection.execute(SQL["collect_rows"])
        connection.execute(SQL["index_notes"])
        tables = tuple(TablePlan(*row) for row in connection.execute(SQL["planned"]))
        epoch = datetime.fromisoformat("0001-01-01T00:00:00+00:00")
        oldest = _one(connection, "oldest", {"since": selection.since or epoch})
        names = [plan.table for plan in tables]
        self._heads = json.dumps(read_heads(connection, self.settings.contour.name, names))
        connection.commit()
        # From here on few rows are looked for among many.
        pin_plans(connection, "enable_seqscan", "enable_hashjoin", "enable_mergejoin")
        connection.commit()
        return Plan(tables, oldest, selection.until or self._seen[SHARDS - 1].clock)

    def _connection(self) -> psycopg.Connection:
        if not self._session.is_open:
            raise TransientError(f"contour {self.settings.contour.name}: the connection is gone")
        return self._session.connection()[0]

    def _read(
        self, connection: psycopg.Connection, slot: int, rows: list[tuple[int, str]]
    ) -> list[ClaimedEvent]:
        cursor = connection.cursor(binary=True)
        cursor.execute(
            SQL["read"],
            {
                "slot": slot,
                "ids": [id_ for id_, _ in rows],
                "places": [place for _, place in rows],
                "heads": self._heads,
                "sent": int(time.time() * 1000),
            },
        )
        return [ClaimedEvent._make(row) for row in cursor]

    def _translating(self, doing: str) -> Any:
        return translating(f"contour {self.settings.contour.name}: {doing}")


def _now(connection: psycopg.Connection) -> Moment:
    row = connection.execute(SQL["now"]).fetchone()
    assert row is not None
    return Moment(*row)


def _one(connection: psycopg.Connection, query: str, parameters: Any = None) -> Any:
    row = connection.execute(SQL[query], parameters).fetchone()
    return row[0] if row else None

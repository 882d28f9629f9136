"""Parked events of both sides: what waits and why, sending it on its way again, or giving it up.

Invariants:
* an event of the queue changes its state only under the locks of all shards, so that no publisher
  decides by half of it; the events behind it are released in the same transaction;
* a discarded event is gone from where it waited exactly when it stands in ``discarded_events``;
* what an applier holds at this moment is waited for, and left alone if it has applied it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.event_heads import read_heads
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.shards import lock_shards

Side = Literal["publish", "apply"]
SIDES: Final[tuple[Side, ...]] = ("publish", "apply")
SQL: Final = queries.load("parked")


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One event that waits. ``id`` is unique within its side; an unreadable one has no key.

    ``behind``: later events of its key that wait for it; on the apply side none ever do.
    ``retry_at``: when an event that is not parked yet is tried again. ``retriable``: neither one whose
    row was too large for an image nor one that is no event at all. ``blocked_by``: table and key of the
    row that has the values of a unique index.
    """

    side: Side
    id: int
    table_name: str | None
    record_key: str | None
    reason: str
    detail: str
    attempts: int
    parked_at: datetime | None
    retry_at: datetime | None
    event_id: UUID | None
    operation: str | None
    version: int | None
    behind: int | None
    retriable: bool
    blocked_by: str | None = None


@dataclass(frozen=True, slots=True)
class BackingOff:
    """Refused events that are tried again by themselves, and what waits behind held events."""

    count: int
    next_attempt: float | None  # seconds from now
    behind: int


def list_parked(
    connection: Connection[Any],
    *,
    limit: int | None = None,
    sides: Sequence[Side] = SIDES,
    table: str | None = None,
    reason: str | None = None,
    ids: Sequence[int] | None = None,
    backing_off: bool = False,
) -> list[ParkedEvent]:
    """The ``limit`` oldest parked events; or of the publish side those in back-off."""
    filters = {"limit": limit, "table": table, "reason": reason, "ids": _ids(ids)}
    found: list[ParkedEvent] = []
    with (
        translating("listing parked events"),
        connection.cursor(row_factory=class_row(ParkedEvent)) as cursor,
    ):
        for side in sides:
            if side == "publish":
                cursor.execute(SQL["parked_publish"], filters | {"backing_off": backing_off})
                found += cursor.fetchall()
            elif not backing_off:
                found += cursor.execute(SQL["parked_apply"], filters).fetchall()
    found.sort(key=lambda e: (e.parked_at or e.retry_at, e.side, e.id))
    return found[:limit]


def read_backing_off(connection: Connection[Any]) -> BackingOff:
    """How the publish side stands between an event's first refusal and its last."""
    with translating("looking at held events"):
        row = connection.execute(SQL["backing_off"]).fetchone()
    return BackingOff(*row) if row else BackingOff(0, None, 0)


def read_image(
    connection: Connection[Any], event: ParkedEvent, *, contour: str, limit: int
) -> tuple[bytes, int] | None:
    """The beginning of an event as it goes to Kafka or came from there, about ``limit`` bytes of it,
    and the size of the whole. ``None`` when it has no image, or has left since it was listed.
    """
    with translating("reading a parked event"):
        if event.side == "apply":
            row = connection.execute(SQL["image_apply"], {"id": event.id}).fetchone()
            return None if row is None else (bytes(row[0][:limit]), len(row[0]))
        if not event.retriable:
            return None
        heads = read_heads(connection, contour, [event.table_name or ""])
        row = connection.execute(
            SQL["image_publish"],
            {"id": event.id, "head": heads[event.table_name or ""], "sent": _now(), "limit": limit},
        ).fetchone()
        return None if row is None else (row[0].encode(), row[1])


def read_shapes(
    connection: Connection[Any], event: ParkedEvent
) -> tuple[str | None, str | None] | None:
    """The fingerprints of an apply-side event's columns and of its table's here, if they differ."""
    if event.side != "apply":
        return None
    with translating("reading a parked event"):
        row = connection.execute(SQL["shapes"], {"id": event.id}).fetchone()
    return None if row is None or row[0] is None or row[0] == row[1] else (row[0], row[1])


def retry_parked(
    connection: Connection[Any],
    side: Side,
    *,
    table: str | None = None,
    reason: str | None = None,
    ids: Sequence[int] | None = None,
) -> int:
    """Make parked events due again, all or those chosen; how many it was."""
    with translating("retrying parked events"), connection.transaction():
        if side == "publish":
            lock_shards(connection)
        chosen = list_parked(connection, sides=[side], table=table, reason=reason, ids=ids)
        ids = [event.id for event in chosen]
        due = connection.execute(SQL[f"retry_{side}"], {"ids": ids}).fetchall()
        if side == "publish":
            _release_behind(connection, due)
    return len(due)


def discard_parked(
    connection: Connection[Any],
    side: Side,
    ids: Sequence[int],
    *,
    contour: str,
    because: str,
    who: str = "",
) -> Counter[str]:
    """Give parked events up: they move whole into ``discarded_events``, and what waits behind them is
    released. Those of ``ids`` that are no longer parked are left alone. How many it was, by table.

    ``who`` is added to the name of the database's role.
    """
    with translating("discarding parked events"), connection.transaction():
        parameters: dict[str, Any] = {"ids": list(ids), "because": because, "who": who}
        if side == "publish":
            lock_shards(connection)
            chosen = list_parked(connection, sides=[side], ids=ids)
            tables = [event.table_name or "" for event in chosen]
            parameters |= {
                "ids": [event.id for event in chosen],
                "reasons": [event.reason for event in chosen],
                "details": [event.detail for event in chosen],
                "heads": json.dumps(read_heads(connection, contour, tables)),
                "sent": _now(),
            }
        gone = connection.execute(SQL[f"discard_{side}"], parameters).fetchall()
        if side == "publish":
            _release_behind(connection, gone)
    return Counter(table or "?" for table, _ in gone)


def _release_behind(connection: Connection[Any], keys: Sequence[tuple[str, str]]) -> None:
    connection.execute(
        SQL["release_behind"],
        {"tables": [table for table, _ in keys], "keys": [key for _, key in keys]},
    )


def _ids(ids: Sequence[int] | None) -> list[int] | None:
    return None if ids is None else list(ids)


def _now() -> int:
    return int(time.time() * 1000)

"""Parked events of both sides: what waits and why, and sending it on its way again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from psycopg import Connection
from psycopg.rows import class_row

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating

Side = Literal["publish", "apply"]
SQL: Final = queries.load("parked")


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One event that waits. ``id`` is unique within its side; an unreadable one has no key."""

    side: Side
    id: int
    table_name: str | None
    record_key: str | None
    reason: str
    detail: str
    attempts: int
    parked_at: datetime


def list_parked(connection: Connection, *, limit: int) -> list[ParkedEvent]:
    """The ``limit`` oldest parked events of both sides."""
    with (
        translating("listing parked events"),
        connection.cursor(row_factory=class_row(ParkedEvent)) as cursor,
    ):
        return cursor.execute(SQL["list_parked"], {"limit": limit}).fetchall()


def retry_parked(
    connection: Connection,
    side: Side,
    *,
    table: str | None = None,
    ids: Sequence[int] | None = None,
) -> int:
    """Make parked events due again: all, those of a table, or those with ``ids``; how many it was."""
    with translating("retrying parked events"), connection.transaction():
        if side == "publish":
            connection.execute(SQL["lock_all_shards"])
        row = connection.execute(
            SQL[f"retry_{side}"], {"table": table, "ids": list(ids) if ids else None}
        ).fetchone()
        return int(row[0]) if row else 0

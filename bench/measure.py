"""Timing one statement, and the order in which contestants take turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from psycopg import Connection

from bench import users
from bench.database import settle_down, sizes, wal_position

T = TypeVar("T")
WARM_UP_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one statement, commit included."""

    seconds: float
    wal_bytes: int
    table_bytes: int
    index_bytes: int


def cost_of(connection: Connection, statement: str) -> Cost:
    """Run a statement from a settled database: vacuumed, analyzed, right after a checkpoint.

    Full-page images are therefore in ``wal_bytes``, once for each page that it touches.
    """
    settle_down(connection)
    tables, indexes = sizes(connection)
    position = wal_position(connection)
    began = time.perf_counter()
    connection.execute(statement)
    seconds = time.perf_counter() - began
    written = wal_position(connection) - position
    tables_now, indexes_now = sizes(connection)
    return Cost(seconds, written, tables_now - tables, indexes_now - indexes)


def warm_up(connection: Connection) -> None:
    """Load catalogs, compile triggers and plan their statements, on rows that go again."""
    connection.execute(users.insert(-WARM_UP_ROWS, -1))
    connection.execute(users.UPDATE)
    connection.execute(users.DELETE)


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """The items, beginning at another one each turn."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]

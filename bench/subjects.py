"""What is replicated: one table, or five with foreign keys between them; and what fills them.

Rows of all tables are like those of ``users``, about 200 bytes as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from bench import users

SOURCE: Final = "source"
"""The database of the contour whose changes are applied elsewhere."""
AT_ONCE: Final = 10_000  # rows of one statement
FAMILY_AT_ONCE: Final = 1000  # rows between a parent and the last of its children


@dataclass(frozen=True, slots=True)
class Subject:
    ddl: str
    tables: tuple[str, ...]
    """Parents first."""
    fill: Callable[[Connection[Any], int], None]
    """So many rows, each inserted once, in autocommit mode."""


def fill_users(connection: Connection[Any], rows: int) -> None:
    for first in range(1, rows + 1, AT_ONCE):
        connection.execute(users.insert(first, min(first + AT_ONCE - 1, rows)))


@dataclass(frozen=True, slots=True)
class Member:
    """A table of the family, with so many of each hundred rows."""

    table: str
    parent: str | None
    share: int


FAMILY: Final = (
    Member("regions", None, 1),
    Member("customers", "regions", 9),
    Member("orders", "customers", 30),
    Member("payments", "orders", 20),
    Member("order_lines", "orders", 40),
)


def family_ddl() -> str:
    parts = []
    for member in FAMILY:
        reference = f"parent bigint not null references {member.parent}, " if member.parent else ""
        parts.append(
            f"create table {member.table} (id bigint primary key, {reference}{users.COLUMNS});"
        )
        if member.parent:
            parts.append(f"create index on {member.table} (parent);")
    return "\n".join(parts)


def fill_family(connection: Connection[Any], rows: int) -> None:
    """Parents first, but never many of them before their children come."""
    if rows % 100:
        raise ValueError("rows of the family come in hundreds")
    made = dict.fromkeys((member.table for member in FAMILY), 0)
    for first in range(0, rows, FAMILY_AT_ONCE):
        some, before = min(FAMILY_AT_ONCE, rows - first), dict(made)
        for member in FAMILY:
            start, count = made[member.table], some * member.share // 100
            parent = ""
            if member.parent:
                fresh = before[member.parent]
                parents = made[member.parent] - fresh
                parent = f"{fresh} + 1 + (g - {start} - 1) * {parents} / {count}, "
            connection.execute(
                f"insert into {member.table} select g, {parent}{users.VALUES} "
                f"from generate_series({start} + 1, {start + count}) g"
            )
            made[member.table] = start + count


SUBJECTS: Final = {
    1: Subject(users.TABLE, ("users",), fill_users),
    len(FAMILY): Subject(family_ddl(), tuple(member.table for member in FAMILY), fill_family),
}
"""By the number of tables."""

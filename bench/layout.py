"""The queue's columns as installed, so that contestants with "the same queue" keep up with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import Connection

QUEUE: Final = "replication.replication_queue"

COLUMNS: Final = """
select attname::text, attnotnull and not atthasdef and attidentity = '' as needed
  from pg_attribute
 where attrelid = 'replication.replication_queue'::regclass and attnum > 0 and not attisdropped
 order by attnum
"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    needed: bool
    """It may not be null and has no default."""


def columns(connection: Connection) -> list[Column]:
    return [Column(name, needed) for name, needed in connection.execute(COLUMNS)]


def filled(present: Iterable[Column], expressions: Mapping[str, str]) -> dict[str, str]:
    """The expressions whose columns are present, in the order of the columns.

    Raises ``ValueError`` when a column must be filled that nobody has an expression for.
    """
    present = list(present)
    unknown = [
        column.name for column in present if column.needed and column.name not in expressions
    ]
    if unknown:
        raise ValueError(f"{QUEUE} has columns that benchmarks can't fill yet: {unknown}")
    return {
        column.name: expressions[column.name] for column in present if column.name in expressions
    }

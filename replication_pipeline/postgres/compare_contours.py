"""The contours that are compared: connections to their databases, and one table as each of them has it.

Refused in words: a database that is another contour's, a table that is not set up in one of them, a
primary key of other columns, a condition that is no SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import psycopg

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.names import topic_for
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.compare_side import Side
from replication_pipeline.postgres.compare_sql import SQL, Range, Shape
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating, translating_refusals
from replication_pipeline.settings import Settings

LONGEST_STATEMENT: Final = "1h"


@contextmanager
def open_contours(
    settings: Settings, *, others: Sequence[str] | None = None, writes: bool = False
) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """This contour's database and those of ``compare.contours``, or of some of them.

    ``TransientError`` when one is away, ``RefusedError`` when one is another contour.
    """
    chosen = list(settings.compare.contours) if others is None else others
    with ExitStack() as opened:
        connections = {}
        for name in dict.fromkeys([settings.contour.name, *chosen]):
            there = settings.of_other_contour(name)
            connection = opened.enter_context(
                closing(connect(there, application_name="replicator_compare", check=False))
            )
            with translating(f"contour {name}: comparing"):
                row = connection.execute(queries.load("workers")["identity"]).fetchone()
                options = {} if writes else {"default_transaction_read_only": "on"}
                for setting, value in (
                    options | {"statement_timeout": LONGEST_STATEMENT, "jit": "off"}
                ).items():
                    connection.execute("select set_config(%s, %s, false)", [setting, value])
            if row is None or row[0] != name:
                raise RefusedError(
                    f"compare.contours.{name} is the database of "
                    f"{'contour ' + row[0] if row else 'no contour'}",
                    remedy="give each contour's own database its name there",
                )
            connections[name] = connection
        yield connections


def contour_ids(connections: Mapping[str, psycopg.Connection[Any]]) -> dict[str, int]:
    """Each contour's number, which its versions carry."""
    ids: dict[str, int] = {}
    for contour, connection in connections.items():
        with translating(f"contour {contour}: comparing"):
            ((_, ids[contour], *_),) = connection.execute(
                queries.load("workers")["identity"]
            ).fetchall()
    return ids


def sides_of(
    connections: Mapping[str, psycopg.Connection[Any]],
    table: str,
    settings: Settings,
    *,
    where: str | None = None,
) -> tuple[list[Side], tuple[str, ...]]:
    """The table in each contour, and what is to be told of it. Refused where it can't be compared."""
    shapes: dict[str, Shape] = {}
    for contour, connection in connections.items():
        with translating(f"contour {contour}: comparing table {table}"):
            row = connection.execute(SQL["shape"], {"table": table}).fetchone()
        if row is None:
            raise RefusedError(
                f"table {table} is not set up in contour {contour}",
                remedy=f"replication-pipeline setup-table {table}",
            )
        shapes[contour] = Shape(*row)
    first, *others = shapes.items()
    for contour, shape in others:
        if tuple(shape.keys) != tuple(first[1].keys):
            raise RefusedError(
                f"table {table}: the primary key is ({', '.join(first[1].keys)}) in contour "
                f"{first[0]}, and ({', '.join(shape.keys)}) in {contour}",
                remedy="give it the same primary key everywhere",
            )
    common = sorted(set.intersection(*(set(shape.columns) for shape in shapes.values())))
    notes = tuple(
        f"columns of contour {contour} that others don't have, or don't send, are not compared: "
        f"{', '.join(extra)}"
        for contour, shape in shapes.items()
        if (extra := sorted(set(shape.columns) - set(common)))
    )
    topic = topic_for(table, prefix=settings.kafka.topic_prefix)
    sides = [
        Side(contour, connections[contour], table, shape, common, topic, where)
        for contour, shape in shapes.items()
    ]
    _refuse_bad_condition(sides if where is not None else ())
    return sides, notes


def _refuse_bad_condition(sides: Iterable[Side]) -> None:
    """Told before anything is read."""
    for side in sides:
        try:
            with translating_refusals(f"contour {side.contour}: --where"):
                side.connection.execute(side.statement("explain", Range()), side.bound(None))
        except RefusedError as error:
            remedy = error.remedy or "it is SQL on the columns of row t, as behind WHERE"
            raise RefusedError(error.message, remedy=remedy) from None

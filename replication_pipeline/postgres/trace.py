"""What one contour has of one row: the row, its delete, its own events, and what became of others'.

Reads only, and by catalogs and tables that a role of ``replication_monitor`` may read, so that other
contours can be asked as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import ConfigurationError, RefusedError
from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.story import Conflict, Discarded, Parked, QueueRow, Trail
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.fragments import comma, conjunction, identifier

SQL: Final = queries.load("trace")


@dataclass(frozen=True, slots=True)
class TableKey:
    """A table's key columns, with their types."""

    table: str
    schema: str
    relation: str
    columns: Mapping[str, str]

    @property
    def shape(self) -> str:
        """How a key is written."""
        example = ", ".join(f'"{name}": <{type_}>' for name, type_ in self.columns.items())
        whole = f"""'{{{example}}}'"""
        return whole if len(self.columns) > 1 else f"the bare value, or {whole}"

    @property
    def definitions(self) -> sql.Composed:
        return comma(
            sql.SQL("{} {}").format(identifier(name), sql.SQL(type_.replace("%", "%%")))
            for name, type_ in self.columns.items()
        )


def read_key(connection: psycopg.Connection[Any], contour: str, table: str) -> TableKey:
    """``RefusedError`` where the table is not set up."""
    with translating(f"contour {contour}: tracing a row"):
        rows = connection.execute(SQL["keys"], {"table": table}).fetchall()
    if not rows:
        raise RefusedError(
            f"table {table} is not set up in contour {contour}",
            remedy=f"replication-pipeline setup-table {table}",
        )
    return TableKey(table, rows[0][0], rows[0][1], {row[2]: row[3] for row in rows})


def canonical(
    connection: psycopg.Connection[Any], contour: str, key: TableKey, written: str
) -> str:
    """The key as events have it. ``written``: a JSON object, or the bare value of the only column.

    ``ConfigurationError`` tells the right shape.
    """
    wrong = ConfigurationError(
        f"table {key.table}: this is no key of it", remedy=f"write {key.shape}"
    )
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    if not isinstance(value, dict):
        if len(key.columns) != 1 or isinstance(value, list) or value is None:
            raise wrong
        value = {next(iter(key.columns)): value if isinstance(value, str) else written}
    if set(value) != set(key.columns) or any(v is None for v in value.values()):
        raise wrong
    with translating(f"contour {contour}: tracing a row"):
        ((expression,),) = connection.execute(
            SQL["key_expression"], {"table": key.table}
        ).fetchall()
        query = sql.SQL(SQL["canonical"]).format(
            expression=sql.SQL(expression.replace("%", "%%")), definitions=key.definitions
        )
        try:
            ((text,),) = connection.execute(query, {"key": json.dumps(value)}).fetchall()
        except psycopg.DataError:
            raise wrong from None
    return str(text)


def read_trail(
    connection: psycopg.Connection[Any],
    contour: str,
    key: TableKey,
    record_key: str,
    topic: Topic,
    *,
    values: bool,
) -> Trail:
    """All but which events were dealt with, as those are not known yet: see ``with_processed``."""
    names = {"table": key.table, "key": record_key, "topic": topic, "values": values}
    row = sql.SQL(SQL["row"]).format(
        table=identifier(key.schema, key.relation),
        same_key=conjunction(
            sql.SQL("t.{0} = (select r.{0} from jsonb_to_record(%(key)s::jsonb) as r({1}))").format(
                identifier(name), key.definitions
            )
            for name in key.columns
        ),
    )
    with translating(f"contour {contour}: tracing a row"):

        def ask(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(SQL[query], names).fetchall()

        ((name, id_),) = ask("who")
        found = connection.execute(row, names).fetchone()
        gone: dict[str, tuple[int, datetime]] = {
            kind: (version, at) for kind, version, at in ask("tombstone")
        }
        return Trail(
            contour=name,
            contour_id=id_,
            version=None if found is None else found[0] or 0,
            values=None if found is None else found[1],
            buried=gone.get("tombstone"),
            displaced=gone.get("displaced"),
            queue=[QueueRow(*each) for each in ask("queue")],
            conflicts=[Conflict(*each) for each in ask("conflicts")],
            parked=[Parked(*each) for each in ask("parked")],
            discarded=[Discarded(*each) for each in ask("discarded")],
            positions=dict(ask("positions")),
        )


def with_processed(
    connection: psycopg.Connection[Any], trail: Trail, event_ids: Iterable[str]
) -> Trail:
    """The trail, with when those of ``event_ids`` that were dealt with were."""
    with translating(f"contour {trail.contour}: tracing a row"):
        rows = connection.execute(SQL["processed"], {"ids": list(event_ids)}).fetchall()
    return replace(trail, processed=dict(rows))

"""The constant beginning of ``source`` in the events of each table, as ``event_value`` takes it.

It is the same for all events of a table, so whoever writes events reads it once and hands it in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from psycopg import Connection

from replication_pipeline import __version__
from replication_pipeline.postgres import queries

SQL: Final = queries.load("outbox")


def read_heads(
    connection: Connection[Any], contour: str, tables: Iterable[str] = ()
) -> dict[str, str]:
    """The heads of all replicated tables by the table's name in events, and of ``tables``, of which
    some may have been removed.
    """
    row = connection.execute(SQL["heads"], {"source": _source(connection, contour)}).fetchone()
    heads: dict[str, str] = json.loads(row[0]) if row else {}
    for table in set(tables) - heads.keys():
        heads[table] = head_of_removed(connection, contour, table)
    return heads


def head_of_removed(connection: Connection[Any], contour: str, table: str) -> str:
    """For events that were queued before their table was removed from replication."""
    schema, _, name = table.rpartition(".")
    tail = f'{json.dumps(schema or "public")},"table":{json.dumps(name)}'
    return _source(connection, contour) + tail


def _source(connection: Connection[Any], contour: str) -> str:
    """The first part of an event's ``source`` object, up to the schema's value."""
    fields = {
        "connector": "replication_pipeline",
        "version": __version__,
        "name": contour,
        "contour": contour,
        "db": connection.info.dbname,
    }
    return json.dumps(fields, separators=(",", ":"))[:-1] + ',"schema":'

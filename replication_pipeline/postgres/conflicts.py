"""Recorded conflicts: what lost to what, and letting the loser win.

Resolving has no way of writing of its own: it is an ordinary UPDATE, INSERT or DELETE under the table's
triggers, so that capture gives it a newer version and every contour takes it. It is refused when the
row is no longer what won, because that would undo a write that knew of both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import Connection, Cursor, sql
from psycopg.rows import class_row

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.catalog import Column, Table, read_tables
from replication_pipeline.postgres.failures import translating, translating_refusals
from replication_pipeline.postgres.fragments import (
    comma,
    identifier,
    key_from_json,
    type_of,
)

Side = Literal["incoming", "current"]
Outcome = Literal["kept", "updated", "inserted", "deleted", "unchanged"]
SQL: Final = queries.load("conflicts")
LISTED: Final = "they are listed by: replication-pipeline conflicts list"


@dataclass(frozen=True, slots=True)
class Conflict:
    """One decision. ``winner`` is the side that stands; ``reason`` is unknown for the oldest ones."""

    id: int
    recorded_at: datetime
    table_name: str
    record_key: str
    reason: str | None
    winner: Side
    incoming_contour: str
    incoming_version: int
    current_version: int
    event_id: UUID
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: Side | None


Image = dict[str, str | None]


def list_conflicts(
    connection: Connection[Any],
    *,
    limit: int | None = None,
    table: str | None = None,
    key: str | None = None,
    since: datetime | None = None,
    open_only: bool = False,
    id_: int | None = None,
) -> list[Conflict]:
    """The ``limit`` newest conflicts that match; ``key`` is a JSON object."""
    filters = {
        "limit": limit,
        "table": table,
        "key": key,
        "since": since,
        "open": open_only,
        "id": id_,
    }
    with (
        translating("listing conflicts"),
        connection.cursor(row_factory=class_row(Conflict)) as cursor,
    ):
        return cursor.execute(SQL["list"], filters).fetchall()


def read_conflict(
    connection: Connection[Any], id_: int
) -> tuple[Conflict, Image | None, Image | None]:
    """A conflict with its images, the incoming one first; a deleted side has none."""
    found = list_conflicts(connection, id_=id_)
    with translating("reading a conflict"):
        row = connection.execute(SQL["images"], {"id": id_}).fetchone()
    if not found or row is None:
        raise _unknown(id_)
    return found[0], row[0], row[1]


def resolve(
    connection: Connection[Any], id_: int, chosen: Side, *, who: str = "", force: bool = False
) -> Outcome:
    """Let ``chosen`` stand. ``force``: whatever became of the row since. ``RefusedError`` leaves
    everything as it was. ``who`` is added to the name of the database's role.
    """
    doing = f"resolving conflict {id_}"
    with translating(doing), connection.transaction():
        row = connection.execute(SQL["lock"], {"id": id_}).fetchone()
        if row is None:
            raise _unknown(id_)
        name, key, winner, version, resolved_at, incoming, current = row
        if resolved_at is not None and not force:
            raise RefusedError(
                f"conflict {id_} is resolved already, since {resolved_at:%Y-%m-%d %H:%M:%S %Z}",
                remedy="--force resolves it once more",
            )
        outcome: Outcome = "kept"
        if chosen != winner:
            table = read_tables(connection, [name]).get(name)
            if table is None:
                raise RefusedError(
                    f"conflict {id_}: table {name} is not set up in this contour any more",
                    remedy=f"replication-pipeline setup-table {name}",
                )
            won, lost = (incoming, current) if winner == "incoming" else (current, incoming)
            with translating_refusals(f"{doing}: {name} {key}"):
                row_now = _Row(connection, table, key)
                if not force:
                    row_now.refuse_unless(version, deleted=won is None, conflict=id_)
                outcome = row_now.become(lost)
                connection.execute("set constraints all immediate")
        connection.execute(SQL["mark"], {"id": id_, "chosen": chosen, "who": who})
        return outcome


class _Row:
    """One row, locked, and the statements that bring it to an image."""

    def __init__(self, connection: Connection[Any], table: Table, key: str) -> None:
        self._connection = connection
        self._table = table
        self._key = key
        self._version = self._look()

    def refuse_unless(self, version: int, *, deleted: bool, conflict: int) -> None:
        """The row, or its tombstone, is still the write that won."""
        now = self._version if self._version is not None else self._buried()
        if now == version or (deleted and now is None):
            return
        what = f"{self._table.name} {self._key}"
        by = f", by the contour with id {now & 1023}" if now else ""
        raise RefusedError(
            f"conflict {conflict}: {what} was written again since{by}",
            remedy="look at the row; --force writes the image that lost over it nevertheless",
        )

    def become(self, image: Image | None) -> Outcome:
        """The change itself, under the table's own triggers. Columns that are gone are left out."""
        if image is None:
            return "deleted" if self._execute("restore_delete").rowcount else "unchanged"
        columns = [c for c in self._table.columns if c.name in image]
        if self._version is None:
            self._execute("restore_insert", columns, image)
            return "inserted"
        keys = self._table.keys
        settable = [c for c in columns if c.name not in keys and not c.identity_always]
        if settable:
            self._execute("restore_update", columns, image, settable)
        return "unchanged" if self._look() == self._version else "updated"

    def _look(self) -> int | None:
        row = self._execute("lock_row").fetchone()
        return row[0] if row else None

    def _buried(self) -> int | None:
        name = {"table": self._table.name, "key": self._key}
        row = self._connection.execute(SQL["buried"], name).fetchone()
        return row[0] if row else None

    def _execute(
        self,
        name: str,
        columns: Sequence[Column] = (),
        image: Image | None = None,
        settable: Sequence[Column] = (),
    ) -> Cursor[Any]:
        statement = sql.SQL(SQL[name]).format(
            **key_from_json(self._table),
            table=identifier(self._table.schema, self._table.relation_name),
            definitions=comma(
                sql.SQL("{} {}").format(
                    identifier(c.name), sql.SQL("text") if _is_json(c) else type_of(c)
                )
                for c in columns
            ),
            columns=comma(identifier(c.name) for c in columns),
            values=comma(_value(c) for c in columns),
            assignments=comma(
                sql.SQL("{} = {}").format(identifier(c.name), _value(c)) for c in settable
            ),
        )
        return self._connection.execute(statement, {"key": self._key, "image": json.dumps(image)})


# A text in JSON is read by the type's own input function; JSON types alone would take it as it is.


def _is_json(column: Column) -> bool:
    return column.base_type in ("json", "jsonb")


def _value(column: Column) -> sql.Composed:
    value = sql.SQL("i.{}").format(identifier(column.name))
    return sql.SQL("{}::{}").format(value, type_of(column)) if _is_json(column) else value


def _unknown(id_: int) -> RefusedError:
    return RefusedError(f"there is no conflict {id_} in this contour", remedy=LISTED)

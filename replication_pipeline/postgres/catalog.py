"""The shape of the replicated tables, read from the catalog of this database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

from replication_pipeline.postgres import queries


@dataclass(frozen=True, slots=True)
class Column:
    """``type_name`` is what the stage holds; ``base_type`` decides the wire form.

    ``identity_always``: may be set by an INSERT that overrides it, never by an UPDATE.
    ``delimiter``: of an array, what stands between its elements.
    """

    name: str
    type_name: str
    base_type: str
    identity_always: bool = False
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A constraint between two tables; ``child_columns[i]`` references ``parent_columns[i]``.

    ``on_delete`` is PostgreSQL's letter for the action (``pg_constraint.confdeltype``), and
    ``null_columns`` are those that SET NULL would set.
    """

    name: str
    child: int
    child_name: tuple[str, str]
    child_columns: tuple[str, ...]
    parent: int
    parent_name: tuple[str, str]
    parent_columns: tuple[str, ...]
    on_delete: str
    null_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A unique index beside the primary key, over columns that events have."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is set up for replication here. ``relation`` is its OID.

    ``key_text`` and ``row_text`` are SQL, made by the server for a row ``t``: its canonical key, and
    all its columns in the forms of events. ``merges``: column by column, with counters in ``deltas``.
    """

    name: str
    relation: int
    schema: str
    relation_name: str
    keys: tuple[str, ...]
    table_id: int
    fingerprint: str
    columns: tuple[Column, ...]
    references: tuple[ForeignKey, ...]
    referenced_by: tuple[ForeignKey, ...]
    uniques: tuple[UniqueKey, ...] = ()
    displace: bool = False
    key_text: str = ""
    row_text: str = ""
    merges: bool = False
    deltas: tuple[str, ...] = ()


def read_tables(connection: psycopg.Connection, names: Iterable[str]) -> dict[str, Table]:
    """The tables of ``names`` that are set up here, by name; others are absent."""
    sql = queries.load("catalog")
    rows = connection.execute(sql["tables"], {"tables": list(names)}).fetchall()
    relations = [row[1] for row in rows]
    keys = [
        ForeignKey(
            name, child, (child_schema, child_table), tuple(child_columns), parent,
            (parent_schema, parent_table), tuple(parent_columns), on_delete, tuple(null_columns),
        )
        for (
            name, child, child_schema, child_table, child_columns, parent, parent_schema,
            parent_table, parent_columns, on_delete, null_columns,
        ) in connection.execute(sql["foreign_keys"], {"relations": relations})
    ]  # fmt: skip
    uniques = connection.execute(sql["unique_keys"], {"relations": relations}).fetchall()
    return {
        name: Table(
            name=name,
            relation=relation,
            schema=schema,
            relation_name=relation_name,
            keys=tuple(key_columns),
            table_id=table_id,
            fingerprint=fingerprint,
            displace=displace,
            key_text=key_text,
            row_text=row_text,
            merges=merge == "columns",
            deltas=tuple(delta_columns),
            columns=tuple(
                Column(*column)
                for column in connection.execute(sql["columns"], {"relation": relation})
            ),
            references=tuple(key for key in keys if key.child == relation),
            referenced_by=tuple(key for key in keys if key.parent == relation),
            uniques=tuple(
                UniqueKey(index, tuple(columns))
                for owner, index, columns in uniques
                if owner == relation
            ),
        )
        for (
            name, relation, schema, relation_name, key_columns, table_id, fingerprint, displace,
            key_text, row_text, merge, delta_columns,
        ) in rows
    }  # fmt: skip


def parents_first(tables: Iterable[Table]) -> list[Table]:
    """Tables so that a parent stands before its children, as far as references make no circle.

    Ties, and circles, are in the order of names: all appliers lock in the same order.
    """
    waiting = sorted(tables, key=lambda table: table.name)
    present = {table.relation for table in waiting}
    ordered: list[Table] = []
    done: set[int] = set()
    while waiting:
        ready = [
            table
            for table in waiting
            if all(
                key.parent in done or key.parent == table.relation or key.parent not in present
                for key in table.references
            )
        ]
        chosen = ready[0] if ready else waiting[0]
        waiting.remove(chosen)
        ordered.append(chosen)
        done.add(chosen.relation)
    return ordered

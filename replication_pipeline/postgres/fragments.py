"""Pieces of SQL about one table: quoted names, its stage, its keys, and the forms of its values.

psycopg looks for placeholders in the whole text, quoted names included: so a % of a name stands doubled
here, and whoever executes a statement passes parameters, even if they are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg import sql

from replication_pipeline.postgres.catalog import Column, ForeignKey, Table

# Wire form → SQL value, for types whose wire form is not simply their text.
DECODED: Final[dict[str, LiteralString]] = {
    "json": "{}::json",
    "jsonb": "{}::jsonb",
    "bytea": "decode({}, 'base64')",
}


@dataclass(frozen=True, slots=True)
class Names:
    """Identifiers of a table and its stage, the stage under ``alias``."""

    of: Table
    alias: str = "s"

    @property
    def table(self) -> sql.Identifier:
        return identifier(self.of.schema, self.of.relation_name)

    @property
    def stage(self) -> sql.Identifier:
        # The fingerprint makes a changed table get a new stage within the same session.
        return identifier("pg_temp", f"stage_{self.of.table_id}_{self.of.fingerprint[:8]}")

    def stage_column(self, column: str) -> sql.Identifier:
        position = [c.name for c in self.of.columns].index(column)
        return identifier(f"c{position + 1}")

    def staged(self, column: str) -> sql.Composed:
        return sql.SQL("{}.{}").format(identifier(self.alias), self.stage_column(column))

    def same_key(self) -> sql.Composed:
        return conjunction(
            sql.SQL("{} = {}").format(identifier("t", k), self.staged(k)) for k in self.of.keys
        )


def child_matches(key: ForeignKey) -> sql.Composed:
    """Row ``c`` references row ``t`` by ``key``."""
    return conjunction(
        sql.SQL("{} = {}").format(identifier("c", child), identifier("t", parent))
        for child, parent in zip(key.child_columns, key.parent_columns, strict=True)
    )


def key_from_json(table: Table) -> dict[str, sql.Composed]:
    """A canonical key read back into columns ``r``, and compared with row ``t``."""
    by_name = {c.name: c for c in table.columns}
    return {
        "key_definitions": comma(wire_definition(by_name[k]) for k in table.keys),
        "ripe_key": conjunction(
            sql.SQL("{} = {}").format(identifier("t", k), decoded(by_name[k])) for k in table.keys
        ),
    }


def texts_of(columns: Iterable[Column], reference: Callable[[str], sql.Composable]) -> sql.Composed:
    """Every column as PostgreSQL's text: no value is too odd for it, and it can be read back. Not by a
    cast, which may be a user's own; and a row of nulls is not null.
    """
    return comma(
        sql.SQL("case when num_nulls({0}) = 0 then format('%%s', {0}) end as {1}").format(
            reference(c.name), identifier(c.name)
        )
        for c in columns
    )


def wire_definition(column: Column) -> sql.Composed:
    """The column as ``jsonb_to_record`` reads it from an event."""
    wire = sql.SQL("text") if column.base_type in DECODED else type_of(column)
    return sql.SQL("{} {}").format(identifier(column.name), wire)


def decoded(column: Column) -> sql.Composed:
    """The column's own value of what ``r`` has read."""
    return sql.SQL(DECODED.get(column.base_type, "{}")).format(identifier("r", column.name))


def type_of(column: Column) -> sql.SQL:
    """By format_type() of the server's own catalog: quoted there, and the only text taken as it is."""
    return sql.SQL(column.type_name.replace("%", "%%"))


def identifier(*names: str) -> sql.Identifier:
    """A quoted name; several are joined by dots."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def literal(text: str) -> sql.Literal:
    """A quoted text."""
    return sql.Literal(text.replace("%", "%%"))


def texts(names: Iterable[str]) -> sql.Composed:
    """An array of quoted texts."""
    return sql.SQL("array[{}]::text[]").format(comma(literal(n) for n in names))


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """A list."""
    return sql.SQL(", ").join(parts)


def conjunction(parts: Iterable[sql.Composable]) -> sql.Composed:
    """All of them."""
    return sql.SQL(" and ").join(parts)

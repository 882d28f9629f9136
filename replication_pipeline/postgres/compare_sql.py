"""The pieces of SQL that a comparison's statements are made of: keys, ranges, evidence of one table.

Keys leave a database as the texts of their columns, and come back as parameters that are cast to the
columns' types there: so any type will do, and columns may have another order or width elsewhere.
Contents are hashed as PostgreSQL's own text of the row: the session's settings are pinned. Ranges go by
rows of key columns, so that the primary key serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import sql

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.fragments import comma, conjunction, identifier

SQL: Final = queries.load("compare")
KEYS_AT_ONCE: Final = 1000

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``low`` on and below ``high``; open where there is none."""

    low: Key | None = None
    high: Key | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The table as the catalog of this contour has it. ``orders`` say how values of the key's columns
    are ordered: where they differ between contours, ranges mean different rows.
    """

    schema: str
    name: str
    table_id: int
    keys: Sequence[str]
    types: Sequence[str]
    orders: Sequence[str]
    key_text: str
    columns: Sequence[str]
    estimated: int
    pages: int
    counters: bool


def condition(shape: Shape, within: Range, where: str | None) -> sql.Composed:
    """On a row ``t``: its key is within the range, and ``where`` holds, an operator's own SQL."""
    keys = comma(identifier("t", key) for key in shape.keys)
    conditions: list[sql.Composable] = []
    ends: list[tuple[str, sql.SQL, Key | None]] = [
        ("low", sql.SQL(">="), within.low),
        ("high", sql.SQL("<"), within.high),
    ]
    for end, operator, key in ends:
        if key is not None:
            values = comma(
                sql.SQL("{}::{}").format(sql.Placeholder(f"{end}{n}"), sql.SQL(doubled(type_name)))
                for n, type_name in enumerate(shape.types, start=1)
            )
            conditions.append(sql.SQL("({}) {} ({})").format(keys, operator, values))
    if where is not None:
        conditions.append(sql.SQL("({}\n)").format(sql.SQL(doubled(where))))
    return conjunction(conditions or [sql.SQL("true")])


def chunks(keys: Mapping[str, Key]) -> list[dict[str, Key]]:
    """As many keys as one statement takes."""
    names = list(keys)
    return [
        {key: keys[key] for key in names[n : n + KEYS_AT_ONCE]}
        for n in range(0, len(names), KEYS_AT_ONCE)
    ]


def arrays(keys: Mapping[str, Key]) -> dict[str, Any]:
    """The keys as parameters: an array for the canonical ones, and one for each column."""
    columns = list(zip(*keys.values(), strict=True))
    return {"keys": list(keys)} | {f"k{n}": list(c) for n, c in enumerate(columns, start=1)}


def doubled(text: str) -> str:
    """SQL that is not ours: of the catalog, or an operator's. psycopg takes % for a placeholder."""
    return text.replace("%", "%%")


def parts_of(shape: Shape, columns: Sequence[str]) -> dict[str, sql.Composable]:
    numbered = list(enumerate(shape.keys, start=1))
    aliases = [identifier(f"k{n}") for n, _ in numbered]
    types = [sql.SQL(doubled(name)) for name in shape.types]
    row = comma(identifier("t", column) for column in columns)

    def text(of: sql.Composable) -> sql.Composed:
        # Not by a cast, which may be a user's own.
        return sql.SQL("format('%%s', {})").format(of)

    def hashed(of: sql.Composable, seed: int) -> sql.Composed:
        return sql.SQL('hashtextextended({} collate "C", {})').format(of, sql.Literal(seed))

    key_text = sql.SQL(doubled(shape.key_text))
    return {
        "table": identifier(shape.schema, shape.name),
        "key_text": key_text,
        "key_hash": hashed(sql.SQL("({})").format(key_text), 2),
        "key_texts": comma(text(identifier("t", key)) for key in shape.keys),
        "first_key": identifier(shape.keys[0]),
        "named_keys": comma(
            sql.SQL("{} as {}").format(identifier("t", key), identifier(f"k{n}"))
            for n, key in numbered
        ),
        "aliases": comma(aliases),
        "texts_of_s": comma(text(sql.SQL("s.{}").format(alias)) for alias in aliases),
        "key_arrays": comma(
            sql.SQL("{}::text[]").format(sql.Placeholder(f"k{n}")) for n, _ in numbered
        ),
        "same_key": conjunction(
            sql.SQL("{} = w.{}::{}").format(identifier("t", key), alias, type_)
            for key, alias, type_ in zip(shape.keys, aliases, types, strict=True)
        ),
        "evidence": hashed(
            sql.SQL("row(coalesce(t.replication_version, 0), {})::text").format(row), 0
        ),
        "content": hashed(sql.SQL("row({})::text").format(row), 1),
        "column_hashes": comma(
            sql.SQL("case when num_nulls({0}) = 0 then {1}::text end").format(
                identifier("t", column), hashed(text(identifier("t", column)), 3)
            )
            for column in columns
        ),
        "column_texts": comma(
            sql.SQL("case when num_nulls({0}) = 0 then {1} end").format(
                identifier("t", column), text(identifier("t", column))
            )
            for column in columns
        ),
    }

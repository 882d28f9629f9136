"""One table in one contour, as it is compared: its statements and the pieces they are made of.

Keys leave a database as the texts of their columns, and come back as parameters that are cast to the
columns' types there: so any type will do, and columns may have another order or width elsewhere.
Contents leave it as hashes of PostgreSQL's own text of the row (the session's settings are pinned), but
for ``values``. Ranges go by rows of key columns, so that the primary key serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.comparison import Seen
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.fragments import comma, conjunction, identifier

SQL: Final = queries.load("compare")
WATCH: Final = queries.load("watch")
KEYS_AT_ONCE: Final = 1000

Key = tuple[str, ...]
Evidence = tuple[int, int]  # rows, and the exclusive or of their hashes


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``low`` on and below ``high``; open where there is none."""

    low: Key | None = None
    high: Key | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """``parts`` are the key's columns as texts."""

    parts: Key
    version: int
    content: int


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
    merges: bool


@dataclass(frozen=True, slots=True)
class Side:
    """``columns`` are compared; ``where`` is a condition on rows ``t``, of the operator's own."""

    contour: str
    connection: psycopg.Connection[Any]
    table: str
    shape: Shape
    columns: Sequence[str]
    topic: str
    where: str | None = None
    _parts: dict[str, sql.Composable] = field(default_factory=dict)
    _statements: dict[tuple[str, Any], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts.update(_parts_of(self.shape, self.columns))

    def sampled(self, percent: float, blocks: int) -> list[Key]:
        """Keys that cut the table into about ``blocks`` parts."""
        rows = self.ask("sampled", percent=percent, blocks=blocks)
        return [tuple(parts) for parts in rows]

    def cuts(self, within: Range, step: int) -> list[Key]:
        """The key of each ``step``-th row of a range."""
        return [tuple(parts) for parts in self.ask("cuts", within, step=step)]

    def block(self, within: Range) -> Evidence:
        """Of all rows of a range."""
        ((count, evidence),) = self.ask("block", within)
        return count, evidence

    def rows(self, within: Range) -> dict[str, Row]:
        """The rows of a range, by key."""
        found = self.ask("rows", within)
        return {key: Row(tuple(parts), version, content) for key, parts, version, content in found}

    def hashed_blocks(self, mask: int) -> dict[int, Evidence]:
        """Evidence by hash of the key."""
        rows = self.ask("hashed_blocks", Range(), mask=mask)
        return {block: (count, evidence) for block, count, evidence in rows}

    def hashed_rows(self, mask: int, blocks: Sequence[int]) -> dict[str, Row]:
        """The rows of some of these blocks, by key."""
        found = self.ask("hashed_rows", Range(), mask=mask, blocks=list(blocks))
        return {key: Row(tuple(parts), version, content) for key, parts, version, content in found}

    def states(self, keys: Mapping[str, Key]) -> dict[str, Seen]:
        """What there is of each key now, whatever ``where`` says."""
        seen: dict[str, Seen] = {}
        for chosen in chunks(keys):
            for key, (there, version, content, buried) in zip(
                chosen, self.ask("states", **arrays(chosen)), strict=True
            ):
                seen[key] = Seen(version, content, buried) if there else Seen(None, None, buried)
        return seen

    def of_columns(self, keys: Mapping[str, Key], *, values: bool) -> dict[str, list[str | None]]:
        """Of each key that has a row: its columns, as hashes or as texts."""
        found: dict[str, list[str | None]] = {}
        for chosen in chunks(keys):
            names = list(chosen)
            for n, columns in self.ask("values" if values else "columns", **arrays(chosen)):
                found[names[n - 1]] = columns
        return found

    def parked(self, keys: Mapping[str, Key]) -> dict[str, str]:
        """Keys of which an event waits here, and why."""
        return dict(self.ask("parked", keys=list(keys)))

    def position(self) -> Sequence[int]:
        """Where the applier is in the table's topic, by partition."""
        found = dict(self.ask("positions", topic=self.topic))
        return [found.get(partition, 0) for partition in range(max(found, default=-1) + 1)]

    def now(self) -> float:
        """The server's clock."""
        ((now,),) = self.connection.execute(WATCH["now"]).fetchall()
        return float(now)

    def arrived(self) -> dict[str, float]:
        """By contour: until when its writes have arrived here, by that contour's clock."""
        parameters = {"topics": [self.topic]}
        return dict(self.connection.execute(WATCH["arrived"], parameters).fetchall())

    def read_by_index(self, chosen: bool) -> None:
        """Statistics may be missing, and a scan for each range would be the worst of all plans."""
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
            self.connection.execute(
                "select set_config(%s, %s, false)", [setting, "off" if chosen else "on"]
            )

    def ask(self, name: str, within: Range | None = None, **given: Any) -> list[tuple[Any, ...]]:
        """The rows of a named query."""
        with translating(f"contour {self.contour}: comparing table {self.table}"):
            cursor = self.connection.execute(
                self.statement(name, within), self.bound(within) | given
            )
            return cursor.fetchall() if cursor.description else []

    def statement(self, name: str, within: Range | None = None) -> bytes:
        """A named query, filled in for this table; kept, as composing it costs half a millisecond."""
        ends = None if within is None else (within.low is None, within.high is None)
        if (name, ends) not in self._statements:
            parts = dict(self._parts)
            if within is not None:
                parts["range"] = self._condition(within)
            composed = sql.SQL(SQL[name]).format(**parts)
            self._statements[name, ends] = composed.as_bytes(self.connection)
        return self._statements[name, ends]

    def bound(self, within: Range | None) -> dict[str, Any]:
        """Parameters that every query may use, and the ends of a range."""
        bounds: dict[str, Any] = {"table": self.table}
        for end, key in (("low", within and within.low), ("high", within and within.high)):
            bounds |= {f"{end}{n}": part for n, part in enumerate(key or (), start=1)}
        return bounds

    def _condition(self, within: Range) -> sql.Composed:
        keys = comma(identifier("t", key) for key in self.shape.keys)
        conditions: list[sql.Composable] = []
        ends: list[tuple[str, sql.SQL, Key | None]] = [
            ("low", sql.SQL(">="), within.low),
            ("high", sql.SQL("<"), within.high),
        ]
        for end, operator, key in ends:
            if key is not None:
                values = comma(
                    sql.SQL("{}::{}").format(
                        sql.Placeholder(f"{end}{n}"), sql.SQL(doubled(type_name))
                    )
                    for n, type_name in enumerate(self.shape.types, start=1)
                )
                conditions.append(sql.SQL("({}) {} ({})").format(keys, operator, values))
        if self.where is not None:
            conditions.append(sql.SQL("({}\n)").format(sql.SQL(doubled(self.where))))
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


def _parts_of(shape: Shape, columns: Sequence[str]) -> dict[str, sql.Composable]:
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

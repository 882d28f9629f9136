"""One table in one contour, and what can be asked of it. Contents leave it as hashes, but
for ``values``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.comparison import Seen
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.compare_sql import (
    SQL,
    Key,
    Range,
    Shape,
    arrays,
    chunks,
    condition,
    parts_of,
)
from replication_pipeline.postgres.failures import translating

WATCH: Final = queries.load("watch")

Evidence = tuple[int, int]  # rows, and the exclusive or of their hashes


@dataclass(frozen=True, slots=True)
class Row:
    """``parts`` are the key's columns as texts."""

    parts: Key
    version: int
    content: int


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
        self._parts.update(parts_of(self.shape, self.columns))

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
                parts["range"] = condition(self.shape, within, self.where)
            composed = sql.SQL(SQL[name]).format(**parts)
            self._statements[name, ends] = composed.as_bytes(self.connection)
        return self._statements[name, ends]

    def bound(self, within: Range | None) -> dict[str, Any]:
        """Parameters that every query may use, and the ends of a range."""
        bounds: dict[str, Any] = {"table": self.table}
        for end, key in (("low", within and within.low), ("high", within and within.high)):
            bounds |= {f"{end}{n}": part for n, part in enumerate(key or (), start=1)}
        return bounds

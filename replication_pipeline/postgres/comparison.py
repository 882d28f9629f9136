"""Whether a table is equal in several contours, while all of them write it.

Two scans say which rows differ; most of what they find is only under way. So a moment is noted on every
contour, and once everything written anywhere before it has arrived everywhere, the rows are read again.
A row differs if it differs still, and nobody has written it meanwhile. That something has arrived is
known from offsets: rounds of the heartbeats tell it of a contour's own writes, and positions of what it
had applied from others.

Rows are hashes here: no key and no value leaves a database. Memory is bounded by ``MOST_ROWS``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from replication_pipeline.domain.errors import RefusedError
from replication_pipeline.domain.heartbeat import passed
from replication_pipeline.domain.names import topic_for
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating
from replication_pipeline.settings import Settings

SQL: Final = queries.load("compare")
WATCH: Final = queries.load("watch")
BLOCKS: Final = 1024
MOST_ROWS: Final = 200_000
LOOK_EVERY: Final = 1.0  # seconds
LONGEST_SCAN: Final = "1h"

Rows = Mapping[int, tuple[int, int]]  # by hash of the key: version, hash of the content


@dataclass(frozen=True, slots=True)
class Comparison:
    """``differing`` rows of those looked at closely; ``unread`` blocks differ as well, and were too
    many to be. ``settled``: what was under way has arrived; else ``differing`` says nothing.
    """

    rows: int
    differing: int = 0
    unread: int = 0
    settled: bool = True

    @property
    def equal(self) -> bool:
        return self.settled and not self.differing and not self.unread


@dataclass(frozen=True, slots=True)
class _Side:
    """A table in one contour."""

    contour: str
    connection: psycopg.Connection[Any]
    parts: Mapping[str, sql.Composable]
    topic: str

    def blocks(self) -> dict[int, tuple[int, int]]:
        rows = self._ask("blocks", mask=BLOCKS - 1)
        return {block: (count, evidence) for block, count, evidence in rows}

    def rows(self, blocks: Sequence[int]) -> Rows:
        rows = self._ask("rows", mask=BLOCKS - 1, blocks=list(blocks))
        return {key: (version, content) for key, version, content in rows}

    def position(self) -> Sequence[int]:
        found = dict(self._ask("positions", topic=self.topic))
        return [found.get(partition, 0) for partition in range(max(found, default=-1) + 1)]

    def now(self) -> float:
        ((now,),) = self.connection.execute(WATCH["now"]).fetchall()
        return float(now)

    def arrived(self) -> dict[str, float]:
        """By contour: until when its writes have arrived here, by that contour's clock."""
        parameters = {"topics": [self.topic]}
        return dict(self.connection.execute(WATCH["arrived"], parameters).fetchall())

    def _ask(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with translating(f"contour {self.contour}: comparing a table"):
            query = sql.SQL(SQL[name]).format(**self.parts)
            return self.connection.execute(query, parameters).fetchall()


@contextmanager
def open_contours(settings: Settings) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """This contour's database and those of ``compare.contours``.

    ``TransientError`` when one is away, ``RefusedError`` when one is another contour.
    """
    with ExitStack() as opened:
        connections = {}
        for name, postgres in {
            settings.contour.name: settings.postgres,
            **settings.compare.contours,
        }.items():
            there = settings.model_copy(
                update={
                    "postgres": postgres,
                    "contour": settings.contour.model_copy(update={"name": name}),
                }
            )
            connection = opened.enter_context(
                closing(connect(there, application_name="replicator_compare", check=False))
            )
            with translating(f"contour {name}: comparing"):
                row = connection.execute(queries.load("workers")["identity"]).fetchone()
                connection.execute(
                    "select set_config('statement_timeout', %s, false)", [LONGEST_SCAN]
                )
            if row is None or row[0] != name:
                raise RefusedError(
                    f"compare.contours.{name} is the database of "
                    f"{'contour ' + row[0] if row else 'no contour'}",
                    remedy="give each contour's own database its name there",
                )
            connections[name] = connection
        yield connections


def compare_table(
    connections: Mapping[str, psycopg.Connection[Any]], table: str, settings: Settings
) -> Comparison:
    """``table`` in all of ``connections``. Waits for ``compare.patience`` at most."""
    sides = _sides(connections, table, settings)
    blocks = [side.blocks() for side in sides]
    rows = max(sum(count for count, _ in found.values()) for found in blocks)
    suspects = sorted(b for b in set().union(*blocks) if len({f.get(b) for f in blocks}) > 1)
    if not suspects:
        return Comparison(rows)
    chosen: list[int] = []
    read = 0
    for block in suspects:
        read += max(found.get(block, (0, 0))[0] for found in blocks)
        if chosen and read > MOST_ROWS:
            break
        chosen.append(block)
    before = _differing(sides, chosen)
    unread = len(suspects) - len(chosen)
    if not before and not unread:
        return Comparison(rows)
    if not _settled(sides, settings.compare.patience.total_seconds()):
        return Comparison(rows, len(before), unread, settled=False)
    after = _differing(sides, chosen)
    differing = sum(after.get(key) == evidence for key, evidence in before.items())
    return Comparison(rows, differing, unread if differing else 0)


def _differing(sides: Sequence[_Side], blocks: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Keys that are not the same everywhere, with what each side has of them."""
    read = [side.rows(blocks) for side in sides]
    keys: set[int] = set().union(*read)
    seen = {key: tuple(rows.get(key) for rows in read) for key in keys}
    return {key: evidence for key, evidence in seen.items() if len(set(evidence)) > 1}


def _settled(sides: Sequence[_Side], patience: float) -> bool:
    """Wait until all that was written until now is everywhere."""
    written = {side.contour: side.now() for side in sides}
    applied = {side.contour: side.position() for side in sides}
    pause = threading.Event()
    waited = 0.0
    while waited <= patience:
        waiting = False
        for side in sides:
            arrived, position = side.arrived(), side.position()
            waiting = waiting or any(
                arrived.get(other, 0.0) <= written[other] or not passed(position, applied[other])
                for other in written
                if other != side.contour
            )
        if not waiting:
            return True
        pause.wait(LOOK_EVERY)
        waited += LOOK_EVERY
    return False


def _sides(
    connections: Mapping[str, psycopg.Connection[Any]], table: str, settings: Settings
) -> list[_Side]:
    shapes = {}
    for contour, connection in connections.items():
        with translating(f"contour {contour}: comparing a table"):
            row = connection.execute(SQL["shape"], {"table": table}).fetchone()
        if row is None:
            raise RefusedError(
                f"table {table} is not set up in contour {contour}",
                remedy=f"replication-pipeline setup-table {table}",
            )
        shapes[contour] = row
    common = sorted(set.intersection(*(set(shape[3]) for shape in shapes.values())))

    def text(columns: Sequence[str]) -> sql.Composable:
        parts = [sql.SQL("t.{}::text").format(sql.Identifier(column)) for column in columns]
        return sql.SQL('row({})::text collate "C"').format(sql.SQL(", ").join(parts))

    return [
        _Side(
            contour,
            connections[contour],
            {
                "table": sql.Identifier(schema, name),
                "key": text(sorted(keys)),
                "content": text(common),
            },
            topic_for(table, prefix=settings.kafka.topic_prefix),
        )
        for contour, (schema, name, keys, _) in shapes.items()
    ]

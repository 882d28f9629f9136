"""Beginning a snapshot, going on with one, and what has been.

All that can be refused is refused here, before anything is written: a table that is not set up, a
filter that PostgreSQL does not understand, a contour that nobody knows, another run of the table that
is not finished. Beginning is one transaction: the run and its parts, ranges of keys by quantiles of a
sample.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import psycopg

from replication_pipeline.domain.errors import PoisonError, RefusedError
from replication_pipeline.engine.snapshot import Run, Wanted
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.catalog import Table, read_tables
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.failures import translating, translating_refusals
from replication_pipeline.postgres.snapshot_table import SnapshotTable
from replication_pipeline.settings import Settings

SQL: Final = queries.load("snapshot")
SAMPLED_PAGES: Final = 300
ROWS_A_PART: Final = 50_000
MOST_PARTS: Final = 64


def prepare(
    settings: Settings, wanted: Wanted, *, restart: bool = False, workers: int = 1
) -> tuple[Run, SnapshotTable]:
    """The run to work on: a new one, or the one that is not finished."""
    contour = settings.contour.name
    with connect(settings, application_name="replicator_snapshot") as connection:
        with translating(f"contour {contour}"):
            table = _known(connection, settings, wanted)
        statements = SnapshotTable(table, wanted.where)
        rows = _check_filter(connection, settings, statements)
        with translating(f"contour {contour}: beginning a snapshot"), connection.transaction():
            connection.execute(SQL["start_one"], {"table": wanted.table})
            run = _unfinished(connection, contour, table, wanted, restart=restart)
            if run is None:
                run = _begin(connection, statements, wanted, rows, workers)
        return run, statements


def past_runs(settings: Settings, limit: int = 50) -> list[Run]:
    """The newest first, those that are running among them."""
    with (
        connect(settings, application_name="replicator_snapshot") as connection,
        translating(f"contour {settings.contour.name}: reading snapshots"),
    ):
        return [Run(*row) for row in connection.execute(SQL["runs"], {"limit": limit})]


def _known(connection: psycopg.Connection, settings: Settings, wanted: Wanted) -> Table:
    me = settings.contour.name
    table = read_tables(connection, [wanted.table]).get(wanted.table)
    if table is None:
        raise RefusedError(
            f"contour {me}: table {wanted.table} is not set up for replication",
            remedy=f"replication-pipeline setup-table {wanted.table}",
        )
    if wanted.to is not None:
        others = [
            name for (name,) in connection.execute(SQL["other_contours"], {"me": me}).fetchall()
        ]
        if wanted.to == me:
            raise RefusedError(f"contour {me} has the table itself", remedy="name another contour")
        if others and wanted.to not in others:
            raise RefusedError(
                f"contour {me} has not heard of a contour {wanted.to}; it knows {', '.join(others)}",
                remedy="start the publisher of the new contour first, or see "
                "replication-pipeline contours list",
            )
    return table


def _check_filter(
    connection: psycopg.Connection, settings: Settings, table: SnapshotTable
) -> int | None:
    """Have PostgreSQL read the filter, and try it on some rows. How many rows it may let through."""
    if table.where is None:
        return None
    doing = f"contour {settings.contour.name}: the filter of {table.table.name}"
    with translating_refusals(doing):
        # Prepared: that takes one statement, whatever stands in the filter.
        row = connection.execute(table.statement("explain"), {}, prepare=True).fetchone()
    try:
        with translating(doing):
            connection.execute(table.statement("probe"), {}, prepare=True)
    except PoisonError as error:
        raise RefusedError(error.message, remedy="mend the filter") from None
    return int(row[0][0]["Plan"]["Plan Rows"]) if row else None


def _unfinished(
    connection: psycopg.Connection, contour: str, table: Table, wanted: Wanted, *, restart: bool
) -> Run | None:
    """The run to go on with. One that asks for something else is refused, or given up."""
    row = connection.execute(SQL["running"], {"table": wanted.table}).fetchone()
    if row is None:
        return None
    id_, table_id, keys, to, where, started = row
    if (
        restart or table_id != table.table_id
    ):  # set up anew: what was written in between is not known
        connection.execute(SQL["give_up"], {"id": id_})
        return None
    run = Run(id_, wanted.table, to, where, started, resumed=True)
    if (to, where, tuple(keys)) != (wanted.to, wanted.where, table.keys):
        of_run = replace(wanted, to=to, where=where)
        raise RefusedError(
            f"contour {contour}: snapshot {id_} of {wanted.table}, begun {started:%Y-%m-%d %H:%M} UTC, "
            f"is not finished, and is another one ({_told(of_run)})",
            remedy="go on with that one by its own options, or give it up with --restart",
        )
    return run


def _told(wanted: Wanted) -> str:
    where = f", where {wanted.where}" if wanted.where else ", all rows"
    return f"to {wanted.to or 'all others'}{where}"


def _begin(
    connection: psycopg.Connection,
    statements: SnapshotTable,
    wanted: Wanted,
    rows: int | None,
    workers: int,
) -> Run:
    table = statements.table
    pages, known = _row(connection.execute(SQL["size"], {"relation": table.relation}))
    there = known or pages * 20
    parts = min(MOST_PARTS, max(workers if there > ROWS_A_PART // 10 else 1, there // ROWS_A_PART))
    ends: list[list[str]] = []
    if parts > 1:
        found = connection.execute(
            statements.statement("quantiles"),
            {"percent": min(100.0, 100 * SAMPLED_PAGES / max(1, pages)), "parts": parts},
        )
        ends = [key for (key,) in found]
    id_, started = _row(
        connection.execute(
            SQL["begin"],
            {
                "table_id": table.table_id,
                "table": wanted.table,
                "keys": list(table.keys),
                "to": wanted.to,
                "where": wanted.where,
                "estimate": there if rows is None else min(rows, there),
            },
        )
    )
    connection.execute(SQL["add_parts"], {"id": id_, "ends": json.dumps(ends)})
    return Run(id_, wanted.table, wanted.to, wanted.where, started)


def _row(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row

"""The least that anything has to do: the same rows by one COPY a table.

No Kafka, no trigger, so no foreign key either; and no decision, where the tables are empty at first.
Where they aren't, ``merging`` copies into a temporary table, writes what is newer by one statement and
deletes what is there no more by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from bench.appliers.plain_loop import NO_TRIGGERS
from bench.database import with_database
from bench.subjects import SOURCE
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline.settings import Settings

MERGE: Final = """
insert into {table} as t select * from incoming
on conflict (id) do update set ({columns}) = row({values})
 where t.replication_version < excluded.replication_version
"""
DELETE: Final = """
delete from {table} t where not exists (select from incoming i where i.id = t.id)
"""
COLUMNS: Final = """
select attname from pg_attribute
 where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
"""


def copied(settings: Settings) -> dict[str, list[bytes]]:
    """What the other contour's tables hold, in memory before the clock starts."""
    rows: dict[str, list[bytes]] = {}
    with psycopg.connect(
        with_database(settings.postgres.dsn.get_secret_value(), dbname=SOURCE)
    ) as source:
        for table in settings.tables:
            with source.cursor().copy(
                sql.SQL("copy {} to stdout").format(sql.Identifier(table))
            ) as copy:
                rows[table] = [bytes(part) for part in copy]
    source.close()
    return rows


def copy_into(connection: psycopg.Connection[Any], table: str, lines: list[bytes]) -> int:
    """How many rows there were."""
    cursor = connection.cursor()
    with cursor.copy(sql.SQL("copy {} from stdin").format(sql.Identifier(table))) as copy:
        for line in lines:
            copy.write(line)
    return cursor.rowcount


def merge_into(connection: psycopg.Connection[Any], table: str, lines: list[bytes]) -> int:
    """The newer one of each two rows; no row that is not in ``lines``."""
    name = sql.Identifier(table)
    connection.execute(sql.SQL("create temp table incoming (like {}) on commit drop").format(name))
    count = copy_into(connection, "incoming", lines)
    columns = [sql.Identifier(column) for (column,) in connection.execute(COLUMNS, [table])]
    connection.execute("create unique index on incoming (id)")
    connection.execute("analyze incoming")
    for statement in (MERGE, DELETE):
        connection.execute(
            sql.SQL(statement).format(
                table=name,
                columns=sql.SQL(", ").join(columns),
                values=sql.SQL(", ").join(sql.SQL("excluded.{}").format(c) for c in columns),
            )
        )
    return count


@contextmanager
def floor(settings: Settings, progress: Progress) -> Iterator[Ready]:
    with writing(settings, progress, copy_into) as ready:
        yield ready


@contextmanager
def merging(settings: Settings, progress: Progress) -> Iterator[Ready]:
    with writing(settings, progress, merge_into) as ready:
        yield ready


@contextmanager
def writing(
    settings: Settings,
    progress: Progress,
    write: Callable[[psycopg.Connection[Any], str, list[bytes]], int],
) -> Iterator[Ready]:
    """All tables in one transaction."""
    rows = copied(settings)
    dsn = settings.postgres.dsn.get_secret_value()
    with psycopg.connect(dsn, options=NO_TRIGGERS) as connection:
        connection.execute("select")
        connection.rollback()

        def run() -> Worked:
            events = sum(write(connection, table, lines) for table, lines in rows.items())
            connection.commit()
            ended = now()
            progress.add(events)
            return Worked(events, ended)

        yield Ready(run)

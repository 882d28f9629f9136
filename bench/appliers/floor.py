"""The least that anything has to do: the same rows by one COPY a table.

No Kafka, no decision, no trigger, so no foreign key either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from bench.appliers.plain_loop import NO_TRIGGERS
from bench.database import with_database
from bench.subjects import SOURCE
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline.settings import Settings


@contextmanager
def floor(settings: Settings, progress: Progress) -> Iterator[Ready]:
    dsn = settings.postgres.dsn.get_secret_value()
    rows: dict[str, list[bytes]] = {}
    with psycopg.connect(with_database(dsn, dbname=SOURCE)) as source:
        for table in settings.tables:
            with source.cursor().copy(
                sql.SQL("copy {} to stdout").format(sql.Identifier(table))
            ) as copy:
                rows[table] = [bytes(part) for part in copy]
    source.close()
    with psycopg.connect(dsn, options=NO_TRIGGERS) as connection:
        connection.execute("select")
        connection.rollback()

        def run() -> Worked:
            events = 0
            for table, lines in rows.items():
                cursor = connection.cursor()
                with cursor.copy(
                    sql.SQL("copy {} from stdin").format(sql.Identifier(table))
                ) as copy:
                    for line in lines:
                        copy.write(line)
                events += cursor.rowcount
            connection.commit()
            ended = now()
            progress.add(events)
            return Worked(events, ended)

        yield Ready(run)

"""A logical replication slot, as Debezium and native replication have: no trigger, the WAL is all.

``logical-slot`` is read by nobody: the price of being able to. ``logical-slot-read`` is read by
pg_recvlogical, which throws everything away, on the same processors. Both need ``wal_level = logical``,
which costs everybody who writes, so compare them with ``plain`` of the same run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import Connection

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.embedded.process import ManagedProcess, wait_until

NAME: Final = "bench_capture"
LONGEST: Final = 30.0  # seconds that reading takes to begin, or to end
ACTIVE: Final = "select active from pg_replication_slots where slot_name = %s"
OPTIONS: Final = ("proto_version=1", f"publication_names={NAME}")


@dataclass(frozen=True, slots=True)
class LogicalSlot:
    name: str = "logical-slot"
    read: bool = False

    def missing(self, connection: Connection) -> str | None:
        ((level,),) = connection.execute("show wal_level").fetchall()
        return None if level == "logical" else f"wal_level is {level}; add --wal-level logical"

    def install(self, connection: Connection) -> None:
        connection.execute(f"create publication {NAME} for table users")

    @contextmanager
    def beside(self, server: EmbeddedPostgres, dsn: str) -> Iterator[None]:
        """A slot belongs to one database, and isn't copied with it."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [NAME])
            try:
                if self.read:
                    with _reading(server, dsn, connection):
                        yield
                else:
                    yield
            finally:
                connection.execute("select pg_drop_replication_slot(%s)", [NAME])


@contextmanager
def _reading(server: EmbeddedPostgres, dsn: str, connection: Connection) -> Iterator[None]:
    program = server.bin("pg_recvlogical")
    options = [f"--option={option}" for option in OPTIONS]
    process = ManagedProcess(
        [program, f"--dbname={dsn}", f"--slot={NAME}", "--start", f"--file={os.devnull}", *options],
        log_file=server.log_file.with_name("pg_recvlogical.log"),
        cwd=Path("/"),
    )

    def active() -> bool:
        ((found,),) = connection.execute(ACTIVE, [NAME]).fetchall()
        return bool(found)

    try:
        wait_until(active, timeout=LONGEST, what="pg_recvlogical to read", process=process)
        yield
    finally:
        process.stop()
        wait_until(lambda: not active(), timeout=LONGEST, what="the slot to be free")

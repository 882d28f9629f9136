"""PgQ's row trigger in C, ``pgq.logutriga``: the row as URL-encoded text, into rotated event tables.

Londiste stands on it. Debian and PGDG package it as ``postgresql-NN-pgq3``; no ticker has to run, for
nobody reads the queue here.
"""

from __future__ import annotations

from psycopg import Connection

SQL = """
create extension pgq;
select pgq.create_queue('bench');
create trigger capture after insert or update or delete on users
  for each row execute function pgq.logutriga('bench');
"""


class PgqLogutriga:
    name = "pgq-logutriga"

    def missing(self, connection: Connection) -> str | None:
        found = connection.execute("select from pg_available_extensions where name = 'pgq'")
        if found.rowcount:
            return None
        major = connection.info.server_version // 10_000
        return (
            f"this server has no extension pgq; install postgresql-{major}-pgq3 where there is "
            "such a package, and name that server's programs with --postgres"
        )

    def install(self, connection: Connection) -> None:
        connection.execute(SQL)

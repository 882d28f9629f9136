"""Databases: one template a contestant, and a new copy of it for every single measurement.

A copy needs no knowledge of what a contestant keeps where, and nothing of an earlier measurement is
left in it: no dead rows, no bloated index, no rotated table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import make_conninfo

from bench import users
from bench.contestants.base import Contestant
from replication_pipeline.embedded import EmbeddedPostgres

TRIAL: Final = "trial"

# All that capture has written: every table but the captured one, wherever it is.
SIZES: Final = """
select coalesce(sum(pg_table_size(c.oid)), 0)::bigint, coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.oid <> 'public.users'::regclass
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
"""


def make_template(server: EmbeddedPostgres, contestant: Contestant) -> str:
    """A database with the table ``users``, captured by ``contestant``; made once. Returns its name."""
    name = f"template_{contestant.name}"  # Bucardo can't read a blank in it
    if exists(server, name):
        return name
    with psycopg.connect(server.create_database(name), autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(users.TABLE)
        contestant.install(connection)
    return name


def exists(server: EmbeddedPostgres, name: str) -> bool:
    with psycopg.connect(server.dsn()) as connection:
        found = connection.execute("select from pg_database where datname = %s", [name])
        return bool(found.rowcount)


@contextlib.contextmanager
def copy_of(server: EmbeddedPostgres, template: str, name: str = TRIAL) -> Iterator[str]:
    """The connection string of a new copy of ``template``, dropped afterwards."""
    try:
        yield server.create_database(name, template=template)
    finally:
        _drop(server, name)


def _drop(server: EmbeddedPostgres, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        statement = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        connection.execute(statement)


def settle_down(connection: Connection) -> None:
    """The same start for everybody: statistics, hint bits, and nothing left to write."""
    connection.execute("vacuum (analyze)")
    connection.execute("checkpoint")


def sizes(connection: Connection) -> tuple[int, int]:
    """Bytes of tables and of indexes that capture keeps, TOAST included."""
    ((tables, indexes),) = connection.execute(SIZES)
    return tables, indexes


def wal_position(connection: Connection) -> int:
    ((position,),) = connection.execute(
        "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
    )
    return int(position)


def with_database(dsn: str, **parameters: str) -> str:
    """``dsn`` with more libpq parameters."""
    return make_conninfo(dsn, **parameters)

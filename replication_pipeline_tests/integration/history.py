"""What the queue says of a table, in short words, and whether it tells the truth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.settings import Settings
from replication_pipeline_tests.conftest import Contour


@contextmanager
def contour_in(postgres: EmbeddedPostgres, template: str, database: str) -> Iterator[Contour]:
    """A contour that the tests of a module share: made once, it costs each of them next to nothing."""
    dsn = postgres.create_database(database, template=template)
    settings = Settings(
        contour={"name": "a", "id": 1},
        postgres={"dsn": dsn},
        kafka={"bootstrap_servers": "unused:1"},
    )
    contour = Contour(settings, psycopg.connect(dsn, autocommit=True), dsn)
    try:
        contour.run(f"alter database {database} set search_path = public, replication")
        contour.run("set search_path = public, replication")
        yield contour
    finally:
        contour.close()


_EMPTY = """
do $$
declare
  name text;
begin
  perform replication.install_clock();
  for name in select nspname from pg_namespace
               where nspname not like 'pg\\_%' and nspname not in ('information_schema', 'replication')
  loop
    execute format('drop schema %I cascade', name);
  end loop;
  create schema public authorization pg_database_owner;
  grant usage on schema public to public;
  delete from replication.replicated_tables;
  delete from replication.replication_queue;
  delete from replication.replication_tombstones;
  for name in select p.oid::regprocedure from pg_proc p
               where pronamespace = 'replication'::regnamespace and proname ~ '^capture_\\d+$'
  loop
    execute format('drop function %s', name);
  end loop;
end $$
"""


class Shared:
    """Makes the shared contour look new: call it with the test's tables, ``empty`` it at the end."""

    def __init__(self, contour: Contour) -> None:
        self.contour = contour

    def __call__(self, ddl: str, tables: Iterable[str] = (), **options: Any) -> Contour:
        """The contour with ``ddl`` run and ``tables`` set up with ``options``."""
        if ddl:
            self.contour.run(ddl)
        for table in tables:
            setup(self.contour, table, **options)
        return self.contour

    def empty(self) -> None:
        contour = self.contour
        contour.close()
        contour._opened.clear()
        contour.app = psycopg.connect(contour.dsn, autocommit=True)
        contour.run("set client_min_messages = error; set search_path = public, replication")
        contour.run(_EMPTY)
        contour.run("reset client_min_messages")


def quoted(name: str) -> str:
    """One name as SQL reads it."""
    return sql.Identifier(name).as_string()


def setup(contour: Contour, table: str, **options: Any) -> None:
    """Set ``table`` up, with options in PostgreSQL's notation: ``full_before=True``."""
    named = "".join(f", {name} => %s" for name in options)
    contour.run(
        f"select replication.setup_table_for_replication(%s::regclass{named})",
        table,
        *options.values(),
    )


def remove(contour: Contour, table: str, *, drop_version_column: bool = False) -> None:
    contour.run(
        "select replication.remove_table_from_replication(%s::regclass, %s)",
        table,
        drop_version_column,
    )


def mark(contour: Contour) -> int:
    """Where the queue ends now, for ``events(…, after=…)``."""
    end = contour.value("select coalesce(max(id), 0) from replication.replication_queue")
    assert isinstance(end, int)
    return end


def events(contour: Contour, table: str | None = None, *, after: int = 0) -> list[str]:
    """``["INSERT 1", "UPDATE 2/x"]``: operation and key values of each event, in queue order."""
    found = contour.run(
        "select operation, record_key from replication.replication_queue "
        "where id > %s and (table_name = %s or %s::text is null) order by id",
        after,
        table,
        table,
    )
    return [
        f"{operation} {'/'.join(str(value) for value in json.loads(key).values())}"
        for operation, key in found
    ]


def payloads(contour: Contour, table: str | None = None, *, after: int = 0) -> list[Any]:
    """The payload of each event, in queue order; a DELETE has None."""
    found = contour.run(
        "select payload from replication.replication_queue "
        "where id > %s and (table_name = %s or %s::text is null) order by id",
        after,
        table,
        table,
    )
    return [payload for (payload,) in found]


def assert_queue_tells(contour: Contour, *tables: str) -> None:
    """Whoever reads the queue in its order ends with the table, and sees no version turn back.

    For tables of integers and texts, whose row has the same JSON in the queue and in PostgreSQL.
    """
    for table in tables:
        newest: dict[str, tuple[int, Any]] = {}
        for key, version, payload in contour.run(
            "select record_key, version, payload from replication.replication_queue "
            "where table_name = %s order by id",
            table,
        ):
            former, _ = newest.get(key, (0, None))
            assert version > former, f"{table} {key}: {version} comes after {former}"
            newest[key] = version, payload
        told = [(version, row) for version, row in newest.values() if row is not None]
        rows = contour.run(
            "select replication_version, to_jsonb(whole_row) - 'replication_version' "
            f"from {table} whole_row"
        )
        assert sorted(told, key=str) == sorted(rows, key=str)

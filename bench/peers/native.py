"""PostgreSQL's own logical replication between two databases of one server: the floor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final

import psycopg
from psycopg import sql

from bench.peers.base import Link
from bench.peers.databases import backends_in, harness, plain_tables
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

NAME: Final = "peer"
LONGEST: Final = 30.0  # seconds that it takes to let go
FREE: Final = "select from pg_replication_slots where slot_name = %s and not active"


class Native:
    name: ClassVar[str] = "native"
    versions: ClassVar[Mapping[str, str]] = {}
    server: ClassVar[Mapping[str, str]] = {"wal_level": "logical"}

    def missing(self, server: EmbeddedPostgres) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self) -> None:
        """It is in PostgreSQL."""

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        del broker
        with (
            plain_tables(server) as (a, b),
            harness(a) as source,
            harness(b) as target,
            slot(source, NAME),
        ):
            # Within one server it can't make its slot: it would wait for its own transaction.
            target.execute(
                sql.SQL(
                    "create subscription {name} connection {source} publication {name} "
                    "with (create_slot = false, copy_data = false, enabled = false)"
                ).format(name=sql.Identifier(NAME), source=sql.Literal(a))
            )
            try:
                yield Link(
                    a=a,
                    b=b,
                    start=partial(_alter, target, "enable"),
                    processes=partial(backends_in, a, b),
                )
            finally:
                _alter(target, "disable")
                _alter(target, "set (slot_name = none)")
                target.execute(f"drop subscription {NAME}")


def _alter(target: psycopg.Connection[Any], how: str) -> None:
    target.execute(f"alter subscription {NAME} {how}")


@contextmanager
def slot(connection: psycopg.Connection[Any], *names: str, table: str = "users") -> Iterator[None]:
    """Slots of pgoutput, each with a publication of its name; all that is written from now on."""
    for name in names:
        connection.execute(f"create publication {name} for table {table}")
        connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    try:
        yield
    finally:
        for name in names:
            _drop_slot(connection, name)


def _drop_slot(connection: psycopg.Connection[Any], name: str) -> None:
    """As soon as nobody reads from it."""
    deadline = time.monotonic() + LONGEST
    while not connection.execute(FREE, [name]).rowcount:
        if time.monotonic() > deadline:
            raise RuntimeError(f"logical replication: slot {name} not free in {LONGEST:g} s")
        time.sleep(0.05)
    connection.execute("select pg_drop_replication_slot(%s)", [name])

"""PostgreSQL's own logical replication of ``users`` between two databases of one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

NAME: Final = "bench"
LONGEST: Final = 30.0  # seconds that it takes to begin, or to let go
PROCESSES: Final = """
select pid from pg_stat_replication where application_name = %(name)s and state = 'streaming'
union all
select pid from pg_stat_subscription where subname = %(name)s and pid is not null
"""
FREE: Final = "select 1 from pg_replication_slots where slot_name = %(name)s and not active"


@contextmanager
def replicating(source: str, target: str) -> Iterator[list[int]]:
    """From now on, without what is there. Yields the processes that do it: sender and applier."""
    with (
        psycopg.connect(source, autocommit=True) as a,
        psycopg.connect(target, autocommit=True) as b,
    ):
        a.execute(f"create publication {NAME} for table users")
        # Within one server a subscription can't make its slot: it would wait for its own transaction.
        a.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [NAME])
        b.execute(
            sql.SQL(
                "create subscription {name} connection {source} publication {name} "
                "with (create_slot = false, copy_data = false)"
            ).format(name=sql.Identifier(NAME), source=sql.Literal(source))
        )
        try:
            yield [pid for (pid,) in until(b, PROCESSES, rows=2)]
        finally:
            b.execute(f"alter subscription {NAME} disable")
            b.execute(f"alter subscription {NAME} set (slot_name = none)")
            b.execute(f"drop subscription {NAME}")
            until(a, FREE, rows=1)
            a.execute("select pg_drop_replication_slot(%s)", [NAME])


def until(connection: psycopg.Connection[Any], query: str, *, rows: int) -> list[tuple[Any, ...]]:
    """The query's rows, as soon as there are so many."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        found = connection.execute(query, {"name": NAME}).fetchall()
        if len(found) >= rows:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"logical replication: not ready in {LONGEST:g} s")

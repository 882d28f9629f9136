"""Two databases of one server, and the server's processes that work in them.

Connections of the harness say so by their ``application_name`` and are nobody's work.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.contestants.plain import Plain
from bench.database import copy_of, make_template, with_database
from replication_pipeline.embedded import EmbeddedPostgres

HARNESS: Final = "bench harness"
BACKENDS: Final = """
select pid from pg_stat_activity
 where datname = any(%s) and application_name <> %s
   and backend_type not in ('autovacuum worker', 'parallel worker')
"""


@contextmanager
def plain_tables(server: EmbeddedPostgres) -> Iterator[tuple[str, str]]:
    """Connection strings of two new databases with an empty table ``users`` each."""
    template = make_template(server, Plain())
    with copies(server, template, template) as (a, b):
        yield a, b


@contextmanager
def copies(server: EmbeddedPostgres, of_a: str, of_b: str) -> Iterator[tuple[str, str]]:
    """Of two templates, by names that no peer has had: what one leaves behind is in nobody's way."""
    one = uuid.uuid4().hex[:6]
    with (
        copy_of(server, of_a, f"peer_a_{one}") as a,
        copy_of(server, of_b, f"peer_b_{one}") as b,
    ):
        yield a, b


def backends_in(*dsns: str) -> list[int]:
    """The server's processes that work in these databases now, the harness' own left out."""
    names = [conninfo_to_dict(dsn)["dbname"] for dsn in dsns]
    with harness(dsns[0]) as connection:
        return [pid for (pid,) in connection.execute(BACKENDS, [names, HARNESS])]


def of_harness(dsn: str) -> str:
    return with_database(dsn, application_name=HARNESS)


def harness(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(of_harness(dsn), autocommit=True)

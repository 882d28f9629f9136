"""A peer that is connected and warm, and halted until its start.

SIGSTOP between its transactions, SIGCONT at the start. So the seconds that a JVM needs to come up are
in no figures, and no product needs a way to be paused. Timers that ran out meanwhile fire at once, and
a little of what PostgreSQL sends by itself waits in sockets: both in the peer's favour.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from bench.peers.databases import backends_in

ATTEMPTS: Final = 200
LONGEST: Final = 180.0  # seconds of any step
PROBE: Final = -1
BUSY: Final = """
select from pg_stat_activity
 where pid = any(%s) and backend_type = 'client backend' and state <> 'idle'
"""


@contextmanager
def halted(
    pid: int, observer: psycopg.Connection[Any], a: str, b: str
) -> Iterator[Callable[[], None]]:
    """Until what is yielded is called. Raises ``RuntimeError`` if it is never idle."""

    def resume() -> None:
        os.kill(pid, signal.SIGCONT)

    try:
        for _ in range(ATTEMPTS):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)  # for what the server has been asked already
            if not observer.execute(BUSY, [backends_in(a, b)]).rowcount:
                break
            resume()
            time.sleep(0.05)
        else:
            raise RuntimeError("it is never between its transactions")
        yield resume
    finally:
        resume()


def until_through(source: psycopg.Connection[Any], target: psycopg.Connection[Any]) -> None:
    """A row has come and gone again: all is connected, and nothing is on its way."""
    source.execute(f"insert into users (id) values ({PROBE})")
    until(target, f"select from users where id = {PROBE}")
    source.execute(f"delete from users where id = {PROBE}")
    until(target, f"select where not exists (select from users where id = {PROBE})")


def until(connection: psycopg.Connection[Any], query: str) -> None:
    """Returns when the query finds something; a table that isn't there yet is nothing."""
    deadline = time.monotonic() + LONGEST
    while not _finds(connection, query):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing found in {LONGEST:g} s by {query}")
        time.sleep(0.05)


def _finds(connection: psycopg.Connection[Any], query: str) -> bool:
    try:
        return bool(connection.execute(query.encode()).rowcount)
    except psycopg.errors.UndefinedTable:
        return False

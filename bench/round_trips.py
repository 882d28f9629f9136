"""Round trips to PostgreSQL, counted in libpq's own protocol trace: one for each Sync or Query.

Tracing is slow, so never count and time together.
"""

from __future__ import annotations

import gc
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection, pq

ASKING: Final = re.compile(rb"^F\t\d+\t(?:Sync|Query)\b")


@dataclass(slots=True)
class RoundTrips:
    count: int = 0
    """Known once counting has ended."""


@contextmanager
def counted(*connections: Connection[Any]) -> Iterator[RoundTrips]:
    """Those of ``connections`` while the block runs."""
    found = RoundTrips()
    with ExitStack() as until_done:
        for connection in connections:
            until_done.enter_context(_traced(connection, found))
        yield found


@contextmanager
def _traced(connection: Connection[Any], found: RoundTrips) -> Iterator[None]:
    with tempfile.TemporaryFile() as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield
        finally:
            connection.pgconn.untrace()
            file.seek(0)
            found.count += count(file)


def count(lines: Any) -> int:
    return sum(1 for line in lines if ASKING.match(line))


def connections(application: str | None = None) -> list[Connection[Any]]:
    """This process's open connections, those of one application name, whoever holds them."""
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, Connection)
        and not found.closed
        and application in (None, found.info.parameter_status("application_name"))
    ]

"""Round trips to PostgreSQL, counted in libpq's own protocol trace: one for each Sync or Query.

Tracing is slow, so never count and time together.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection, pq

ASKING: Final = re.compile(rb"^F\t\d+\t(?:Sync|Query)\b")


@dataclass(slots=True)
class RoundTrips:
    count: int = 0
    """Known once counting has ended."""


@contextmanager
def counted(connection: Connection[Any]) -> Iterator[RoundTrips]:
    """Those of ``connection`` while the block runs."""
    found = RoundTrips()
    with tempfile.TemporaryFile() as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield found
        finally:
            connection.pgconn.untrace()
            file.seek(0)
            found.count = count(file)


def count(lines: Any) -> int:
    return sum(1 for line in lines if ASKING.match(line))

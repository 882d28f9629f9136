"""What one connection's worker has observed, kept in memory until its next heartbeat writes it.

Counters are exact, as they move in the transaction of each batch. A histogram tells how long things
take, and may lose the seconds since the last heartbeat when its process is killed; in return it costs
a batch no statement, no row and no round trip.

Nobody waits for anybody: whoever writes merges what nobody else is merging (``add_to_histograms``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from psycopg import Connection

from replication_pipeline.domain.histograms import Histogram, HistogramName
from replication_pipeline.postgres import queries

SQL: Final = queries.load("metrics")
MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(slots=True)
class Histograms:
    """By name and table. Not thread-safe, like the connection it belongs to."""

    _seen: defaultdict[tuple[HistogramName, str], Histogram] = field(
        default_factory=lambda: defaultdict(Histogram)
    )
    _written: float = field(default_factory=time.monotonic)

    def since(self, name: HistogramName, table: str, moments: Collection[int], now: int) -> None:
        """How long ago those moments were, all in µs."""
        if moments:
            self._seen[name, table].since(moments, now)

    def took(self, name: HistogramName, duration: timedelta) -> None:
        """How long a batch took."""
        self._seen[name, ""].since([0], duration // MICROSECOND)

    def overdue(self, seconds: float = 0.0) -> bool:
        """Whether there is anything to write, and nothing was written for so long."""
        return bool(self._seen) and time.monotonic() - self._written >= seconds

    def write(self, connection: Connection[Any]) -> None:
        """One statement, if there is anything to write. It is forgotten at once: whether a statement
        that failed was committed isn't always known, and nothing may be counted twice.
        """
        seen, self._seen = self._seen, defaultdict(Histogram)
        self._written = time.monotonic()
        if seen:
            connection.execute(
                SQL["add_to_histograms"],
                {
                    "metrics": [name for name, _ in seen],
                    "tables": [table for _, table in seen],
                    "counts": [_array(each.counts) for each in seen.values()],
                    "totals": [each.total for each in seen.values()],
                },
            )


def _array(numbers: Collection[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"

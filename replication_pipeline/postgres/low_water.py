"""Below which id nothing of a shard waits any more, so that a claim need not look there.

Published rows leave dead entries in the index of waiting rows. PostgreSQL clears them away, but not
while somebody holds an old snapshot; then every claim would walk over an hour's worth of them. So a
publisher remembers, shard by shard, a floor that lies below everything unpublished.

A greater id may commit before a smaller one, so the lowest waiting id that can be seen is not enough.
A floor only moves up to an id that is *settled*: every transaction that may have drawn it or a smaller
one has ended. To know that, the publisher reads the newest id and then takes a transaction number of
its own; capture takes its number before it draws ids, so all those transactions have lower ones. (The
upper end of a snapshot won't do: transactions that run already may have numbers above it.)

Floors live in memory. They are forgotten with the connection, as a failover may turn ids back, and
every half minute, which bounds the delay of a row that someone sets back to unpublished.

Not for correctness of order: a floor never passes an unpublished row, parked and fenced ones included.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

REFRESH_EVERY: Final = 1.0  # seconds
FORGET_EVERY: Final = 30.0  # seconds


@dataclass(slots=True)
class LowWater:
    """Floors of all ``shards``; every row at or below its shard's floor is published."""

    sql: Mapping[str, str]
    shards: tuple[int, ...]
    floors: dict[int, int] = field(init=False)
    _settled: int = field(default=0)
    _pending: tuple[int, int] | None = field(default=None)  # an id, a transaction begun after it
    _next_refresh: float = field(default=0.0)
    _next_forget: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.floors = dict.fromkeys(self.shards, 0)

    def parameters(self, shards: Sequence[int] | None = None) -> dict[str, list[int]]:
        """``shards``, or all, and their floors, as the queries take them."""
        chosen = list(self.shards if shards is None else shards)
        return {"shards": chosen, "floors": [self.floors[shard] for shard in chosen]}

    def refresh(self, connection: psycopg.Connection, patience: float = 0.0) -> None:
        """Move the floors up, at most once a second, if that is overdue by ``patience`` seconds. The
        connection is in no transaction: each statement is one by itself.
        """
        now = time.monotonic()
        if now < self._next_refresh + patience:
            return
        self._next_refresh = now + REFRESH_EVERY
        if now >= self._next_forget:
            self._next_forget = now + FORGET_EVERY
            self.floors = dict.fromkeys(self.shards, 0)
        self._settle(connection)
        if min(self.floors.values()) >= self._settled:
            return
        rows = connection.execute(self.sql["first_waiting"], self.parameters(), prepare=True)
        for shard, first in rows:
            floor = self._settled if first is None else min(self._settled, first - 1)
            self.floors[shard] = max(self.floors[shard], floor)

    def _settle(self, connection: psycopg.Connection) -> None:
        if self._pending is not None:
            row = connection.execute(self.sql["lowest_running"]).fetchone()
            if row is not None and row[0] > self._pending[1]:
                self._settled, self._pending = self._pending[0], None
        if self._pending is None:
            newest = connection.execute(self.sql["newest_id"]).fetchone()
            if newest is not None and newest[0] > self._settled:
                number = connection.execute(self.sql["own_number"]).fetchone()
                if number is not None:
                    self._pending = (newest[0], number[0])

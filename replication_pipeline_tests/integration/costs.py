"""What is counted of a window: its batches, and the WAL of its session."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import psycopg
import pytest

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals


@dataclass
class Batches:
    """A window's observer; nothing may disturb the window."""

    counts: list[int] = field(default_factory=list)
    collections: set[int] = field(default_factory=set)
    """How many new objects call the garbage collector."""

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.counts.append(result.count)
        self.collections.add(gc.get_threshold()[0])

    def retrying(self, error: TransientError, attempt: int, pause: object) -> None:
        pytest.fail(f"disturbed: {error}")


def wal_bytes(session: psycopg.Connection) -> int:
    """What this session has written so far."""
    session.rollback()
    session.execute("select pg_stat_force_next_flush()")
    session.commit()
    query = "select wal_bytes::bigint from pg_stat_get_backend_wal(pg_backend_pid())"
    (written,) = session.execute(query).fetchone() or (0,)
    session.commit()
    return int(written)

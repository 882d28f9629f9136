"""Forgetting deletes: tombstones go once every contour knows them, and nothing older can come.

Which ones that are is decided by ``domain.collection``, table by table, from the rounds that the
heartbeats have brought. Whatever that decision could miss (an operator who sends old events again, a
contour that nobody knew of) is caught by the floor that is left behind: an older write of a key with
neither row nor tombstone is parked, never applied.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from replication_pipeline.domain.collection import known_everywhere
from replication_pipeline.domain.heartbeat import Offsets, Round, offsets
from replication_pipeline.domain.names import topic_for
from replication_pipeline.postgres import queries
from replication_pipeline.postgres.heartbeats import read_registry
from replication_pipeline.settings import Settings

SQL: Final = queries.load("maintenance")
HEARTBEATS: Final = queries.load("heartbeat")
MARGIN: Final = 6  # beats that a round may take


@dataclass(frozen=True, slots=True)
class Collected:
    """``waiting``: old tombstones that stay, by the contour that is waited for."""

    removed: int
    waiting: dict[str, int]


def collect(connection: Connection[Any], settings: Settings) -> Collected:
    """Remove the tombstones older than ``cleanup.tombstones`` that nobody needs any more. In
    transactions of ``cleanup.batch_size`` rows; ``connection`` must be in autocommit mode.
    """
    (now,) = connection.execute(SQL["clock"]).fetchone() or (0,)
    old = now - round(settings.cleanup.tombstones.total_seconds() * 1e6)
    margin = round(settings.monitoring.heartbeat_interval.total_seconds() * 1e6) * MARGIN
    registry = read_registry(connection)
    rounds: dict[str, list[Round]] = {}
    for contour, taken_at, applied, ends in connection.execute(HEARTBEATS["rounds"]):
        rounds.setdefault(contour, []).append(Round(taken_at, offsets(applied), offsets(ends)))
    positions = _positions(connection)
    removed, waiting = 0, Counter[str]()
    for table, blocked in connection.execute(SQL["tables_with_tombstones"]).fetchall():
        known = known_everywhere(
            topic_for(table, prefix=settings.kafka.topic_prefix),
            me=settings.contour.name,
            active=registry.active(),
            rounds=rounds,
            applied=positions,
            margin=margin,
        )
        before = min(old, known.before or 0)
        if before and not blocked:
            removed += _remove(connection, table, before, settings.cleanup.batch_size)
        row = connection.execute(SQL["count_old_tombstones"], {"table": table, "before": old})
        left = (row.fetchone() or (0,))[0]
        if left:
            holders = known.waiting_for if (known.before or 0) < old else (settings.contour.name,)
            waiting.update(dict.fromkeys(holders, left))
    return Collected(removed, dict(waiting))


def _remove(connection: Connection[Any], table: str, before: int, limit: int) -> int:
    removed = 0
    while True:
        row = connection.execute(
            SQL["remove_tombstones"], {"table": table, "before": before, "limit": limit}
        ).fetchone()
        count = row[0] if row else 0
        removed += count
        if count < limit:
            return removed


def _positions(connection: Connection[Any]) -> Offsets:
    """What is read here; a partition never read counts as 0."""
    found: dict[str, list[int]] = {}
    for topic, partition, offset in connection.execute(SQL["applied_offsets"]):
        positions = found.setdefault(topic, [])
        positions += [0] * (partition + 1 - len(positions))
        positions[partition] = offset
    return found

"""Retention: removes what is finished and old, in small transactions.

The queue is a ring of partitions: old published rows go with their whole partition, by TRUNCATE; only
what can't go that way is deleted row by row.

Never removed: unpublished and parked queue rows, and parked events. Tombstones go when every contour is
known to have passed them (``tombstones.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from psycopg import Connection

from replication_pipeline.postgres import queries
from replication_pipeline.postgres.failures import translating
from replication_pipeline.postgres.tombstones import collect
from replication_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """Rows removed, by kind; ``workers`` were folded into the totals. ``tombstones_waiting``: old ones
    that stay, by the contour that is waited for.
    """

    published: int
    processed_events: int
    conflicts: int
    workers: int
    tombstones: int
    tombstones_waiting: dict[str, int]


def clean_up(connection: Connection, settings: Settings) -> CleanupResult:
    """Remove what ``settings.cleanup`` calls old. ``connection`` must be in autocommit mode."""
    sql = queries.load("maintenance")
    cleanup = settings.cleanup

    def batches(removed_by_one: Callable[[], int]) -> int:
        removed = 0
        while True:
            count = removed_by_one()
            removed += count
            if count < cleanup.batch_size:
                return removed

    def remove(name: str, age: timedelta) -> int:
        parameters = {"age": age, "limit": cleanup.batch_size}
        return batches(lambda: connection.execute(sql[name], parameters).rowcount)

    def call(name: str) -> int:
        """A function of the database, which returns how many published rows it has removed."""
        parameters = {"age": cleanup.published, "limit": cleanup.batch_size}
        row = connection.execute(sql[name], parameters).fetchone()
        return int(row[0]) if row else 0

    with translating(f"contour {settings.contour.name}: cleaning up"):
        published = call("rotate_queue") + batches(lambda: call("remove_published"))
        processed = remove("remove_processed", cleanup.processed_events)
        conflicts = remove("remove_conflicts", cleanup.conflicts)
        row = connection.execute(sql["fold_workers"], {}).fetchone()
        tombstones = collect(connection, settings)
    return CleanupResult(
        published,
        processed,
        conflicts,
        row[0] if row else 0,
        tombstones.removed,
        tombstones.waiting,
    )

"""What the backends of a publisher's further lanes do; they are gone when a measurement ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest import mock

from bench.children import cpu_seconds
from bench.round_trips import counted
from replication_pipeline import runtime
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.settings import Settings


@dataclass(slots=True)
class FurtherLanes:
    """Of all that were closed so far."""

    cpu: float = 0.0
    """Seconds of their backends."""
    round_trips: int = 0


@contextmanager
def further_lanes(*, count: bool) -> Iterator[FurtherLanes]:
    """Watches those that are opened within the block. ``count``: round trips too, which takes time."""
    found, open_outbox = FurtherLanes(), runtime.open_outbox

    @contextmanager
    def watched(settings: Settings, instance: str, lane: int = 0) -> Iterator[PostgresOutbox]:
        with open_outbox(settings, instance, lane) as outbox:
            connection = outbox._connection()
            with counted(connection) if count else nullcontext() as trips:
                yield outbox
            found.cpu += cpu_seconds(connection.info.backend_pid)
            found.round_trips += trips.count if trips else 0

    with mock.patch.object(runtime, "open_outbox", watched):
        yield found

"""What the backends of further lanes of a publisher or applier do; they are gone when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from psycopg import Connection

from bench.children import cpu_seconds
from bench.round_trips import counted
from replication_pipeline import runtime
from replication_pipeline.postgres.inbox import PostgresInbox
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
    found, open_outbox, open_inbox = FurtherLanes(), runtime.open_outbox, runtime.open_inbox

    @contextmanager
    def watched(connection: Connection[Any]) -> Iterator[None]:
        with counted(connection) if count else nullcontext() as trips:
            yield
        found.cpu += cpu_seconds(connection.info.backend_pid)
        found.round_trips += trips.count if trips else 0

    @contextmanager
    def outbox_of(settings: Settings, instance: str, lane: int = 0) -> Iterator[PostgresOutbox]:
        with open_outbox(settings, instance, lane) as outbox, watched(outbox._connection()):
            yield outbox

    @contextmanager
    def inbox_of(settings: Settings, instance: str) -> Iterator[PostgresInbox]:
        with open_inbox(settings, instance) as inbox:
            inbox.offsets(())  # connects
            with watched(inbox._session.connection()[0]):
                yield inbox

    with (
        mock.patch.object(runtime, "open_outbox", outbox_of),
        mock.patch.object(runtime, "open_inbox", inbox_of),
    ):
        yield found

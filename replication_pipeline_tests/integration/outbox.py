"""A publisher without Kafka: what it claims and marks, one batch after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replication_pipeline.domain.model import (
    BatchResult,
    Claim,
    ClaimedEvent,
    Deliveries,
    DeliveryFailure,
)
from replication_pipeline.engine.publish import in_key_order
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.settings import Settings


@contextmanager
def publisher(
    settings: Settings, instance: str = "publisher", lane: int = 0
) -> Iterator[PostgresOutbox]:
    outbox = PostgresOutbox(settings, instance, lane)
    try:
        yield outbox
    finally:
        outbox.close()


def due(outbox: PostgresOutbox) -> None:
    """The next claim looks at the floors again, without waiting for its second to pass."""
    outbox._low_water._next_refresh = 0.0


def settle(outbox: PostgresOutbox, claim: Claim, *refused: int) -> None:
    """Kafka has all of ``claim`` but the ids in ``refused``; the turn ends."""
    deliveries = Deliveries(
        tuple(DeliveryFailure(e, "TEST", "no") for e in claim.events if e.id in refused)
    )
    batch = in_key_order(claim.events, deliveries, set())
    outbox.settle(batch.published, batch.refused, [*claim.fenced, *batch.behind])
    outbox.commit([BatchResult(role="publisher", count=len(claim.events))])


def events(outbox: PostgresOutbox, limit: int = 10_000) -> Iterator[ClaimedEvent]:
    """Publish all that can be claimed, in the order of claims."""
    while claim := outbox.claim(limit):
        settle(outbox, claim)
        yield from claim.events
        due(outbox)


def drain(outbox: PostgresOutbox, limit: int = 1000) -> list[tuple[int, str]]:
    """Publish all that can be claimed: ``(id, key)``."""
    return [(event.id, event.key.decode()) for event in events(outbox, limit)]

"""A publisher without Kafka: what it claims and marks, one batch after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replication_pipeline.domain.model import BatchResult, Claim, Deliveries, DeliveryFailure
from replication_pipeline.engine.publish import in_key_order
from replication_pipeline.postgres.outbox import PostgresOutbox
from replication_pipeline.settings import Settings


@contextmanager
def publisher(settings: Settings, instance: str = "publisher") -> Iterator[PostgresOutbox]:
    outbox = PostgresOutbox(settings, instance)
    try:
        yield outbox
    finally:
        outbox.close()


def due(outbox: PostgresOutbox) -> None:
    """The next claim looks at the floors again, without waiting for its second to pass."""
    outbox._low_water._next_refresh = 0.0


def settle(outbox: PostgresOutbox, claim: Claim, *refused: int) -> None:
    """Kafka has all of ``claim`` but the ids in ``refused``."""
    deliveries = Deliveries(
        acknowledged=frozenset(event.id for event in claim.events) - set(refused),
        refused=tuple(DeliveryFailure(event_id=id_, code="TEST", message="no") for id_ in refused),
    )
    outbox.settle(
        [event.id for event in in_key_order(claim.events, deliveries)],
        deliveries.refused,
        BatchResult(role="publisher", count=len(claim.events)),
    )


def drain(outbox: PostgresOutbox, limit: int = 1000) -> list[tuple[int, str]]:
    """Publish all that can be claimed: ``(id, key)`` in the order of claims."""
    found: list[tuple[int, str]] = []
    while claim := outbox.claim(limit):
        settle(outbox, claim)
        found += [(event.id, event.key.decode()) for event in claim.events]
        due(outbox)
    return found

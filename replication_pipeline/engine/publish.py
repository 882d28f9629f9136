"""One publish cycle: claim → produce → commit.

Invariants:
* a row is marked only after its own delivery report said that Kafka has it;
* within a key, no row is marked while an earlier one was refused, so that the *last* occurrences of
  a key's events in Kafka stand in the order of the queue;
* any other failure rolls the whole claim back; the same rows are claimed again.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta

from replication_pipeline.domain.model import BatchResult, Claim, ClaimedEvent, Deliveries
from replication_pipeline.engine.ports import EventProducer, Outbox
from replication_pipeline.engine.stopping import StopToken


@dataclass(slots=True)
class PublishCycle:
    """Claims up to ``batch_size`` rows a call."""

    outbox: Outbox
    producer: EventProducer
    batch_size: int
    stop: StopToken

    def __call__(self) -> BatchResult:
        """Run one cycle; an empty result means that the queue had nothing to claim."""
        started = time.perf_counter()
        claim = self.outbox.claim(self.batch_size)
        if claim is None:
            return BatchResult(role="publisher")
        try:
            deliveries = self.producer.deliver(claim.events, self.stop)
            published = in_key_order(claim.events, deliveries)
            result = _result(claim, published, deliveries, started)
            parked = self.outbox.settle(
                [event.id for event in published], deliveries.refused, result
            )
        except BaseException:
            self.outbox.abandon()
            raise
        return replace(result, parked=parked, duration=_since(started))

    def abandon(self) -> None:
        """Drop whatever an interrupted cycle left open."""
        self.outbox.abandon()


def in_key_order(events: tuple[ClaimedEvent, ...], deliveries: Deliveries) -> list[ClaimedEvent]:
    """The acknowledged events that may be marked: none behind a refused one of the same key."""
    fenced: set[tuple[str, bytes]] = set()
    markable = []
    for event in events:
        key = (event.table, event.key)
        if event.id not in deliveries.acknowledged:
            fenced.add(key)
        elif key not in fenced:
            markable.append(event)
    return markable


def _result(
    claim: Claim, published: list[ClaimedEvent], deliveries: Deliveries, started: float
) -> BatchResult:
    return BatchResult(
        role="publisher",
        count=len(claim.events),
        processed=len(published),
        failed=len(deliveries.refused),
        bytes=sum(len(event.value) for event in published),
        duration=_since(started),
        lag=claim.oldest_age,
        per_table=Counter(event.table for event in published),
    )


def _since(started: float) -> timedelta:
    return timedelta(seconds=time.perf_counter() - started)

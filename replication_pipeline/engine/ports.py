"""What the cycles need from the world, as protocols. The adapters fulfil them on real servers.

Every method may raise ``TransientError`` (the cycle is abandoned and tried again, on fresh
connections where needed) or ``FatalError`` (the window ends with it).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from replication_pipeline.domain.model import (
    BatchResult,
    Claim,
    ClaimedEvent,
    Consumed,
    Deliveries,
    DeliveryFailure,
)
from replication_pipeline.engine.stopping import StopToken


class Outbox(Protocol):
    """The contour's queue. ``claim`` opens a transaction that ``settle`` or ``abandon`` ends."""

    def claim(self, limit: int) -> Claim | None:
        """Lock some shards and up to ``limit`` of their oldest rows; ``None``: nothing to do."""

    def settle(
        self, published: Sequence[int], refused: Sequence[DeliveryFailure], result: BatchResult
    ) -> int:
        """Mark, count and commit. Returns how many refused events are parked by this."""

    def abandon(self) -> None:
        """Roll back; every claimed row is as it was. Never raises."""

    def close(self) -> None:
        """Give back the connection."""


class EventProducer(Protocol):
    """Kafka's producing side."""

    def deliver(self, events: Sequence[ClaimedEvent], stop: StopToken) -> Deliveries:
        """Produce all, wait for every delivery report. ``TransientError`` when any stays open.

        Once ``stop`` is set the wait is cut to seconds: the batch is given up rather than the stop.
        """

    def close(self) -> None:
        """Drop what is still queued and close; nothing unacknowledged was ever marked."""


class Inbox(Protocol):
    """The contour's tables and the offsets that belong to them."""

    def apply(self, batch: Consumed) -> BatchResult:
        """One transaction: offsets compared and set first, then the rows, then commit.

        ``OffsetConflictError``: another consumer was faster. ``PoisonError``: some event of the
        batch can't be applied; nothing was, and the caller narrows it down.
        """

    def park(self, batch: Consumed, error: PoisonErrorLike) -> BatchResult:
        """Keep the batch's only message as a parked event and advance its offset."""

    @property
    def anything_parked(self) -> bool:
        """Whether, as far as this worker knows, any event is parked."""

    def retry_parked(self, limit: int, *, eagerly: bool) -> BatchResult:
        """Try parked events again whose reason may have gone. ``eagerly``: other rows have come or
        gone meanwhile, so those that wait for rows are tried however recent their last try was.
        """

    def close(self) -> None:
        """Give back the connection."""


class PoisonErrorLike(Protocol):
    """The part of ``PoisonError`` that is stored."""

    message: str
    reason: str


class EventConsumer(Protocol):
    """Kafka's consuming side; positions come from the inbox's offsets."""

    def poll(self, limit: int, timeout: timedelta) -> Consumed | None:
        """Up to ``limit`` messages, as soon as there are any; ``None`` after ``timeout``."""

    def caught_up(self) -> bool:
        """True when every assigned partition is read to the end that the broker last told."""

    def rewind(self) -> None:
        """Read again from the offsets that the inbox has stored."""

    def close(self) -> None:
        """Leave the group."""

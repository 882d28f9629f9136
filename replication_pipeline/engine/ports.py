"""What the cycles need from the world, as protocols. The adapters fulfil them on real servers.

Every method may raise ``TransientError`` (the cycle is abandoned and tried again, on fresh
connections where needed) or ``FatalError`` (the window ends with it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol

from replication_pipeline.domain.errors import ParkedFullError
from replication_pipeline.domain.model import (
    WHOLE,
    BatchResult,
    Claim,
    ClaimedEvent,
    Consumed,
    Deliveries,
    DeliveryFailure,
    Part,
)
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.engine.under_way import UnderWay, at_once


class Outbox(Protocol):
    """The contour's queue. The first ``claim`` opens a turn, a transaction that ``commit`` or
    ``abandon`` ends. One call at a time, from whichever thread.
    """

    def claim(self, limit: int, part: Part = WHOLE) -> Claim | None:
        """Lock up to ``limit`` of the oldest rows: of some shards, no more than a lane with this
        ``part`` may have; within a turn the next ones of the same shards. ``None``: there are none; a
        turn that was open stays so.
        """

    def request(self, limit: int) -> Callable[[], Claim | None]:
        """Within a turn, ``claim`` in two steps: the database's part now; calling the result takes the
        rows, and that may overlap with the next call.
        """

    def settle(
        self,
        published: Sequence[ClaimedEvent],
        refused: Sequence[DeliveryFailure] = (),
        fenced: Sequence[ClaimedEvent] = (),
    ) -> int:
        """Mark and hold. Returns how many refused events are parked by this."""

    def commit(self, results: Sequence[BatchResult]) -> None:
        """Count ``results`` and end the turn; rows that were claimed and not settled are free."""

    def anything_held(self) -> bool:
        """Whether a refused event waits for its next attempt, or any in a shard that the last claim
        did not get. Not within a turn.
        """

    def to_overtake(self) -> Sequence[ClaimedEvent]:
        """Events that Kafka has, but perhaps before what a broken turn had sent: to be sent again.
        Until ``overtaken`` nobody publishes their keys.
        """

    def overtaken(self) -> None:
        """They are acknowledged."""

    def abandon(self, *, sent: bool = False) -> None:
        """Roll back; every claimed row is as it was. Never raises. ``sent``: some of the claimed events
        may be in Kafka by now, though none is on its way any more.
        """

    def close(self) -> None:
        """Give back the connection."""


class Flight(Protocol):
    """A batch on its way to Kafka."""

    def wait(self, stop: StopToken) -> Deliveries:
        """Wait for every delivery report. ``TransientError`` when any stays open, or tells of an
        outage: then nothing of the batch counts.

        Once ``stop`` is set the wait is cut to seconds: the batch is given up rather than the stop.
        """


class EventProducer(Protocol):
    """Kafka's producing side; one batch in flight at a time."""

    def send(self, events: Sequence[ClaimedEvent], stop: StopToken) -> Flight:
        """Hand all over, in order, without waiting for acknowledgements."""

    def close(self) -> None:
        """Drop what is still queued and close; nothing unacknowledged was ever marked."""


class Inbox(Protocol):
    """The contour's tables and the offsets that belong to them."""

    under_way: UnderWay
    """The applier's batches, whichever inbox has them. Positions are told when all are over."""

    def apply(self, batch: Consumed, turn: Callable[[], None] = at_once) -> BatchResult:
        """One transaction: once ``turn`` returns offsets compared and set, then the rows, then commit.
        Before that events may be read, where nobody sees it.

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
        """Whether the contour has applied all that Kafka has for it, whoever of the group did."""

    def hold(self, error: ParkedFullError) -> None:
        """Leave the error's topics alone for a while; then try them again."""

    def rewind(self) -> None:
        """Read again from the offsets that the inbox has stored."""

    def close(self) -> None:
        """Leave the group."""

"""The publish cycle: a turn of claim → produce → settle, batch after batch, then one commit.

While Kafka has still to acknowledge a batch, the next one is claimed and encoded, by a thread that
lends its wait to the database; while that batch is taken over and handed to Kafka, the database marks
the one before. Without a backlog one thread claims what has come meanwhile before it waits. A turn
lasts as long as there is more to claim, but no longer than ``TURN``: it holds locks and a snapshot.
Batches grow while they come back full.

Invariants:
* a row is marked only after its own delivery report said that Kafka has it;
* within a key, no row is marked while an earlier one was refused, so that the *last* occurrences of
  a key's events in Kafka stand in the order of the queue;
* what a broken turn had sent has landed before its keys are claimed here again, and whatever others
  have published of them meanwhile is sent behind it;
* after any other failure only batches that were acknowledged whole are committed; all other rows are
  as they were, and claimed again.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import (
    WHOLE,
    BatchResult,
    Claim,
    ClaimedEvent,
    Deliveries,
    DeliveryFailure,
    Part,
)
from replication_pipeline.engine.failpoints import failpoint
from replication_pipeline.engine.ports import EventProducer, Flight, Outbox
from replication_pipeline.engine.stopping import StopToken

TURN: Final = 0.25  # seconds after which no more is claimed before a commit


@dataclass(slots=True)
class PublishCycle:
    """Claims up to ``batch_size`` rows at first, and up to ``max_batch_size`` on backlog."""

    outbox: Outbox
    producer: EventProducer
    batch_size: int
    max_batch_size: int
    stop: StopToken
    batch_a_turn: bool = False
    backlog: bool = field(default=False)
    """Whether the last turn's time was over before its work was."""
    _limit: int = field(init=False)
    _database: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._limit = self.batch_size
        self._database = ThreadPoolExecutor(1, thread_name_prefix="outbox")

    def __call__(self, part: Part = WHOLE) -> Sequence[BatchResult]:
        """Run one turn. No results: the queue had nothing to claim."""
        started = time.perf_counter()
        self.backlog = False
        turn: _Turn | None = None
        try:
            if late := self.outbox.to_overtake():
                self.producer.send(late, self.stop).wait(self.stop)
                self.outbox.overtaken()
            claim = self.outbox.claim(self._limit, part)
            if claim is None:
                self._limit = self.batch_size
                return ()
            turn = _Turn(self, started)
            return turn.run(claim)
        except TransientError:
            self.abandon(sent=turn is not None and turn.land())
            raise
        except BaseException:
            self.abandon()
            raise

    def caught_up(self) -> bool:
        """Whether no event is left, be it refused or in another publisher's hands."""
        return not self.outbox.anything_held()

    def abandon(self, *, sent: bool = False) -> None:
        """Drop whatever an interrupted turn left open. ``sent``: some of it was handed to Kafka."""
        self._limit = self.batch_size
        self._database.submit(self.outbox.abandon, sent=sent).result()

    def close(self) -> None:
        """End the thread."""
        self._database.shutdown()

    def resize(self, claim: Claim) -> int:
        """How much to claim after ``claim``."""
        largest = max(self.batch_size, self.max_batch_size)
        self._limit = min(self._limit * 2, largest) if claim.full else self.batch_size
        return self._limit


@dataclass(slots=True)
class _Turn:
    cycle: PublishCycle
    started: float
    results: list[BatchResult] = field(default_factory=list)
    held: set[tuple[str, bytes]] = field(default_factory=set)  # keys with an event refused here
    flights: list[Flight] = field(default_factory=list)  # not waited for yet
    sent: bool = False

    def run(self, first: Claim) -> Sequence[BatchResult]:
        """On backlog by two threads, else by one: it claims what has come while Kafka acknowledges, and
        then there is little to overlap.
        """
        database = self.cycle._database
        began, claim, flight = self.started, first, self._send(first)
        settling: Future[BatchResult] | None = None
        while True:
            limit, goes_on = self.cycle.resize(claim), self._has_time() and not self.cycle.stop
            if not claim.full:
                self._collect(settling)
                settling = None
            asking: Future[_Asked] | None = None
            asked: _Asked | None = None
            if goes_on and claim.full:
                asking = database.submit(self._request, limit)
            elif goes_on:
                asked = self._request(limit)
            try:
                deliveries = self._wait(flight)
            except TransientError as error:
                error.events = len(claim.events)
                if asking is not None:
                    asking.result()
                self._collect(settling)
                if not self.results:
                    raise
                break
            self._collect(settling)
            settling = None
            if asking is not None:
                settling = database.submit(self._settle, claim, deliveries, began)
                asked = asking.result()
            following = asked.take() if asked else None
            if following is not None:
                flight = self._send(following)
            if asking is None:
                self.results.append(self._settle(claim, deliveries, began))
            if asked is None or following is None:
                self._collect(settling)
                self.cycle.backlog = asked is None and claim.full
                break
            began, claim = asked.at, following
        self.cycle.outbox.commit(self.results)
        return self.results

    def _has_time(self) -> bool:
        return not self.cycle.batch_a_turn and time.perf_counter() - self.started < TURN

    def _request(self, limit: int) -> _Asked:
        return _Asked(time.perf_counter(), self.cycle.outbox.request(limit))

    def _send(self, claim: Claim) -> Flight:
        if time.monotonic() > claim.send_by:
            raise TransientError("this process stood still for so long that its claim may be lost")
        self.sent = True
        flight = self.cycle.producer.send(claim.events, self.cycle.stop)
        self.flights.append(flight)
        failpoint("sent")
        return flight

    def _wait(self, flight: Flight) -> Deliveries:
        self.flights = [other for other in self.flights if other is not flight]
        deliveries = flight.wait(self.cycle.stop)
        failpoint("acknowledged")
        return deliveries

    def land(self) -> bool:
        """The turn is broken, and its locks may be with others already: what it has sent is in Kafka
        after this, or won't come there. Whether it has sent any.
        """
        for flight in self.flights:
            with contextlib.suppress(TransientError):
                flight.wait(self.cycle.stop)
        return self.sent

    def _settle(self, claim: Claim, deliveries: Deliveries, began: float) -> BatchResult:
        sorted_ = in_key_order(claim.events, deliveries, self.held)
        parked = self.cycle.outbox.settle(
            sorted_.published, sorted_.refused, [*claim.fenced, *sorted_.behind]
        )
        return BatchResult(
            role="publisher",
            count=len(claim.events),
            processed=len(sorted_.published),
            failed=len(sorted_.refused),
            parked=parked,
            bytes=sum(len(event.value) for event in sorted_.published),
            duration=timedelta(seconds=time.perf_counter() - began),
            lag=claim.oldest_age,
            per_table=Counter(event.table for event in sorted_.published),
            errors=Counter(failure.code for failure in sorted_.refused),
        )

    def _collect(self, settling: Future[BatchResult] | None) -> None:
        if settling is not None:
            self.results.append(settling.result())


@dataclass(frozen=True, slots=True)
class _Asked:
    """A claim that the database has made, when it was asked for."""

    at: float
    take: Callable[[], Claim | None]


@dataclass(frozen=True, slots=True)
class Sorted:
    """A batch after delivery: what may be marked, the first refused event of each key, and what has
    to wait behind one, whether Kafka has it or not.
    """

    published: Sequence[ClaimedEvent]
    refused: Sequence[DeliveryFailure] = ()
    behind: Sequence[ClaimedEvent] = ()


def in_key_order(
    events: Sequence[ClaimedEvent], deliveries: Deliveries, held: set[tuple[str, bytes]]
) -> Sorted:
    """Nothing behind a refused event of its key is marked, nor behind one of the keys in ``held``.
    Keys with a refused event are added to that.
    """
    if not deliveries.refused and not held:
        return Sorted(events)
    failures = {failure.event.id: failure for failure in deliveries.refused}
    published, refused, behind = [], [], []
    for event in events:
        key = (event.table, event.key)
        if key in held:
            behind.append(event)
        elif failure := failures.get(event.id):
            refused.append(failure)
            held.add(key)
        else:
            published.append(event)
    return Sorted(published, refused, behind)

"""One apply cycle: consume → apply → commit. Batches grow while they come back full.

Offsets live in the contour's own database and move in the transaction that writes the rows, so a
batch is applied entirely or not at all, however the process dies. A batch that the database refuses
for its content is halved until the event at fault stands alone; that one is parked, in the same
transaction as its offset, and the rest goes on. After any other failure the next batch has half as many
events, so what takes longer than the database's timeouts gets through in parts.

A batch takes its reader as long as the database: events are decoded here and applied there. So on
backlog the next batch is read while the last one is applied, over a second connection, and has its
turn as soon as that is committed. What is parked is looked after only while nothing is under way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

from replication_pipeline.domain.errors import ParkedFullError, PoisonError, TransientError
from replication_pipeline.domain.model import (
    BatchResult,
    Consumed,
    Message,
    PartitionAdvance,
)
from replication_pipeline.engine.failpoints import failpoint
from replication_pipeline.engine.ports import EventConsumer, Inbox
from replication_pipeline.engine.under_way import Running, at_once

EMPTY = BatchResult(role="applier")


@dataclass(slots=True)
class ApplyCycle:
    """Polls up to ``batch_size`` events a call, up to ``max_batch_size`` on backlog and fewer after
    failures, and looks after parked ones now and then.
    """

    consumer: EventConsumer
    inbox: Inbox
    batch_size: int
    max_batch_size: int
    poll_timeout: timedelta
    retry_parked_every: timedelta
    beside: Inbox | None = None
    """A second connection, for the next batch on backlog."""
    _parked_due: float = field(default=0.0)
    _progress: bool = field(default=True)
    _limit: int = field(init=False)
    _retried: int = field(init=False)  # parked events at once
    _threads: ThreadPoolExecutor = field(init=False)  # which start when they are first needed

    def __post_init__(self) -> None:
        self._limit = self._retried = self.batch_size
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="apply")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def __call__(self) -> Sequence[BatchResult]:
        """Run one cycle; no result means that nothing arrived in ``poll_timeout``."""
        under_way = self.inbox.under_way
        batch = self._poll()
        while batch is not None and self._go_ahead(batch):
            if len(under_way) > 1:
                return (self._finish(),)
            batch = self._poll()
        ahead = self._finish() if under_way else EMPTY
        result = EMPTY if batch is None else self._apply_now(batch)
        parked = self._retry_parked(eagerly=bool(ahead.applied or result.applied) or self._progress)
        return [one for one in (ahead, merge(result, parked)) if one.count]

    def abandon(self) -> None:
        """What is under way goes on, and is told by the next cycle."""

    def finish(self) -> Sequence[BatchResult]:
        """What is still under way when no further cycle comes. What fails is left in Kafka."""
        results = []
        with suppress(TransientError):
            while self.inbox.under_way:
                results.append(self._finish())
        return results

    def _poll(self) -> Consumed | None:
        # While parked events still come free there is work in hand: only look what has arrived.
        busy = self._progress or self.inbox.under_way
        batch = self.consumer.poll(self._limit, timedelta() if busy else self.poll_timeout)
        if batch is not None:
            full = len(batch.messages) >= self._limit
            largest = max(self.batch_size, self.max_batch_size)
            self._limit = min(self._limit * 2, largest) if full else self.batch_size
        return batch

    def _go_ahead(self, batch: Consumed) -> bool:
        """Begin a large batch while another one may be under way, unless parked events are due."""
        if self.beside is None or len(batch.messages) <= self.batch_size or self._parked_are_due():
            return False
        ahead = self.inbox.under_way.newest
        inbox = self.beside if ahead and ahead.inbox is self.inbox else self.inbox
        turn = ahead.turn_behind if ahead else at_once
        self.inbox.under_way.add(
            Running(batch, inbox, self._threads.submit(self._apply, batch, inbox, turn))
        )
        return True

    def _finish(self) -> BatchResult:
        running = self.inbox.under_way.take_oldest()
        with self._giving_back(running.batch):
            result = running.future.result()
        if result.parked:
            self._parked_due = 0.0  # the inbox knows only of its own
        return result

    def _apply_now(self, batch: Consumed) -> BatchResult:
        with self._giving_back(batch):
            return self._apply(batch, self.inbox)

    @contextmanager
    def _giving_back(self, batch: Consumed) -> Iterator[None]:
        """Whatever was read and not committed has to be read again."""
        try:
            yield
        except Exception as error:
            self.inbox.under_way.give_up()
            if isinstance(error, TransientError):
                error.events = len(batch.messages)
            if isinstance(error, ParkedFullError):
                self.consumer.hold(error)
            self.consumer.rewind()
            self._limit = max(1, len(batch.messages) // 2)
            raise

    def _apply(
        self, batch: Consumed, inbox: Inbox, turn: Callable[[], None] = at_once
    ) -> BatchResult:
        try:
            failpoint("polled")
            return inbox.apply(batch, turn)
        except PoisonError as error:
            turn()
            if len(batch.messages) == 1:
                return inbox.park(batch, error)
            first, second = halves(batch)
            return merge(self._apply(first, inbox), self._apply(second, inbox))

    def _parked_are_due(self) -> bool:
        return self.inbox.anything_parked or time.monotonic() >= self._parked_due

    def _retry_parked(self, *, eagerly: bool) -> BatchResult:
        """After progress the events that wait for other rows, else all of them now and then."""
        due = time.monotonic() >= self._parked_due
        if not due and not (eagerly and self.inbox.anything_parked):
            return EMPTY
        if due:
            self._parked_due = time.monotonic() + self.retry_parked_every.total_seconds()
        result = self.inbox.retry_parked(self._retried, eagerly=eagerly)
        self._progress = bool(result.applied)
        # Most come free where parents are read after their children: then more are tried at once.
        free = 2 * result.count >= self._retried
        largest = max(self.batch_size, self.max_batch_size)
        self._retried = min(self._retried * 2, largest) if free else self.batch_size
        return result


def halves(batch: Consumed) -> tuple[Consumed, Consumed]:
    """Two batches that do the same one after the other: offsets meet in the middle."""
    middle = len(batch.messages) // 2
    return (
        _part(batch, batch.messages[:middle], last=False),
        _part(batch, batch.messages[middle:], last=True),
    )


def _part(batch: Consumed, messages: tuple[Message, ...], *, last: bool) -> Consumed:
    advances = []
    for advance in batch.advances:
        mine = [m.offset for m in messages if _belongs(m, advance)]
        everything = [m.offset for m in batch.messages if _belongs(m, advance)]
        if last:
            # The second part ends where the whole batch does, which may lie beyond its last
            # message (a log has gaps), and begins where the first part ended.
            seen = [offset for offset in everything if offset not in mine]
            expected = max(seen) + 1 if seen else advance.expected
            advances.append(replace(advance, expected=expected))
        elif mine:
            advances.append(replace(advance, next_offset=max(mine) + 1))
    return Consumed(messages=messages, advances=tuple(advances))


def _belongs(message: Message, advance: PartitionAdvance) -> bool:
    return (message.topic, message.partition) == (advance.topic, advance.partition)


def merge(first: BatchResult, second: BatchResult) -> BatchResult:
    """The sum of two results of one cycle."""
    per_table = Counter(first.per_table)
    per_table.update(second.per_table)
    errors = Counter(first.errors)
    errors.update(second.errors)
    return BatchResult(
        role=first.role,
        count=first.count + second.count,
        processed=first.processed + second.processed,
        failed=first.failed + second.failed,
        parked=first.parked + second.parked,
        applied=first.applied + second.applied,
        skipped=first.skipped + second.skipped,
        own=first.own + second.own,
        duplicates=first.duplicates + second.duplicates,
        conflicts=first.conflicts + second.conflicts,
        bytes=first.bytes + second.bytes,
        duration=first.duration + second.duration,
        lag=max(first.lag, second.lag),
        per_table=per_table,
        errors=errors,
    )

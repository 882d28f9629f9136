"""One apply cycle: consume → apply → commit. Batches grow while they come back full.

Offsets live in the contour's own database and move in the transaction that writes the rows, so a
batch is applied entirely or not at all, however the process dies. A batch that the database refuses
for its content is halved until the event at fault stands alone; that one is parked, in the same
transaction as its offset, and the rest goes on. After any other failure the next batch has half as many
events, so what takes longer than the database's timeouts gets through in parts.

One connection is one backend, and that is what bounds an applier. So on backlog a batch of one table
is applied in two parts at once, each with other partitions and in a transaction of its own, as two
appliers would. Not so a batch of several tables: children would miss the parents that come with them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
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
    """A second connection, for the other part of a batch."""
    _parked_due: float = field(default=0.0)
    _progress: bool = field(default=True)
    _limit: int = field(init=False)
    _thread: ThreadPoolExecutor = field(init=False)  # starts when it is first needed

    def __post_init__(self) -> None:
        self._limit = self.batch_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="apply-beside")

    def close(self) -> None:
        """End the thread, which has nothing in hand between cycles."""
        self._thread.shutdown()

    def __call__(self) -> Sequence[BatchResult]:
        """Run one cycle; no result means that nothing arrived in ``poll_timeout``."""
        # While parked events still come free there is work in hand: only look what has arrived.
        batch = self.consumer.poll(
            self._limit, timedelta() if self._progress else self.poll_timeout
        )
        if batch is not None:
            full = len(batch.messages) >= self._limit
            largest = max(self.batch_size, self.max_batch_size)
            self._limit = min(self._limit * 2, largest) if full else self.batch_size
        result = EMPTY if batch is None else self._timed(batch)
        parked = self._retry_parked(eagerly=bool(result.applied) or self._progress)
        whole = merge(result, parked)
        return (whole,) if whole.count else ()

    def abandon(self) -> None:
        """Nothing stays open between cycles."""

    def _timed(self, batch: Consumed) -> BatchResult:
        started = time.perf_counter()
        failpoint("polled")
        try:
            result = self._in_parts(batch)
        except BaseException as error:
            if isinstance(error, TransientError):
                error.events = len(batch.messages)
            if isinstance(error, ParkedFullError):
                self.consumer.hold(error)
            # Whatever was read and not committed has to be read again.
            self.consumer.rewind()
            self._limit = max(1, len(batch.messages) // 2)
            raise
        return replace(result, duration=timedelta(seconds=time.perf_counter() - started))

    def _in_parts(self, batch: Consumed) -> BatchResult:
        parts = (
            by_partition(batch) if self.beside and len(batch.messages) > self.batch_size else None
        )
        if self.beside is None or parts is None:
            return self._apply(batch, self.inbox)
        other = self._thread.submit(self._apply, parts[1], self.beside)
        try:
            own = self._apply(parts[0], self.inbox)
        finally:
            wait([other])  # whatever happens here: nothing may be read again while it is under way
        result = merge(own, other.result())
        if result.parked:
            self._parked_due = 0.0  # the inbox knows only of its own part's
        return result

    def _apply(self, batch: Consumed, inbox: Inbox) -> BatchResult:
        try:
            return inbox.apply(batch)
        except PoisonError as error:
            if len(batch.messages) == 1:
                return inbox.park(batch, error)
            first, second = halves(batch)
            return merge(self._apply(first, inbox), self._apply(second, inbox))

    def _retry_parked(self, *, eagerly: bool) -> BatchResult:
        """After progress the events that wait for other rows, else all of them now and then."""
        due = time.monotonic() >= self._parked_due
        if not due and not (eagerly and self.inbox.anything_parked):
            return EMPTY
        if due:
            self._parked_due = time.monotonic() + self.retry_parked_every.total_seconds()
        result = self.inbox.retry_parked(self.batch_size, eagerly=eagerly)
        self._progress = bool(result.applied)
        return result


def by_partition(batch: Consumed) -> tuple[Consumed, Consumed] | None:
    """A batch of one topic in two, with about as many events each and no partition in common."""
    sizes = Counter((m.topic, m.partition) for m in batch.messages)
    if len(sizes) <= 1 or len({topic for topic, _ in sizes}) > 1:
        return None
    first: set[tuple[str, int]] = set()
    taken = 0
    for partition, size in sizes.most_common():
        if not first or 2 * taken + size <= len(batch.messages):
            first.add(partition)
            taken += size
    return _of(batch, first), _of(batch, sizes.keys() - first)


def _of(batch: Consumed, partitions: Set[tuple[str, int]]) -> Consumed:
    return Consumed(
        tuple([m for m in batch.messages if (m.topic, m.partition) in partitions]),
        tuple([a for a in batch.advances if (a.topic, a.partition) in partitions]),
    )


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

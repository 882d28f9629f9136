"""The values that cycles pass around. A cycle returns what it did and logs nothing.

A batch is what one cycle claims or consumes; a window is a Dagster run (or a command) that repeats
cycles until its time is over. Totals add up: ``WindowTotals.add`` is the only place that sums.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from replication_pipeline.domain.names import Topic
from replication_pipeline.domain.signatures import Seal

Role = Literal["publisher", "applier"]
WindowEnd = Literal["time", "stopped", "drained", "one_cycle"]

MILLISECOND: Final = timedelta(milliseconds=1)
SAMPLES: Final = 10_000  # newest batches whose sizes, durations and lags are kept for percentiles
SUMMED: Final = (
    "processed",
    "failed",
    "parked",
    "applied",
    "skipped",
    "own",
    "duplicates",
    "conflicts",
    "bytes",
)


class ClaimedEvent(NamedTuple):
    """One queue row locked by this publisher. A named tuple, as there are 100,000 in a second.

    ``slot`` and ``place`` are where the queue keeps it for as long as it is locked. ``created`` is in
    µs since 1970 by the server's clock. ``fenced``: an earlier event of its key is held, so it must
    wait. ``size`` is in bytes, about. ``value`` is what goes to Kafka, ready encoded; empty as long as
    it has not been read.
    """

    id: int
    shard: int
    slot: int
    place: str
    table: str
    key: bytes
    created: int
    fenced: bool
    size: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One of ``of`` lanes of a publisher, counted from 0: what it takes of the publisher's shards."""

    number: int
    of: int

    def of_share(self, share: int) -> int:
        """How many; those of all lanes are ``share`` together."""
        return (share + self.of - 1 - self.number) // self.of


WHOLE: Final = Part(0, 1)


@dataclass(frozen=True, slots=True)
class Claim:
    """Rows of some shards, in the order of ids: those to send, and those to hold. ``oldest_age`` is
    that of the oldest row; ``full``: more are likely to wait.

    ``send_by``: on this machine's monotonic clock. Sent later, an event might still be on its way when
    the server has ended a claim that stood still, and come behind what its next owner sends.
    """

    events: Sequence[ClaimedEvent]
    fenced: Sequence[ClaimedEvent]
    oldest_age: timedelta
    full: bool
    send_by: float


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """Kafka refused one event for a reason that lies in the event or its topic, not in an outage."""

    event: ClaimedEvent
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What Kafka said of a batch: it has acknowledged every event but the refused ones."""

    refused: tuple[DeliveryFailure, ...] = ()


class Message(NamedTuple):
    """One Kafka message as the consumer hands it over. ``offset`` is its own, not the next. ``seal``:
    what its signature is verified by; ``None`` when nobody asks for it, and once it was verified.

    A tuple, as thousands of them are made at once.
    """

    topic: Topic
    partition: int
    offset: int
    value: bytes | None
    seal: Seal | None = None


@dataclass(frozen=True, slots=True)
class PartitionAdvance:
    """A partition's move within one batch: ``expected`` is compared, then ``next_offset`` is set.

    ``high_watermark`` is the end of the log as last heard from the broker, for the lag figures.
    """

    topic: Topic
    partition: int
    expected: int
    next_offset: int
    high_watermark: int


@dataclass(frozen=True, slots=True)
class Consumed:
    """A batch from Kafka, in order per partition."""

    messages: tuple[Message, ...]
    advances: tuple[PartitionAdvance, ...]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What one cycle did. Counts are events; ``duration`` is claim (or poll) to commit.

    ``count`` = events taken; ``processed`` = published, or applied and skipped for good;
    the apply side splits the latter into ``applied``, ``skipped`` (older or equal version),
    ``own`` (came home), ``duplicates``; ``parked`` waits in a table; ``failed`` = refusals.
    ``errors`` counts what was refused or parked by its kind.
    """

    role: Role
    count: int = 0
    processed: int = 0
    failed: int = 0
    parked: int = 0
    applied: int = 0
    skipped: int = 0
    own: int = 0
    duplicates: int = 0
    conflicts: int = 0
    bytes: int = 0
    duration: timedelta = timedelta()
    lag: timedelta = timedelta()
    per_table: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class WindowTotals:
    """Sums over a window's batches, and how it ended: the one value here that changes."""

    role: Role
    batches: int = 0
    processed: int = 0
    failed: int = 0
    parked: int = 0
    applied: int = 0
    skipped: int = 0
    own: int = 0
    duplicates: int = 0
    conflicts: int = 0
    bytes: int = 0
    retries: int = 0
    busy: timedelta = timedelta()
    elapsed: timedelta = timedelta()
    max_lag: timedelta = timedelta()
    per_table: Counter[str] = field(default_factory=Counter)
    counts: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    durations_ms: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    lags_ms: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    end: WindowEnd | None = None

    def add(self, batch: BatchResult) -> None:
        """Count one more batch; empty batches leave the totals as they are."""
        if not batch.count:
            return
        self.batches += 1
        for name in SUMMED:
            setattr(self, name, getattr(self, name) + getattr(batch, name))
        self.busy += batch.duration
        self.max_lag = max(self.max_lag, batch.lag)
        self.per_table.update(batch.per_table)
        self.counts.append(batch.count)
        self.durations_ms.append(batch.duration / MILLISECOND)
        self.lags_ms.append(batch.lag / MILLISECOND)


def percentile(samples: Iterable[float], rank: float) -> float:
    """The nearest-rank percentile (``rank`` in 0..1); 0.0 for no samples."""
    ordered = sorted(samples)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(rank * len(ordered)))]

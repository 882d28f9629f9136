"""What contours and Kafka have of one row: facts as they were read, and the events found in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

QueueState = Literal["waiting", "held", "parked", "published"]
FROM_OPS: Final = {"c": "INSERT", "u": "UPDATE", "d": "DELETE", "r": "SNAPSHOT"}


@dataclass(frozen=True, slots=True)
class QueueRow:
    """An event in the queue of the contour that captured it."""

    event_id: str
    operation: str
    version: int
    base_version: int | None
    created_at: datetime
    published_at: datetime | None
    held: bool
    attempts: int
    last_error: str | None
    parked_at: datetime | None
    values: str | None = None

    @property
    def state(self) -> QueueState:
        if self.published_at is not None:
            return "published"
        if self.parked_at is not None:
            return "parked"
        return "held" if self.held else "waiting"


@dataclass(frozen=True, slots=True)
class InKafka:
    """One record of an event; ``at`` is the record's time."""

    event_id: str
    contour: str
    operation: str
    version: int
    base_version: int | None
    partition: int
    offset: int
    at: datetime
    values: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    event_id: str
    at: datetime
    reason: str | None
    winner: str
    incoming_contour: str
    incoming_version: int
    current_version: int
    resolution: str | None


@dataclass(frozen=True, slots=True)
class Parked:
    event_id: str | None
    at: datetime
    reason: str
    detail: str
    blocked_by: str | None
    attempts: int
    version: int | None
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Discarded:
    event_id: str | None
    at: datetime
    side: str
    operation: str | None
    version: int | None
    reason: str
    because: str


@dataclass(frozen=True, slots=True)
class Trail:
    """What one contour has of the row. ``version`` is ``None`` where there is no row. ``buried`` and
    ``displaced``: the version and time of its delete, or of its giving way. ``positions``: the next
    offset of each partition to be read here; ``processed``: when events were dealt with.
    """

    contour: str
    contour_id: int
    version: int | None
    values: str | None = None
    buried: tuple[int, datetime] | None = None
    displaced: tuple[int, datetime] | None = None
    queue: Sequence[QueueRow] = ()
    conflicts: Sequence[Conflict] = ()
    parked: Sequence[Parked] = ()
    discarded: Sequence[Discarded] = ()
    positions: Mapping[int, int] = field(default_factory=dict)
    processed: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def seen(self) -> bool:
        """Whether anything of the row is here."""
        return bool(
            self.version is not None or self.buried or self.displaced or self.queue
            or self.conflicts or self.parked or self.discarded
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One change, from wherever it was found."""

    event_id: str
    contour: str
    operation: str
    version: int
    base_version: int | None
    queued: QueueRow | None
    records: Sequence[InKafka]


def events(trails: Sequence[Trail], records: Iterable[InKafka]) -> list[Event]:
    """All events that were found, in the order of their versions."""
    in_kafka: dict[str, list[InKafka]] = {}
    for record in records:
        in_kafka.setdefault(record.event_id, []).append(record)
    found = {
        row.event_id: Event(
            row.event_id, trail.contour, row.operation, row.version, row.base_version, row,
            in_kafka.get(row.event_id, ()),
        )
        for trail in trails
        for row in trail.queue
    }  # fmt: skip
    for event_id, copies in in_kafka.items():
        if event_id not in found:
            first = copies[0]
            found[event_id] = Event(
                event_id, first.contour, first.operation, first.version, first.base_version, None,
                copies,
            )  # fmt: skip
    return sorted(found.values(), key=lambda event: event.version)

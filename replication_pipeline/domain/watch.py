"""What one look sees of a contour, beyond its ``ContourStatus``. Ages and silences are in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from replication_pipeline.domain.contours import State
from replication_pipeline.domain.health import ContourStatus


@dataclass(frozen=True, slots=True)
class Parked:
    """Parked events of one table and reason."""

    side: Literal["publish", "apply"]
    table: str
    reason: str
    events: int
    oldest: float


@dataclass(frozen=True, slots=True)
class ApplyLag:
    """``events`` of a topic were in Kafka and not applied at the last look of its appliers;
    ``still`` is how long no position of it has moved.
    """

    topic: str
    events: int
    still: float


@dataclass(frozen=True, slots=True)
class Pair:
    """This contour and another one, or itself. ``arrived``: what that one wrote until so long ago is
    all here; ``None`` when no heartbeat tells. ``clock_ahead`` of the broker's clock.
    """

    contour: str
    state: State
    silent: float
    arrived: float | None
    clock_ahead: float | None


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """``oldest_snapshot`` keeps vacuum from removing what died after it; ``holder`` has it. Sessions
    of other roles are seen only by members of pg_read_all_stats.
    """

    dead_rows: int
    size: int
    oldest_snapshot: float
    holder: str
    sees_everybody: bool


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Events dealt with and refused, ever, and by workers of the last hour since they started."""

    processed: int
    failed: int
    recent_processed: int
    recent_failed: int


@dataclass(frozen=True, slots=True)
class Watch:
    """All of it. ``parked_space``: how much is parked of what may be, 1 is all."""

    status: ContourStatus
    outcomes: Outcomes
    queue: QueueHealth
    parked: Sequence[Parked] = field(default_factory=tuple)
    lags: Sequence[ApplyLag] = field(default_factory=tuple)
    pairs: Sequence[Pair] = field(default_factory=tuple)
    parked_space: float = 0.0

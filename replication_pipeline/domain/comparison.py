"""What comparing a table between contours finds: values, without a word of SQL.

A *difference* is a key that is not the same everywhere although all that was written before has arrived
everywhere, and that nobody has written meanwhile. Contents are hashes; values come only if asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["row", "deleted", "missing"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one contour has of a key: version and content of its row, and the tombstone's version."""

    version: int | None = None
    content: int | None = None
    buried: int | None = None

    @property
    def state(self) -> State:
        """``deleted``: no row, and a tombstone says since when; ``missing``: no row, and none."""
        if self.version is not None:
            return "row"
        return "missing" if self.buried is None else "deleted"

    @property
    def known(self) -> int:
        """The newest version of the key that this contour knows of."""
        return max(self.version or 0, self.buried or 0)

    @property
    def row(self) -> tuple[int | None, int | None]:
        """What counts when contours are compared: tombstones come and go by themselves."""
        return self.version, self.content


@dataclass(frozen=True, slots=True)
class Difference:
    """One key. ``key`` is canonical, as on Kafka; ``parts`` are its columns as PostgreSQL's text.

    ``columns`` differ between contours that have the row. ``values``, where asked for, are those
    columns' texts by contour. ``parked``: by contour, why an event of the key waits there.
    """

    key: str
    parts: tuple[str, ...]
    seen: Mapping[str, Seen]
    columns: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    parked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lag:
    """``contour`` has not taken in all that ``source`` had written when rows were compared.

    ``wanted`` and ``until`` are times by the clock of ``source``; ``until`` is 0 when nothing is known.
    """

    contour: str
    source: str
    wanted: float
    until: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table in several contours.

    ``rows`` by contour, as counted on the way. ``complete``: all that differs is in ``differences``;
    else there were more than were asked for. ``lags``: what was waited for in vain; then the
    ``unsettled`` keys, which differ, may only be under way. ``moving`` keys were written each time
    they were looked at: their newest writes are under way like any other.
    """

    table: str
    rows: Mapping[str, int]
    differences: tuple[Difference, ...] = ()
    complete: bool = True
    lags: tuple[Lag, ...] = ()
    unsettled: int = 0
    moving: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether what was under way has arrived."""
        return not self.lags

    @property
    def equal(self) -> bool:
        """Whether it is known that nothing differs."""
        return self.settled and self.complete and not self.differences

    @property
    def most_rows(self) -> int:
        """Of the contour that has most."""
        return max(self.rows.values(), default=0)

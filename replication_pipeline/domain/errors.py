"""The error tree. Every failure has one of three verdicts, and the loops dispatch on nothing else.

* ``TransientError``: the world is in the way (server away, lock timeout). Retry inside the window.
* ``PoisonError``: this event can't go through as it is. Park it with its reason and go on.
* ``FatalError``: going on would be wrong. Stop, say what to do.

Messages are for people: what happened, to which contour, table or key, and the remedy. They never
hold row values or secrets: a database's DETAIL line is left out on purpose, because it quotes rows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class ReplicationError(Exception):
    """Root of every error that this package raises."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}" if self.remedy else self.message


class TransientError(ReplicationError):
    """A server could not be reached or was busy; the same call may succeed later.

    ``kind`` is what it is counted under. On its way up it learns what it cost: how many ``events`` of
    a batch in hand have to be done again, and how long the try ``took``.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, remedy: str | None = None, kind: str = "short-lived failure"
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind
        self.events = 0
        self.took = timedelta()


class PoisonError(ReplicationError):
    """An event that can't be published or applied as it is; it is parked, the rest goes on."""

    def __init__(self, message: str, *, reason: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class FatalError(ReplicationError):
    """Going on would lose or damage data; an operator has to act first."""


class ConfigurationError(FatalError):
    """The configuration can't be used; the message names the key and the remedy."""

    exit_code = 2


class OffsetConflictError(TransientError):
    """Another consumer moved a partition's offset first: this batch is dropped and read again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="offset moved by another consumer")

    @classmethod
    def of(cls, contour: str) -> OffsetConflictError:
        """Told by whoever comes second."""
        return cls(
            f"contour {contour}: another consumer moved an offset first; "
            "the batch is dropped and read again"
        )


class ParkedFullError(TransientError):
    """No more events may be parked here. ``topics`` would bring more of them, and have to wait."""

    def __init__(self, message: str, *, remedy: str, topics: frozenset[str]) -> None:
        super().__init__(message, remedy=remedy, kind="parked events are at their limit")
        self.topics = topics


class WrongContourError(FatalError):
    """The database belongs to another contour than the configuration says."""

    exit_code = 2


class RefusedError(FatalError):
    """What was asked for can't be done; nothing was changed."""

    exit_code = 2

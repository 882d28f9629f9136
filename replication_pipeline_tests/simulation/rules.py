"""What a simulated contour does: the product's rules, and the habits of the code around them.

A mutant is the same with one thing replaced (``mutants.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from replication_pipeline.domain import convergence
from replication_pipeline.domain.convergence import Obstacle, Op, Verdict


class Row(NamedTuple):
    """A row of two columns, so that a write may change one and must not lose the other."""

    version: int
    left: int
    right: int


class Event(NamedTuple):
    """A captured change; ``row`` is the whole new row, ``None`` for a delete."""

    key: int
    op: Op
    version: int
    base: int | None
    contour: int
    row: Row | None


def whole(_: Row | None, new: Row) -> Row:
    """An applied row replaces all columns."""
    return new


@dataclass(frozen=True, slots=True)
class Rules:
    """The decisions, and below them the habits: each is a promise of capture, publisher or applier."""

    stamp: Callable[[int, int | None, int | None, int], int] = convergence.stamp
    newest: Callable[[Iterable[Event]], dict[Hashable, Event]] = convergence.newest
    decide: Callable[[int, int | None, int | None], Verdict] = convergence.decide
    bury: Callable[[int | None, int], int] = convergence.bury
    survives: Callable[[int, int], bool] = convergence.survives
    waits_for: Callable[..., Obstacle | None] = convergence.waits_for
    merge: Callable[[Row | None, Row], Row] = whole

    captures_cascades: bool = True
    captures_moves_as_two: bool = True  # a delete of the old key and an insert of the new one
    marks_after_sending: bool = True
    moves_offsets_with_rows: bool = True
    sends_what_committed_late: bool = True  # not only ids above the last one that was sent
    captures_applied_rows: bool = False  # as if they were the contour's own
    parks_what_waits: bool = True
    replays_own_after_restore: bool = True
    keeps_tombstones: bool = True

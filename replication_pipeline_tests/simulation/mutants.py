"""The rules with one mistake in each: the simulator must find every one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Final

from replication_pipeline.domain import convergence
from replication_pipeline.domain.convergence import Verdict
from replication_pipeline.domain.version import contour_id_of, pack
from replication_pipeline_tests.simulation.rules import Event, Row, Rules


def _wall_clock(clock: int, former: int | None, buried: int | None, contour: int) -> int:
    return pack(clock, contour)


def _below_tombstones(clock: int, former: int | None, buried: int | None, contour: int) -> int:
    return convergence.stamp(clock, former, None, contour)


def _no_tie_break(clock: int, former: int | None, buried: int | None, contour: int) -> int:
    return convergence.stamp(clock, former, buried, 1)


def _plus_one(clock: int, former: int | None, buried: int | None, contour: int) -> int:
    return max(pack(clock, contour), (former or 0) + 1, (buried or 0) + 1)


def _no_tombstone(version: int, standing: int | None, buried: int | None) -> Verdict:
    return convergence.decide(version, standing, None)


def _last_delivered_wins(version: int, standing: int | None, buried: int | None) -> Verdict:
    return "apply"


def _equal_is_news(version: int, standing: int | None, buried: int | None) -> Verdict:
    return "skip" if version < max(standing or 0, buried or 0) else "apply"


def _by_clock_alone(version: int, standing: int | None, buried: int | None) -> Verdict:
    return "skip" if version >> 10 <= max(standing or 0, buried or 0) >> 10 else "apply"


def _own_contour_wins_ties(version: int, standing: int | None, buried: int | None) -> Verdict:
    known = max(standing or 0, buried or 0)
    tie = version >> 10 == known >> 10 and contour_id_of(version) != contour_id_of(known)
    return "skip" if tie else convergence.decide(version, standing, buried)


def _last_of_the_batch(batch: Iterable[Event]) -> dict[Hashable, Event]:
    return {event.key: event for event in batch}


def _changed_columns_only(old: Row | None, new: Row) -> Row:
    """As if an update sent the one column that it set (here: that differs from even to odd)."""
    if old is None or old.left % 2 == new.left % 2:
        return new
    return Row(new.version, new.left, old.right)


REAL: Final = Rules()
MUTANTS: Final[dict[str, Rules]] = {
    "wall clock, no max rule": replace(REAL, stamp=_wall_clock),
    "inserts below their tombstones": replace(REAL, stamp=_below_tombstones),
    "no tie-break": replace(REAL, stamp=_no_tie_break),
    "version + 1, in the contour's bits": replace(REAL, stamp=_plus_one),
    "no tombstones when deciding": replace(REAL, decide=_no_tombstone),
    "last delivered wins": replace(REAL, decide=_last_delivered_wins),
    "equal versions are news": replace(REAL, decide=_equal_is_news),
    "only the clocks are compared": replace(REAL, decide=_by_clock_alone),
    "of two at one time the own stays": replace(REAL, decide=_own_contour_wins_ties),
    "last of the batch, not the newest": replace(REAL, newest=_last_of_the_batch),
    "changed columns only": replace(REAL, merge=_changed_columns_only),
    "deletes do not settle": replace(REAL, survives=lambda standing, buried: True),
    "no look at foreign keys": replace(REAL, waits_for=lambda op, **_: None),
    "what waits for a parent is dropped": replace(REAL, parks_what_waits=False),
    "cascades are not captured": replace(REAL, captures_cascades=False),
    "a key move is one event": replace(REAL, captures_moves_as_two=False),
    "marked as sent before sending": replace(REAL, marks_after_sending=False),
    "offsets move before the rows": replace(REAL, moves_offsets_with_rows=False),
    "a high-water mark decides what is sent": replace(REAL, sends_what_committed_late=False),
    "applied rows are captured as own": replace(REAL, captures_applied_rows=True),
    "own events stay lost after a restore": replace(REAL, replays_own_after_restore=False),
    "tombstones are collected by age": replace(REAL, keeps_tombstones=False),
}

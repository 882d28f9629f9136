"""The rules of Last-Write-Wins, each stated once as a pure function.

Contours that obey them and see the same events end equal, whatever the order, repeats and clocks:

* versions are a total order, and a write's is above all that its contour knows of the row (``stamp``);
* of a batch only the newest event of a key counts (``newest``);
* an event not above the row and its tombstone changes nothing (``decide``);
* a tombstone keeps the highest version that was ever deleted (``bury``), and a row that comes in
  unseen at or below it goes again (``survives``);
* a row without its parent, and a parent's delete before its children's, wait (``waits_for``).

A contour takes these decisions in SQL, for whole batches and under row locks:
``sql/queries/apply.sql``, ``sql/schema/30_clock.sql`` and the capture functions. The simulator runs
this module, and ``test_decisions.py`` shows case by case that PostgreSQL decides the same. Nothing
here is called by the running pipeline.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Literal, Protocol, TypeVar

from replication_pipeline.domain.version import contour_id_of, successor

Op = Literal["c", "u", "d", "r"]
Verdict = Literal["apply", "skip"]
Obstacle = Literal["missing_parent", "referenced"]


class Change(Protocol):
    """What the rules must know of an event. ``base`` is the version that its write replaced."""

    @property
    def key(self) -> Hashable: ...
    @property
    def op(self) -> Op: ...
    @property
    def version(self) -> int: ...
    @property
    def base(self) -> int | None: ...
    @property
    def contour(self) -> Hashable: ...


C = TypeVar("C", bound=Change)


def stamp(clock: int, former: int | None, buried: int | None, contour_id: int) -> int:
    """The version of a local write at ``clock`` (µs) over a row at ``former``, or of a new row whose
    key has a tombstone at ``buried``: above both, even if the clock was set back.
    """
    return successor(max(former or 0, buried or 0), now_microseconds=clock, contour_id=contour_id)


def newest(batch: Iterable[C]) -> dict[Hashable, C]:
    """The one event of each key that counts: the highest version, the later one of equals."""
    chosen: dict[Hashable, C] = {}
    for change in batch:
        known = chosen.get(change.key)
        if known is None or change.version >= known.version:
            chosen[change.key] = change
    return chosen


def decide(version: int, standing: int | None, buried: int | None) -> Verdict:
    """Whether an event is news where the row is at ``standing`` and its tombstone at ``buried``. One of
    version 0, a row from before its table was set up, is where there is neither.
    """
    known = [each for each in (standing, buried) if each is not None]
    return "skip" if known and version <= max(known) else "apply"


def bury(buried: int | None, version: int) -> int:
    """The tombstone after a delete at ``version``."""
    return max(buried or 0, version)


def survives(standing: int, buried: int) -> bool:
    """Whether a row that a delete could not see may stay, once it is seen."""
    return standing > buried


def waits_for(op: Op, *, parent_missing: bool, has_children: bool) -> Obstacle | None:
    """What an event that is news has to wait for before a foreign key lets it in."""
    if op == "d":
        return "referenced" if has_children else None
    return "missing_parent" if parent_missing else None


def too_far_ahead(version: int, *, clock: int, max_skew: int) -> bool:
    """Whether an event is dated so far in the future (µs) that it is held instead of applied."""
    return version >> 10 > clock + max_skew


def conflicts(change: Change, standing: int | None, buried: int | None) -> bool:
    """Whether ``change`` and what stands were written without knowledge of each other, so that one of
    them is lost: its writer had not seen what stands, which another contour wrote. Two deletes lose
    nothing, nor does a delete below an insert, which uses the key anew.
    """
    known = max(standing or 0, buried or 0)
    if (
        change.op == "r"
        or known <= (change.base or 0)
        or known == change.version
        or contour_id_of(known) == contour_id_of(change.version)
    ):
        return False
    written = "insert" if change.base is None else "update"
    ours = "delete" if known == (buried or 0) else written
    theirs = "delete" if change.op == "d" else written
    loser, winner = (theirs, ours) if known > change.version else (ours, theirs)
    return loser != "delete" or winner == "update"

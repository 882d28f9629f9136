"""What is done about a difference: a pure decision, on what each contour has of the key.

* By version, as replication would have done: the contour that has the newest version, of a row or a
  tombstone, sends that once more. It is newer than what the others have, so they take it; whoever
  has written meanwhile is newer still, and stays.
* Where sending it as it is can change nothing (equal versions with different contents; version 0, from
  before replication; a tombstone above a row that lives), the row is *raised*: the same values, with
  the next version above all that were seen. The contour with the lowest id does it.
* By a named winner: its row is raised above all that were seen; where it has none, the row is deleted.

A version that lies further ahead than clocks may differ is left alone: the others hold such events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from replication_pipeline.domain.comparison import Difference, Seen

Kind = Literal["send", "raise", "send_delete", "delete"]
TOLD: dict[Kind, str] = {
    "send": "sends its row again, as it is",
    "raise": "sends its row as a newer one",
    "send_delete": "sends its delete again",
    "delete": "deletes its row",
}


@dataclass(frozen=True, slots=True)
class Action:
    """What ``contour`` does, if it still has the row, or the tombstone, of version ``expected``."""

    kind: Kind
    contour: str
    difference: Difference
    expected: int
    above: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """A difference that stays, and why."""

    difference: Difference
    why: str


def decide(
    difference: Difference, ids: Mapping[str, int], *, winner: str | None, latest: int
) -> Action | Left:
    """``latest`` is the newest version that a clock can have made by now; ``ids`` are the contours'."""
    seen = {name: difference.seen[name] for name in sorted(difference.seen, key=ids.__getitem__)}
    top = max(each.known for each in seen.values())
    if top > latest:
        ahead = next(name for name, each in seen.items() if each.known == top)
        return Left(
            difference,
            f"its version in contour {ahead} lies ahead of all clocks; other contours would hold it",
        )
    if winner is not None:
        return _by_name(difference, seen, winner, top)
    return _by_version(difference, seen, top)


def _by_name(difference: Difference, seen: Mapping[str, Seen], winner: str, top: int) -> Action:
    version = seen[winner].version
    if version is not None:
        return Action("raise", winner, difference, version, above=top)
    return _delete(difference, seen)


def _by_version(difference: Difference, seen: Mapping[str, Seen], top: int) -> Action:
    rows = [name for name, each in seen.items() if each.version == top]
    if rows:
        alike = len({seen[name].content for name in rows}) == 1
        takes_it = all(each.known < top for name, each in seen.items() if name not in rows)
        if top and alike and takes_it:
            return Action("send", rows[0], difference, top)
        return Action("raise", rows[0], difference, top, above=top)
    buried = [name for name, each in seen.items() if each.version is None and each.buried == top]
    takes_it = all(each.known < top for each in seen.values() if each.version is not None)
    if buried and takes_it:
        return Action("send_delete", buried[0], difference, top)
    return _delete(difference, seen)


def _delete(difference: Difference, seen: Mapping[str, Seen]) -> Action:
    """By the contour whose row is newest: its delete is above that, and so above all others' rows."""
    rows = {name: each.version for name, each in seen.items() if each.version is not None}
    contour = max(rows, key=rows.__getitem__)
    return Action("delete", contour, difference, rows[contour])

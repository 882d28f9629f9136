"""Which deletes every contour knows, so that their tombstones may go.

A tombstone keeps an older write of its key from bringing the row back. No such write can come any more
once two things hold of every other active contour Z:

* Z knew the delete when it took some round: what it has written since is newer than the delete;
* what it had written before stands below that round's ends, and has been read here.

Deletes whose tombstones stood here at the time of a round of this contour's own are in the log below
that round's ends. So the round is compared with rounds of Z, topic by topic, in offsets alone.

The time of a round only says which tombstones were there. When this server's clock was set back after
a round, a tombstone from after it may look older; rounds before a jump are left out, and ``margin``,
the time between two rounds, covers jumps too small to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from replication_pipeline.domain.heartbeat import Offsets, Round, passed


@dataclass(frozen=True, slots=True)
class Known:
    """Tombstones of a topic's table older than ``before`` (µs, this server's clock) are known
    everywhere; ``None``: none is. ``waiting_for``: the contours that keep newer ones here.
    """

    before: int | None
    waiting_for: tuple[str, ...]


def known_everywhere(
    topic: str,
    *,
    me: str,
    active: Iterable[str],
    rounds: Mapping[str, Sequence[Round]],
    applied: Offsets,
    margin: int,
) -> Known:
    """``rounds`` of each contour are in the order of the log. ``applied`` is what is read here now.

    A contour alone waits for nobody but for a round of its own: whoever comes later is told by the
    floor that collecting leaves behind (``replication.tombstone_floors``).
    """
    mine = [r for r in _unbroken(rounds.get(me, ())) if _sound(r, topic)]
    if me not in set(active) or not mine:
        return Known(None, (me,))
    others = {
        name: [r for r in rounds.get(name, ()) if _sound(r, topic)]
        for name in active
        if name != me and _takes_part(rounds.get(name, ()), topic)
    }
    before: int | None = None
    for own in mine:
        missing = tuple(
            sorted(
                name for name, theirs in others.items() if not _knew(theirs, own, topic, applied)
            )
        )
        if missing:
            return Known(before, missing)
        before = own.taken_at - margin
    return Known(before, ())


def _takes_part(rounds: Sequence[Round], topic: str) -> bool:
    """A contour without any round may have the table; one whose last round leaves its topic out has
    not.
    """
    return not rounds or topic in rounds[-1].ends


def _knew(rounds: Sequence[Round], own: Round, topic: str, applied: Offsets) -> bool:
    return any(
        passed(theirs.applied.get(topic, ()), own.ends[topic])
        and passed(applied.get(topic, ()), theirs.ends[topic])
        for theirs in rounds
    )


def _sound(round_: Round, topic: str) -> bool:
    """The end was read after the position, so a position beyond it is of a topic that is gone."""
    return topic in round_.ends and passed(round_.ends[topic], round_.applied.get(topic, ()))


def _unbroken(rounds: Sequence[Round]) -> list[Round]:
    """Without those whose time a later one undercuts: the clock was set back between them."""
    kept: list[Round] = []
    for round_ in reversed(rounds):
        if not kept or round_.taken_at <= kept[-1].taken_at:
            kept.append(round_)
    return kept[::-1]


def made_anew(before: Round, after: Round) -> bool:
    """Whether a topic's log has become shorter between two rounds of one contour."""
    return any(
        topic in after.ends and not passed(after.ends[topic], ends)
        for topic, ends in before.ends.items()
    )

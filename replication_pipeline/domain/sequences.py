"""Sequences that fill keys in several contours: whether two of them can give one value, and how not.

Every contour counts in steps of the same width, from a number of its own: contour 3 takes 13, 23, 33.
Two sequences keep apart when they count in different residues of the greatest common divisor of their
steps, or in ranges that have nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

STEPS: Final = (10, 100, 1024)  # the first that exceeds all contours' ids
HEADROOM: Final = 100  # steps left for what is inserted until the sequence is moved


@dataclass(frozen=True, slots=True)
class KeySequence:
    """A sequence that fills ``column`` in one contour. ``last`` is ``None`` while it was never used,
    and where ``seen`` is false: the role may not look.
    """

    contour: str
    contour_id: int
    table: str
    column: str
    name: str
    start: int
    increment: int
    minimum: int
    maximum: int
    last: int | None
    seen: bool

    @property
    def next(self) -> int:
        return self.start if self.last is None else self.last + self.increment

    @property
    def used(self) -> bool:
        return self.last is not None or not self.seen

    def span(self, first: int) -> tuple[int, int]:
        """The least and the greatest value that it can give from ``first`` on."""
        return (first, self.maximum) if self.increment > 0 else (self.minimum, first)


def collide(one: KeySequence, other: KeySequence) -> bool:
    """Whether one can give a value that the other has given, or will give."""
    if (one.next - other.next) % math.gcd(one.increment, other.increment):
        return False
    return _meet(one.span(one.next), other.span(other.start)) or _meet(
        one.span(one.start), other.span(other.next)
    )


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(one[0], other[0]) <= min(one[1], other[1])


def step_for(contour_ids: Iterable[int]) -> int:
    """How wide steps have to be, the same in all contours."""
    return next(step for step in STEPS if step > max(contour_ids))


def apart(sequence: KeySequence, step: int) -> bool:
    """Whether it counts in its contour's residue of ``step``."""
    return sequence.increment % step == 0 and (sequence.next - sequence.contour_id) % step == 0


def moved(sequence: KeySequence, step: int, highest: int) -> int:
    """Where it goes on in its contour's residue, with headroom above ``highest``, the greatest value
    that any contour has, or has given.

    It may lie beyond ``maximum``: then the column's type is too narrow for steps.
    """
    floor = max(highest + HEADROOM * step if highest else 0, sequence.start - 1)
    return floor + (sequence.contour_id - floor) % step or step

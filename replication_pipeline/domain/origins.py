"""Who may have written an event: a contour's name and the number in its versions belong together.

A version's low bits are the number of the contour that drew it (``domain/version.py``), so what a
contour wrote itself carries its own number. An event that says otherwise was forged, or comes from a
contour that took somebody's name or number; it is held, as by its version it might win over writes of
the contour whose number it has. Rows of snapshots and repairs go with the versions of whoever wrote
them, and only their sender's name is looked at.

What is known: this contour, those that heartbeats have made known, and those that an operator has
listed. Without a list, a contour that nobody knows is taken at its word, unless it uses a known number.
Who may write to the topics can still claim to be another contour: against that there are signatures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")


class Suspicion(NamedTuple):
    """Why an event is held; ``detail`` is fit for people's eyes."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Origins:
    """``ids`` by name. ``closed``: there are no others."""

    ids: Mapping[str, int] = field(default_factory=dict)
    closed: bool = False
    names: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {number: name for name, number in self.ids.items()})

    def suspect(self, contour: str, number: int | None) -> Suspicion | None:
        """What is wrong with an event of ``contour`` whose version was drawn by ``number``; ``None``
        for a version that may be anybody's.
        """
        known = self.ids.get(contour)
        if known is not None:
            if number in (None, known):  # asked of each event: the usual answer comes first
                return None
            return Suspicion(
                "forged_origin", f"contour {contour} has number {known}, the version says {number}"
            )
        if NAME.fullmatch(contour) is None:
            return Suspicion("malformed", "source.contour is no name of a contour")
        if self.closed:
            return Suspicion("unknown_contour", contour)
        holder = None if number is None else self.names.get(number)
        if holder is None:
            return None
        return Suspicion(
            "forged_origin",
            f"it says contour {contour}, its version says {holder} (number {number})",
        )


def readable(text: str, most: int = 200) -> str:
    """Text of somebody else's for a terminal or a page: nothing that steers these, and not too long."""
    if len(text) > most:
        text = text[: most - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)

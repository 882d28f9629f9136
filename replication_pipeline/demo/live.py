"""The status line: what both contours do now, in one line of at most a hundred columns.

On a terminal the line renews itself; elsewhere (a log, a pipe) a plain line is written every five
seconds. Rates are between two looks; conflicts count from the demo's start, parked events and lag are
as of now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from replication_pipeline.demo.contours import Contour
from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.postgres.session import Session
from replication_pipeline.postgres.status import read_status

ON_TERMINAL: Final = 1.0
ELSEWHERE: Final = 5.0
SLOW: Final = 5.0
"""Seconds of lag that are shown in colour."""
COLUMNS: Final = (
    ("events/s", 8),
    ("unpubl.", 7),
    ("lag", 6),
    ("appl./s", 7),
    ("confl.", 6),
    ("parked", 6),
)
WIDTH: Final = sum(width + 1 for _, width in COLUMNS) - 1
GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Look:
    """A contour at a moment."""

    at: float
    status: ContourStatus

    @property
    def captured(self) -> int:
        """Events that the triggers have made, ever."""
        return self.status.processed_total + self.status.unpublished

    def since(self, earlier: Look) -> tuple[float, float]:
        """Captured and applied events a second."""
        seconds = max(self.at - earlier.at, 0.001)
        applied = self.status.applied_total - earlier.status.applied_total
        return (self.captured - earlier.captured) / seconds, applied / seconds


@dataclass(slots=True)
class Eye:
    """Looks at one contour again and again, through one connection."""

    contour: Contour
    _session: Session | None = field(default=None)

    def look(self) -> Look | None:
        """``None`` while the contour can't be reached."""
        if self._session is None:
            self._session = Session(self.contour.settings, "replicator_demo")
        try:
            connection, _ = self._session.connection()
            connection.autocommit = True
            return Look(time.monotonic(), read_status(connection, self.contour.name))
        except ReplicationError:
            self._session.drop()
            return None

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.drop()


def heading(contours: Sequence[str]) -> str:
    """Two lines above the status line."""
    names = [f" contour {name} ".center(WIDTH, "─") for name in contours]
    titles = " ".join(title.rjust(width) for title, width in COLUMNS)
    return GAP.join(["     ", *names]) + "\n" + GAP.join([" time", *(titles for _ in contours)])


def line(
    elapsed: float,
    pairs: Sequence[tuple[Look | None, Look | None]],
    conflicts_before: Sequence[int],
) -> Text:
    """The status line from each contour's former look and the present one."""
    text = Text(f"{int(elapsed) // 60:02d}:{int(elapsed) % 60:02d}")
    for (former, now), conflicts in zip(pairs, conflicts_before, strict=True):
        text.append(GAP)
        if now is None:
            text.append("not reachable".center(WIDTH), style="bold red")
            continue
        captured, applied = now.since(former) if former else (0.0, 0.0)
        status = now.status
        parked = status.parked_publish + status.parked_apply
        cells = (
            (f"{captured:,.0f}", ""),
            (f"{status.unpublished:,}", ""),
            (
                f"{status.oldest_unpublished_seconds:.1f}s",
                "yellow" if status.oldest_unpublished_seconds > SLOW else "",
            ),
            (f"{applied:,.0f}", ""),
            (f"{status.conflicts_total - conflicts:,}", ""),
            (f"{parked:,}", "yellow" if parked else ""),
        )
        for number, ((_, width), (value, style)) in enumerate(zip(COLUMNS, cells, strict=True)):
            text.append(" " if number else "")
            text.append(value.rjust(width), style=style)
    return text


def watch(
    console: Console,
    eyes: Sequence[Eye],
    start: Mapping[str, Look],
    *,
    wait: Callable[[float], bool],
) -> None:
    """Show the line until ``wait(seconds)`` says that it is over."""
    console.print()
    console.print(heading([eye.contour.name for eye in eyes]), soft_wrap=True)
    conflicts = [start[eye.contour.name].status.conflicts_total for eye in eyes]
    began = time.monotonic()
    former: list[Look | None] = [start[eye.contour.name] for eye in eyes]

    def renewed() -> Text:
        nonlocal former
        present = [eye.look() for eye in eyes]
        shown = line(time.monotonic() - began, list(zip(former, present, strict=True)), conflicts)
        former = [new or old for new, old in zip(present, former, strict=True)]
        return shown

    if console.is_terminal:
        with Live(Text(""), console=console, auto_refresh=False) as live:
            while not wait(ON_TERMINAL):
                live.update(renewed(), refresh=True)
    else:
        while not wait(ELSEWHERE):
            console.print(renewed(), soft_wrap=True)

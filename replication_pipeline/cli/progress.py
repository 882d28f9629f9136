"""A bar for long work, on a terminal; nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)


class Bar:
    """Shown while ``shown``'s block runs."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task = TaskID(0)

    @contextmanager
    def shown(self, total: int, *, visible: bool) -> Iterator[None]:
        """Over ``total`` steps; on standard error, so that output stays output."""
        console = Console(stderr=True)
        if not (visible and total and console.is_terminal):
            yield
            return
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=console, transient=True) as self._progress:
            self._task = self._progress.add_task("", total=total)
            yield

    def move(self, done: int, total: int, note: str = "") -> None:
        """``total`` may have grown; ``note`` stands beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, description=note)

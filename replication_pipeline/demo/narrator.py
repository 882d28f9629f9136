"""What the demo says besides the status line: what starts and stops, and what to look at."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from replication_pipeline.demo.contours import Contour


@dataclass(slots=True)
class Narrator:
    """Short lines for people."""

    console: Console
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: bool = False

    def started(self, what: str, where: str, seconds: float) -> None:
        """Something is up."""
        self._line(f"  {what:<22} {where:<45} {seconds:5.1f} s")

    def note(self, text: str) -> None:
        """Something takes its time."""
        self._line(f"  {text} …")

    def stopping(self, what: str) -> None:
        """Something is being stopped."""
        with self._lock, contextlib.suppress(OSError):  # the terminal may be gone
            self.console.print(f", {what}" if self._stopping else f"Stopping {what}", end="")
            self._stopping = True

    def stopped(self, seconds: float) -> None:
        """Nothing is left."""
        with self._lock, contextlib.suppress(OSError):
            self.console.print(f"\nEverything is stopped ({seconds:.1f} s).")

    def ready(
        self, seconds: float, *, url: str | None, contours: Sequence[Contour], home: Path
    ) -> None:
        """Everything is up: what to look at."""
        with contextlib.suppress(ValueError):
            home = home.relative_to(Path.cwd())
        self.console.print(f"Ready after {seconds:.1f} s.\n")
        if url:
            self._point("Dagster UI", url, "")
            self._point("windows", f"{url}/runs", "runs of publish and apply")
            self._point("lineage", f"{url}/asset-groups", "tables, queues, topics, checks")
        first, second = contours
        other = f"the same for {second.name}: port={second.settings.postgres.port}"
        self._point(f"write in {first.name}", f'psql "{first.application}"', other)
        self._point("status", f"replication-pipeline status -c {home}/a.yaml", f"logs: {home}/logs")
        self.console.print()

    def _point(self, what: str, where: str, why: str) -> None:
        self.console.print(f"  {what:<11} {where:<52} {why}".rstrip(), soft_wrap=True, markup=False)

    def _line(self, text: str) -> None:
        with self._lock:
            if not self._stopping:
                self.console.print(text, soft_wrap=True)

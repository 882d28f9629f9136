"""Our own windows under test: the usual observer, which counts for all processes of a run as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from bench.workers import Progress, Worked, now
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, Role, WindowTotals
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.observe import BatchLog

LONGEST: Final = timedelta(minutes=10)


@dataclass(slots=True)
class Counting:
    """Ends the window, by ``stop``, when the run is over."""

    log: BatchLog
    progress: Progress
    stop: StopToken = field(default_factory=StopToken)
    ended: float = 0.0

    def __post_init__(self) -> None:
        self.progress.when_over(self.stop.set)

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.ended = now()
        self.log.batch(result, totals)
        self.progress.add(result.processed)
        if self.progress.over.is_set():
            self.stop.set()

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        del attempt, pause
        raise RuntimeError(f"a measurement must not be disturbed: {error}")


def work(
    window: Callable[..., WindowTotals], role: Role, instance: str, progress: Progress
) -> Worked:
    """Run ``window``, which has its settings and adapters already, until the run is over."""
    counting = Counting(BatchLog(role, instance), progress)
    totals = window(stop=counting.stop, length=LONGEST, observer=counting, instance=instance)
    return Worked(totals.processed, counting.ended, totals.parked)

"""This project's publisher with its default settings, as ``runtime.publish`` puts it together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from bench.publishers.base import Progress, Published, Ready, now
from replication_pipeline import runtime
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.observe import BatchLog
from replication_pipeline.settings import Settings

LONGEST: Final = timedelta(minutes=10)


@dataclass(slots=True)
class Counting:
    """A window's usual observer, which tells the other processes as well."""

    log: BatchLog
    progress: Progress
    stop: StopToken
    ended: float = 0.0

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.ended = now()
        self.log.batch(result, totals)
        self.progress.add(result.processed)
        if self.progress.over.is_set():
            self.stop.set()

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        del attempt, pause
        raise RuntimeError(f"a measurement must not be disturbed: {error}")


@contextmanager
def ours(settings: Settings, progress: Progress) -> Iterator[Ready]:
    instance = runtime.instance_name(settings, "publisher")
    with (
        runtime.open_outbox(settings, instance) as outbox,
        runtime.open_producer(settings) as producer,
    ):

        def run() -> Published:
            stop = StopToken()
            progress.when_over(stop.set)
            counting = Counting(BatchLog("publisher", instance), progress, stop)
            totals = runtime.publish_window(
                settings,
                outbox=outbox,
                producer=producer,
                stop=stop,
                length=LONGEST,
                observer=counting,
                instance=instance,
            )
            return Published(totals.processed, counting.ended)

        yield Ready(outbox._connection(), run)


@contextmanager
def connected(settings: Settings, progress: Progress) -> Iterator[Ready]:
    """Our publisher's connections, and nobody who uses them."""
    with (
        runtime.open_outbox(settings, "connected") as outbox,
        runtime.open_producer(settings),
    ):

        def run() -> Published:
            progress.over.wait()
            return Published(0, now())

        yield Ready(outbox._connection(), run)

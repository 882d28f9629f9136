"""This project's publisher with its default settings, as ``runtime.publish`` puts it together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench.windows import work
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline import runtime
from replication_pipeline.settings import Settings


@contextmanager
def ours(settings: Settings, progress: Progress) -> Iterator[Ready]:
    instance = runtime.instance_name(settings, "publisher")
    with (
        runtime.open_outbox(settings, instance) as outbox,
        runtime.open_producer(settings) as producer,
    ):
        outbox._connection()

        window = partial(runtime.publish_window, settings, outbox=outbox, producer=producer)
        run = partial(work, window, "publisher", instance, progress)
        yield Ready(run)


@contextmanager
def connected(settings: Settings, progress: Progress) -> Iterator[Ready]:
    """Our publisher's connections, and nobody who uses them."""
    with (
        runtime.open_outbox(settings, "connected") as outbox,
        runtime.open_producer(settings),
    ):
        outbox._connection()

        def run() -> Worked:
            progress.over.wait()
            return Worked(0, now())

        yield Ready(run)

"""This project's applier with its default settings, as ``runtime.apply`` puts it together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final

from bench.windows import work
from bench.workers import Progress, Ready
from replication_pipeline import runtime
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.settings import Settings

LOOK: Final = timedelta(milliseconds=100)


@contextmanager
def ours(settings: Settings, progress: Progress) -> Iterator[Ready]:
    instance = runtime.instance_name(settings, "applier")
    with (
        runtime.open_inbox(settings, instance) as inbox,
        runtime.open_consumer(settings, inbox) as consumer,
    ):
        inbox.offsets(())  # connects

        def join() -> None:
            """Take part in the group, and give back what has come: nothing is fetched in advance."""
            with contextlib.suppress(TransientError):
                if consumer.poll(1, LOOK):
                    consumer.rewind()

        window = partial(
            runtime.apply_window, settings, inbox=inbox, consumer=consumer, instance=instance
        )
        run = partial(work, window, "applier", instance, progress)
        yield Ready(run, join)

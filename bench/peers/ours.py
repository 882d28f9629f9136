"""This project between two contours: one publisher and one applier with default settings.

As in windows that have been running for a while: both are connected before they are started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from bench.appliers import ours as applier
from bench.apply import make_target
from bench.broker import other_contour, topics_for, wait_until_shared_out
from bench.children import Child
from bench.contestants.ours import Ours as Capture
from bench.database import make_template
from bench.peers.base import Link
from bench.peers.databases import backends_in, copies
from bench.publishers import ours as publisher
from bench.subjects import SUBJECTS
from bench.workers import Progress, work_in_child
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres


class Ours:
    name: ClassVar[str] = "ours"
    versions: ClassVar[Mapping[str, str]] = {}
    server: ClassVar[Mapping[str, str]] = {}

    def missing(self, server: EmbeddedPostgres) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self) -> None:
        """It is here."""

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        with (
            copies(server, make_template(server, Capture()), make_target(server, SUBJECTS[1])) as (
                a,
                b,
            ),
            topics_for(broker, a) as settings,
            ExitStack() as until_done,
        ):
            progress, other = Progress(None), other_contour(settings, b)
            children = [
                until_done.enter_context(Child(work_in_child, worker, of, progress, False))
                for worker, of in ((publisher.ours, settings), (applier.ours, other))
            ]
            for child in children:
                child.receive()
            wait_until_shared_out(other, 1)
            waiting = list(children)

            def start() -> None:
                while waiting:
                    waiting.pop().send()

            def processes() -> list[int]:
                return [*(child.pid for child in children), *backends_in(a, b)]

            yield Link(a=a, b=b, start=start, processes=processes)
            progress.over.set()
            start()  # who was never let go ends at once
            for child in children:
                child.receive()

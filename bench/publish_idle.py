"""Scenario ``publish-idle``: what a publisher costs while nobody writes.

Processor time of its process and of its backend, as shares of one core, once its pauses have grown to
their longest. ``connected`` has the same connections and does nothing with them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.broker import running_broker, topics_for
from bench.children import Child, cpu_seconds
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template
from bench.measure import rotated, warm_up
from bench.publishers.ours import connected, ours
from bench.results import Recorder, Result, recorder
from bench.workers import Connected, Progress, Worker, work_in_child
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on"}
SETTLING: Final = 5  # seconds; pauses reach their longest, one second, after two
WAYS: Final[Mapping[str, Worker]] = {"connected": connected, "ours": ours}
AIM: Final = 0.5  # % of one core


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishIdle:
    server: ClassVar[Mapping[str, str]] = SERVER
    seconds: int = 30
    rounds: int = 1

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "publish-idle",
            server,
            contestants=[*WAYS],
            seconds=self.seconds,
            rounds=self.rounds,
            aim_percent=AIM,
            warm_up=f"1000 rows published, {SETTLING} s",
        )
        template = make_template(server, Ours())
        with running_broker(server) as broker:
            for turn in range(1, self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}", highlight=False)
                for name in rotated([*WAYS], turn):
                    self._measure(server, broker, template, name=name, results=results, turn=turn)
        return results.results

    def _measure(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        template: str,
        *,
        name: str,
        results: Recorder,
        turn: int,
    ) -> None:
        with copy_of(server, template) as dsn, topics_for(broker, dsn) as settings:
            with psycopg.connect(dsn, autocommit=True) as application:
                warm_up(application)
            progress = Progress(None)
            with Child(work_in_child, WAYS[name], settings, progress, False) as publisher:
                ready: Connected = publisher.receive()
                publisher.send()
                time.sleep(SETTLING)
                (backend,) = ready.backends
                pids = {"process": publisher.pid, "backend": backend}
                began = time.monotonic()
                used = {part: cpu_seconds(pid) for part, pid in pids.items()}
                time.sleep(self.seconds)
                used = {part: cpu_seconds(pid) - used[part] for part, pid in pids.items()}
                passed = time.monotonic() - began
                progress.over.set()
                publisher.receive()
        for part, seconds in {**used, "both": sum(used.values())}.items():
            results.add(name, f"CPU, {part}", seconds / passed * 100, "% of a core", run=turn)

"""Scenario ``handover``: how long publishing pauses when one window follows another.

A row is written 50 times a second while windows come and go under Dagster's daemon; each row's
``published_at`` tells when it had left. A pause is a time in which something was committed and nothing
was published; while the disk keeps the writer waiting there is none. ``change`` is the time from the
start of a window's process to three seconds after the end of the one before it; ``between`` is all
other time, with the same writer on the same machine. Windows are short, so that there are many
changes; they overlap for half of their time, those of ten minutes for 40 s.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.broker import running_broker, topics_for
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template
from bench.results import Recorder, Result, recorder
from bench.site import PUBLISHED, Run, paced_writer, site, waits
from replication_pipeline.domain.model import percentile
from replication_pipeline.embedded import EmbeddedPostgres

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on"}
CONTESTANTS: Final = ("between", "change")
AFTERWARDS: Final = 3.0  # seconds in which a change may still tell
AIM: Final = 200.0  # ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    server: ClassVar[Mapping[str, str]] = SERVER
    window: int = 40
    """Seconds."""
    changes: int = 5
    rate: float = 50.0

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "handover",
            server,
            contestants=[*CONTESTANTS],
            window=self.window,
            changes=self.changes,
            rate=self.rate,
            aim_ms=AIM,
        )
        template = make_template(server, Ours())
        with (
            running_broker(server) as broker,
            copy_of(server, template) as dsn,
            topics_for(broker, dsn) as settings,
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            site(
                Path(folder) / "site", server, settings, publisher={"window": f"{self.window}s"}
            ) as dagster,
        ):
            dagster.until_running()
            over = threading.Event()
            writer = paced_writer(dsn, self.rate, over)
            began = time.time()
            try:
                while True:
                    time.sleep(2)
                    found = [w for w in dagster.windows("publish") if w.ended]
                    console.print(f"{len(found)} of {self.changes} changes", end="\r")
                    if len(found) >= self.changes:
                        break
                time.sleep(AFTERWARDS)
            finally:
                over.set()
                writer.join()
            time.sleep(1)
            runs = dagster.windows("publish")
            with psycopg.connect(dsn) as connection:
                rows = connection.execute(PUBLISHED).fetchall()
        changes = changes_of(runs)
        paused = waits([(p, writer.committed[n]) for p, _, n in rows if n in writer.committed])
        at_change = [pause for pause in paused if within(pause[0], changes)]
        for number, change in enumerate(changes, start=1):
            mine = [length for at, length in at_change if within(at, [change])]
            results.add("change", "longest pause", max(mine) * 1000, "ms", run=number)
            late = [(p - c) * 1000 for p, c, _ in rows if within(p, [change])]
            add_lags(results, "change", late, number)
        others = [(p, c) for p, c, _ in rows if p > began and not within(p, changes)]
        quiet = [
            length
            for at, length in paused
            if at > began and not within(at, changes) and not within(at + length, changes)
        ]
        results.add("between", "longest pause", max(quiet) * 1000, "ms", run=1)
        late = [(p - c) * 1000 for p, c in others]
        add_lags(results, "between", late, 1)
        return results.results


def add_lags(results: Recorder, contestant: str, late: list[float], run: int) -> None:
    """From a row's writing to its publishing: whatever kept the writer is not in it."""
    for name, rank in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        results.add(contestant, f"lag {name}", percentile(late, rank), "ms", run=run)


def changes_of(runs: list[Run]) -> list[tuple[float, float]]:
    """From when to when each change was under way: windows that ended, but not by the end of all."""
    changes = []
    for before, after in itertools.pairwise(runs):
        if before.ended and after.started:
            # The process of a run is started some seconds before Dagster calls the run so.
            changes.append((min(after.started - 5, before.ended), before.ended + AFTERWARDS))
    return changes


def within(moment: float, spans: list[tuple[float, float]]) -> bool:
    return any(first <= moment <= last for first, last in spans)

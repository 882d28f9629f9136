"""Scenario ``soak``: two contours under Dagster for an hour, written to all the time.

Both write, half the ``rate`` each (``soak_load``). Windows follow each other; in the middle Kafka is
stopped and comes back on the same port after a minute. The lag of a row is the time from the return of
its commit until it is seen in the other contour. Each half minute memory and tables are looked at
(``soak_samples``). In the end both must hold the same rows with the same versions, and nothing may be
parked, else the run fails.

Everything is on one server: both contours, and Dagster's own database.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import psycopg
from rich.console import Console

from bench import soak_figures, soak_load
from bench.apply import contents_of, make_target
from bench.broker import other_contour, running_broker, topics_for
from bench.children import PROCESSES, Child
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template, settle_down
from bench.results import Recorder, Result, recorder
from bench.site import Site, site
from bench.soak_figures import CHANGES, OUTAGE, STEADY, Lag, Span
from bench.soak_load import Load, Wrote
from bench.soak_samples import Samples, tables
from bench.subjects import SUBJECTS
from bench.throughput import refuse_unless
from replication_pipeline.domain.model import percentile
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedServerError
from replication_pipeline.embedded.process import wait_until
from replication_pipeline.settings import Settings

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on", "checkpoint_timeout": "5min"}
A, B = "soak a", "soak b"
USERS: Final = SUBJECTS[1]
OVER_TIME: Final = "over time"
SETTLING: Final = 35.0  # seconds from the last window's start to the first look at memory
BUCKET: Final = 30.0  # seconds
LOOK: Final = 0.2
LONGEST_DRAIN: Final = 900.0
AIMS: Final = {STEADY: 1000, CHANGES: 5000}  # ms, lag p99
JOBS: Final = ("publish", "apply")


class Outage(threading.Thread):
    """Kafka's, ``begins`` seconds from the start on, for ``length`` seconds; 0 is none."""

    def __init__(self, broker: EmbeddedKafka, begins: float, length: float) -> None:
        super().__init__(name="outage", daemon=True)
        self.down = self.up = 0.0
        """When it was stopped, and when it answered again, in seconds since 1970; 0 before that."""
        self._broker, self._begins, self._length = broker, begins, length

    def run(self) -> None:
        """Stop it, and start it again on the same port."""
        if self._length:
            time.sleep(self._begins)
            self.down = time.time()
            self._broker.stop()
            time.sleep(max(0.0, self.down + self._length - time.time()))
            self._broker.start()
            self.up = time.time()

    def span(self) -> Span | None:
        """Raises ``RuntimeError`` when it has not come back."""
        self.join()
        if self._length and not self.up:
            raise RuntimeError("Kafka did not come back")
        return (self.down, self.up) if self._length else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    server: ClassVar[Mapping[str, str]] = SERVER
    minutes: float = 60
    rate: float = 500
    """Events a second, of both contours together."""
    outage: float = 60
    """Seconds."""
    window: int | None = None
    """Seconds of a window, instead of the default."""
    kept: int | None = None
    """Minutes for which history is kept, instead of the defaults."""

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        with ExitStack() as until_done:
            enter = until_done.enter_context
            broker = enter(running_broker(server))
            a = enter(copy_of(server, make_template(server, Ours()), A))
            b = enter(copy_of(server, make_target(server, USERS), B))
            first = enter(topics_for(broker, a))
            contours = [first, other_contour(first, b)]
            fill(a, b, self.rate / 2)
            folder = Path(enter(tempfile.TemporaryDirectory(prefix="bench-")))
            dagster = enter(site(folder / "site", server, *contours, **self._sections()))
            results = self._recorder(server, contours)
            for settings in contours:
                for job in JOBS:
                    dagster.until_running(f"{settings.contour.name}/{job}")
            console.print(f"{self.minutes:g} minutes, {self.rate:g} events/s", highlight=False)
            time.sleep(SETTLING)
            outage = Outage(broker, begins=self.minutes * 30, length=self.outage)
            samples = Samples(dagster, {s.contour.name: dsn_of(s) for s in contours}, results)
            began, found = self._write(contours, outage, samples, console)
            self._tell_lags(found, began, outage.span(), dagster, results)
            until_equal(a, b)
            samples.take(time.time() - began)
            samples.tell()
        for result in results.results:
            if result.metric == "lag p99" and result.contestant in AIMS:
                told = f"lag p99, {result.contestant}: {result.value:.0f} ms"
                console.print(f"{told}; aim: {AIMS[result.contestant]} ms", highlight=False)
        return results.results

    def _sections(self) -> dict[str, Any]:
        """Configuration that is not the default."""
        found: dict[str, Any] = {}
        if self.window is not None:
            found |= {"publisher": {"window": f"{self.window}s"}}
            found |= {"consumer": {"window": f"{self.window}s"}}
        if self.kept is not None:
            what = ("published", "processed_events", "conflicts", "tombstones")
            found["cleanup"] = {**dict.fromkeys(what, f"{self.kept}min"), "cron": "*/2 * * * *"}
        return found

    def _recorder(self, server: EmbeddedPostgres, contours: list[Settings]) -> Recorder:
        names = [settings.contour.name for settings in contours]
        parts = [f"run {job} {name}" for job in JOBS for name in names]
        parts += [f"code server {name}" for name in names] + ["daemon"]
        return recorder(
            "soak",
            server,
            contestants=[
                *(STEADY, CHANGES, OUTAGE, OVER_TIME, *parts, *names, "Dagster's database")
            ],
            minutes=self.minutes,
            rate=self.rate,
            outage=self.outage,
            window=self.window or "default",
            kept=self.kept or "default",
            bucket_seconds=BUCKET,
            aims_lag_p99_ms=AIMS,
        )

    def _write(
        self, contours: list[Settings], outage: Outage, samples: Samples, console: Console
    ) -> tuple[float, list[Lag]]:
        """Until time is over and all has arrived. When it began, and the lags of both ways."""
        over = PROCESSES.Event()
        loads = [Load(dsn_of(s), number, self.rate / 2) for number, s in enumerate(contours)]
        with ExitStack() as until_done:
            enter = until_done.enter_context
            writers = [enter(Child(soak_load.write, load, over)) for load in loads]
            there = reversed(loads)
            readers = [
                enter(Child(soak_load.read, other.dsn, load))
                for load, other in zip(loads, there, strict=True)
            ]
            for child in (*writers, *readers):
                child.receive()
            began, started = time.time(), time.monotonic()
            for writer in writers:
                writer.send()
            outage.start()
            while (passed := time.monotonic() - started) < self.minutes * 60:
                if passed >= len(samples.taken) * BUCKET:
                    samples.take(passed)
                    console.print(f"{passed / 60:.1f} of {self.minutes:g} minutes", end="\r")
                time.sleep(LOOK)
            over.set()
            wrote: list[Wrote] = [writer.receive() for writer in writers]
            seconds = time.monotonic() - started
            found: list[Lag] = []
            for reader, one in zip(readers, wrote, strict=True):
                reader.send(one.last)
                found += soak_figures.lags(one.inserted, reader.receive())
        add = samples.results.add
        add(STEADY, "reached", sum(o.transactions for o in wrote) / seconds, "events/s", run=1)
        late = percentile((late for one in wrote for late in one.late), 0.99)
        add(STEADY, "writer behind its pace, p99", late * 1000, "ms", run=1)
        return began, sorted(found, key=lambda lag: lag.written)

    def _tell_lags(
        self,
        found: list[Lag],
        began: float,
        outage: Span | None,
        dagster: Site,
        results: Recorder,
    ) -> None:
        span: Span | None = None
        if outage:
            down, up = outage
            span = (down, soak_figures.drained(found, down, up))
            results.add(OUTAGE, "began", down - began, "s of the run", run=1)
            results.add(OUTAGE, "lasted", up - down, "s", run=1)
            results.add(OUTAGE, "time to drain", span[1] - up, "s", run=1)
        runs = [run for job in JOBS for run in dagster.windows(job)]
        handovers = soak_figures.changes(runs)
        for phase, lags in soak_figures.by_phase(found, span, handovers).items():
            add_ranks(results, phase, "", lags, 1)
            results.add(phase, "rows", len(lags), "", run=1)
        for number, lags in sorted(soak_figures.buckets(found, began, BUCKET).items()):
            add_ranks(results, OVER_TIME, " over time", lags, number)
        ended = found[-1].written
        measured = [each for each in soak_figures.merged(handovers) if began < each[0] < ended]
        for number, each in enumerate(measured, start=1):
            results.add(CHANGES, "began", each[0] - began, "s of the run", run=number)
            lags = [lag for lag in found if lag.overlaps([each])]
            if lags and not (span and any(lag.overlaps([span]) for lag in lags)):
                longest = soak_figures.ranks(lags)["max"]
                results.add(CHANGES, "longest lag of each", longest, "ms", run=number)


def add_ranks(results: Recorder, phase: str, when: str, lags: list[Lag], run: int) -> None:
    if lags:
        for rank, value in soak_figures.ranks(lags).items():
            results.add(phase, f"lag {rank}{when}", value, "ms", run=run)


def fill(a: str, b: str, rate: float) -> None:
    with (
        psycopg.connect(a, autocommit=True) as of_a,
        psycopg.connect(b, autocommit=True) as of_b,
    ):
        soak_load.fill(of_a, of_b, rate)
        for connection in (of_a, of_b):
            settle_down(connection)


def until_equal(a: str, b: str) -> None:
    """Wait until both hold the same. Raises ``RuntimeError`` for what differs, or is parked."""

    def quiet() -> bool:
        return not any(tables(dsn)["unpublished"] for dsn in (a, b))

    wait_until(quiet, timeout=LONGEST_DRAIN, what="all events to be published")
    with contextlib.suppress(EmbeddedServerError):
        wait_until(
            lambda: contents_of(a, USERS) == contents_of(b, USERS),
            timeout=LONGEST_DRAIN,
            what="both contours to be equal",
        )
    found = {"rows": (contents_of(a, USERS), contents_of(b, USERS))}
    parked = {f"parked, {of}": (tables(dsn)["parked"], 0) for of, dsn in {"a": a, "b": b}.items()}
    refuse_unless("soak", {**found, **parked})


def dsn_of(settings: Settings) -> str:
    return settings.postgres.dsn.get_secret_value()

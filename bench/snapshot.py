"""Scenario ``snapshot``: how fast a table goes into another contour, beside a plain copy of its rows.

``floor`` is ``COPY … TO`` piped into ``COPY … FROM`` of the same rows and versions. ``into the queue``
is the snapshot alone, without limits and without publishers: what the source pays. ``all the way`` has
the default settings, with publisher and applier, both connected, in processes of their own; the clock
stops at the commit of the last row in ``b``, which must hold the same rows then. Both databases are on
one server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.appliers import ours as applier
from bench.apply import contents_of, make_target
from bench.broker import other_contour, running_broker, topics_for, wait_until_shared_out
from bench.contestants.ours import Ours, contour_settings
from bench.database import copy_of, exists, make_template, settle_down, wal_position
from bench.measure import rotated
from bench.publishers import ours as publisher
from bench.results import Result, recorder
from bench.subjects import SUBJECTS, fill_users
from bench.throughput import FLOOR, Start, refuse_unless, run_together
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline import runtime
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.engine.snapshot import Totals, Wanted
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.observe import SnapshotLog
from replication_pipeline.settings import Settings, SnapshotSettings

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on", "shared_buffers": "1GB"}
QUEUED, ALL_THE_WAY = "into the queue", "all the way"
CONTESTANTS: Final = (FLOOR, QUEUED, ALL_THE_WAY)
SOURCE: Final = "table to load"
A, B = "trial a", "trial b"
USERS: Final = SUBJECTS[1]
WARM_UP_SHARE: Final = 20
ROWS: Final = "copy users ({columns}) to stdout (format binary)"
COLUMNS: Final = (
    "select string_agg(attname, ', ' order by attnum) from pg_attribute "
    "where attrelid = 'users'::regclass and attnum > 0 and not attisdropped"
)


def make_source(server: EmbeddedPostgres, rows: int) -> str:
    """A contour whose rows no event tells of. Returns its name."""
    name = f"{SOURCE}, {rows}"
    if not exists(server, name):
        dsn = server.create_database(name, template=make_template(server, Ours()))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            fill_users(connection, rows)
            connection.execute("vacuum (analyze)")
    return name


def load(settings: Settings) -> Totals:
    stop = StopToken()
    _, work = runtime.prepare_snapshot(settings, Wanted("users"), watcher=SnapshotLog(), stop=stop)
    return work.run()


@contextmanager
def loader(settings: Settings, progress: Progress) -> Iterator[Ready]:
    """As a worker beside publisher and applier."""

    def run() -> Worked:
        totals = load(settings)
        progress.add(totals.queued)
        return Worked(totals.queued, now())

    yield Ready(run)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotScenario:
    server: ClassVar[Mapping[str, str]] = SERVER
    rows: int = 1_000_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "snapshot",
            server,
            contestants=[*CONTESTANTS],
            rows=self.rows,
            rounds=self.rounds,
            warm_up=f"one round with a {WARM_UP_SHARE}th of the rows",
        )
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                rows = self.rows if turn else max(1, self.rows // WARM_UP_SHARE)
                make_source(server, rows)
                speeds: dict[str, float] = {}
                for name in rotated([*CONTESTANTS], turn):
                    seconds, wal = self._measure(server, broker, name, rows)
                    if turn:
                        speeds[name] = rows / seconds
                        results.add(name, "speed", speeds[name], "rows/s", run=turn)
                        results.add(name, "WAL", wal / rows, "bytes/row", run=turn)
                for name, speed in speeds.items():
                    share = speed / speeds[FLOOR]
                    results.add(name, "speed by the floor's", share, "share", run=turn)
        return results.results

    def _measure(
        self, server: EmbeddedPostgres, broker: EmbeddedKafka, name: str, rows: int
    ) -> tuple[float, float]:
        """Seconds, and bytes of WAL of the whole server."""
        with (
            copy_of(server, make_source(server, rows), A) as a,
            copy_of(server, make_target(server, USERS), B) as b,
            psycopg.connect(a, autocommit=True) as observer,
        ):
            settle_down(observer)
            before = wal_position(observer)
            if name == FLOOR:
                seconds = copy_rows(a, b)
            elif name == QUEUED:
                settings = contour_settings(a).model_copy(
                    update={"snapshot": SnapshotSettings(max_queue=10 * rows)}
                )
                began = time.monotonic()
                totals = load(settings)
                seconds = time.monotonic() - began
                refuse_unless(name, {"queued": (totals.queued, rows)})
            else:
                seconds = replicate(broker, a, b, observer, rows)
            wal = wal_position(observer) - before
            if name != QUEUED:
                refuse_unless(name, {"rows": (contents_of(b, USERS), contents_of(a, USERS))})
        return seconds, wal


def copy_rows(a: str, b: str) -> float:
    """The rows by COPY, through this process."""
    with psycopg.connect(a) as source, psycopg.connect(b) as target:
        target.execute("set session_replication_role = replica")
        (columns,) = source.execute(COLUMNS).fetchone() or ("",)
        statement = ROWS.format(columns=columns)
        began = time.monotonic()
        with (
            source.cursor().copy(statement.encode()) as rows,
            target.cursor().copy(statement.replace("to stdout", "from stdin").encode()) as into,
        ):
            for piece in rows:
                into.write(piece)
        target.commit()
        return time.monotonic() - began


def replicate(
    broker: EmbeddedKafka, a: str, b: str, observer: psycopg.Connection, rows: int
) -> float:
    with topics_for(broker, a) as settings:
        other = other_contour(settings, b)
        run = run_together(
            [
                Start(loader, settings, Progress(rows)),
                Start(publisher.ours, settings, Progress(rows)),
                Start(applier.ours, other, Progress(rows)),
            ],
            observer=observer,
            broker=broker,
            count=False,
            connected=lambda: wait_until_shared_out(other, 1),
        )
    loaded, _, applied = run.done
    return applied.ended - loaded.began

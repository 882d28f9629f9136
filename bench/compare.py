"""Scenario ``compare``: how fast a table is found equal in two contours, and with how little memory.

Both databases are on one server, and the sides are read at once, as they are by ``compare``. ``floor``
is the simplest thing that touches every row: one scan a side of ``count(*)`` and the md5 of each row's
text, which does not tell which rows differ. ``100 differ`` has so many rows changed past the triggers,
all over the table, and finds them; waiting for what is under way is not in it, as nothing is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench import users
from bench.children import cpu_seconds
from bench.contestants.ours import Ours, contour_settings
from bench.database import copy_of, make_template, settle_down
from bench.measure import rotated
from bench.results import Recorder, Result, recorder
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.postgres.compare_contours import open_contours
from replication_pipeline.postgres.comparison import Options, compare_table
from replication_pipeline.settings import CompareSettings, PostgresSettings, Settings

CONTESTANTS: Final = ("floor", "ours", "100 differ")
FLOOR: Final = "select count(*), count(md5(t::text)) from users t"
AIM: Final = 300_000  # rows a second and side
AT_ONCE: Final = 1_000_000
DIFFERENT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    server: ClassVar[Mapping[str, str]] = {}
    rows: int = 1_000_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "compare",
            server,
            contestants=CONTESTANTS,
            rows=self.rows,
            rounds=self.rounds,
            aim_rows_per_second=AIM,
        )
        template = make_template(server, Ours())
        with copy_of(server, template, "here") as here:
            self._fill(here, console)
            with copy_of(server, "here", "there") as there:
                settings = between(here, there)
                for turn in range(self.rounds + 1):  # the first one warms up
                    console.print(f"round {turn} of {self.rounds}", highlight=False)
                    for name in rotated(CONTESTANTS, turn):
                        self._measure(settings, there, name, results, turn)
        return results.results

    def _fill(self, dsn: str, console: Console) -> None:
        console.print(f"{self.rows:,} rows", highlight=False)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            for first in range(1, self.rows + 1, AT_ONCE):
                connection.execute(users.insert(first, min(first + AT_ONCE - 1, self.rows)))
            settle_down(connection)

    def _measure(
        self, settings: Settings, there: str, name: str, results: Recorder, turn: int
    ) -> None:
        different = DIFFERENT if name == "100 differ" else 0
        with psycopg.connect(there, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            change = "update users set name = name || %s where id %% %s = 7 and id <= %s"
            step = max(self.rows // DIFFERENT, 8)
            if different:
                connection.execute(change, ["!", step, step * DIFFERENT])
            memory, began = reset_memory(), time.monotonic()
            used = floor(settings) if name == "floor" else ours(settings, different)
            seconds, grown = time.monotonic() - began, peak_memory() - memory
            if different:
                connection.execute(
                    "update users set name = rtrim(name, %s) where name like %s", ["!", "%!"]
                )
                connection.execute("vacuum users")
        if turn:
            results.add(name, "speed", self.rows / seconds, "rows/s a side", run=turn)
            results.add(name, "time", seconds, "s", run=turn)
            results.add(
                name, "CPU, backends", used / self.rows * 1e6 / 2, "µs a row and side", run=turn
            )
            results.add(name, "memory", grown / 1e6, "MB more than before", run=turn)


def between(here: str, there: str) -> Settings:
    """Contour ``bench``, which is to be compared with its copy, now ``b``."""
    with psycopg.connect(there, autocommit=True) as connection:
        connection.execute("update replication.contour set name = 'b', id = 2")
        connection.execute("analyze")
    others = {"b": PostgresSettings(dsn=there)}
    return contour_settings(here).model_copy(update={"compare": CompareSettings(contours=others)})


def floor(settings: Settings) -> float:
    """Both sides at once, one process each. Returns the backends' processor time."""
    with open_contours(settings) as connections, ThreadPoolExecutor(2) as pool:
        for connection in connections.values():
            connection.execute("set max_parallel_workers_per_gather = 0")
        list(pool.map(lambda c: c.execute(FLOOR).fetchall(), connections.values()))
        return sum(cpu_seconds(c.info.backend_pid) for c in connections.values())


def ours(settings: Settings, different: int) -> float:
    """Fails unless it finds what there is to find."""
    options = Options(patience=timedelta())
    with open_contours(settings) as connections:
        found = compare_table(connections, "users", settings, options)
        used = sum(cpu_seconds(c.info.backend_pid) for c in connections.values())
    # No heartbeats run, so what differs can't be known to have settled.
    if (found.equal, found.unsettled) != (not different, different):
        raise RuntimeError(f"{found.unsettled} rows differ instead of {different}")
    return used


def reset_memory() -> int:
    """This process's memory now, from where on its peak is counted."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    """In bytes."""
    status = Path(f"/proc/{os.getpid()}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0

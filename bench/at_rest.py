"""Scenario ``at-rest``: what a contour costs while nobody writes, all of Dagster's parts included; with
``--rate`` a soak, in which somebody does.

Memory of each part at the end and how much it has grown since the beginning, processor time over the
run, and how much Dagster's database has grown, by table. ``unique`` memory is what would be free if the
process ended; ``proportional`` shares out pages that several have. Ten minutes have one change of
window in both lanes; growth a day is that times 144, before Dagster's own retention and the job
``cleanup`` take away what is old.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import psutil
from rich.console import Console

from bench.broker import running_broker, topics_for
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template
from bench.results import Recorder, Result, recorder
from bench.site import Site, paced_writer, site
from replication_pipeline.embedded import EmbeddedPostgres

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on"}
PARTS: Final = ("run publish", "run apply", "code server", "daemon", "webserver")
SETTLING: Final = 20.0
MIB: Final = 2**20
DAY: Final = 86_400.0
SIZES: Final = """
select c.relname, pg_total_relation_size(c.oid)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and n.nspname = 'public'
"""
ROWS: Final = ("event_logs", "runs", "job_ticks", "asset_check_executions")


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRest:
    server: ClassVar[Mapping[str, str]] = SERVER
    seconds: int = 600
    rate: float = 0
    """Rows written a second."""

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "at-rest",
            server,
            contestants=[*PARTS, "all", "Dagster's database"],
            seconds=self.seconds,
            rate=self.rate,
        )
        template = make_template(server, Ours())
        with (
            running_broker(server) as broker,
            copy_of(server, template) as dsn,
            topics_for(broker, dsn) as settings,
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            site(Path(folder) / "site", server, settings, webserver=True) as dagster,
        ):
            dagster.until_running("publish")
            dagster.until_running("apply")
            time.sleep(SETTLING)
            console.print(f"{self.rate:g} rows/s for {self.seconds} s")
            before, used, sizes = growth(dagster), processor_time(dagster), memory(dagster)
            began = time.monotonic()
            with writing(dsn, self.rate):
                self._rest(began, used, dagster)
            passed = time.monotonic() - began
            after = growth(dagster)
            tell_memory(sizes, memory(dagster), results)
        for part in PARTS:
            seconds = sum(last - first for name, first, last in used.values() if name == part)
            results.add(part, "CPU", seconds / passed * 100, "% of a core", run=1)
        whole = sum(last - first for _, first, last in used.values())
        results.add("all", "CPU", whole / passed * 100, "% of a core", run=1)
        for what, unit in (("bytes", "MB a day"), ("rows", "rows a day")):
            scale = DAY / passed / (1_000_000 if what == "bytes" else 1)
            for name, now in after.items():
                if name.startswith(what) and now - before.get(name, 0) > 0:
                    metric = f"growth in {what}, {name.partition(' ')[2]}"
                    value = (now - before.get(name, 0)) * scale
                    results.add("Dagster's database", metric, value, unit, run=1)
        return results.results

    def _rest(self, began: float, used: dict[int, tuple[str, float, float]], dagster: Site) -> None:
        """Processes come and go with windows: look now and then."""
        while time.monotonic() - began < self.seconds:
            time.sleep(5)
            for pid, (name, _, last) in processor_time(dagster).items():
                first = used[pid][1] if pid in used else 0.0
                known = used[pid][0] if pid in used and name == "run, starting" else name
                used[pid] = (known, first, last)


def processor_time(dagster: Site) -> dict[int, tuple[str, float, float]]:
    """By process: its part, and the processor time it has used so far, twice."""
    found = {}
    for part, processes in dagster.processes().items():
        for process in processes:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[process.pid] = (part, times.user + times.system, times.user + times.system)
    return found


@contextmanager
def writing(dsn: str, rate: float) -> Iterator[None]:
    """Somebody writes ``rate`` rows a second meanwhile."""
    over = threading.Event()
    writer = paced_writer(dsn, rate, over) if rate else None
    try:
        yield
    finally:
        over.set()
        if writer:
            writer.join()


def memory(dagster: Site) -> dict[str, dict[str, float]]:
    """By part, and of all."""
    names = ("processes", "resident", "proportional", "unique")
    whole = dict.fromkeys(names, 0.0)
    found = {"all": whole}
    for part, processes in dagster.processes().items():
        sizes = [process.memory_full_info() for process in processes]
        found[part] = {
            "processes": float(len(processes)),
            "resident": sum(size.rss for size in sizes) / MIB,
            "proportional": sum(size.pss for size in sizes) / MIB,
            "unique": sum(size.uss for size in sizes) / MIB,
        }
        for name in names:
            whole[name] += found[part][name]
    return found


def tell_memory(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], results: Recorder
) -> None:
    """What there is in the end, and what has been added to the unique part of it."""
    for part in (*PARTS, "all"):
        for name, value in after.get(part, {}).items():
            metric, unit = (name, "") if name == "processes" else (f"memory, {name}", "MiB")
            results.add(part, metric, value, unit, run=1)
        if part in before and part in after:
            grown = after[part]["unique"] - before[part]["unique"]
            results.add(part, "memory, growth of unique", grown, "MiB", run=1)


def growth(dagster: Site) -> dict[str, float]:
    """Bytes and rows of Dagster's database by table. Vacuumed first: what is free is used again."""
    with dagster.storage() as storage:
        storage.execute("vacuum")
        found = {f"bytes {name}": float(size) for name, size in storage.execute(SIZES)}
        found["bytes all"] = sum(found.values())
        for table in ROWS:
            ((rows,),) = storage.execute(f"select count(*) from {table}").fetchall()
            found[f"rows {table}"] = float(rows)
    return found

"""What scenario ``soak`` looks at now and then: memory of Dagster's processes, and sizes of tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Final

import psutil
import psycopg

from bench.results import Recorder
from bench.site import Site

MIB: Final = 2**20
MB: Final = 10**6
HOUR: Final = 3600.0
PARTS: Final = ("run publish", "run apply", "code server", "daemon")
YOUNG: Final = 30.0  # seconds in which a process has not yet all that it needs
LEAST: Final = 3  # samples of a process from which its growth is told
TABLES: Final = """
select coalesce(i.inhparent, c.oid)::regclass::text, sum(pg_total_relation_size(c.oid))::float8
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_inherits i on i.inhrelid = c.oid
 where c.relkind = 'r' and n.nspname in ('replication', 'public')
 group by 1
"""
ROWS: Final[Mapping[str, str]] = {
    "unpublished": "select count(*) from replication.replication_queue where not published",
    "parked": "select count(*) from replication.parked_events",
    "conflicts": "select count(*) from replication.replication_conflicts",
}
TOLD: Final = ("replication_queue", "processed_events", "parked_events", "users")
DATABASE: Final = "select pg_database_size(current_database())::float8"


@dataclass(frozen=True, slots=True)
class Sample:
    """``at`` seconds of the run: the unique memory of each process in MiB, by part and process id, and
    figures of each database.
    """

    at: float
    memory: Mapping[str, Mapping[int, float]]
    tables: Mapping[str, Mapping[str, float]]


@dataclass(slots=True)
class Samples:
    """Of one run; each is written at once."""

    dagster: Site
    databases: Mapping[str, str]
    """Connection strings by contour."""
    results: Recorder
    taken: list[Sample] = field(default_factory=list)

    def take(self, at: float) -> None:
        """Look, and write it down."""
        sample = Sample(at, memory(self.dagster), self._tables())
        self.taken.append(sample)
        run = len(self.taken)
        for part, processes in sample.memory.items():
            self._add(part, "memory over time", mean(processes.values()), "MiB a process", run)
        for where, figures in sample.tables.items():
            for what, value in figures.items():
                self._add(where, f"{what} over time", value, unit(what), run)

    def _tables(self) -> dict[str, dict[str, float]]:
        found = {contour: tables(dsn) for contour, dsn in self.databases.items()}
        with self.dagster.storage() as storage:
            ((size,),) = storage.execute(DATABASE).fetchall()
        return found | {"Dagster's database": {"all": size / MB}}

    def tell(self) -> None:
        """The first and the last sample, and what has grown, also since half the time."""
        first, last = self.taken[0], self.taken[-1]
        middle = min(self.taken, key=lambda sample: abs(sample.at - (first.at + last.at) / 2))
        for where, figures in last.tables.items():
            for what, value in figures.items():
                before = first.tables[where][what]
                self._add(where, f"{what} at the start", before, unit(what))
                self._add(where, f"{what} at the end", value, unit(what))
                if unit(what) == "MB":
                    for since, one in (("", first), (", second half", middle)):
                        passed = last.at - one.at
                        grown = (value - one.tables[where][what]) * HOUR / passed if passed else 0.0
                        self._add(where, f"{what}, growth{since}", grown, "MB an hour")
        for part in sorted({part for sample in self.taken for part in sample.memory}):
            self._tell_memory(part)

    def _tell_memory(self, part: str) -> None:
        seen = [sample.memory[part] for sample in self.taken if part in sample.memory]
        self._add(part, "memory at the start", mean(seen[0].values()), "MiB a process")
        self._add(part, "memory at the end", mean(seen[-1].values()), "MiB a process")
        courses: dict[int, list[float]] = {}
        for processes in seen:
            for pid, size in processes.items():
                courses.setdefault(pid, []).append(size)
        grown = [course[-1] - course[0] for course in courses.values() if len(course) >= LEAST]
        if grown:  # windows come and go: the growth of one that is like most
            self._add(part, "memory, growth of a process", median(grown), "MiB")

    def _add(self, contestant: str, metric: str, value: float, of: str, run: int = 1) -> None:
        self.results.add(contestant, metric, value, of, run=run)


def unit(what: str) -> str:
    return "rows" if what in ROWS else "MB"


def memory(dagster: Site) -> dict[str, dict[int, float]]:
    """What would be free if a process ended, of those that matter and are no longer young."""
    found: dict[str, dict[int, float]] = {}
    for part, processes in dagster.processes().items():
        for process in processes if part.startswith(PARTS) else ():
            try:
                if time.time() - process.create_time() > YOUNG:
                    size = process.memory_full_info().uss / MIB
                    found.setdefault(part, {})[process.pid] = size
            except psutil.NoSuchProcess:
                continue
    return found


def tables(dsn: str) -> dict[str, float]:
    """MB of tables, indexes included, and rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        sizes = {
            name.removeprefix("replication."): size / MB
            for name, size in connection.execute(TABLES)
        }
        found = {name: sizes.pop(name) for name in TOLD}
        found["other tables"] = sum(sizes.values())
        for what, query in ROWS.items():
            ((found[what],),) = connection.execute(query.encode()).fetchall()
    return found

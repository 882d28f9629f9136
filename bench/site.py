"""Contours under Dagster as in production: a code server each, daemon, webserver, kept alive by a
supervisor.

The processes are those of the demo (``demo.dagster_services``), with the product's own dagster.yaml.
What Dagster believes is read from its storage by SQL, so that nothing here has to import it.
``keep_alive`` is the supervisor: it starts what has ended anew, at once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import yaml

from replication_pipeline.demo.dagster_services import DagsterServices, listens
from replication_pipeline.demo.leftovers import is_run, kill_leftovers, processes_of
from replication_pipeline.demo.place import Place
from replication_pipeline.embedded import EmbeddedPostgres, ManagedProcess
from replication_pipeline.embedded.process import free_port, wait_until
from replication_pipeline.embedded.state import StateDirectory
from replication_pipeline.settings import Settings

LONGEST_START: Final = 120.0
CODE_SERVER: Final = "code server"
WINDOWS: Final = """
select r.run_id, r.status, r.start_time, r.end_time,
       (select jsonb_object_agg(t.key, t.value) from run_tags t where t.run_id = r.run_id)
  from runs r join run_tags j on j.run_id = r.run_id and j.key = 'lane' and j.value like %s
 order by r.id
"""


@dataclass(frozen=True, slots=True)
class Services(DagsterServices):
    """With a database of its own for Dagster's storage."""

    database: str

    def _run(
        self, name: str, arguments: Any, more: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        environment = {**(more or {}), "DAGSTER_PG_DB": self.database}
        return DagsterServices._run(self, name, arguments, environment)


@dataclass(frozen=True, slots=True)
class Run:
    """A window in Dagster's books. Times are seconds since 1970."""

    run_id: str
    status: str
    started: float | None
    ended: float | None
    tags: Mapping[str, str]

    @property
    def pid(self) -> int | None:
        """Of its process, once it has told."""
        mark = self.tags.get("process", "")
        return int(mark.split("/")[1]) if mark.count("/") == 2 else None  # noqa: PLR2004

    @property
    def alive(self) -> bool:
        """Whether there is such a process."""
        if self.pid is None:
            return False
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(slots=True)
class Site:
    """``site`` makes and removes it."""

    services: Services
    code_ports: Mapping[str, int]
    """By contour."""
    ui_port: int
    _up: dict[str, ManagedProcess] = field(default_factory=dict)
    _watched: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, *names: str) -> None:
        """Start those of the three services that don't run."""
        begin: dict[str, Callable[[], ManagedProcess]] = {
            "daemon": self.services.daemon,
            "webserver": lambda: self.services.webserver(self.ui_port),
            **{
                f"{CODE_SERVER} {contour}": partial(self.services.code_server, contour, port)
                for contour, port in self.code_ports.items()
            },
        }
        with self._lock:
            for name in self._each(*names):
                if name not in self._up or not self._up[name].alive:
                    self._up[name] = begin[name]()

    def _each(self, *names: str) -> list[str]:
        """Names of processes: each contour has a code server."""
        servers = [f"{CODE_SERVER} {contour}" for contour in self.code_ports]
        return [each for name in names for each in (servers if name == CODE_SERVER else [name])]

    def kill(self, *names: str) -> None:
        """SIGKILL, with what belongs to it. ``run`` is the publish window, ``machine`` everything."""
        for name in self._each(*names):
            if name == "machine":
                with self._lock:  # nobody starts anything meanwhile
                    kill_leftovers(self.services.place.root)
                    for service in self._up.values():
                        service.kill()
            elif name == "run":
                for run in self.windows("publish"):
                    if run.status == "STARTED" and run.alive and run.pid:
                        psutil.Process(run.pid).kill()
            else:
                process = psutil.Process(self._up[name].pid)
                for one in (process, *(p for p in process.children() if not is_run(p))):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()

    @contextlib.contextmanager
    def keep_alive(self) -> Iterator[None]:
        """Be the supervisor while the block runs."""

        def watch() -> None:
            while not self._watched.wait(0.05):
                self.start(*self._up)

        self._watched.clear()
        watcher = threading.Thread(target=watch, name="supervisor")
        watcher.start()
        try:
            yield
        finally:
            self._watched.set()
            watcher.join()

    def storage(self) -> psycopg.Connection:
        """Dagster's own database."""
        return psycopg.connect(
            f"host={EmbeddedPostgres.host} port={self.services.storage_port} "
            f"dbname={self.services.database} user=postgres",
            autocommit=True,
        )

    def windows(self, job: str = "%") -> list[Run]:
        """All of the lanes that Dagster's books have, the oldest first. ``job`` is a job, or a lane."""
        with self.storage() as storage:
            rows = storage.execute(WINDOWS, [job if "/" in job else f"%/{job}"]).fetchall()
        return [Run(*row) for row in rows]

    def last_tick(self) -> float:
        """When the publish sensor last ended a tick well; 0 for never."""
        with self.storage() as storage:
            row = storage.execute(
                "select extract(epoch from max(update_timestamp))::float8 from job_ticks "
                "where status in ('SKIPPED', 'SUCCESS') and tick_body like '%publish%'"
            ).fetchone()
        return (row and row[0]) or 0.0

    def processes(self) -> Mapping[str, list[psutil.Process]]:
        """All that run, by what they are: services, and runs by their job. Where there are several
        contours, theirs is said.
        """
        jobs = {
            run.pid: self._of("run {1}", *run.tags["lane"].split("/")) for run in self.windows()
        }
        found: dict[str, list[psutil.Process]] = {}
        for process in processes_of(self.services.place.root):
            command = " ".join(process.cmdline())
            if is_run(process):
                name = jobs.get(process.pid, "run, starting")
            elif "webserver" in command:
                name = "webserver"
            elif "_daemon" in command:
                name = "daemon"
            elif "code-server" in command or "grpc" in command:
                name = self._of(CODE_SERVER, *re.findall(r"--location-name (\w+)", command)[:1])
            else:
                name = "other"
            found.setdefault(name, []).append(process)
        return found

    def _of(self, what: str, contour: str = "", *more: str) -> str:
        name = what.format(contour, *more)
        return f"{name} {contour}".strip() if len(self.code_ports) > 1 else name

    def until_running(self, job: str = "publish") -> Run:
        """Wait for a window that works; returns it."""
        found: list[Run] = []

        def runs() -> bool:
            found[:] = [r for r in self.windows(job) if r.status == "STARTED" and r.alive]
            return bool(found)

        wait_until(runs, timeout=LONGEST_START, what=f"a {job} window")
        return found[-1]

    def log(self, name: str) -> Path:
        """Where a service's output is."""
        return self._up[self._each(name)[0]].log_file


@contextlib.contextmanager
def site(
    root: Path,
    server: EmbeddedPostgres,
    *contours: Settings,
    database: str = "dagster_site",
    webserver: bool = False,
    **sections: Mapping[str, Any],
) -> Iterator[Site]:
    """Dagster for these contours, ready to replicate; ``sections`` are configuration of all of them."""
    state = StateDirectory(root)
    state.claim()
    place = Place(state.path, {}, state)
    for folder in (place.logs, place.dagster_home):
        folder.mkdir()
    for settings in contours:
        content = {
            "contour": settings.contour.model_dump(),
            "postgres": {"dsn": settings.postgres.dsn.get_secret_value()},
            "kafka": settings.kafka.model_dump(include={"bootstrap_servers", "topic_prefix"}),
            "tables": [*settings.tables],
            **{section: dict(values) for section, values in sections.items()},
        }
        place.config(settings.contour.name).write_text(yaml.safe_dump(content), encoding="utf-8")
    server.create_database(database)
    ports = {settings.contour.name: free_port() for settings in contours}
    found = Site(Services(place, server.port, database), ports, free_port())
    found.services.write_home(ports)
    try:
        found.services.migrate()
        found.start(CODE_SERVER)
        for port in ports.values():
            wait_until(partial(listens, port), timeout=LONGEST_START, what="the code server")
        found.start("daemon", *(["webserver"] if webserver else []))
        yield found
    finally:
        found.kill("machine")
        state.release()


class PacedWriter(threading.Thread):
    """A row each ``1 / rate`` seconds until ``over``. ``committed``: when, by id."""

    def __init__(self, dsn: str, rate: float, over: threading.Event) -> None:
        super().__init__(name="writer")
        self.committed: dict[int, float] = {}
        self._dsn, self._rate, self._over = dsn, rate, over

    def run(self) -> None:
        """Write."""
        with psycopg.connect(self._dsn, autocommit=True) as application:
            number, began = 0, time.monotonic()
            while not self._over.wait(max(0.0, began + number / self._rate - time.monotonic())):
                number += 1
                application.execute("insert into users (id) values (%s)", [number])
                self.committed[number] = time.time()


def paced_writer(dsn: str, rate: float, over: threading.Event) -> PacedWriter:
    """The writer, started."""
    writer = PacedWriter(dsn, rate, over)
    writer.start()
    return writer


PUBLISHED: Final = """
select extract(epoch from published_at)::float8, extract(epoch from created_at)::float8,
       (record_key::json ->> 'id')::integer
  from replication.replication_queue where published order by published_at
"""


def pauses(moments: list[float]) -> list[tuple[float, float]]:
    """When each pause between two neighbours began, and how long it was."""
    return [(one, other - one) for one, other in itertools.pairwise(moments)]


def waits(published: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When each time began in which something was committed and nothing was published, and how long it
    was. ``published``: of each row, when it was published, and when its writer knew of its commit.
    """
    found: list[tuple[float, float]] = []
    oldest, after = math.inf, math.inf
    for at, committed in sorted(published, reverse=True):
        if after < math.inf:
            began = max(at, oldest)
            found.append((began, max(0.0, after - began)))
        oldest, after = min(oldest, committed), at
    return found[::-1]

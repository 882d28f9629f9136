"""What runs in the demo, in which order it starts, and in which it stops.

Starting: everything as soon as its needs are met, for the machine may have two cores and the wait is
the sum of the longest chain: servers and code servers at once; tables when their database and the
broker are there; the UI when the code servers and Dagster's storage are, and the daemon when all is.

Stopping, the reverse of the flow, each within its share of fifteen seconds: the daemon, so that
nothing new starts; the windows, which finish their batch; code servers and UI; Kafka; PostgreSQL.
What doesn't end in its time is killed. That loses nothing: a killed window's batch is rolled back.

When the demo is killed the kernel ends its children, and the watchdog what those had started.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from replication_pipeline.demo import contours, watchdog
from replication_pipeline.demo import dagster_services as dagster
from replication_pipeline.demo.contours import Contour
from replication_pipeline.demo.leftovers import kill_leftovers
from replication_pipeline.demo.parallel import Task, Tasks, all_at_once, bounded
from replication_pipeline.demo.place import Place
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, ManagedProcess
from replication_pipeline.embedded.downloads import cache_directory
from replication_pipeline.embedded.kafka_jars import KAFKA_VERSION
from replication_pipeline.embedded.maven import CLASSPATH_FILE
from replication_pipeline.embedded.process import port_is_free, wait_until

NAMES: Final = ("a", "b")
STORAGE: Final = "dagster-db"
SERVERS: Final = (*NAMES, STORAGE, "kafka", *(f"code-server-{name}" for name in NAMES), "ui")
"""What needs a port that stays the same."""
USUAL_UI_PORT: Final = 3000

STOPPING: Final = 12.0
"""Seconds for all that may have to be waited for; what is late is killed."""


class Progress(Protocol):
    """Tells the user what happens."""

    def started(self, what: str, where: str, seconds: float) -> None:
        """Something is up."""

    def note(self, text: str) -> None:
        """Something takes its time."""

    def stopping(self, what: str) -> None:
        """Something is being stopped."""


class Stack:
    """``start`` once, ``stop`` in any state."""

    def __init__(self, place: Place, progress: Progress, *, ui: bool) -> None:
        self.place = place
        self._progress = progress
        self._ui = ui
        self._servers = {
            name: EmbeddedPostgres(place.root / name, port=place.ports[name])
            for name in (*NAMES, STORAGE)
        }
        self.kafka = EmbeddedKafka(place.root / "kafka", port=place.ports["kafka"])
        self.contours: tuple[Contour, Contour] = (self._configure(0), self._configure(1))
        self._dagster = dagster.DagsterServices(place, place.ports[STORAGE])
        self._code_ports = {name: place.ports[f"code-server-{name}"] for name in NAMES}
        self._code_servers: list[ManagedProcess] = []
        self._daemon: ManagedProcess | None = None
        self._webserver: ManagedProcess | None = None
        self._watchdog: ManagedProcess | None = None
        self._tasks = Tasks(most=8)
        self.url: str | None = None

    def start(self, interrupted: Callable[[], bool]) -> None:
        """Bring everything up. Raises ``Interrupted`` soon after ``interrupted()`` holds."""
        kill_leftovers(self.place.root)
        self._dagster.write_home(self._code_ports)
        self._watchdog = ManagedProcess(
            [sys.executable, "-m", watchdog.__name__, self.place.root, str(os.getpid())],
            log_file=self.place.log("watchdog"),
            cwd=self.place.root,
            parent_death_signal=signal.SIGCONT,  # which ends nobody
        )
        kafka = self._tasks.begin(self._start_kafka)
        storage = self._tasks.begin(self._start_storage)
        code = [
            self._tasks.begin(self._start_code_server, contour.name) for contour in self.contours
        ]
        ready = [
            self._tasks.begin(self._start_contour, contour, kafka) for contour in self.contours
        ]
        # A sensor that ticked before its contour is installed would report that as a failure.
        self._tasks.begin(self._start_daemon, [storage, *code, *ready])
        if self._ui:
            self._tasks.begin(self._start_webserver, [storage, *code])
        self._tasks.finish(interrupted)

    def missing(self) -> str | None:
        """Names what has ended although it should run, and where to read why."""
        for name, server in self._servers.items():
            if not server.running:
                return f"PostgreSQL {name} has ended; see {server.log_file}"
        if not self.kafka.running:
            return f"Kafka has ended; see {self.kafka.log_file}"
        for process in (*self._code_servers, self._daemon, self._webserver):
            if process is not None and not process.alive:
                return f"a part of Dagster has ended; see {process.log_file}"
        return None

    def stop(self) -> None:
        """Stop everything, in order. Harmless when nothing was started."""
        deadline = time.monotonic() + STOPPING

        def at_most(seconds: float) -> float:
            return max(0.1, min(seconds, deadline - time.monotonic()))

        self._tasks.abandon(timeout=at_most(2))
        if self._daemon is not None:
            self._progress.stopping("sensors")
            self._daemon.stop(timeout=at_most(2))
        if self._code_servers:
            self._progress.stopping("windows")
            dagster.end_windows(self.place.root, timeout=at_most(6))
            self._progress.stopping("code servers and UI")
            services = [*self._code_servers, *([self._webserver] if self._webserver else [])]
            all_at_once([partial(service.stop, timeout=at_most(2)) for service in services])
        kill_leftovers(self.place.root)
        self._progress.stopping("Kafka")
        bounded(self.kafka.stop, seconds=at_most(4), otherwise=self.kafka.kill)
        self._progress.stopping("PostgreSQL")
        all_at_once([server.stop for server in self._servers.values()])
        if self._watchdog is not None:
            self._watchdog.kill()

    @property
    def stuck(self) -> bool:
        """Whether exiting would wait for a thread of the start."""
        return self._tasks.stuck

    def _configure(self, index: int) -> Contour:
        name = NAMES[index]
        return contours.configure(
            name,
            index + 1,
            port=self.place.ports[name],
            kafka_port=self.place.ports["kafka"],
            file=self.place.config(name),
        )

    def _start_kafka(self) -> None:
        if not (cache_directory() / f"kafka-{KAFKA_VERSION}" / CLASSPATH_FILE).exists():
            self._progress.note(
                f"Kafka {KAFKA_VERSION}: downloading its jars, 45 MB, only this once"
            )
        with self._timed(f"Kafka {KAFKA_VERSION}", lambda: self.kafka.bootstrap_servers):
            self.kafka.start()

    def _start_contour(self, contour: Contour, kafka: Task) -> None:
        server = self._servers[contour.name]
        with self._timed(f"PostgreSQL {contour.name}", lambda: f"{server.host}:{server.port}"):
            server.start()
        with self._timed(f"contour {contour.name}", lambda: ", ".join(contours.TABLES)):
            contours.prepare(contour, server)
            kafka.result()
            contours.set_up_tables(contour)

    def _start_storage(self) -> None:
        server = self._servers[STORAGE]
        with self._timed("PostgreSQL of Dagster", lambda: f"{server.host}:{server.port}"):
            server.start()
        contours.create_database(server, dagster.DATABASE)
        self._dagster.migrate()
        self._dagster.clear_ghosts()

    def _start_code_server(self, contour: str) -> None:
        port = self._code_ports[contour]
        with self._timed(f"code location {contour}", lambda: f"{dagster.HOST}:{port}"):
            process = self._dagster.code_server(contour, port)
            self._code_servers.append(process)
            wait_until(
                lambda: dagster.listens(port),
                timeout=90,
                what=f"the code location of contour {contour}",
                process=process,
            )

    def _start_daemon(self, needs: Sequence[Task]) -> None:
        self._tasks.check(needs)
        self._daemon = self._dagster.daemon()

    def _start_webserver(self, needs: Sequence[Task]) -> None:
        self._tasks.check(needs)
        port = USUAL_UI_PORT if port_is_free(USUAL_UI_PORT) else self.place.ports["ui"]
        url = f"http://{dagster.HOST}:{port}"
        with self._timed("Dagster UI", lambda: url):
            self._webserver = self._dagster.webserver(port)
            wait_until(
                lambda: dagster.shows(url, len(NAMES)),
                timeout=90,
                what=f"the Dagster UI at {url} to show both contours",
                process=self._webserver,
            )
        self.url = url

    @contextmanager
    def _timed(self, what: str, where: Callable[[], str]) -> Iterator[None]:
        self._tasks.check()
        began = time.monotonic()
        yield
        self._progress.started(what, where(), time.monotonic() - began)

"""Three contours, each with its own PostgreSQL server; one Kafka; workers kept alive like services.

Workers reach their servers through proxies, so that a nemesis can cut, freeze and slow the network;
writers and checkers go straight. A worker that ends without being told to is started again, and
remembered: nothing that a nemesis does should end one.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import yaml
from psycopg.conninfo import make_conninfo

from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.process import ManagedProcess, free_port
from replication_pipeline.kafka.topics import ensure_topics
from replication_pipeline.postgres import installer
from replication_pipeline.postgres.connection import connect
from replication_pipeline.settings import Settings, load_settings
from replication_pipeline_tests.chaos.tables import UNIQUE
from replication_pipeline_tests.proxy import Proxy

NAMES: Final = "abc"
TOPIC_PREFIX: Final = "chaos."
PARTITIONS: Final = 3
Role = Literal["publish", "apply"]
# The first contour has two of each, so that locks and rebalances have something to decide.
WORKERS: Final[Sequence[tuple[str, Role]]] = [
    (name, role) for name in "aabc" for role in ("publish", "apply")
]
DATABASE_SETTINGS: Final = {
    # Faults kill processes, not the machine, so what the kernel was given is kept.
    "fsync": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
}


@dataclass
class Contour:
    """One site: a server, the network before it, and its workers' configuration."""

    name: str
    server: EmbeddedPostgres
    network: Proxy
    dsn: str
    config: Path
    settings: Settings
    lock: threading.Lock = field(
        default_factory=threading.Lock
    )  # one fault of the server at a time

    @contextmanager
    def session(self, **options: Any) -> Iterator[psycopg.Connection[Any]]:
        """A connection straight to the server."""
        with psycopg.connect(self.dsn, connect_timeout=5, **options) as connection:
            yield connection

    def ask(self, question: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.session(autocommit=True) as connection:
            cursor = connection.execute(question, parameters or None)
            return cursor.fetchall() if cursor.description else []


@dataclass
class Worker:
    """A publisher or an applier, as a service manager runs it."""

    contour: Contour
    role: Role
    log_file: Path
    process: ManagedProcess = field(init=False)
    told_to_end: bool = False

    def start(self) -> None:
        self.told_to_end = False
        command = [sys.executable, "-m", "replication_pipeline", self.role]
        self.process = ManagedProcess(
            [*command, "--config", self.contour.config],
            log_file=self.log_file,
            cwd=Path.cwd(),
        )

    def send(self, number: signal.Signals) -> None:
        self.told_to_end |= number in {signal.SIGKILL, signal.SIGTERM}
        if self.process.alive:
            self.process._popen.send_signal(number)


@dataclass
class Stack:
    """Everything that runs. ``deaths`` are workers that ended by themselves, with their last lines."""

    directory: Path
    contours: list[Contour]
    kafka: EmbeddedKafka
    kafka_network: Proxy
    tables: Sequence[str]
    workers: list[Worker] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    kafka_lock: threading.Lock = field(default_factory=threading.Lock)
    migration: threading.Lock = field(default_factory=threading.Lock)  # one at a time
    columns: int = 0  # added by migrations
    _over: threading.Event = field(default_factory=threading.Event)
    _supervisor: threading.Thread | None = None

    def start_workers(self) -> None:
        for number, (name, role) in enumerate(WORKERS):
            (contour,) = [c for c in self.contours if c.name == name]
            worker = Worker(contour, role, self.directory / f"{number}-{name}-{role}.log")
            worker.start()
            self.workers.append(worker)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def end_workers(self) -> None:
        """Each must end in order when asked to."""
        self._over.set()
        if self._supervisor is not None:
            self._supervisor.join(10)
        for worker in self.workers:
            worker.send(signal.SIGCONT)
            worker.send(signal.SIGTERM)
        for worker in self.workers:
            if worker.process.alive and (code := worker.process.wait(timeout=40)):
                self._mourn(worker, code)

    def _supervise(self) -> None:
        while not self._over.wait(0.3):
            for worker in self.workers:
                if not worker.process.alive:
                    if not worker.told_to_end:
                        self._mourn(worker, worker.process.returncode)
                    worker.start()

    def _mourn(self, worker: Worker, code: int | None) -> None:
        last = worker.process.tail_of_log(3).splitlines()[1:]
        self.deaths.append(
            f"{worker.role} of {worker.contour.name} ended with status {code}: {' | '.join(last)}"
        )


@contextmanager
def running(
    directory: Path, ddl: str, tables: Sequence[str], consumer: Mapping[str, object]
) -> Iterator[Stack]:
    """Servers and contours with ``tables`` set up; the workers are not started yet."""
    with ExitStack() as stack:
        port, front = free_port(), free_port()
        kafka = EmbeddedKafka(
            directory / "kafka",
            port=port,
            settings={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{front}"},
        )
        network = stack.enter_context(Proxy(port, front))
        with ThreadPoolExecutor() as pool:  # each waits for servers of its own
            broker = pool.submit(stack.enter_context, kafka)
            starting = [
                pool.submit(
                    stack.enter_context,
                    _contour(directory, number, name, network, ddl, tables, consumer),
                )
                for number, name in enumerate(NAMES, start=1)
            ]
        broker.result()
        contours = [started.result() for started in starting]
        ensure_topics(contours[0].settings, list(tables))
        made = Stack(directory, contours, kafka, network, tables)
        try:
            yield made
        finally:
            made._over.set()
            for worker in made.workers:
                worker.told_to_end = True
                worker.process.kill()


@contextmanager
def _contour(
    directory: Path,
    number: int,
    name: str,
    kafka: Proxy,
    ddl: str,
    tables: Sequence[str],
    consumer: Mapping[str, object],
) -> Iterator[Contour]:
    with EmbeddedPostgres(directory / name, settings=DATABASE_SETTINGS) as server:
        with Proxy(server.port) as network:
            dsn = server.create_database("app")
            content = {
                "contour": {"name": name, "id": number},
                "postgres": {"dsn": make_conninfo(dsn, port=network.port)},
                "kafka": {
                    "bootstrap_servers": f"127.0.0.1:{kafka.port}",
                    "topic_prefix": TOPIC_PREFIX,
                    "partitions": PARTITIONS,
                    "delivery_timeout": "5s",
                },
                "tables": {t: {"displace": True} if t == UNIQUE else {} for t in tables},
                # Deletes that have children wait for rounds of heartbeats.
                "monitoring": {"heartbeat_interval": "1s"},
                "consumer": {
                    "session_timeout": "3s",
                    "retry_parked": "1s",
                    "foreign_key_patience": "2s",
                    **consumer,
                },
            }
            config = directory / f"{name}.yaml"
            config.write_text(yaml.safe_dump(content), encoding="utf-8")
            settings = load_settings(config)
            with connect(settings, application_name="chaos", check=False) as connection:
                installer.install(connection, settings)
            with connect(settings, application_name="chaos") as connection:
                connection.execute(ddl)
                for table in tables:
                    installer.setup_table(connection, settings, table)
            yield Contour(name, server, network, dsn, config, settings)

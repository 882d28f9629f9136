"""Londiste 3 on PgQ: triggers fill a queue, a ticker cuts it into batches, a worker plays them back.

``a`` is the root of a cascade of two nodes, ``b`` its leaf. Three processes: the ticker ``pgqd``, the
root's worker, who keeps the queue in order, and the leaf's, who is the one that replicates. He is
connected from the beginning and paused until the start, when he looks again after his ``loop_delay``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

import psycopg

from bench.contestants.plain import Plain
from bench.database import copy_of, make_template
from bench.peers.base import Link
from bench.peers.debian import call, family, installed, lacking, roles_as_before
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.process import ManagedProcess, wait_until

PACKAGES: Final = (
    *("postgresql-15", "postgresql-15-pgq3", "postgresql-15-pgq-node"),
    *("postgresql-15-londiste-sql", "pgqd", "python3-londiste"),
)
QUEUE: Final = "bench"
A, B = "londiste_a", "londiste_b"
LONGEST: Final = 60.0  # seconds of any step
PAUSE: Final = "select * from pgq_node.set_consumer_paused(%s, %s, %s)"
PAUSED: Final = "select paused and uptodate from pgq_node.get_consumer_state(%s, %s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Londiste:
    """With these lines in the configuration of the ticker, of the workers, and of the queue."""

    server: ClassVar[Mapping[str, str]] = {}
    name: str
    ticker: Mapping[str, str] = field(default_factory=dict)
    worker: Mapping[str, str] = field(default_factory=dict)
    queue: Mapping[str, str] = field(default_factory=dict)
    add_table: tuple[str, ...] = ()
    """More options of ``add-table`` on the leaf."""

    @property
    def versions(self) -> Mapping[str, str]:
        return installed(PACKAGES)

    def missing(self, server: EmbeddedPostgres) -> str | None:
        return lacking(
            server.dsn(),
            packages=PACKAGES,
            extensions=("pgq", "pgq_node", "londiste"),
            programs=("pgqd", "londiste"),
        )

    def install(self) -> None:
        """Nothing can be installed without root."""

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        del broker
        template = make_template(server, Plain())
        with (
            roles_as_before(server.dsn()),
            copy_of(server, template, A) as a,
            copy_of(server, template, B) as b,
            tempfile.TemporaryDirectory(prefix="londiste-") as folder,
            ExitStack() as until_done,
        ):
            path = Path(folder)
            root = self._configure_node(path, A, a)
            leaf = self._configure_node(path, B, b)
            call(["londiste", root, "create-root", A, a])
            call(["londiste", leaf, "create-leaf", B, b, f"--provider={a}"])
            self._configure_queue(a)
            ticker = self._configure_ticker(path, server)
            commands: list[tuple[str, *tuple[str | Path, ...]]] = [
                ("pgqd", ticker),
                ("londiste", root, "worker"),
                ("londiste", leaf, "worker"),
            ]
            processes = [until_done.enter_context(_running(path, *command)) for command in commands]
            call(["londiste", root, "add-table", "public.users"])
            # Both are empty and remain so until all is set up: there is nothing to be copied.
            call(["londiste", leaf, "add-table", "public.users", "--expect-sync", *self.add_table])
            call(["londiste", leaf, "wait-sync"])
            with psycopg.connect(b, autocommit=True) as connection:
                _pause(connection, processes[-1])
                yield Link(
                    a=a,
                    b=b,
                    start=lambda: _resume(connection),
                    processes=partial(family, server, [process.pid for process in processes]),
                )

    def _configure_node(self, folder: Path, name: str, dsn: str) -> Path:
        lines = {
            "job_name": name,
            "db": dsn,
            "queue_name": QUEUE,
            "logfile": folder / f"{name}.log",
            "pidfile": folder / f"{name}.pid",
        }
        return _written(folder / f"{name}.ini", "londiste", {**lines, **self.worker})

    def _configure_ticker(self, folder: Path, server: EmbeddedPostgres) -> Path:
        lines = {
            "logfile": folder / "pgqd.log",
            "pidfile": folder / "pgqd.pid",
            "base_connstr": f"host={server.host} port={server.port} user=postgres",
            "initial_database": "postgres",
            "database_list": f"{A},{B}",
            "check_period": "1",
        }
        return _written(folder / "pgqd.ini", "pgqd", {**lines, **self.ticker})

    def _configure_queue(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for name, value in self.queue.items():
                connection.execute("select pgq.set_queue_config(%s, %s, %s)", [QUEUE, name, value])


def _written(path: Path, section: str, lines: Mapping[str, object]) -> Path:
    path.write_text(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
    )
    return path


@contextmanager
def _running(folder: Path, program: str, *arguments: str | Path) -> Iterator[ManagedProcess]:
    found = shutil.which(program)
    assert found is not None
    process = ManagedProcess([found, *arguments], log_file=folder / "output.log", cwd=folder)
    try:
        yield process
    finally:
        process.stop()


def _pause(connection: psycopg.Connection, worker: ManagedProcess) -> None:
    """Returns once the leaf's worker has noticed."""
    connection.execute(PAUSE, [QUEUE, B, True])

    def noticed() -> bool:
        ((paused,),) = connection.execute(PAUSED, [QUEUE, B]).fetchall()
        return bool(paused)

    wait_until(noticed, timeout=LONGEST, what="Londiste's worker to pause", process=worker)


def _resume(connection: psycopg.Connection) -> None:
    connection.execute(PAUSE, [QUEUE, B, False])


DEFAULT: Final = Londiste(name="londiste")
TUNED: Final = Londiste(
    name="londiste, tuned",
    ticker={"ticker_period": "0.01"},
    worker={"loop_delay": "0.01", "handler_modules": "londiste.handlers.bulk"},
    queue={"ticker_max_lag": "10 milliseconds", "ticker_idle_period": "1 second"},
    # One COPY, UPDATE and DELETE a batch, in place of a statement for each row.
    add_table=("--handler=bulk",),
)

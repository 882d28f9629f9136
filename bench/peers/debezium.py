"""Debezium on Kafka Connect: its PostgreSQL source, its outbox router, and its JDBC sink.

Three settings of the pair, told by its documentation or found by trying: ``default``, ``tuned`` for
throughput, ``low latency``. One partition a topic, as Kafka Connect makes them; no snapshot, since the
slot is there before the first row. Both connectors run and have brought a row when the worker is halted
(``halting.py``); the worker is warm after the first round.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg.conninfo import conninfo_to_dict

from bench.peers.base import Link
from bench.peers.connect import Connect
from bench.peers.databases import backends_in, harness, plain_tables
from bench.peers.halting import halted, until_through
from bench.peers.native import slot
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.embedded.kafka_jars import KAFKA_VERSION
from replication_pipeline.embedded.maven import jars_of

VERSION: Final = "3.4.0.Final"
JDBC_VERSION: Final = "42.7.7"
VERSIONS: Final = {"debezium": VERSION, "kafka connect": KAFKA_VERSION, "pgjdbc": JDBC_VERSION}
# The worker has these. Twice on the class path, they make the sink fail while the source runs.
IN_WORKER: Final = (
    *(("com.fasterxml.jackson.core", f"jackson-{n}") for n in ("annotations", "core", "databind")),
    ("com.fasterxml.jackson.datatype", "jackson-datatype-jsr310"),
    ("org.slf4j", "slf4j-api"),
)

Properties = Mapping[str, str]
NO_SCHEMAS: Final[Properties] = {
    f"{part}.converter": "org.apache.kafka.connect.json.JsonConverter" for part in ("key", "value")
} | {f"{part}.converter.schemas.enable": "false" for part in ("key", "value")}
TUNED_SOURCE: Final[Properties] = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "50",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "524288",
    "producer.override.compression.type": "lz4",
}
TUNED_SINK: Final[Properties] = {
    "batch.size": "2000",
    "use.reduction.buffer": "true",
    "consumer.override.max.poll.records": "2000",
    "consumer.override.fetch.min.bytes": "1",
}
REWRITE_INSERTS: Final = "?reWriteBatchedInserts=true"


def plugins() -> Path:
    """Of both connectors, downloaded if this user never needed them before."""
    jars = jars_of(
        f"debezium-{VERSION}",
        [
            f"io.debezium:debezium-connector-postgres:{VERSION}",
            f"io.debezium:debezium-connector-jdbc:{VERSION}",
            f"org.postgresql:postgresql:{JDBC_VERSION}",
        ],
        without=IN_WORKER,
        what=f"Debezium {VERSION}",
    )
    return jars[0].parent


def source(name: str, dsn: str, table: str, more: Properties) -> dict[str, str]:
    """A source that reads slot ``name`` of publication ``name``."""
    database = conninfo_to_dict(dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": str(database["host"]),
        "database.port": str(database["port"]),
        "database.user": str(database["user"]),
        "database.password": "trusted",
        "database.dbname": str(database["dbname"]),
        "topic.prefix": name,
        "plugin.name": "pgoutput",
        "slot.name": name,
        "publication.name": name,
        "publication.autocreate.mode": "disabled",
        "table.include.list": f"public.{table}",
        "snapshot.mode": "no_data",
        **more,
    }


def sink(dsn: str, topic: str, url_options: str, more: Properties) -> dict[str, str]:
    """A sink that upserts what is in ``topic`` into ``users``."""
    database = conninfo_to_dict(dsn)
    place = f"{database['host']}:{database['port']}/{database['dbname']}"
    return {
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": "1",
        "topics": topic,
        "connection.url": f"jdbc:postgresql://{place}{url_options}",
        "connection.username": str(database["user"]),
        "connection.password": "trusted",
        "insert.mode": "upsert",
        "delete.enabled": "true",
        "primary.key.mode": "record_key",
        "schema.evolution": "none",
        "collection.name.format": "public.users",
        **more,
    }


@contextmanager
def topic_of(broker: EmbeddedKafka, name: str) -> Iterator[None]:
    """With one partition, deleted afterwards. A sink doesn't look for one that comes later."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    try:
        yield
    finally:
        admin.delete_topics([name])[name].result(20)


@contextmanager
def connectors(connect: Connect, *names: str) -> Iterator[None]:
    """Those that are posted within are deleted, the last one first. Tells of one that has failed."""
    try:
        yield
    finally:
        with ExitStack() as each:
            for name in names:
                each.callback(connect.delete, name)
            connect.refuse_failed(*names)


def new_name() -> str:
    """Of a slot, a publication, a connector and the topics' prefix; never used before."""
    return f"d{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Debezium:
    """The source and the sink, on a worker that several may share."""

    server: ClassVar[Mapping[str, str]] = {"wal_level": "logical"}
    name: str
    connect: Connect
    source: Properties = field(default_factory=dict)
    sink: Properties = field(default_factory=dict)
    url_options: str = ""
    versions: Mapping[str, str] = field(default_factory=lambda: VERSIONS)

    def missing(self, server: EmbeddedPostgres) -> str | None:  # noqa: ARG002  runs everywhere
        return None

    def install(self) -> None:
        plugins()

    @contextmanager
    def link(self, server: EmbeddedPostgres, broker: EmbeddedKafka) -> Iterator[Link]:
        name = new_name()
        topic, sink_name = f"{name}.public.users", f"{name}_sink"
        self.connect.ensure_running(broker)
        with (
            plain_tables(server) as (a, b),
            harness(a) as connection,
            slot(connection, name),
            topic_of(broker, topic),
            connectors(self.connect, name, sink_name),
            harness(b) as target,
        ):
            self.connect.post(name, source(name, a, "users", self.source))
            self.connect.post(sink_name, sink(b, topic, self.url_options, self.sink))
            until_through(connection, target)
            with halted(self.connect.pid, connection, a, b) as resume:
                yield Link(
                    a=a,
                    b=b,
                    start=resume,
                    processes=lambda: [self.connect.pid, *backends_in(a, b)],
                )


def all_settings(connect: Connect) -> list[Debezium]:
    tuned = Debezium(
        name="debezium, tuned",
        connect=connect,
        source=TUNED_SOURCE,
        sink=TUNED_SINK,
        url_options=REWRITE_INSERTS,
    )
    quick = {"poll.interval.ms": "5", "producer.override.linger.ms": "0"}
    return [
        Debezium(name="debezium, default", connect=connect),
        tuned,
        replace(tuned, name="debezium, low latency", source={**TUNED_SOURCE, **quick}),
    ]

"""The loop that anyone would write first: one event, one statement, a commit for each hundred.

The newer version wins; that is all it guarantees. Its offsets are Kafka's, committed after the rows. It
fires no triggers, and so checks no foreign keys: events of several topics come in no order.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, Message, TopicPartition
from psycopg import sql

from bench.workers import Progress, Ready, Worked, now
from replication_pipeline.domain.names import topic_for
from replication_pipeline.settings import Settings

BATCH: Final = 100
WAIT: Final = 1.0
NO_TRIGGERS: Final = "-c session_replication_role=replica"
KEY, VERSION = "id", "replication_version"

UPSERT: Final = """
insert into {table} as t ({columns}) values ({values})
on conflict ({key}) do update set {assignments} where t.{version} < excluded.{version}
"""
DELETE: Final = "delete from {table} where {key} = %s and {version} < %s"


@cache
def statements(table: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """To upsert, and to delete."""
    quoted = [sql.Identifier(name) for name in columns]
    parts = {
        "table": sql.Identifier(table),
        "key": sql.Identifier(KEY),
        "version": sql.Identifier(VERSION),
        "columns": sql.SQL(", ").join(quoted),
        "values": sql.SQL(", ").join([sql.Placeholder()] * len(quoted)),
        "assignments": sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(column) for column in quoted
        ),
    }
    return sql.SQL(UPSERT).format(**parts).as_string(), sql.SQL(DELETE).format(**parts).as_string()


def apply_event(connection: psycopg.Connection[Any], value: bytes) -> None:
    event = json.loads(value)
    source = event["source"]
    version = int(source["row_version"])
    row = {**(event["before"] if event["op"] == "d" else event["after"]), VERSION: version}
    upsert, delete = statements(source["table"], tuple(row))
    if event["op"] == "d":
        connection.execute(delete.encode(), [row[KEY], version])
    else:
        connection.execute(upsert.encode(), [*row.values()])


@contextmanager
def plain_loop(settings: Settings, progress: Progress) -> Iterator[Ready]:
    dsn = settings.postgres.dsn.get_secret_value()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"plain-loop-{uuid.uuid4().hex[:8]}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    assigned: list[TopicPartition] = []

    def pause(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Nothing is fetched before the word."""
        consumer.assign(partitions)
        consumer.pause(partitions)
        assigned.extend(partitions)

    prefix = settings.kafka.topic_prefix
    topics = [topic_for(table, prefix=prefix) for table in settings.tables]
    consumer.subscribe([*topics], on_assign=pause)
    try:
        while not assigned:
            consumer.poll(WAIT)
        with psycopg.connect(dsn, options=NO_TRIGGERS) as connection:
            connection.execute("select")
            connection.rollback()

            def run() -> Worked:
                consumer.resume(assigned)
                applied = 0
                while applied < (progress.events or 0):
                    message = consumer.poll(WAIT)
                    if message is not None:
                        apply_event(connection, value_of(message))
                        applied += 1
                    if applied % BATCH == 0 or message is None:
                        connection.commit()
                        if message is not None:
                            consumer.commit(asynchronous=False)
                connection.commit()
                return Worked(applied, now())

            yield Ready(run, lambda: void(consumer.poll(0.05)))
    finally:
        consumer.close()


def value_of(message: Message) -> bytes:
    if error := message.error():
        raise RuntimeError(error.str())
    value = message.value()
    assert isinstance(value, bytes)
    return value


def void(message: Message | None) -> None:
    """While partitions are paused, a poll only keeps the member alive."""
    assert message is None

"""PgQ: its trigger's events, and the least that a consumer of them can be.

A batch lies between two ticks and is read as a whole; it is finished when Kafka has acknowledged all of
it. An event is sent as the trigger has written it, ``id=1&email=…``, with its first column as the key:
no envelope is made. Ticks are there before the consumer begins, so nobody waits for a ticker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaError, Message, Producer
from psycopg import Connection

from bench import users
from bench.broker import users_topic
from bench.contestants.pgq_logutriga import PgqLogutriga
from bench.database import exists, make_template, settle_down
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.kafka.producer import producer_options
from replication_pipeline.settings import Settings

QUEUE: Final = "pgq"
FILL_AT_ONCE: Final = 1000  # rows a transaction
TICK: Final = 10_000  # events between two ticks
REGISTER: Final = "select pgq.register_consumer('bench', 'kafka')"
TICKER: Final = "select pgq.ticker('bench')"
LAST_TICK: Final = "select pgq.force_tick('bench')"
NEXT_BATCH: Final = "select pgq.next_batch('bench', 'kafka')"
EVENTS: Final = "select ev_data from pgq.get_batch_events(%s)"
FINISH: Final = "select pgq.finish_batch(%s)"
WAITING: Final = """
select coalesce(sum(pending_events), 0)::bigint from pgq.get_consumer_info('bench', 'kafka')
"""


def filled_template(server: EmbeddedPostgres, events: int) -> str:
    """A database with so many events in the queue, cut into batches; made once. Returns its name."""
    name = f"pgq queue of {events}"
    if exists(server, name):
        return name
    dsn = server.create_database(name, template=make_template(server, PgqLogutriga()))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TICKER)
        connection.execute(REGISTER)
        for first in range(1, events + 1, FILL_AT_ONCE):
            connection.execute(users.insert(first, min(first + FILL_AT_ONCE - 1, events)))
            if first % TICK == 1:
                connection.execute(TICKER)
        connection.execute(LAST_TICK)
        connection.execute(TICKER)
        connection.execute("truncate users")  # copies are made faster without them
        settle_down(connection)
    return name


def publish_batch(connection: Connection[Any], producer: Producer, topic: str, batch: int) -> int:
    failed: list[KafkaError] = []

    def told(error: KafkaError | None, message: Message) -> None:
        del message
        if error is not None:
            failed.append(error)

    rows = connection.execute(EVENTS, [batch]).fetchall()
    for (data,) in rows:
        while True:
            try:
                producer.produce(topic, data, data.partition("&")[0], on_delivery=told)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    if failed:
        raise RuntimeError(f"not published: {failed[0]}")
    connection.execute(FINISH, [batch])
    return len(rows)


@contextmanager
def pgq(settings: Settings, progress: Progress) -> Iterator[Ready]:
    dsn = settings.postgres.dsn.get_secret_value()
    with psycopg.connect(dsn, autocommit=True) as connection:
        producer, topic = Producer(producer_options(settings)), users_topic(settings)

        def next_batch() -> int | None:
            ((batch,),) = connection.execute(NEXT_BATCH).fetchall()
            return None if batch is None else int(batch)

        def run() -> Worked:
            published, ended = 0, now()
            while (batch := next_batch()) is not None:
                count = publish_batch(connection, producer, topic, batch)
                published, ended = published + count, now()
                progress.add(count)
            return Worked(published, ended)

        yield Ready(run)

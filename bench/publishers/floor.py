"""The least that any publisher in Python has to do: read the rows as events, and hand them to Kafka.

One COPY encodes all of them as ours does; nothing is locked, ordered, marked or counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, Message, Producer
from psycopg.types.string import ByteaBinaryLoader

from bench.broker import users_topic
from bench.workers import Progress, Ready, Worked, now
from replication_pipeline import runtime
from replication_pipeline.kafka.producer import producer_options
from replication_pipeline.postgres.event_heads import read_heads
from replication_pipeline.settings import Settings

COPY: Final = """
copy (select record_key,
             replication.event_value(operation, record_key, before, payload, {head}, txid, created_at,
                                     event_id, version, base_version, shape, merge, snapshot_to, {sent})
        from replication.replication_queue where not published) to stdout (format binary)
"""


@contextmanager
def floor(settings: Settings, progress: Progress) -> Iterator[Ready]:
    with runtime.open_outbox(settings, "floor") as outbox:
        connection = outbox._connection()
        head = read_heads(connection, settings.contour.name)["users"]
        head = "'" + head.replace("'", "''") + "'"
        connection.rollback()
        connection.adapters.register_loader("text", ByteaBinaryLoader)
        producer = Producer(producer_options(settings))
        topic = users_topic(settings)
        acknowledged, failed = 0, list[KafkaError]()

        def told(error: KafkaError | None, message: Message) -> None:
            nonlocal acknowledged
            del message
            if error is None:
                acknowledged += 1
            else:
                failed.append(error)

        def run() -> Worked:
            produce = producer.produce
            statement = COPY.format(head=head, sent=int(now() * 1000))
            with connection.cursor().copy(statement.encode()) as copy:
                copy.set_types(["text", "text"])
                for key, value in copy.rows():
                    while True:
                        try:
                            produce(topic, value, key, on_delivery=told)
                            break
                        except BufferError:
                            producer.poll(0.1)
            producer.flush()
            if failed:
                raise RuntimeError(f"not published: {failed[0]}")
            connection.rollback()
            progress.add(acknowledged)
            return Worked(acknowledged, now())

        yield Ready(run)

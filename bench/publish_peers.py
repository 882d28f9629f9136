"""Scenario ``publish-peers``: how fast events that are committed get into Kafka, by us and by Debezium.

Debezium reads a table's changes, or those of an outbox through its EventRouter. Its clock starts with
the post of the connector and stops when the topic holds all events. Each of its measurements has a new
Kafka Connect worker, which does the work twice: ``speed`` is of the second time, ``speed, new worker``
of the first, in which its JVM compiles. Publishers of ours and of the plain loop are new processes
each time, connected before the clock starts, as in ``publish``; they stop once all is marked as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.console import Console

from bench.broker import running_broker
from bench.measure import rotated
from bench.peers import debezium
from bench.peers.connect import Connect
from bench.peers.debezium_sources import SOURCES, Source, Streamed, captured, streamed
from bench.publish import WAYS, Publish, filled_templates
from bench.results import Result, recorder
from bench.throughput import SERVER, SPEED, Value, refuse_unless
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

OURS: Final = ("plain loop", "ours")
"""Contestants of ``publish``; the first one is what all are compared with."""
WARM_UP_SHARE: Final = 10  # events of Debezium's warm-up round are so many times fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPeers:
    server: ClassVar[Mapping[str, str]] = {**SERVER, "wal_level": "logical"}
    events: int = 200_000
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        debezium.plugins()
        sources = {source.name: source for source in SOURCES}
        contestants = [*OURS, *sources]
        results = recorder(
            "publish-peers",
            server,
            contestants=contestants,
            more_versions=debezium.VERSIONS,
            events=self.events,
            rounds=self.rounds,
            warm_up="one round, of fewer events for Debezium",
        )
        console.print(f"filling queues of {self.events} events", highlight=False)
        templates = filled_templates(server, self.events)
        publish = Publish(events=self.events)
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                events = self.events if turn else max(1, self.events // WARM_UP_SHARE)
                for name in rotated(contestants, turn):
                    console.print(f"  {name}", highlight=False)
                    if name in sources:
                        values = measured(server, broker, sources[name], events)
                    else:
                        way = WAYS[name]
                        values = publish.measure(
                            server, broker, templates[way.queue], name, way, count=False
                        )
                    if turn:
                        for metric, value in values.items():
                            results.add(name, metric, value.value, value.unit, run=turn)
        return results.results


def measured(
    server: EmbeddedPostgres, broker: EmbeddedKafka, source: Source, events: int
) -> dict[str, Value]:
    """The same events twice on one new worker."""
    with (
        captured(server, source.table, events, times=2) as (dsn, names),
        Connect(debezium.plugins) as connect,
    ):
        connect.ensure_running(broker)
        runs: list[Streamed] = []
        for name in names:
            run = streamed(connect, broker, source, dsn=dsn, name=name, events=events)
            refuse_unless(source.name, {"messages in Kafka": (run.messages, events)})
            runs.append(run)
    new, warm = runs

    def per_event(seconds: float) -> Value:
        return Value(seconds * 1e6 / events, "µs/event")

    return {
        SPEED: Value(events / warm.seconds, "events/s"),
        f"{SPEED}, new worker": Value(events / new.seconds, "events/s"),
        "start-up": Value(warm.start_up, "s"),
        "start-up, new worker": Value(new.start_up, "s"),
        "CPU of publishers": per_event(warm.cpu),
        "CPU of their backends": per_event(warm.backend_cpu),
        "CPU of the broker": per_event(warm.broker_cpu),
    }

"""Scenario ``scaling``: what more publishers, appliers and partitions bring and cost.

One kind after the other, the members of each kind in turns: 1, 2 and 4 publishers of one queue; 1, 2
and 4 appliers of one contour's group; and one publisher and one applier with topics of 1, 3 and 12
partitions. Publishing and applying are measured as in ``publish`` and ``apply``, with the same checks,
in each other's absence. Where processes outnumber processors, speed says little; what an event costs
all of them together tells what sharing the work takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console

from bench import apply, publish
from bench.appliers.ours import ours as applier
from bench.broker import other_contour, running_broker, topics_for
from bench.database import copy_of
from bench.publishers.ours import ours as publisher
from bench.results import Result, recorder
from bench.subjects import SOURCE
from bench.throughput import SERVER, WARM_UP, Value, measure_in_rounds
from bench.workloads import WORKLOADS
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres
from replication_pipeline.settings import KafkaSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """A contestant: so many of what is measured, on topics of so many partitions."""

    processes: int = 1
    partitions: int = KafkaSettings.model_fields["partitions"].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 200_000
    rounds: int = 3
    processes: tuple[int, ...] = (1, 2, 4)
    partitions: tuple[int, ...] = (1, 3, 12)

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        publishers = {named(n, "publisher"): Many(processes=n) for n in self.processes}
        appliers = {named(n, "applier"): Many(processes=n) for n in self.processes}
        partitions = {named(n, "partition"): Many(partitions=n) for n in self.partitions}
        results = recorder(
            "scaling",
            server,
            contestants=[*publishers, *appliers, *partitions],
            events=self.events,
            rounds=self.rounds,
            partitions_unless_said=Many().partitions,
            warm_up=WARM_UP,
        )
        workload = WORKLOADS["one-table"]
        console.print(f"filling a queue of {self.events} events", highlight=False)
        source, empty = apply.make_both(server, workload, self.events)
        expected = apply.newest(source, server.dsn(empty), workload.subject)
        with running_broker(server) as broker, ExitStack() as until_done:
            topics = {
                count: until_done.enter_context(self._published(server, broker, count))
                for count in dict.fromkeys(
                    many.partitions for many in (*appliers.values(), *partitions.values())
                )
            }

            def publishing(name: str, many: Many, count: bool) -> dict[str, Value]:
                way = publish.Way(
                    publisher=publisher, queue=publish.QUEUE, processes=many.processes
                )
                with (
                    copy_of(server, SOURCE) as dsn,
                    topics_for(broker, dsn, partitions=many.partitions) as settings,
                ):
                    return publish.measured(
                        settings, broker, name, way, events=self.events, count=count
                    )

            def applying(name: str, many: Many, count: bool) -> dict[str, Value]:
                way = apply.Way(applier=applier, processes=many.processes, in_group=True)
                with copy_of(server, empty) as dsn:
                    return apply.measured(
                        other_contour(topics[many.partitions], dsn),
                        broker,
                        name,
                        way,
                        workload,
                        expected=expected,
                        events=self.events,
                        count=count,
                    )

            for ways, measure, before in (
                (publishers, publishing, "publishing: "),
                (appliers, applying, "applying: "),
                (partitions, publishing, "partitions, publishing: "),
                (partitions, applying, "partitions, applying: "),
            ):
                console.print(before, highlight=False)
                measure_in_rounds(
                    ways,
                    measure,
                    rounds=self.rounds,
                    results=results,
                    console=console,
                    before=before,
                )
        return results.results

    @contextmanager
    def _published(
        self, server: EmbeddedPostgres, broker: EmbeddedKafka, partitions: int
    ) -> Iterator[Settings]:
        """Topics of so many partitions that hold all events, by a copy of the source."""
        with (
            copy_of(server, SOURCE, f"source of {partitions}") as dsn,
            apply.published(
                broker, dsn, ("users",), self.events, partitions=partitions
            ) as settings,
        ):
            yield settings


def named(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"

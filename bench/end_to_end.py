"""Scenario ``end-to-end``: from a commit in one database to the row in another, through Kafka.

``backlog``: the queue is full when publisher and applier, both connected, begin at once; the clock
stops at the commit of the last event in ``b``. The latencies: a writer commits single-row transactions
at a steady pace; the clock of each stops when a reader of ``b``, who asks again and again for rows it
has not seen, has got it. ``native`` is PostgreSQL's own logical replication, of plain tables without
capture, with the same writer and reader: the floor.

Both databases are on one server, which shares its processors, disk and WAL with everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.appliers import ours as applier
from bench.apply import contents_of, make_source, make_target
from bench.broker import other_contour, running_broker, topics_for, wait_until_shared_out
from bench.database import settle_down
from bench.latency import seen_at_pace
from bench.measure import rotated
from bench.pacing import WARM_UP_SECONDS, figures, reached
from bench.peers.base import Peer
from bench.peers.databases import copies
from bench.peers.native import Native
from bench.peers.ours import Ours
from bench.publishers import ours as publisher
from bench.results import Recorder, Result, recorder
from bench.subjects import SOURCE, SUBJECTS
from bench.throughput import Start, refuse_unless, run_together
from bench.workers import Progress
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

SERVER: Final[Mapping[str, str]] = {
    "autovacuum": "on",
    "shared_buffers": "1GB",
    "wal_level": "logical",  # which native replication needs
}
AIMS: Final = {"backlog, events/s": 40_000, "p50, ms": 6.0, "p99, ms": 20.0}
USERS: Final = SUBJECTS[1]
HOLDS: Final = 0.98  # of a rate: what a machine must reach to hold it
NATIVE, OURS = Native(), Ours()
PEERS: Final[Sequence[Peer]] = (NATIVE, OURS)
"""The first one is what the other is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    server: ClassVar[Mapping[str, str]] = SERVER
    events: int = 100_000
    """Of the backlog."""
    rates: Sequence[float] = (50, 200, 1000, 3000)
    """Transactions a second."""
    seconds: int = 20
    rounds: int = 3

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "end-to-end",
            server,
            contestants=[peer.name for peer in PEERS],
            events=self.events,
            rates=[*self.rates],
            seconds=self.seconds,
            rounds=self.rounds,
            aims=AIMS,
            warm_up=f"one round; {WARM_UP_SECONDS} s before each measurement of latency",
        )
        console.print(f"filling a queue of {self.events} events", highlight=False)
        make_source(server, USERS, self.events)
        with running_broker(server) as broker:
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                found = dict(self._backlog(server, broker))
                if turn:
                    for metric, (value, unit) in found.items():
                        results.add(OURS.name, metric, value, unit, run=turn)
                for rate in self.rates:
                    for peer in rotated(PEERS, turn):
                        self._latency(
                            server,
                            broker,
                            console,
                            peer=peer,
                            rate=rate,
                            results=results if turn else None,
                            turn=turn,
                        )
        return results.results

    def _backlog(
        self, server: EmbeddedPostgres, broker: EmbeddedKafka
    ) -> Iterator[tuple[str, tuple[float, str]]]:
        with (
            copies(server, SOURCE, make_target(server, USERS)) as (a, b),
            topics_for(broker, a) as settings,
            psycopg.connect(b, autocommit=True) as observer,
        ):
            settle_down(observer)
            other = other_contour(settings, b)
            run = run_together(
                [
                    Start(publisher.ours, settings, Progress(self.events)),
                    Start(applier.ours, other, Progress(self.events)),
                ],
                observer=observer,
                broker=broker,
                count=False,
                connected=lambda: wait_until_shared_out(other, 1),
            )
            refuse_unless(OURS.name, {"rows": (contents_of(b, USERS), contents_of(a, USERS))})
        published, applied = run.done
        seconds = applied.ended - min(published.began, applied.began)
        yield "backlog: speed", (self.events / seconds, "events/s")
        for part, cpu in {
            "publisher": published.cpu,
            "applier": applied.cpu,
            "their backends": published.backend_cpu + applied.backend_cpu,
            "the broker": run.broker_cpu,
        }.items():
            yield f"backlog: CPU of {part}", (cpu * 1e6 / self.events, "µs/event")

    def _latency(
        self,
        server: EmbeddedPostgres,
        broker: EmbeddedKafka,
        console: Console,
        *,
        peer: Peer,
        rate: float,
        results: Recorder | None,
        turn: int,
    ) -> None:
        seconds = self.seconds if results else WARM_UP_SECONDS
        with peer.link(server, broker) as link:
            link.start()
            seen = seen_at_pace(link, rate, seconds)
        if results is None:
            return
        for metric, value in figures(seen.paced, seen.arrived).items():
            results.add(peer.name, f"{metric} at {rate:g}/s", value, "ms", run=turn)
        for who, cores in {"replicating": seen.cores, "reading": seen.reading}.items():
            results.add(
                peer.name, f"CPU, {who} at {rate:g}/s", cores * 100, "% of a core", run=turn
            )
        real = reached(seen.paced)
        results.add(peer.name, f"reached at {rate:g}/s", real, "transactions/s", run=turn)
        if real < rate * HOLDS:
            console.print(f"{peer.name}: the machine does not hold {rate:g}/s: {real:.0f}/s")

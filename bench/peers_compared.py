"""Scenario ``peers``: products that bring rows from one PostgreSQL to another, at equal work.

``backlog``: rows are written in a hundred transactions while the peer is set up but not started. The
clock runs from ``start`` until ``b`` has all of them; start-up, until the first is there, is told by
itself. Afterwards both tables are compared, versions aside: ``equal`` is 1 or 0. ``latency``: as in
``end-to-end``, once a first row has come through. ``idle``: processor time and resident memory of
the peer while nobody writes, afterwards.

A peer that fails, or loses rows, is told so (``failed``, ``arrived``) and disturbs no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import psutil
import psycopg
from rich.console import Console

from bench import users
from bench.broker import running_broker
from bench.database import settle_down
from bench.latency import Seen, seen_at_pace, used_by, used_since
from bench.measure import rotated
from bench.pacing import WARM_UP_SECONDS, figures
from bench.peers.base import Link, Peer
from bench.peers.databases import harness
from bench.peers.everyone import everyone, those_who_can
from bench.results import Recorder, Result, recorder
from replication_pipeline.embedded import EmbeddedKafka, EmbeddedPostgres

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on", "shared_buffers": "1GB"}
TRANSACTIONS: Final = 100  # of a backlog
WARM_UP_ROWS: Final = 10_000  # of a backlog, and
WARM_UP_IDLE: Final = 1  # second
SETTLING: Final = 5.0  # seconds without writes before idling is measured
LOOK: Final = 0.002  # seconds between looks for the rows of a backlog
LONGEST_SILENCE: Final = 60.0  # seconds without a new row
MIB: Final = 2**20
CONTENTS: Final = f"""
select count(*), coalesce(sum(hashtextextended(({users.NAMES})::text, 0)), 0)::text from users
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Of a backlog, in seconds since ``start``; ``all`` of ``None``: some never came."""

    first: float | None
    all: float | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One peer in one round; in the warm-up round, without ``results``, all is short."""

    peer: Peer
    server: EmbeddedPostgres
    broker: EmbeddedKafka
    console: Console
    turn: int
    results: Recorder | None

    def tell(self, metric: str, value: float, unit: str) -> None:
        if self.results is not None:
            self.results.add(self.peer.name, metric, value, unit, run=self.turn)

    def attempt(self, what: str, measure: Callable[[], None]) -> None:
        try:
            measure()
        except Exception as error:  # noqa: BLE001  one peer's failure is a result, not the end
            self.console.print(f"{self.peer.name}, {what}: {error}", highlight=False, markup=False)
            self.tell(f"{what}: failed", 1, "")

    def backlog(self, events: int) -> None:
        with (
            self.peer.link(self.server, self.broker) as link,
            harness(link.a) as a,
            harness(link.b) as b,
        ):
            each = max(1, events // TRANSACTIONS)
            for first in range(1, events + 1, each):
                a.execute(users.insert(first, min(first + each - 1, events)))
            for connection in (a, b):
                settle_down(connection)
            broker, before = self._broker_time(), used_by(link.processes())
            began = time.monotonic()
            link.start()
            arrival = until_all_came(b, events, began)
            own, backends = parted(used_since(before, link.processes()))
            broker = self._broker_time() - broker
            equal = contents(a) == contents(b)
        self.tell("backlog: arrived", arrival.rows / events, "share")
        self.tell("backlog: equal", equal, "")
        if arrival.first is not None:
            self.tell("backlog: start-up", arrival.first, "s")
        if arrival.all is None:
            return
        self.tell("backlog: speed", events / arrival.all, "events/s")
        for whose, seconds in {
            "the peer": own,
            "its backends": backends,
            "the broker": broker,
        }.items():
            self.tell(f"backlog: CPU of {whose}", seconds * 1e6 / events, "µs/event")

    def latency(self, rate: float, seconds: int, *, idle: int) -> None:
        """And ``idle`` seconds on the same link, if any."""
        with self.peer.link(self.server, self.broker) as link:
            link.start()
            seen = seen_at_pace(link, rate, seconds)
            self._tell_latency(seen, f"at {rate:g}/s")
            if idle:
                self._idle(link, idle)

    def _tell_latency(self, seen: Seen, when: str) -> None:
        written = seen.paced.written
        came = {number: at for number, at in written.items() if number in seen.arrived}
        self.tell(f"arrived {when}", len(came) / len(written), "share")
        if came:
            for metric, value in figures(replace(seen.paced, written=came), seen.arrived).items():
                self.tell(f"{metric} {when}", value, "ms")
        self.tell(f"CPU, replicating {when}", seen.cores * 100, "% of a core")

    def _idle(self, link: Link, seconds: int) -> None:
        time.sleep(SETTLING)
        broker, before = self._broker_time(), used_by(link.processes())
        began = time.monotonic()
        time.sleep(seconds)
        used = used_since(before, link.processes())
        own, backends = parted(used)
        broker = self._broker_time() - broker
        passed = time.monotonic() - began
        for whose, cpu in {
            "the peer": own,
            "its backends": backends,
            "the broker": broker,
        }.items():
            self.tell(f"idle: CPU of {whose}", cpu / passed * 100, "% of a core")
        processes = [process for process in living(used) if not is_backend(process)]
        resident = sum(process.memory_info().rss for process in processes) / MIB
        self.tell("idle: processes", len(processes), "")
        self.tell("idle: memory, resident", resident, "MiB")

    def _broker_time(self) -> float:
        return sum(used_by([self.broker.pid or 0]).values())


def until_all_came(b: psycopg.Connection[Any], events: int, began: float) -> Arrival:
    """Looks by primary key until the last row is there, then counts until all are."""
    first, rows, changed, counted = None, 0, began, began
    while time.monotonic() - changed < LONGEST_SILENCE:
        ((some, last),) = b.execute(
            "select exists (select from users), exists (select from users where id = %s)",
            [events],
            prepare=True,
        )
        now = time.monotonic()
        if some and first is None:
            first, changed = now - began, now
        if last or now - counted > 1:  # counting takes from the peer's time
            ((count,),) = b.execute("select count(*) from users")
            counted = time.monotonic()
            if count >= events:
                return Arrival(first, counted - began, count)
            if count > rows:
                rows, changed = count, counted
        time.sleep(LOOK)
    return Arrival(first, None, rows)


def contents(connection: psycopg.Connection[Any]) -> tuple[int, str]:
    """Number of rows and the sum of their hashes; columns that a peer has added are left out."""
    ((rows, hashes),) = connection.execute(CONTENTS)
    return rows, hashes


def living(pids: Iterable[int]) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


def is_backend(process: psutil.Process) -> bool:
    return bool(process.name() == "postgres")


def parted(used: Mapping[int, float]) -> tuple[float, float]:
    """Seconds of the peer's own processes, and of the backends that work for it."""
    backends = sum(used[process.pid] for process in living(used) if is_backend(process))
    return sum(used.values()) - backends, backends


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersCompared:
    peer: Sequence[str] = ()
    """Names of those that take part; none: all that can."""
    events: int = 100_000
    rates: Sequence[float] = (200,)
    """Transactions a second."""
    seconds: int = 20
    """Of each latency, and of idling."""
    rounds: int = 3

    @property
    def server(self) -> Mapping[str, str]:
        with everyone() as peers:
            wanted = [peer.server for peer in peers if self._takes(peer)]
        return {**SERVER, **{name: value for one in wanted for name, value in one.items()}}

    def _takes(self, peer: Peer) -> bool:
        return not self.peer or peer.name in self.peer

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        with running_broker(server) as broker, everyone() as all_of_them:
            wanted = [peer for peer in all_of_them if self._takes(peer)]
            peers = those_who_can(wanted, server, console)
            results = recorder(
                "peers",
                server,
                contestants=[peer.name for peer in peers],
                more_versions={name: v for peer in peers for name, v in peer.versions.items()},
                events=self.events,
                rates=[*self.rates],
                seconds=self.seconds,
                rounds=self.rounds,
                warm_up=f"one round; {WARM_UP_SECONDS} s before each measurement of latency",
            )
            for turn in range(self.rounds + 1):
                console.print(f"round {turn} of {self.rounds}" if turn else "warm-up round")
                for peer in rotated(peers, turn):
                    console.print(f"  {peer.name}", highlight=False)
                    trial = Trial(
                        peer=peer,
                        server=server,
                        broker=broker,
                        console=console,
                        turn=turn,
                        results=results if turn else None,
                    )
                    self._measure(trial, short=not turn)
        return results.results

    def _measure(self, trial: Trial, *, short: bool) -> None:
        events = min(self.events, WARM_UP_ROWS) if short else self.events
        trial.attempt("backlog", partial(trial.backlog, events))
        seconds = WARM_UP_SECONDS if short else self.seconds
        for position, rate in enumerate(self.rates):
            idle = 0 if position or short else self.seconds
            trial.attempt(
                f"latency at {rate:g}/s", partial(trial.latency, rate, seconds, idle=idle)
            )

"""How fast workers get through a given number of events, and what each event costs whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from psycopg import Connection
from rich.console import Console

from bench.children import Child, cpu_seconds
from bench.database import wal_position
from bench.measure import rotated
from bench.results import Recorder
from bench.workers import Done, Progress, Worker, work_in_child
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.settings import Settings

FLOOR: Final = "floor"
SPEED: Final = "speed"
ROUND_TRIPS: Final = "round trips"
WARM_UP: Final = "one round, in which round trips are counted"
SERVER: Final[Mapping[str, str]] = {
    "autovacuum": "off",  # so that dead rows can be counted
    "shared_buffers": "1GB",  # all tables of a run
    "max_parallel_workers_per_gather": "0",  # one backend's processor time is all there is
}
DEAD: Final = "select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables"
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Value:
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Start:
    """A worker to be."""

    worker: Worker
    settings: Settings
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was seen while workers ran together."""

    done: Sequence[Done]
    broker_cpu: float
    wal: int

    @property
    def events(self) -> int:
        return sum(one.events for one in self.done)

    @property
    def seconds(self) -> float:
        return max(one.ended for one in self.done) - min(one.began for one in self.done)


def run_together(
    starts: Sequence[Start],
    *,
    observer: Connection[Any],
    broker: EmbeddedKafka,
    count: bool,
    connected: Callable[[], None] = lambda: None,
) -> Run:
    """All of them, each in a process of its own, once all are connected. ``count``: round trips."""
    broker_pid = broker.pid
    assert broker_pid is not None
    with ExitStack() as until_done:
        children = [
            until_done.enter_context(
                Child(work_in_child, start.worker, start.settings, start.progress, count)
            )
            for start in starts
        ]
        for child in children:
            child.receive()
        connected()
        wal, cpu = wal_position(observer), cpu_seconds(broker_pid)
        for child in children:
            child.send()
        done: list[Done] = [child.receive() for child in children]
        return Run(
            done=done,
            broker_cpu=cpu_seconds(broker_pid) - cpu,
            wal=wal_position(observer) - wal,
        )


def costs(
    run: Run, events: int, *, observer: Connection[Any], whose: str, count: bool
) -> dict[str, Value]:
    """By metric; ``observer`` is in the database whose dead rows are counted."""

    def per_event(total: float, unit: str, scale: float = 1.0) -> Value:
        return Value(total * scale / events, f"{unit}/event")

    if count:
        trips = sum(one.round_trips for one in run.done) * 1000 / events
        return {ROUND_TRIPS: Value(trips, "/1000 events")}
    ((dead,),) = observer.execute(DEAD)
    cpu = {
        whose: sum(one.cpu for one in run.done),
        "their backends": sum(one.backend_cpu for one in run.done),
        "the broker": run.broker_cpu,
    }
    cpu["all of them"] = sum(cpu.values())
    return {
        SPEED: Value(events / run.seconds, "events/s"),
        **{f"CPU of {who}": per_event(seconds, "µs", 1e6) for who, seconds in cpu.items()},
        "WAL": per_event(run.wal, "bytes"),
        "dead rows": per_event(dead, "rows"),
    }


def measure_in_rounds(
    ways: Mapping[str, W],
    measure: Callable[[str, W, bool], dict[str, Value]],
    *,
    rounds: int,
    results: Recorder,
    console: Console,
    before: str = "",
) -> None:
    """Every way in every round, a warm-up round first; its third argument: count round trips. Metrics'
    names begin with ``before``.
    """
    round_trips: dict[str, Value] = {}
    for turn in range(rounds + 1):
        console.print(f"round {turn} of {rounds}" if turn else "warm-up round")
        speeds: dict[str, float] = {}
        for name, way in rotated([*ways.items()], turn):
            values = measure(name, way, not turn)
            if turn == 0:  # counted while nothing is timed; they hardly vary
                round_trips[name] = values[ROUND_TRIPS]
                continue
            if turn == 1:
                values[ROUND_TRIPS] = round_trips[name]
            speeds[name] = values[SPEED].value
            for metric, value in values.items():
                results.add(name, before + metric, value.value, value.unit, run=turn)
        for name, speed in speeds.items():
            if FLOOR in speeds:
                share = speed / speeds[FLOOR]
                results.add(name, f"{before}speed by the floor's", share, "share", run=turn)


def refuse_unless(name: str, found: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise ``RuntimeError`` for what was found beside what there should be, where they differ."""
    wrong = [f"{what}: {n}, not {m}" for what, (n, m) in found.items() if n != m]
    if wrong:
        raise RuntimeError(f"{name}: {'; '.join(wrong)}")

"""A sizing model: what a number of events a second needs, computed from measured processor time.

Costs of an event come from the newest committed results: capture, publishing and applying with full
batches, and what a single-row transaction costs at a steady pace. The model multiplies and divides;
one thing is simulated, how many events share a turn of publisher and applier, because that is what
makes an event cheaper the more of them come. Everything it says is extrapolated. It knows no
network, no disk and nothing of the application's own work. ``bench.report.sized`` puts it into
words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final

from bench.report.aims import OURS
from bench.report.runs import Run
from bench.report.summary import difference, rounds
from replication_pipeline.postgres.shards import SHARDS
from replication_pipeline.settings import Settings

BUSY: Final = 0.7
"""How busy a core may be: what is above is for peaks and for catching up."""
MICRO: Final = 1e6
DATABASE: Final = 32  # cores that one PostgreSQL is taken to have at most
BROKER: Final = 8  # cores of one broker
SIMULATED: Final = 2000  # events
STEPS: Final = 14  # of a bisection
CALIBRATED: Final = 200.0
"""Transactions a second: most events have a turn of their own there; other rates are a check."""
BEHIND: Final = 100.0
"""Milliseconds, p99: a writer that was later did not write at its rate."""
MOST_APPLIERS: Final = 64  # that settings allow
PARTITIONS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Microseconds of processor time an event, batches being full; bytes of WAL; measured speeds."""

    capture: float
    publisher: float
    publisher_backend: float
    publishing_broker: float
    applier: float
    applier_backend: float
    applying_broker: float
    capture_wal: float
    publish_wal: float
    apply_wal: float
    publisher_speed: float
    """Events a second, everything on two shared cores; so is ``applier_speed``."""
    applier_speed: float
    steady: Mapping[float, float]
    """Cores that all of replicating takes, by single-row transactions a second."""
    steady_p50: Mapping[float, float]
    """Milliseconds from commit to commit."""
    kept: Mapping[float, bool]
    """Whether the writer could write at that rate."""
    window_memory: float
    """MiB of a publisher or applier under Dagster."""

    @property
    def source(self) -> float:
        """Of the database where the row was written."""
        return self.capture + self.publisher_backend

    @property
    def whole(self) -> float:
        """From the queue to one other contour, as ``steady`` counts it."""
        return (
            self.publisher
            + self.publisher_backend
            + self.publishing_broker
            + self.applier
            + self.applier_backend
            + self.applying_broker
        )


class NotMeasuredError(LookupError):
    """A result that the model needs is not there."""


def costs_of(runs: Sequence[Run]) -> Costs:
    """Raises ``NotMeasuredError``."""

    def newest(scenario: str, fit: Callable[[Run], bool] = lambda _: True) -> Run:
        found = [run for run in runs if run.scenario == scenario and fit(run)]
        if not found:
            raise NotMeasuredError(scenario)
        return max(found, key=lambda run: run.date)

    def value(run: Run, metric: str, contestant: str = OURS) -> float:
        try:
            return run.rows[metric][contestant].median
        except KeyError:
            raise NotMeasuredError(f"{run.scenario}: {metric}") from None

    def added(run: Run, metric: str) -> float:
        found = difference(rounds(run.results, metric, OURS), rounds(run.results, metric, "plain"))
        if found is None:
            raise NotMeasuredError(f"{run.scenario}: {metric}")
        return found

    capture, publish, apply = newest("capture"), newest("publish"), newest("apply")
    steady = newest("end-to-end", lambda run: CALIBRATED in run.first.settings["rates"])
    rates = [float(rate) for rate in steady.first.settings["rates"]]
    return Costs(
        capture=added(capture, "insert, time"),
        publisher=value(publish, "CPU of publishers"),
        publisher_backend=value(publish, "CPU of their backends"),
        publishing_broker=value(publish, "CPU of the broker"),
        applier=value(apply, "CPU of appliers"),
        applier_backend=value(apply, "CPU of their backends"),
        applying_broker=value(apply, "CPU of the broker"),
        capture_wal=added(capture, "insert, WAL"),
        publish_wal=value(publish, "WAL"),
        apply_wal=value(apply, "WAL"),
        publisher_speed=value(publish, "speed"),
        applier_speed=value(apply, "speed"),
        steady={rate: value(steady, f"CPU, replicating at {rate:g}/s") / 100 for rate in rates},
        steady_p50={rate: value(steady, f"p50 at {rate:g}/s") for rate in rates},
        kept={
            rate: value(steady, f"writer behind its pace, p99 at {rate:g}/s") < BEHIND
            for rate in rates
        },
        window_memory=value(
            newest("at-rest", lambda run: not run.parameters["rate"]),
            "memory, proportional",
            "run apply",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What a turn takes beside its events: of processor time, and of waiting, in seconds."""

    cpu: float
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Single-row transactions at a steady pace."""

    rate: float
    events_a_turn: float
    cores: float
    p50: float
    """Milliseconds from commit to commit."""


def pace(rate: float, turns: Turns, event: float, *, events: int = SIMULATED) -> Pace:
    """Simulate publisher and applier, each taking what waits as one turn, half of the costs each.

    ``event`` is what each event costs in seconds, of both together. A new turn begins when the last
    one is over and something waits. Arrivals are random, and the same each time.
    """
    chance = Random(1)  # noqa: S311  nothing is to be kept secret
    arrivals, now = [], 0.0
    for _ in range(events):
        now += chance.expovariate(rate)
        arrivals.append(now)
    published, first = _stage(arrivals, turns, event)
    applied, second = _stage(published, turns, event)
    spent = (first + second) * turns.cpu / 2 + events * event
    return Pace(
        rate=rate,
        events_a_turn=2 * events / (first + second),
        cores=spent / events * rate,
        p50=1000 * median(end - begin for begin, end in zip(arrivals, applied, strict=True)),
    )


def _stage(arrivals: Sequence[float], turns: Turns, event: float) -> tuple[list[float], int]:
    """When each event is through, and in how many turns."""
    done: list[float] = []
    count, free = 0, 0.0
    while len(done) < len(arrivals):
        begin = max(free, arrivals[len(done)])
        last = len(done)
        while last < len(arrivals) and arrivals[last] <= begin:
            last += 1
        size = last - len(done)
        free = begin + (turns.cpu + turns.wait + size * event) / 2
        done += [free] * size
        count += 1
    return done, count


def calibrated(costs: Costs) -> Turns:
    """A turn's own cost and wait, so that one measured rate costs what it costs and is as late."""
    rate = min(costs.steady, key=lambda rate: abs(rate - CALIBRATED))
    event = costs.whole / MICRO

    def turns(wait: float) -> Turns:
        most = 2 * costs.steady[rate] / rate
        return Turns(cpu=_root(lambda cpu: cores(cpu, wait) - costs.steady[rate], most), wait=wait)

    def cores(cpu: float, wait: float) -> float:
        return pace(rate, Turns(cpu=cpu, wait=wait), event).cores

    late = costs.steady_p50[rate]
    return turns(_root(lambda wait: pace(rate, turns(wait), event).p50 - late, 2 * late / 1000))


def _root(rising: Callable[[float], float], high: float) -> float:
    """Where it becomes positive, between 0 and ``high``; the nearer end if it does so nowhere."""
    low = 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Each contour writes so many events a second, and applies those of all others."""

    what: str
    contours: int
    events: float
    database: int = DATABASE
    """Cores that a contour's PostgreSQL may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Of each contour, but ``broker_cores``, which all share."""

    publishers: int
    appliers: int
    pipeline_cores: float
    database_cores: float
    broker_cores: float
    wal: float
    """MB/s."""
    memory: float
    """GiB of the windows."""

    @property
    def brokers(self) -> int:
        return max(1, math.ceil(self.broker_cores / BROKER))


def need(load: Load, costs: Costs) -> Need:
    """With all of a contour's events in one table, and batches as full as from a backlog."""
    own, others = load.events, load.events * (load.contours - 1)
    everywhere = load.events * load.contours
    publishers = max(1, math.ceil(own / (BUSY * costs.publisher_speed)))
    appliers = max(1, math.ceil(others / (BUSY * costs.applier_speed)))
    return Need(
        publishers=publishers,
        appliers=appliers,
        memory=(publishers + appliers) * costs.window_memory / 1024,
        pipeline_cores=(own * costs.publisher + others * costs.applier) / MICRO / BUSY,
        database_cores=(own * costs.source + others * costs.applier_backend) / MICRO / BUSY,
        # Each contour reads all of the topic, its own events too.
        broker_cores=everywhere
        * (costs.publishing_broker + load.contours * costs.applying_broker)
        / MICRO
        / BUSY,
        wal=(own * (costs.capture_wal + costs.publish_wal) + others * costs.apply_wal) / MICRO,
    )


def knobs(needed: Need) -> list[str]:
    """What has to be turned from its default."""
    defaults = {name: Settings.model_fields[name].default for name in ("publisher", "consumer")}
    found = []
    if needed.publishers > defaults["publisher"].max_publishers:
        found.append(f"`publisher.max_publishers: {needed.publishers}`")
    if needed.appliers > defaults["consumer"].max_appliers:
        found.append(f"`consumer.max_appliers: {needed.appliers}`")
    if needed.appliers > PARTITIONS:
        found.append(f"`tables.T.partitions: {needed.appliers}`")
    if needed.brokers > 1:
        found.append(f"{needed.brokers} brokers")
    return found


def nearest_end(load: Load, needed: Need) -> tuple[str, float]:
    """What can't be had in any number, and how much of it is taken."""
    ends = {
        "PostgreSQL": needed.database_cores / load.database,
        "shards": needed.publishers / SHARDS,
        "appliers": needed.appliers / MOST_APPLIERS,
    }
    name = max(ends, key=lambda name: ends[name])
    return name, ends[name]


def most(contours: int, cores: int, costs: Costs) -> float:
    """Events a second of each contour, whose PostgreSQL has so many cores."""
    return BUSY * cores * MICRO / (costs.source + (contours - 1) * costs.applier_backend)


def tables_touched(batch: int, tables: int) -> float:
    """Of how many tables a batch has events, all tables being written alike."""
    return tables * (1 - (1 - 1 / tables) ** batch)


def many_tables(batch: int, tables: int, turns: Turns, costs: Costs) -> float:
    """Microseconds of an event's applying at most: as if each table's share were a turn of its own."""
    of_turns = turns.cpu / 2 * MICRO * tables_touched(batch, tables) / batch
    return costs.applier + costs.applier_backend + costs.applying_broker + of_turns

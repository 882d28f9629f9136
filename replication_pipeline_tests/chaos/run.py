"""One run: rounds of writing under faults, each followed by healing until all is quiet and equal; then
the evidence is read and judged.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from replication_pipeline.domain.names import topic_for
from replication_pipeline.domain.version import pack
from replication_pipeline.embedded.process import EmbeddedServerError, wait_until
from replication_pipeline_tests.chaos.checkers import judge
from replication_pipeline_tests.chaos.evidence import UNSETTLED, Evidence, collect, rows_of
from replication_pipeline_tests.chaos.kafka_log import AWAY, Record, ends, inject, reader
from replication_pipeline_tests.chaos.nemeses import Nemeses
from replication_pipeline_tests.chaos.stack import PARTITIONS, TOPIC_PREFIX, Stack, running
from replication_pipeline_tests.chaos.tables import DDL, TABLES, WAITING
from replication_pipeline_tests.chaos.workload import Workload

ROUND: Final = 15.0  # seconds of faults before all is healed and compared
LONGEST_WAIT: Final = 240.0  # seconds; later than PATIENCE is late, but not yet lost
LONGEST_REST: Final = 10.0  # seconds in which nothing waits any more and contours differ
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """``seconds`` of the rounds together, healing included; servers come on top."""

    seconds: float
    seed: int = 1
    rate: float = 200.0  # transactions a second, of all contours together
    pause: float = 1.0  # seconds between faults, about
    kinds: Sequence[str] = ()  # of faults; none: a random few in each round
    tables: Sequence[str] = TABLES
    lanes: int = 1  # connections of an applier


@dataclass(frozen=True)
class Result:
    """What was done, and what was found."""

    options: Options
    evidence: Evidence
    faults: Counter[str]
    anomalies: dict[str, list[str]]
    broken_harness: list[str]
    seconds: float

    @property
    def good(self) -> bool:
        return not any(self.anomalies.values()) and not self.broken_harness


def run(options: Options, directory: Path, tell: Tell = lambda _: None) -> Result:
    """Everything from nothing, in ``directory``."""
    tell("starting three contours and Kafka")
    with running(directory, DDL, options.tables, {"lanes": options.lanes}) as stack:
        return _run(options, stack, tell)


def _run(options: Options, stack: Stack, tell: Tell) -> Result:
    chance = random.Random(f"{options.seed}-nemeses")
    nemeses = Nemeses(stack, chance, options.pause)
    workload = Workload(stack.contours, options.seed, options.rate, options.tables)
    recoveries: list[float] = []
    stack.start_workers()
    poison = _poison(stack)
    began = time.monotonic()
    try:
        while (left := options.seconds - (time.monotonic() - began)) > 0:
            workload.start()
            nemeses.rage(min(ROUND, left), options.kinds)
            workload.stop()
            seconds = _heal(stack, poison)
            recoveries.append(seconds)
            tell(
                f"round {len(recoveries)}: {len(workload.operations):,} transactions, "
                f"{nemeses.done.total()} faults so far; quiet and equal after {seconds:.1f} s"
            )
            if seconds == math.inf:
                break
    finally:
        workload.stop()
    seconds = time.monotonic() - began
    stack.end_workers()
    evidence = collect(stack, workload.operations, poison, recoveries)
    return Result(options, evidence, nemeses.done, judge(evidence), nemeses.failures, seconds)


def _heal(stack: Stack, poison: dict[str, Counter[str]]) -> float:
    """Seconds until everything is delivered and all contours are equal; for ever, if that is not to be
    expected any more. Nobody helps.
    """
    began = time.monotonic()
    quiet_since = equal_since = math.inf

    def over() -> bool:
        nonlocal quiet_since, equal_since
        try:
            quiet, now = _quiet(stack, poison), time.monotonic()
            quiet_since = min(quiet_since, now) if quiet else math.inf
            if quiet and _equal(stack):
                equal_since = now
        except (psycopg.OperationalError, *AWAY):
            return False  # a server that is just coming back
        return equal_since < math.inf or now - quiet_since > LONGEST_REST

    with suppress(EmbeddedServerError):  # told by a checker
        wait_until(over, timeout=LONGEST_WAIT, what="all contours to be quiet and equal")
    return equal_since - began


def _quiet(stack: Stack, poison: dict[str, Counter[str]]) -> bool:
    """Whether every event has been sent, read and dealt with. What is found here may be old by the end,
    but whatever comes in between makes contours unequal, or them wait for something.
    """
    topics = [topic_for(table, prefix=TOPIC_PREFIX) for table in stack.tables]
    with reader(f"127.0.0.1:{stack.kafka_network.port}") as consumer:
        wanted = {place: end for place, end in ends(consumer, topics, PARTITIONS).items() if end}
    for contour in stack.contours:
        stored = {
            (topic, partition): offset
            for topic, partition, offset in contour.ask(
                "select topic, partition, next_offset from replication.consumer_offsets"
            )
        }
        if any(stored.get(place, 0) < end for place, end in wanted.items()):
            return False
    for contour in stack.contours:
        ((unpublished, unsettled, parked),) = contour.ask(
            "select (select count(*) from replication.replication_queue where not published), "
            f"({UNSETTLED}), "
            f"(select count(*) from replication.parked_events) - (select count(*) from ({WAITING}) w)"
        )
        if unpublished or unsettled or parked != poison[contour.name].total():
            return False
    return True


def _equal(stack: Stack) -> bool:
    contents = [rows_of(contour, stack.tables) for contour in stack.contours]
    return all(content == contents[0] for content in contents)


def _poison(stack: Stack) -> dict[str, Counter[str]]:
    """Put into a topic what nobody can apply; what each contour has to park because of it."""
    topic = topic_for("register", prefix=TOPIC_PREFIX)
    future = pack((int(time.time()) + 10**8) * 1_000_000, 1)
    values = [
        b"not an event",
        b'{"op": "u"}',
        _event("a", 999_999_999_001, pack(1, 1), ', "surprise": 1'),
        _event("a", 999_999_999_002, future, ""),
    ]
    sent = inject(
        f"127.0.0.1:{stack.kafka_network.port}",
        [Record(topic, 0, 0, b'{"id":0}', value, b"poison") for value in values],
    )
    if sent != len(values):
        raise RuntimeError("Kafka did not take the poison")
    everywhere = Counter({"malformed": 2})
    elsewhere = everywhere + Counter({"unknown_column": 1, "clock_skew": 1})
    return {c.name: everywhere if c.name == "a" else elsewhere for c in stack.contours}


def _event(contour: str, key: int, version: int, more: str) -> bytes:
    return (
        f'{{"before": null, "after": {{"id": {key}, "op": "poison", "note": null{more}}}, "op": "c", '
        f'"source": {{"contour": "{contour}", "event_id": "00000000-0000-8000-8000-{key:012}", '
        f'"row_version": "{version}", "base_version": null}}}}'
    ).encode()

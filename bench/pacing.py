"""Transactions at a steady pace, and how long afterwards their rows are seen somewhere else.

Writers and those who look are processes of their own on one machine, so their clocks are one. Several
writers share a pace that one connection may not keep.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Final

import psycopg

from bench import users
from bench.measure import warm_up
from replication_pipeline.domain.model import percentile
from replication_pipeline.settings import Settings

WARM_UP_SECONDS: Final = 2  # of the same pace, before each measurement
LAST_ARRIVAL: Final = 30.0  # seconds that a reader waits for an event
MOST_BY_ONE: Final = 1000  # transactions a second of one writer
RANKS: Final = {"p50": 0.5, "p99": 0.99, "max": 1.0}

Moments = dict[int, float]
"""Seconds since 1970 by row id."""
Write = Callable[[int], float]
"""Writes a row; returns when that was done."""
Writer = Callable[[Settings], AbstractContextManager[Write]]


@dataclass(frozen=True, slots=True)
class Paced:
    written: Moments
    late: list[float]
    """Seconds that each write began after its time."""


@contextmanager
def committing(settings: Settings) -> Iterator[Write]:
    """An application; an event's time starts when its commit has returned."""
    with psycopg.connect(settings.postgres.dsn.get_secret_value(), autocommit=True) as connection:
        warm_up(connection)

        def write(number: int) -> float:
            connection.execute(users.insert(number, number))
            return time.time()

        yield write


@dataclass(frozen=True, slots=True)
class Pace:
    """Of ``rate`` transactions a second for so many ``seconds``, each ``of``-th, from ``number`` on."""

    rate: float
    seconds: int
    number: int = 0
    of: int = 1


def pace(
    write: Write, first: int, count: int, rate: float, *, number: int = 0, of: int = 1
) -> Paced:
    """One write each ``1 / rate`` seconds. A late one does not shift those behind it. Of ``count`` of
    them only each ``of``-th is made, from ``number`` on.
    """
    written, late, began = {}, [], time.monotonic()
    for position in range(number, count, of):
        due = began + position / rate
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        late.append(time.monotonic() - due)
        written[first + position] = write(first + position)
    return Paced(written, late)


def write_in_child(pipe: Pipe, writer: Writer, settings: Settings, asked: Pace) -> None:
    """Says that it is ready, waits for the word, writes, sends ``Paced``."""
    with writer(settings) as write:
        pipe.send("ready")
        pipe.recv()
        rate, share = asked.rate, {"number": asked.number, "of": asked.of}
        warm = round(rate * WARM_UP_SECONDS)
        pace(write, 1, warm, rate, **share)
        measured = pace(write, warm + 1, round(rate * asked.seconds), rate, **share)
    pipe.send(measured)


def paces(rate: float, seconds: int) -> list[Pace]:
    """One for each writer that so many transactions a second take."""
    writers = math.ceil(rate / MOST_BY_ONE)
    return [Pace(rate, seconds, number, writers) for number in range(writers)]


def together(parts: Sequence[Paced]) -> Paced:
    """What all writers have written."""
    written: Moments = {}
    for part in parts:
        written |= part.written
    return Paced(written, [seconds for part in parts for seconds in part.late])


def reached(paced: Paced) -> float:
    """Transactions a second that there really were."""
    moments = paced.written.values()
    return (len(moments) - 1) / (max(moments) - min(moments))


def rows_of(rate: float, seconds: int) -> int:
    """How many rows a writer makes, those that warm it up included."""
    return round(rate * WARM_UP_SECONDS) + round(rate * seconds)


def latencies(written: Moments, arrived: Moments) -> list[float]:
    """Milliseconds. Raises ``RuntimeError`` when an event has not arrived."""
    missing = written.keys() - arrived.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(written)} events have not arrived")
    return [(arrived[number] - at) * 1000 for number, at in written.items()]


def figures(paced: Paced, arrived: Moments) -> dict[str, float]:
    """Milliseconds, by metric."""
    samples = latencies(paced.written, arrived)
    late = percentile(paced.late, RANKS["p99"]) * 1000
    return {rank: percentile(samples, share) for rank, share in RANKS.items()} | {
        "writer behind its pace, p99": late
    }

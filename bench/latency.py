"""How late rows are: written to one database at a steady pace, looked for in another.

A reader asks by primary key for rows it has not seen, each half millisecond when there was none; that
and its query are in every figure, for everybody alike. What it costs the others is told as well.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Final

import psycopg

from bench.children import Child, cpu_seconds
from bench.contestants.ours import contour_settings
from bench.pacing import (
    LAST_ARRIVAL,
    Moments,
    Paced,
    committing,
    paces,
    rows_of,
    together,
    write_in_child,
)
from bench.peers.base import Link
from bench.peers.databases import harness, of_harness

LOOK: Final = 0.0005  # seconds between a look at b that found nothing new and the next
NEW: Final = "select id from users where id > %s"
PROBE: Final = 0
"""A row that is written first, to see that all is under way; the writer's warm-up deletes it."""
WRITE_PROBE: Final = f"""
insert into users (id) values ({PROBE}) on conflict (id) do update set updated_at = now()
"""
LONGEST_START: Final = 120.0  # seconds until the probe has come


@dataclass(frozen=True, slots=True)
class Read:
    arrived: Moments
    cpu: float
    """Cores that the reader and its backend kept busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was written, what came, and what bringing it took."""

    paced: Paced
    arrived: Moments
    cores: float
    """That the peer kept busy."""
    reading: float


def used_by(processes: Iterable[int]) -> dict[int, float]:
    """Seconds of processor time, by process; one that has ended is left out."""
    found = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            found[pid] = cpu_seconds(pid)
    return found


def used_since(before: Mapping[int, float], processes: Iterable[int]) -> dict[int, float]:
    """A process that was not there before has used all its time since."""
    return {pid: used - before.get(pid, 0.0) for pid, used in used_by(processes).items()}


def read_in_child(pipe: Pipe, dsn: str, last: int) -> None:
    """Looks at ``users`` until the rows 1 to ``last`` have come; sends ``Read``."""
    arrived: Moments = {}
    seen = 0  # every row up to this one
    with psycopg.connect(dsn, autocommit=True) as connection:
        # The table is empty in statistics.
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_bitmapscan = off")
        backend = connection.info.backend_pid
        pipe.send("ready")
        began, used = time.monotonic(), cpu_seconds(backend) + time.process_time()
        deadline = began + LAST_ARRIVAL
        while len(arrived) < last and time.monotonic() < deadline:
            rows = connection.execute(NEW, [seen], prepare=True).fetchall()
            at = time.time()
            new = [number for (number,) in rows if number not in arrived]
            if not new:
                time.sleep(LOOK)
                continue
            arrived |= dict.fromkeys(new, at)
            while seen + 1 in arrived:
                seen += 1
            deadline = time.monotonic() + LAST_ARRIVAL
        used = cpu_seconds(backend) + time.process_time() - used
        pipe.send(Read(arrived, used / (time.monotonic() - began)))


def until_under_way(link: Link) -> None:
    """Returns when a row has got through. Raises ``RuntimeError`` when none does.

    It is written again and again: who looks only when told may miss the first word while he starts.
    """
    with harness(link.a) as a, harness(link.b) as b:
        deadline, due = time.monotonic() + LONGEST_START, 0.0
        while not b.execute(f"select from users where id = {PROBE}").rowcount:
            now = time.monotonic()
            if now > deadline:
                raise RuntimeError(f"no row has come in {LONGEST_START:g} s")
            if now > due:
                a.execute(WRITE_PROBE)
                due = now + 1
            time.sleep(0.05)


def seen_at_pace(link: Link, rate: float, seconds: int) -> Seen:
    """Of a link that is started, between tables that are empty."""
    until_under_way(link)
    with ExitStack() as until_done:
        reader = until_done.enter_context(
            Child(read_in_child, of_harness(link.b), rows_of(rate, seconds))
        )
        reader.receive()
        application = contour_settings(of_harness(link.a))
        writers = []
        for asked in paces(rate, seconds):
            writer = Child(write_in_child, committing, application, asked)
            writers.append(until_done.enter_context(writer))
            writer.receive()  # one by one: all warm up with the same rows
        began, before = time.monotonic(), used_by(link.processes())
        for writer in writers:
            writer.send()
        paced = together([writer.receive() for writer in writers])
        read: Read = reader.receive()
        used = sum(used_since(before, link.processes()).values())
        passed = time.monotonic() - began
    return Seen(paced=paced, arrived=read.arrived, cores=used / passed, reading=read.cpu)

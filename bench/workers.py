"""Work under test: connected in a process of its own, let go by a word, and what it has used then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from typing import Any, Final, Protocol

from bench.children import PROCESSES, cpu_seconds
from bench.further_lanes import further_lanes
from bench.round_trips import connections, counted
from replication_pipeline import logs
from replication_pipeline.settings import Settings

LOOK: Final = 0.05  # seconds between looks for the word


@dataclass(slots=True)
class Progress:
    """How many of ``events`` all workers of a run have done together, across processes."""

    events: int | None
    """``None``: go on until told to stop."""
    done: Any = field(default_factory=lambda: PROCESSES.Value("q", 0))
    over: Event = field(default_factory=PROCESSES.Event)

    def add(self, count: int) -> None:
        with self.done.get_lock():
            self.done.value += count
            if self.events is not None and self.done.value >= self.events:
                self.over.set()

    def when_over(self, call: Callable[[], None]) -> None:
        """Call from another thread, once the run is over."""

        def wait() -> None:
            self.over.wait()
            call()

        threading.Thread(target=wait, daemon=True, name="progress").start()


@dataclass(frozen=True, slots=True)
class Worked:
    """What one process did."""

    events: int
    ended: float
    """When its last event was done, its commit included; ``now()``."""
    parked: int = 0
    """Events that had to wait in a table at first."""


def until_the_word() -> None:
    time.sleep(LOOK)


@dataclass(frozen=True, slots=True)
class Ready:
    """Connected to PostgreSQL and to Kafka, and waiting for the word."""

    run: Callable[[], Worked]
    meanwhile: Callable[[], None] = until_the_word
    """Called again and again until the word comes."""


class Worker(Protocol):
    """Opens what it needs; ``run`` of what it yields works until the run is over."""

    def __call__(self, settings: Settings, progress: Progress) -> AbstractContextManager[Ready]: ...


@dataclass(frozen=True, slots=True)
class Connected:
    """A worker is ready; these are its backends."""

    backends: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one worker has done, and used."""

    events: int
    began: float
    ended: float
    cpu: float
    """Seconds of its process, all threads."""
    backend_cpu: float
    parked: int
    round_trips: int
    """0 unless counted."""


def now() -> float:
    """One clock for all processes of this machine."""
    return time.monotonic()


def work_in_child(
    pipe: Pipe, worker: Worker, settings: Settings, progress: Progress, count: bool
) -> None:
    """Says ``Connected``, waits for the word, works, says ``Done``."""
    logs.configure(settings.logging, contour=settings.contour.name)
    with worker(settings, progress) as ready:
        opened = connections()
        with counted(*opened) if count else nullcontext() as trips:
            pipe.send(Connected([connection.info.backend_pid for connection in opened]))
            while not pipe.poll():
                ready.meanwhile()
            pipe.recv()
            began, cpu, backends = now(), time.process_time(), _backends()
            with further_lanes(count=count) as others:
                worked = ready.run()
            cpu = time.process_time() - cpu
            # One that was opened meanwhile has used all its time for this.
            used = sum(after - backends.get(pid, 0.0) for pid, after in _backends().items())
        pipe.send(
            Done(
                events=worked.events,
                began=began,
                ended=worked.ended,
                cpu=cpu,
                backend_cpu=used + others.cpu,
                parked=worked.parked,
                round_trips=(trips.count if trips else 0) + others.round_trips,
            )
        )


def _backends() -> dict[int, float]:
    """Processor time by process id, of all servers' processes that this one talks to."""
    pids = [connection.info.backend_pid for connection in connections()]
    return {pid: cpu_seconds(pid) for pid in pids}

"""Processes of a measurement: started early, let go by a word, each with a clock of its own.

The processor time of any process, its threads included, ended ones too, is read from the kernel's clock
of that process (Linux).
"""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

PROCESSES: Final = multiprocessing.get_context("spawn")  # a fork would copy librdkafka's threads
LONGEST: Final = 900.0  # seconds for which a child may be silent


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far: clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(frozen=True, slots=True)
class Failed:
    """What a child sends instead of its result."""

    trace: str


class Child(AbstractContextManager["Child"]):
    """``work(pipe, *arguments)`` in a process of its own; must be importable there."""

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._pipe, other_end = PROCESSES.Pipe()
        self._process = PROCESSES.Process(
            target=_run, args=(other_end, work, *arguments), daemon=True
        )
        self._process.start()
        other_end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def receive(self, timeout: float = LONGEST) -> Any:
        """What it sends next. Raises ``RuntimeError`` when it failed, ended or says nothing."""
        try:
            if not self._pipe.poll(timeout):
                raise RuntimeError(f"a child said nothing for {timeout:g} s")
            found = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a child ended without a word") from None
        if isinstance(found, Failed):
            raise RuntimeError(f"a child failed:\n{found.trace}")  # noqa: TRY004
        return found

    def send(self, value: Any = None) -> None:
        self._pipe.send(value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for its end; one that is still at work after an error is ended."""
        if kind is not None:
            self._process.terminate()
        self._process.join(30)
        if self._process.exitcode is None:
            self._process.kill()
        self._pipe.close()


def _run(pipe: Connection, work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(pipe, *arguments)
    except BaseException:  # noqa: BLE001  told to the parent, which raises
        pipe.send(Failed(traceback.format_exc()))

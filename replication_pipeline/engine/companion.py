"""A step that is repeated beside a window, in a thread, so that no batch waits for it.

An outage is told once and waited out; a fatal error ends the window at its next cycle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult
from replication_pipeline.engine.window import Cycle

LONGEST_GOODBYE: Final = 2.0  # seconds that the end of a window may wait for the step in hand


@dataclass(slots=True)
class Companion:
    """Calls ``step`` at once, and then ``every`` so often; ``goodbye`` at the end, in the same thread.
    ``outage`` is told of the first one of a row.
    """

    step: Callable[[], None]
    goodbye: Callable[[], None]
    every: timedelta
    outage: Callable[[TransientError], None]
    name: str
    _over: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = field(default=None)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End after the step in hand."""
        self._over.set()
        self._thread.join(LONGEST_GOODBYE)

    def _run(self) -> None:
        failed = False
        try:
            while not self._over.is_set():
                try:
                    self.step()
                    failed = False
                except TransientError as error:
                    if not failed:
                        self.outage(error)
                    failed = True
                self._over.wait(self.every.total_seconds())
        except BaseException as error:  # noqa: BLE001  raised again by the window's thread
            self._failure = error
        finally:
            self.goodbye()


@dataclass(slots=True)
class Accompanied:
    """A cycle that ends with what ended its companion."""

    cycle: Cycle
    companion: Companion

    def __call__(self) -> Sequence[BatchResult]:
        self.companion.check()
        return self.cycle()

    def abandon(self) -> None:
        self.cycle.abandon()

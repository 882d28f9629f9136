"""Appliers under test: in threads of their own, with what they have told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from replication_pipeline import runtime
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.settings import Settings


@dataclass
class Applier:
    """An apply window in a thread."""

    settings: Settings
    on_batch: Callable[[BatchResult], None] = field(default=lambda _: None)
    length: timedelta = timedelta(minutes=3)
    errors: list[str] = field(default_factory=list)
    totals: WindowTotals | None = None
    failure: BaseException | None = None
    _stop: StopToken = field(default_factory=StopToken)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.on_batch(result)

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        self.errors.append(error.message)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.totals = runtime.apply(
                self.settings, stop=self._stop, length=self.length, observer=self
            )
        except BaseException as error:  # noqa: BLE001  looked at by the test
            self.failure = error


@contextmanager
def applying(
    settings: Settings,
    count: int = 1,
    *,
    survive: bool = True,
    length: timedelta = timedelta(minutes=3),
) -> Iterator[list[Applier]]:
    """``count`` appliers, which must live through the block, unless it is to end them."""
    appliers = [Applier(settings, length=length) for _ in range(count)]
    for applier in appliers:
        applier._thread.start()
    try:
        yield appliers
        for applier in appliers:
            assert applier.running or not survive, applier.failure
    finally:
        for applier in appliers:
            applier._stop.set()
        for applier in appliers:
            applier._thread.join(20)
            assert not applier.running, "the applier did not stop"

"""Being asked to stop: the first signal sets a flag, the second one ends this process at once.

After the second one the kernel ends our children, and the watchdog what those had started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Stop:
    """Set by a signal; a plain field and short sleeps, for a handler must take no lock."""

    reason: str | None = None

    def __call__(self) -> bool:
        return self.reason is not None

    def wait(self, seconds: float) -> bool:
        """Sleep; true as soon as asked to stop."""
        until = time.monotonic() + seconds
        while not self() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
        return self()


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Set the flag on SIGINT, SIGTERM and SIGHUP, whatever the parent ignored."""
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop():
            os._exit(128 + number)
        stop.reason = signal.Signals(number).name

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

"""Stopping in an orderly way: SIGINT, SIGTERM and Dagster's *Terminate* set a flag, no more.

The loop looks at the flag between cycles, so that a batch in hand is finished or rolled back, never
torn. Waits are on the flag itself and end at once when it is set. A second signal of the same kind
falls through to whoever handled it before (an impatient Ctrl+C still works).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import FrameType


class StopToken:
    """A flag that is set once. Safe to set from a signal handler or another thread.

    Not a ``threading.Event``: its ``set`` takes a lock that the interrupted thread may hold, and a
    handler that waits for its own thread waits for ever. ``SimpleQueue.put`` is reentrant.
    """

    def __init__(self) -> None:
        self._wake: SimpleQueue[None] = SimpleQueue()
        self.reason: str | None = None

    def set(self, reason: str = "asked to stop") -> None:
        """Ask the loop to end after the batch in hand."""
        self.reason = self.reason or reason
        self._wake.put(None)

    def __bool__(self) -> bool:
        return self.reason is not None

    def wait(self, timeout: timedelta) -> bool:
        """Sleep at most ``timeout``; true when asked to stop."""
        if not self:
            with suppress(Empty):
                self._wake.get(timeout=max(0.0, timeout.total_seconds()))
        return bool(self)


@contextmanager
def stop_on_signals(token: StopToken) -> Iterator[StopToken]:
    """Set ``token`` on SIGINT and SIGTERM while the block runs.

    Does nothing outside the main thread, where Python allows no handlers (tests run ops there).
    """
    if threading.current_thread() is not threading.main_thread():
        yield token
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        token.set(signal.Signals(number).name)
        signal.signal(number, previous[signal.Signals(number)] or signal.SIG_DFL)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield token
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

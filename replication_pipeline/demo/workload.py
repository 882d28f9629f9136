"""Both contours in use: a writer in each, and a rival who now and then writes the same row in both.

A writer makes customers with orders and items, changes balances and statuses, and deletes items. The
rival writes one row in both contours within milliseconds: sooner than a change can travel, so that
each time one of the two writes has to give way.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Final

from replication_pipeline.demo.actors import Desk, Rival, Writer
from replication_pipeline.demo.contours import Contour

RIVALRY: Final = 0.1
"""Rows written in both contours at once, as a share of a writer's transactions."""
STOPPING: Final = 2.0


class Workload:
    """The threads; ``start`` them, ``stop`` them."""

    def __init__(self, contours: tuple[Contour, Contour], *, rate: float) -> None:
        """``rate``: transactions a second in each contour."""
        self._stop = threading.Event()
        self._desks: list[Desk] = []
        writers = [Writer(self._desk(c), c.name, random.Random()) for c in contours]
        rival = Rival((self._desk(contours[0]), self._desk(contours[1])), random.Random())
        self._threads = [
            threading.Thread(target=self._run, args=(actor, pace), name="workload", daemon=True)
            for actor, pace in [*((writer, rate) for writer in writers), (rival, rate * RIVALRY)]
            if pace > 0
        ]
        self.trouble: str | None = None

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the transactions in hand and end. Harmless when not started."""
        self._stop.set()
        deadline = time.monotonic() + STOPPING
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=max(0.0, deadline - time.monotonic()))
        # A thread that hangs on a lock for longer goes with its server.
        if not any(thread.is_alive() for thread in self._threads):
            for desk in self._desks:
                desk.close()

    def _desk(self, contour: Contour) -> Desk:
        desk = Desk(contour, self._stop)
        self._desks.append(desk)
        return desk

    def _run(self, actor: Writer | Rival, rate: float) -> None:
        try:
            actor.begin()
            due = time.monotonic()
            while not self._stop.is_set():
                actor.step()
                # Held up for long: go on at the usual pace instead of making up for it at once.
                due = max(due + 1 / rate, time.monotonic() - 1)
                self._stop.wait(max(0.0, due - time.monotonic()))
        except Exception as error:  # noqa: BLE001  told by the main thread
            self.trouble = f"the workload failed: {error}"

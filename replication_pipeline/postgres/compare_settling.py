"""Waiting until everything that was written anywhere before a moment has arrived everywhere.

Known from offsets: rounds of the heartbeats tell it of a contour's own writes, positions of what it had
applied from others, those that are not compared among them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.comparison import Lag
from replication_pipeline.domain.heartbeat import passed
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.compare_side import Side

LOOK_EVERY: Final = 0.5  # seconds


def settled(sides: Sequence[Side], patience: timedelta, stop: StopToken) -> tuple[Lag, ...]:
    """Wait, ``patience`` at most. Who still lags then; nobody, if all has arrived."""
    written = {side.contour: side.now() for side in sides}
    applied = {side.contour: side.position() for side in sides}
    end = time.monotonic() + patience.total_seconds()
    pause = threading.Event()
    while True:
        lags = tuple(lag for side in sides for lag in _lags(side, written, applied))
        if not lags or time.monotonic() >= end or stop:
            return lags
        pause.wait(min(LOOK_EVERY, max(0.0, end - time.monotonic())))


def _lags(side: Side, written: dict[str, float], applied: dict[str, Sequence[int]]) -> list[Lag]:
    arrived, position = side.arrived(), side.position()
    return [
        Lag(side.contour, other, wanted, arrived.get(other, 0.0))
        for other, wanted in written.items()
        if other != side.contour
        and (arrived.get(other, 0.0) <= wanted or not passed(position, applied[other]))
    ]

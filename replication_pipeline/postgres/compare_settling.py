"""Which suspects have really diverged: all that was written before has to arrive everywhere first.

Known from offsets: rounds of the heartbeats tell it of a contour's own writes, positions of what it had
applied from others, those that are not compared among them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from replication_pipeline.domain.comparison import Difference, Lag, Seen
from replication_pipeline.domain.heartbeat import passed
from replication_pipeline.engine.stopping import StopToken
from replication_pipeline.postgres.compare_search import Search, Suspect
from replication_pipeline.postgres.compare_side import Side
from replication_pipeline.postgres.compare_sql import Key

LOOK_EVERY: Final = 0.5  # seconds
ROUNDS: Final = 3  # for keys that differ in another way each time they are read


def settled(
    sides: Sequence[Side],
    patience: timedelta,
    stop: StopToken,
    no_need: Callable[[], bool] = lambda: False,
) -> tuple[Lag, ...]:
    """Wait, ``patience`` at most, or until there is ``no_need`` to. Who still lags then; nobody, if all
    has arrived.
    """
    written = {side.contour: side.now() for side in sides}
    applied = {side.contour: side.position() for side in sides}
    began = time.monotonic()
    end, next_question = began + patience.total_seconds(), began
    pause = threading.Event()
    while True:
        lags = tuple(lag for side in sides for lag in _lags(side, written, applied))
        now = time.monotonic()
        if not lags or now >= end or stop:
            return lags
        if now >= next_question:  # it reads rows, so ever more seldom
            if no_need():
                return lags
            next_question = now + max(LOOK_EVERY, now - began)
        pause.wait(min(LOOK_EVERY, max(0.0, end - time.monotonic())))


def _lags(side: Side, written: dict[str, float], applied: dict[str, Sequence[int]]) -> list[Lag]:
    arrived, position = side.arrived(), side.position()
    return [
        Lag(side.contour, other, wanted, arrived.get(other, 0.0))
        for other, wanted in written.items()
        if other != side.contour
        and (arrived.get(other, 0.0) <= wanted or not passed(position, applied[other]))
    ]


def read_now(search: Search, keys: Mapping[str, Key]) -> list[Suspect]:
    """What each contour has of some keys."""
    read = search.each(lambda side: side.states(keys))
    return [
        Suspect(
            key,
            parts,
            {side.contour: now[key] for side, now in zip(search.sides, read, strict=True)},
        )
        for key, parts in keys.items()
    ]


def confirm(
    search: Search, suspects: Sequence[Suspect], patience: timedelta
) -> tuple[list[Difference], int, tuple[Lag, ...]]:
    """Those that are different once all has arrived; of how many that can't be said, because they are
    written all the time or contours lag; and who lags.
    """
    found: list[Difference] = []
    end = time.monotonic() + patience.total_seconds()
    for _ in range(ROUNDS):
        if not suspects:
            break
        rest = timedelta(seconds=max(0.0, end - time.monotonic()))
        same, written, lags = _once(search, suspects, rest)
        if lags:
            return found, len(same) + len(written), lags
        found += [Difference(each.key, each.parts, each.seen) for each in same]
        suspects = written  # they differ still, in another way: once more
    return found, len(suspects), ()


def _once(
    search: Search, suspects: Sequence[Suspect], patience: timedelta
) -> tuple[list[Suspect], list[Suspect], tuple[Lag, ...]]:
    """Those that differ as they did, those that were written and differ, and who lags. Nobody is waited
    for once nobody differs as before.
    """
    left = {suspect.key: suspect for suspect in suspects}

    def look() -> list[Suspect]:
        """Who is equal by now, or was written, is not among the same any more, whatever comes next."""
        now = read_now(search, {key: suspect.parts for key, suspect in left.items()})
        for suspect in now:
            if not differs(suspect.seen) or not unwritten(left[suspect.key].seen, suspect.seen):
                del left[suspect.key]
        return [suspect for suspect in now if suspect.key in left]

    lags = settled(search.sides, patience, search.stop, lambda: not look())
    same = look()
    others = {s.key: s.parts for s in suspects if s.key not in left}
    written = [s for s in read_now(search, others) if differs(s.seen)] if others else []
    return same, written, lags if same else ()


def differs(seen: Mapping[str, Seen]) -> bool:
    """Whether a key is not the same everywhere."""
    return len({each.row for each in seen.values()}) > 1


def unwritten(before: Mapping[str, Seen], after: Mapping[str, Seen]) -> bool:
    """Whether every contour has what it had."""
    return all(before[contour].row == seen.row for contour, seen in after.items())

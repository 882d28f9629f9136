"""What the numbers mean: verdicts on backlog and lag, and how many windows are wanted.

Pure functions of figures read elsewhere. Thresholds come from the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class ContourStatus:
    """One look at a contour. Counts are events; ages are seconds.

    ``oldest_unpublished_seconds`` is 0 when nothing waits. ``held_publish`` are refused events that
    will be tried again, and those behind a refused or parked one. ``unique_conflicts`` are parked rows
    whose value of a unique index another row has. ``apply_lag_events`` is as of the appliers' last look
    at Kafka. ``*_total`` counters only ever grow; they are sums over all workers that ever ran here.
    ``clock_skew_seconds`` lie between the two contours' clocks that differ most.
    """

    contour: str
    unpublished: int
    oldest_unpublished_seconds: float
    parked_publish: int
    held_publish: int
    parked_apply: int
    publishers: int
    appliers: int
    apply_lag_events: int
    processed_total: int
    failed_total: int
    applied_total: int
    skipped_total: int
    conflicts_total: int
    clock_skew_seconds: float = 0.0
    fenced_contours: int = 0
    unique_conflicts: int = 0


def unpublished_verdict(unpublished: int, *, warning: int) -> Verdict:
    """``warning`` at the threshold or above: rows wait faster than they leave."""
    return "warning" if unpublished >= warning else "ok"


def lag_verdict(age: timedelta, *, warning: timedelta, critical: timedelta) -> Verdict:
    """By the age of the oldest unpublished event."""
    if age > critical:
        return "error"
    if age > warning:
        return "warning"
    return "ok"


def skew_verdict(seconds: float, *, warning: timedelta) -> Verdict:
    """``warning`` above the threshold: of two writes at once the later one may lose."""
    return "warning" if timedelta(seconds=seconds) > warning else "ok"


def desired_windows(
    backlog: int, *, per_window: int, minimum: int, maximum: int, running: int
) -> int:
    """How many windows a backlog deserves, between ``minimum`` and ``maximum``.

    One more for each ``per_window`` waiting events. With hysteresis: a window that runs is kept
    until the backlog has fallen to half of what would have called for it.
    """
    wanted = max(1, math.ceil(backlog / per_window)) if backlog else 0
    if wanted < running and backlog > per_window * (running - 1) / 2:
        wanted = running
    return max(minimum, min(maximum, wanted))

"""When people are told of trouble, and when that it is over: pure functions of what each look saw.

* A trouble is told once, however long it lasts; again only when its level changes, and when it is over.
* It is told when it has lasted for ``after``, and is over when it was away for ``clear_after`` without
  a break. What comes back within ``MEMORY`` has to be away twice as long the next time, up to sixteen
  times: whatever comes and goes becomes one trouble instead of many messages.
* What can't be seen now (``level`` is ``None``) is neither there nor away: nothing changes.
* Each receiver is brought up to what is (``news``), not sent a list of events: a receiver that was away
  is told what still stands, and nothing of what came and went meanwhile.

Times are seconds on one clock, handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Level = Literal["ok", "warning", "critical"]
AlertName = Literal[
    "publish_lag",
    "unpublished_count",
    "error_rate",
    "parked_events",
    "apply_lag",
    "heartbeat",
    "queue_health",
    "setup",
    "convergence",
    "publisher_down",
    "applier_down",
    "contour_unknown",
]
RANK: Final[Mapping[Level, int]] = {"ok": 0, "warning": 1, "critical": 2}
MEMORY: Final = 600.0
MOST_RETURNS: Final = 4
FIRST_PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Signal:
    """What one look saw of one thing. ``advice``: what to do about it."""

    level: Level | None
    text: str
    advice: str = ""
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """``level`` is what people are to know, since ``since``; ``began`` is when it was last ``ok``.

    ``coming`` was seen since ``coming_since`` without a break, and becomes the level if it stays.
    ``returns`` counts how often the trouble came back soon after it was over.
    """

    level: Level = "ok"
    text: str = ""
    advice: str = ""
    since: float = 0.0
    began: float = 0.0
    coming: Level | None = None
    coming_since: float = 0.0
    returns: int = 0


@dataclass(frozen=True, slots=True)
class Receiver:
    """What one receiver was told last, by alert, and how it went."""

    told: Mapping[str, Level]
    failures: int = 0
    next_try: float = 0.0


NEW: Final = Alert()


def follow(alert: Alert, signal: Signal, *, now: float, clear_after: float) -> Alert:
    """The alert after one more look."""
    if signal.level is None:
        return replace(alert, coming=None)
    if signal.level == alert.level:
        return replace(alert, text=signal.text, advice=signal.advice, coming=None)
    rises = RANK[signal.level] > RANK[alert.level]
    coming, coming_since = signal.level, now
    if alert.coming is not None and (RANK[alert.coming] > RANK[alert.level]) == rises:
        # On the way down the worst of what was seen counts, on the way up the mildest.
        milder = RANK[alert.coming] < RANK[coming]
        coming = alert.coming if milder == rises else coming
        coming_since = alert.coming_since
    wait = signal.after if rises else clear_after * 2**alert.returns
    if now - coming_since < wait:
        return replace(alert, coming=coming, coming_since=coming_since)
    begins = alert.level == "ok"
    back = begins and alert.since > 0 and now - alert.since < MEMORY
    return Alert(
        level=coming,
        text=signal.text,
        advice=signal.advice,
        since=now,
        began=now if begins else alert.began,
        returns=min(alert.returns + 1, MOST_RETURNS) if back else 0 if begins else alert.returns,
    )


def news(alerts: Mapping[str, Alert], receiver: Receiver, *, now: float) -> Sequence[str]:
    """The alerts that ``receiver`` is to be told of now; none while it is left in peace."""
    if now < receiver.next_try:
        return []
    return [name for name, alert in alerts.items() if receiver.told.get(name, "ok") != alert.level]


def forgotten(alert: Alert, *, now: float) -> bool:
    """Whether it may be left out of the memory: all is well, and was for long."""
    return alert.level == "ok" and alert.coming is None and now - alert.since >= MEMORY


def was_told(receiver: Receiver, name: str, level: Level) -> Receiver:
    """``receiver`` after it took a message."""
    others = {other: told for other, told in receiver.told.items() if other != name}
    return Receiver(others if level == "ok" else {**others, name: level})


def was_away(receiver: Receiver, *, now: float) -> Receiver:
    """``receiver`` after it took none: it is tried again, later each time."""
    pause = min(FIRST_PAUSE * 2 ** min(receiver.failures, 10), LONGEST_PAUSE)
    return replace(receiver, failures=receiver.failures + 1, next_try=now + pause)


def worst(levels: Iterable[Level | None]) -> Level | None:
    """The worst one; ``None`` when what is known is fine and something is not known."""
    seen = list(levels)
    known = [level for level in seen if level is not None]
    top: Level = max(known, key=lambda level: RANK[level], default="ok")
    return None if top == "ok" and len(known) < len(seen) else top

"""The registry of contours: a function of the heartbeat topic, so that all contours hold the same one.

``follow`` takes it one record further. Silence is judged in the time of the log, never by a clock at
home: a contour that was away comes to the same verdict about itself when it reads on. The log's time
stands still while nobody beats, but for an eighth of the horizon: an outage of Kafka fences nobody.

A contour is *active*; *fenced* after too long a silence, until it is admitted again; or *forgotten*
on an operator's word. Whoever comes later with the name or id of another database is passed by:
``standing_after`` tells the database itself that it must not go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from replication_pipeline.domain.heartbeat import Admission, Beat, Forgetting, Identity, Record

State = Literal["active", "fenced", "forgotten"]
Trouble = Literal["clash", "gone_back"]
SAMPLES: Final = 8  # newest beats that a clock is measured by
STANDSTILL: Final = 8  # of the horizon this part, at most, may lie between two beats of the log


@dataclass(frozen=True, slots=True)
class Contour:
    """``last_beat`` and ``fenced_at`` are seconds by the broker's clock, ``last_heard`` in the log's
    time. ``ahead``: by how many seconds its clock was seen ahead of the broker's.
    """

    identity: Identity
    state: State
    sequence: int
    last_beat: float
    last_heard: float
    fenced_at: float | None = None
    ahead: tuple[float, ...] = ()

    @property
    def clock_ahead(self) -> float | None:
        """The best estimate. A beat is always under way for a while, which makes its clock look late,
        so the greatest sample errs least.
        """
        return max(self.ahead, default=None)


@dataclass(frozen=True, slots=True)
class Registry:
    """By name. ``log_seconds``: the log's time; ``log_time``: the broker's at the last beat."""

    contours: Mapping[str, Contour] = field(default_factory=dict)
    log_seconds: float = 0.0
    log_time: float | None = None

    def active(self) -> list[str]:
        return sorted(name for name, c in self.contours.items() if c.state == "active")


def follow(registry: Registry, record: Record, time: float) -> Registry:
    """The registry after ``record``, which the broker stamped with ``time``."""
    match record:
        case Beat():
            return _beat(_silence(registry, record.fence_after, time), record, time)
        case Admission(identity, sequence):
            admitted = Contour(identity, "active", sequence, time, registry.log_seconds)
            others = {
                name: replace(c, state="forgotten") if c.identity.id == identity.id else c
                for name, c in registry.contours.items()
            }
            return _with(replace(registry, contours=others), admitted)
        case Forgetting(contour):
            known = registry.contours.get(contour)
            return registry if known is None else _with(registry, replace(known, state="forgotten"))


def _silence(registry: Registry, horizon: float, time: float) -> Registry:
    pause = 0.0 if registry.log_time is None else max(0.0, time - registry.log_time)
    now = registry.log_seconds + min(pause, horizon / STANDSTILL)
    return Registry(
        {
            name: replace(contour, state="fenced", fenced_at=time)
            if contour.state == "active" and now - contour.last_heard > horizon
            else contour
            for name, contour in registry.contours.items()
        },
        now,
        time,
    )


def _beat(registry: Registry, beat: Beat, time: float) -> Registry:
    known = registry.contours.get(beat.identity.contour)
    if any(
        c.identity.id == beat.identity.id and c.state != "forgotten"
        for name, c in registry.contours.items()
        if name != beat.identity.contour
    ):
        return registry
    ahead = beat.sent_at / 1e6 - time
    if known is None or (known.identity != beat.identity and known.state == "forgotten"):
        new = Contour(
            beat.identity, "active", beat.sequence, time, registry.log_seconds, None, (ahead,)
        )
        return _with(registry, new)
    if known.identity != beat.identity or beat.sequence <= known.sequence:
        return registry
    heard = replace(
        known,
        sequence=beat.sequence,
        last_beat=time,
        last_heard=registry.log_seconds,
        ahead=(ahead, *known.ahead)[:SAMPLES],
    )
    return _with(registry, heard)


def _with(registry: Registry, contour: Contour) -> Registry:
    return replace(registry, contours={**registry.contours, contour.identity.contour: contour})


def counts(registry: Registry, beat: Beat) -> bool:
    """After ``follow``: whether the beat was taken for its contour's."""
    known = registry.contours.get(beat.identity.contour)
    return known is not None and (known.identity, known.sequence) == (beat.identity, beat.sequence)


def standing_after(
    trouble: Trouble | None, registry: Registry, record: Record, me: Identity, sent: int
) -> Trouble | None:
    """What is wrong with this database after ``record``. ``registry``: the one after it; ``sent``: the
    sequence number of this database's last beat.
    """
    match record:
        case Beat() if record.identity == me:
            if record.sequence > sent:
                return "gone_back"  # somebody with this identity has sent it, and it was not I
            known = registry.contours.get(me.contour)
            if known is None or known.identity != me:
                return "clash"
            return None if trouble == "clash" else trouble
        case Admission() if record.identity == me:
            return None if record.sequence <= sent else "gone_back"
        case Admission() if record.identity.contour == me.contour:
            return "clash"
        case _:
            return trouble


def skew(contours: Iterable[Contour]) -> float:
    """Seconds between the two clocks that differ most."""
    clocks = [c.clock_ahead for c in contours if c.state == "active" and c.clock_ahead is not None]
    return max(clocks) - min(clocks) if clocks else 0.0

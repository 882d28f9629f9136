"""From verdicts to what people are told: which finding is which alert, and the memory between ticks.

The memory is the sensor's cursor. Lost, it costs repeated messages, never a missed one: what stands is
found again by the next tick. Rules are in ``domain.alerts``; this module feeds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from replication_pipeline.defs import checks, deep, watched
from replication_pipeline.defs.checks import Finding
from replication_pipeline.defs.watched import Refusals, Sight
from replication_pipeline.domain.alerts import (
    NEW,
    Alert,
    Level,
    Receiver,
    Signal,
    follow,
    forgotten,
    news,
    was_away,
    was_told,
    worst,
)
from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.watch import Outcomes, Watch
from replication_pipeline.notify import Message
from replication_pipeline.notify import Receiver as Sender
from replication_pipeline.settings import Settings

LEVELS: Final[Mapping[str, Level | None]] = {
    "ok": "ok",
    "warning": "warning",
    "error": "critical",
    "unknown": None,
}
ADVICE: Final[Mapping[str, str]] = {
    **{str(check): text for check, text in checks.DESCRIPTIONS.items()},
    **{str(check): text for check, text in watched.DESCRIPTIONS.items()},
    "apply_lag": watched.APPLY_LAG,
    "setup": deep.SETUP,
    "convergence": deep.CONVERGENCE,
}
SAMPLE_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Verdicts stored, counters seen (time, processed, failed), alerts, what receivers know; and what
    the last runs of the deep checks said, as of ``deep_at``.
    """

    verdicts: checks.Stored = field(default_factory=dict)
    samples: Sequence[tuple[float, int, int]] = ()
    alerts: Mapping[str, Alert] = field(default_factory=dict)
    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    deep: Mapping[str, tuple[Level, str]] = field(default_factory=dict)
    deep_at: float = 0.0

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        """From the cursor; empty when there is none, or another version wrote it."""
        try:
            saved: dict[str, Any] = json.loads(cursor or "")
            return cls(
                {name: (str(v), float(at)) for name, (v, at) in saved["verdicts"].items()},
                [(float(at), int(done), int(failed)) for at, done, failed in saved["samples"]],
                {name: Alert(**alert) for name, alert in saved["alerts"].items()},
                {name: Receiver(**known) for name, known in saved["receivers"].items()},
                {name: (level, text) for name, (level, text) in saved["deep"].items()},
                float(saved["deep_at"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self, *, now: float) -> str:
        """As the cursor's text. Dagster keeps it with each tick, so what is well is left out."""
        told = {name for receiver in self.receivers.values() for name in receiver.told}
        alerts = {
            name: alert
            for name, alert in self.alerts.items()
            if name in told or not forgotten(alert, now=now)
        }
        return json.dumps(asdict(replace(self, alerts=alerts)), separators=(",", ":"))


def sampled(
    samples: Sequence[tuple[float, int, int]], outcomes: Outcomes, *, now: float, window: float
) -> tuple[Sequence[tuple[float, int, int]], Refusals | None]:
    """The samples with this look's, and what happened since the oldest one of the window."""
    kept = [s for s in samples if s[1] <= outcomes.processed and s[2] <= outcomes.failed]
    while len(kept) > 1 and now - kept[1][0] >= window:
        kept = kept[1:]
    refusals = None
    if kept:
        at, processed, failed = kept[0]
        refusals = Refusals(outcomes.processed - processed, outcomes.failed - failed, now - at)
    if not kept or now - kept[-1][0] >= SAMPLE_EVERY:
        kept = [*kept, (now, outcomes.processed, outcomes.failed)]
    return kept, refusals


def signals(sight: Sight, found: Iterable[Finding], settings: Settings) -> dict[str, Signal]:
    """What this look says, by alert; without those that nobody is to be told."""
    after = settings.monitoring.alert_after.total_seconds()
    by_check: dict[str, list[Finding]] = {}
    for finding in found:
        by_check.setdefault(finding.check, []).append(finding)
    seen = {
        check: Signal(
            worst(LEVELS[finding.verdict] for finding in group),
            " ".join(_about(finding) for finding in group if not finding.passed)
            or group[0].description,
            ADVICE.get(check, ""),
            # The age of an event says by itself how long the trouble has lasted.
            after=0.0 if check == "publish_lag" else after,
        )
        for check, group in by_check.items()
    }
    seen |= _alive(sight, settings, after)
    return {name: s for name, s in seen.items() if name not in settings.monitoring.alerts_off}


def _about(finding: Finding) -> str:
    return f"{finding.table}: {finding.description}" if finding.table else finding.description


def _alive(sight: Sight, settings: Settings, after: float) -> dict[str, Signal]:
    down = ("publisher_down", "applier_down")
    if isinstance(sight, ReplicationError):
        unknown = Signal(
            "critical",
            f"The contour's database can't be asked: {sight.message}.",
            sight.remedy or "Windows wait and go on by themselves when it is back.",
            after,
        )
        return {"contour_unknown": unknown} | {name: Signal(None, "") for name in down}
    status = sight.status
    waiting = status.unpublished - status.held_publish - status.parked_publish
    no_publisher = not status.publishers and bool(settings.publisher.min_publishers or waiting)
    no_applier = not status.appliers and bool(settings.consumer.min_appliers)
    return {
        "contour_unknown": Signal("ok", "The contour's database answers."),
        "publisher_down": Signal(
            "critical" if no_publisher else "ok",
            f"No publisher is alive; {status.unpublished} events wait."
            if no_publisher
            else f"{status.publishers} publishers are alive.",
            "See that publish_sensor is on and the daemon and this contour's code server run; the "
            "newest publish run says why it ended. Nothing is lost: events wait in the queue.",
            after,
        ),
        "applier_down": Signal(
            "critical" if no_applier else "ok",
            "No applier is alive: nothing arrives from other contours."
            if no_applier
            else f"{status.appliers} appliers are alive.",
            "See that apply_sensor is on and the daemon and this contour's code server run; the "
            "newest apply run says why it ended. Nothing is lost while Kafka keeps the events.",
            after,
        ),
    }


def followed(
    alerts: Mapping[str, Alert], seen: Mapping[str, Signal], *, now: float, clear_after: float
) -> dict[str, Alert]:
    """The alerts after this look."""
    return {
        name: follow(alerts.get(name, NEW), signal, now=now, clear_after=clear_after)
        for name, signal in seen.items()
    }


def tell(
    contour: str,
    alerts: Mapping[str, Alert],
    known: Mapping[str, Receiver],
    senders: Iterable[Sender],
    *,
    now: float,
) -> tuple[dict[str, Receiver], list[ReplicationError]]:
    """Bring every receiver up to what is; one that fails is left in peace for a while."""
    after: dict[str, Receiver] = {}
    errors: list[ReplicationError] = []
    for sender in senders:
        receiver = known.get(sender.name, Receiver({}))
        for name in news(alerts, receiver, now=now):
            alert = alerts[name]
            message = Message(
                contour,
                name,
                alert.level,
                alert.text,
                alert.advice,
                began=alert.began,
                at=alert.since,
            )
            try:
                sender.send(message)
            except ReplicationError as error:
                errors.append(error)
                receiver = was_away(receiver, now=now)
                break
            receiver = was_told(receiver, name, alert.level)
        told = {name: level for name, level in receiver.told.items() if name in alerts}
        after[sender.name] = replace(receiver, told=told)
    return after, errors


def verdicts(
    found: Iterable[Finding], memory: Memory, *, now: float, settings: Settings
) -> tuple[Sequence[Finding], checks.Stored]:
    """Which findings to store now. Those on tables share the pace of one, however many they are."""
    every = settings.monitoring.check_interval
    chosen: list[Finding] = []
    stored = memory.verdicts
    for pace, group in (
        (every, [f for f in found if f.table is None]),
        (every * max(1, len(settings.tables)), [f for f in found if f.table is not None]),
    ):
        due, stored = checks.due(group, stored, now=now, every=pace)
        chosen += due
    return chosen, stored


def look(
    sight: Sight, memory: Memory, settings: Settings, *, now: float
) -> tuple[Memory, list[Finding]]:
    """The memory with this look's counters and alerts, and all findings."""
    samples, refusals = memory.samples, None
    if isinstance(sight, Watch):
        window = settings.monitoring.error_rate_window.total_seconds()
        samples, refusals = sampled(samples, sight.outcomes, now=now, window=window)
    backlog = sight.status if isinstance(sight, Watch) else sight
    cheap = watched.findings(sight, settings, refusals)
    found = [*checks.findings(backlog, settings.monitoring), *cheap]
    deeper = {
        name: Signal(level, text, ADVICE[name])
        for name, (level, text) in memory.deep.items()
        if name not in settings.monitoring.alerts_off
    }
    alerts = followed(
        memory.alerts,
        signals(sight, found, settings) | deeper,
        now=now,
        clear_after=settings.monitoring.alert_clear_after.total_seconds(),
    )
    return replace(memory, samples=samples, alerts=alerts), list(cheap)

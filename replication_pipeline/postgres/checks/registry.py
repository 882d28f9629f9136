"""What heartbeats tell: whether this contour is the only one of its name, who is silent, clocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replication_pipeline.domain.contours import skew
from replication_pipeline.domain.findings import Finding, fine, mend, notice
from replication_pipeline.postgres.checks.patient import Patient, PatientCheck
from replication_pipeline.postgres.heartbeats import read_registry
from replication_pipeline.postgres.watch import pairs_of


def _identity(patient: Patient) -> Iterator[Finding]:
    contour = patient.settings.contour
    ((trouble,),) = patient.ask("standing")
    match trouble:
        case "clash":
            yield mend(
                f"another database beats as contour {contour.name}, or with the id {contour.id}",
                "give one of the two another name and id; or, if this is the right one: "
                f"replication-pipeline contours admit {contour.name}",
            )
        case "gone_back":
            yield mend(
                "this database is a copy, or was restored: it knows less than its own heartbeats",
                f"docs/recovery.md; then replication-pipeline contours admit {contour.name}",
            )
    ids: dict[int, list[str]] = {}
    for found in read_registry(patient.connection).contours.values():
        if found.state != "forgotten":
            ids.setdefault(found.identity.id, []).append(found.identity.contour)
    for id_, names in ids.items():
        if len(names) > 1:
            yield mend(
                f"contours {' and '.join(sorted(names))} share the id {id_}",
                "forget the one that is gone: replication-pipeline contours forget NAME",
            )


def _heartbeats(patient: Patient) -> Iterator[Finding]:
    monitoring = patient.settings.monitoring
    if not monitoring.heartbeat_interval:
        yield notice(
            "heartbeats are off: deletes are never forgotten, and silence is not noticed",
            "set monitoring.heartbeat_interval: 10s",
        )
        return
    pairs = pairs_of(patient.connection, patient.settings)
    if not pairs:
        yield fine("none was read here yet: publishers send them, appliers read them")
    for pair in pairs:
        if pair.state == "fenced":
            yield mend(
                f"contour {pair.contour} is fenced: what it writes is not applied",
                f"load its tables from another contour, then: replication-pipeline contours admit "
                f"{pair.contour}",
            )
        elif pair.silent > monitoring.heartbeat_warning.total_seconds():
            yield notice(
                f"contour {pair.contour} was last heard of {pair.silent:,.0f} s ago",
                f"look whether publishers of {pair.contour}, and appliers here, are running",
            )


def _clocks(patient: Patient) -> Iterator[Finding]:
    contours = read_registry(patient.connection).contours.values()
    seconds = skew(contours)
    ahead = {
        c.identity.contour: c.clock_ahead
        for c in contours
        if c.state == "active" and c.clock_ahead is not None
    }
    if len(ahead) < 2:  # noqa: PLR2004  two clocks
        yield fine("no other contour's clock is known")
        return
    last, first = (pick(ahead, key=lambda name: ahead[name]) for pick in (min, max))
    text = f"the clock of contour {first} is {seconds:.3f} s ahead of that of {last}"
    advice = "let all database servers follow one time (chrony, NTP)"
    if seconds > patient.settings.consumer.max_clock_skew.total_seconds():
        yield mend(f"{text}: events from {first} are parked", advice)
    elif seconds > patient.settings.monitoring.clock_skew_warning.total_seconds():
        yield notice(f"{text}: of two writes at once the later one may lose", advice)
    else:
        yield fine(f"{len(ahead)} contours' clocks are within {seconds * 1000:.0f} ms")


CHECKS: Final = (
    PatientCheck("identity", "contours", _identity, "no other database has this name or id"),
    PatientCheck("heartbeats", "contours", _heartbeats, "every contour was heard of"),
    PatientCheck("clocks", "contours", _clocks, ""),
)

"""One row's story: what happened when, and what each contour made of each event.

Pure: facts in, story out. What a contour did with an event is told from what is left of it there: a
parked event, a conflict, the id among the processed ones, the row's version now. Where nothing is left
that decides, it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from replication_pipeline.domain.story import Conflict, Event, Parked, Trail
from replication_pipeline.domain.version import contour_id_of, microseconds_of


@dataclass(frozen=True, slots=True)
class Moment:
    at: datetime
    where: str
    what: str
    event_id: str | None = None
    version: int | None = None


def decision(event: Event, trail: Trail, names: Mapping[int, str]) -> str:
    """What ``trail``'s contour made of ``event``. ``names``: of contours, by id."""
    recorded = _recorded(event, trail, names)
    if recorded is not None:
        return recorded
    if event.contour == trail.contour:
        return "its own write" + _afterwards(event, trail, names)
    if event.event_id in trail.processed:
        if trail.version == event.version:
            return "applied: it is the row as it stands"
        if trail.buried is not None and trail.buried[0] == event.version:
            return "applied: the row is deleted"
        followed = any(row.base_version == event.version for row in trail.queue)
        done = "applied; a later write there replaced it" if followed else "dealt with"
        return done + _afterwards(event, trail, names)
    return _not_dealt_with(event, trail, names)


def standing(trail: Trail, names: Mapping[int, str]) -> str:
    """What ``trail``'s contour has of the row now."""
    parts = []
    if trail.version is not None:
        parts.append(f"row: {written(trail.version, names)}, version {trail.version}")
    elif trail.buried is not None:
        version = trail.buried[0]
        parts.append(f"deleted: {written(version, names)}, version {version}")
    elif trail.displaced is not None:
        parts.append("no row: it gave way to another one")
    else:
        parts.append("no row")
    if trail.parked:
        parts.append(f"{len(trail.parked)} parked")
    return "; ".join(parts)


def _recorded(event: Event, trail: Trail, names: Mapping[int, str]) -> str | None:
    """What is on record about the event itself."""
    for parked in trail.parked:
        if parked.event_id == event.event_id:
            return f"parked: {_why(parked)}"
    for discarded in trail.discarded:
        if discarded.event_id == event.event_id:
            return f"discarded by an operator: {discarded.because}"
    for conflict in trail.conflicts:
        if conflict.event_id == event.event_id:
            return _of_conflict(conflict, names)
    return None


def _not_dealt_with(event: Event, trail: Trail, names: Mapping[int, str]) -> str:
    places = [(record.partition, record.offset) for record in event.records]
    if not places:
        return "has not reached it: not found in Kafka"
    if any(trail.positions.get(partition, 0) <= offset for partition, offset in places):
        return "not read yet"
    return "read, so long ago that its id is no longer kept" + _afterwards(event, trail, names)


def _afterwards(event: Event, trail: Trail, names: Mapping[int, str]) -> str:
    """What stands there now, as far as it is another version."""
    now = max(trail.version or 0, trail.buried[0] if trail.buried else 0)
    if now > event.version:
        return f"; {written(now, names)} is newer"
    if now < event.version:
        return "; the row there is older, or gone: see parked and displaced"
    return ""


def _of_conflict(conflict: Conflict, names: Mapping[int, str]) -> str:
    other = written(conflict.current_version, names)
    done = "won over" if conflict.winner == "incoming" else "lost to"
    later = f", resolved for {conflict.resolution}" if conflict.resolution else ""
    return f"conflict ({conflict.reason or 'unknown'}): {done} {other}{later}"


def _why(parked: Parked) -> str:
    blocked = f", blocked by {parked.blocked_by}" if parked.blocked_by else ""
    detail = f" ({parked.detail})" if parked.detail else ""
    return f"{parked.reason}{detail}{blocked}; tried {parked.attempts} times"


def written(version: int, names: Mapping[int, str]) -> str:
    """A version for people: when, and by whom."""
    id_ = contour_id_of(version)
    if not id_:
        return "the row from before replication"
    return f"{names.get(id_, f'contour {id_}')}'s write of {moment_of(version):%H:%M:%S.%f}"


def moment_of(version: int) -> datetime:
    """When it was stamped, by its contour's clock."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds_of(version))


def timeline(
    found: Sequence[Event], trails: Sequence[Trail], names: Mapping[int, str], topic: str
) -> list[Moment]:
    """Everything that has a time, in its order."""
    # Kafka's times are cut to milliseconds, and would come before what they follow.
    moments = sorted(_moments(found, trails, names, topic), key=lambda pair: pair[0])
    return [moment for _, moment in moments]


def _moments(
    found: Sequence[Event], trails: Sequence[Trail], names: Mapping[int, str], topic: str
) -> Iterator[tuple[datetime, Moment]]:
    cut = timedelta(microseconds=999)
    for event in found:
        row = event.queued
        if row is not None:
            yield (
                row.created_at,
                Moment(row.created_at, event.contour, f"{row.operation} captured", *_tag(event)),
            )
            if row.published_at is not None:
                yield (
                    row.published_at,
                    Moment(row.published_at, event.contour, "marked as published", *_tag(event)),
                )
            elif row.parked_at is not None:
                text = f"parked, refused by Kafka {row.attempts} times: {row.last_error}"
                yield row.parked_at, Moment(row.parked_at, event.contour, text, *_tag(event))
        for record in event.records:
            text = f"{event.operation} at {topic} [{record.partition}] offset {record.offset}"
            yield record.at + cut, Moment(record.at, "Kafka", text, *_tag(event))
        for trail in trails:
            at = trail.processed.get(event.event_id)
            if at is not None and _recorded(event, trail, names) is None:
                text = decision(event, trail, names)
                yield at, Moment(at, trail.contour, text, *_tag(event))
    for trail in trails:
        for parked in trail.parked:
            yield (
                parked.at,
                Moment(
                    parked.at,
                    trail.contour,
                    f"parked: {_why(parked)}",
                    parked.event_id,
                    parked.version,
                ),
            )
        for conflict in trail.conflicts:
            yield conflict.at, Moment(
                conflict.at, trail.contour, _of_conflict(conflict, names), conflict.event_id,
                conflict.incoming_version,
            )  # fmt: skip
        for gone in trail.discarded:
            text = f"discarded by an operator, was parked as {gone.reason}: {gone.because}"
            yield gone.at, Moment(gone.at, trail.contour, text, gone.event_id, gone.version)
        if trail.displaced is not None:
            version, at = trail.displaced
            yield (
                at,
                Moment(at, trail.contour, "gave way to another row (displaced)", None, version),
            )


def _tag(event: Event) -> tuple[str, int]:
    return event.event_id, event.version

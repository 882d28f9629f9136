"""``console_sensor``: keeps the pages of assets true, from one look at the database in half a minute.

* Hours of the queue. One that is over and of which all is published turns green: it is materialized,
  without a run, with what was published and how late. One that holds stalled events turns red, and
  Dagster knows no other way to red than a run that fails: one is requested, which only looks and tells
  what is stalled. It carries the tag ``verdict``, so that alerts may leave it out.
* Parked events. Each reason is a partition, added with such a run and removed with its last event.
* Numbers of all assets, now and then (``figures``).

What a tick has to remember is in its cursor, which may be lost: then some of it is stored once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from replication_pipeline.defs import hours, parked
from replication_pipeline.defs.assets import parked_key, queue_key
from replication_pipeline.defs.backfill import BackfillConfig
from replication_pipeline.defs.figures import Look, interval, observations
from replication_pipeline.defs.lanes import VERDICT_TAG
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import tags_of
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.domain.parked import HINTS
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.postgres.stalled import Group, Waiting

EVERY: Final = 30  # seconds
MOST_HOURS: Final = 200  # turned green on one tick
SETTLED: Final = timedelta(minutes=1)  # after an hour's end its last transactions have committed
REDDEN_AGAIN: Final = timedelta(days=7)  # cleanup deletes old runs, and the colour with them
PARTITION: Final = "dagster/partition"
RANGE: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass(slots=True)
class Hour:
    """What is known of an hour that is not green yet."""

    published_before: int = 0
    published: int = 0
    longest_lag_seconds: float = 0.0
    most_unpublished: int = 0


@dataclass(slots=True)
class Memory:
    """What a tick leaves to the next. ``green_up_to``: hours that begin before it are green or red;
    ``red``, ``told``: hours and reasons for which a run was requested, and when; ``observed``: when
    numbers were stored last.
    """

    green_up_to: str | None = None
    red: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    observed: float = 0.0
    published: int | None = None
    hours: dict[str, Hour] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        """From the cursor; empty when there is none, or another version wrote it."""
        try:
            saved = json.loads(cursor or "")
            saved["hours"] = {name: Hour(**hour) for name, hour in saved["hours"].items()}
            return cls(**saved)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self) -> str:
        """As the cursor's text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Colours:
    """Hours to turn green, with their numbers, and stretches of hours to turn red."""

    green: Mapping[str, Mapping[str, float]]
    red: Sequence[tuple[datetime, datetime]]


def console_sensor(settings: Settings, since: datetime) -> dg.SensorDefinition:
    """The sensor of one contour, whose queue's hours begin at ``since``."""
    contour = settings.contour.name

    @dg.sensor(
        name="console_sensor",
        asset_selection=dg.AssetSelection.assets(queue_key(contour), parked_key(contour)),
        minimum_interval_seconds=EVERY,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Keeps the asset pages true: numbers of all assets, hours of replication_queue "
        "with stalled events, reasons of parked events. Off: they stay as they are, and "
        "replication goes on.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, postgres: PostgresResource
    ) -> dg.SensorResult | dg.SkipReason:
        return _tick(context, postgres, since)

    return sensor


def _tick(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, since: datetime
) -> dg.SensorResult | dg.SkipReason:
    from replication_pipeline.postgres import stalled
    from replication_pipeline.postgres.status import read_status

    settings, memory = postgres.settings(), Memory.read(context.cursor)
    contour, patience = settings.contour.name, settings.monitoring.stalled_after
    try:
        with postgres.connection() as connection:
            now = stalled.read_clock(connection)
            status = read_status(connection, contour)
            waiting = stalled.read_hours(connection, stalled.Span(None, now), first=since)
            groups = stalled.read_groups(connection, before=now - patience)
            look = None
            if now.timestamp() - memory.observed >= interval(settings).total_seconds():
                memory.observed = now.timestamp()
                look = Look(
                    status,
                    stalled.read_tables(connection),
                    stalled.read_topics(connection),
                    stalled.read_queue_size(connection),
                )
    except TransientError as error:
        return dg.SkipReason(f"not known: {error.message}")
    remember(memory, status, now)
    late = stalled.stalled(waiting, now=now, patience=patience)
    colours = colour(memory, waiting, late, now=now, since=since)
    known = context.instance.get_dynamic_partitions(parked.partitions_of(contour).name or "")
    listed = list_reasons(settings, memory, known, groups, now=now)
    events: list[dg.AssetMaterialization | dg.AssetObservation] = [
        *(
            dg.AssetMaterialization(queue_key(contour), partition=hour, metadata=dict(numbers))
            for hour, numbers in colours.green.items()
        ),
        *listed.events,
        *(observations(settings, look) if look else ()),
    ]
    requests = [*red_hours(settings, colours.red), *listed.requests]
    return dg.SensorResult(
        run_requests=requests or None,
        skip_reason=None if requests else _sentence(late, groups),
        dynamic_partitions_requests=listed.changes,
        asset_events=[*events],
        cursor=memory.write(),
    )


def remember(memory: Memory, status: ContourStatus, now: datetime) -> None:
    """Add this look to the hour that runs."""
    key = hours.key_of(now.replace(minute=0, second=0, microsecond=0))
    before = status.processed_total if memory.published is None else memory.published
    hour = memory.hours.setdefault(key, Hour(published_before=before))
    hour.published = max(0, status.processed_total - hour.published_before)
    hour.longest_lag_seconds = max(hour.longest_lag_seconds, status.oldest_unpublished_seconds)
    hour.most_unpublished = max(hour.most_unpublished, status.unpublished)
    memory.published = status.processed_total


def colour(
    memory: Memory,
    waiting: Iterable[Waiting],
    late: Iterable[Waiting],
    *,
    now: datetime,
    since: datetime,
) -> Colours:
    """Which hours change their colour now; ``memory`` knows it afterwards."""
    unpublished = {hours.key_of(each.hour) for each in waiting}
    stalled = {hours.key_of(each.hour) for each in late}
    green = [key for key in memory.red if key not in stalled and hours.hour_of(key) >= since]
    start = hours.hour_of(memory.green_up_to) if memory.green_up_to else since
    while start + hours.HOUR + SETTLED <= now and len(green) < MOST_HOURS:
        key = hours.key_of(start)
        if key in stalled:
            pass
        elif key in unpublished:
            break  # soon
        elif key not in green:
            green.append(key)
        start += hours.HOUR
    memory.green_up_to = hours.key_of(start)
    fresh = now.timestamp() - REDDEN_AGAIN.total_seconds()
    red = {key for key in stalled if memory.red.get(key, 0.0) < fresh}
    memory.red = {key: memory.red[key] for key in memory.red if key in stalled - red}
    memory.red |= dict.fromkeys(red, now.timestamp())
    numbers = {
        key: _numbers(memory.hours.pop(key) if key < memory.green_up_to else memory.hours[key])
        if key in memory.hours
        else {}
        for key in green
    }
    kept = hours.key_of(now - timedelta(days=2))
    memory.hours = {key: hour for key, hour in memory.hours.items() if key >= kept}
    return Colours(numbers, hours.stretches(hours.hour_of(key) for key in red))


@dataclass(frozen=True, slots=True)
class Listed:
    """Reasons that come and go, and for those that come a run that tells of them. Before it, a
    materialization: the UI shows no observation of a partition that has none.
    """

    changes: Sequence[Any]
    events: Sequence[dg.AssetMaterialization]
    requests: Sequence[dg.RunRequest]


def list_reasons(
    settings: Settings,
    memory: Memory,
    known: Iterable[str],
    groups: Iterable[Group],
    *,
    now: datetime,
) -> Listed:
    """What has to change in the list of reasons, of which Dagster has those ``known``."""
    contour, before = settings.contour.name, set(known)
    partitions = parked.partitions_of(contour)
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(parked.key_of(group.side, group.reason), []).append(group)
    changes: list[Any] = []
    if come := sorted(found.keys() - before):
        changes.append(partitions.build_add_request(come))
    if gone := sorted(before - found.keys()):
        changes.append(partitions.build_delete_request(gone))
    fresh = now.timestamp() - REDDEN_AGAIN.total_seconds()
    new = sorted(each for each in found if memory.told.get(each, 0.0) < fresh)
    memory.told = {each: memory.told[each] for each in found.keys() - set(new)}
    memory.told |= dict.fromkeys(new, now.timestamp())
    key, config = parked_key(contour), parked.ParkedConfig(action=parked.Action.LOOK)
    return Listed(
        changes,
        [dg.AssetMaterialization(key, partition=each, metadata=_told(found[each])) for each in new],
        [_look(settings, key, config, "parked", each, each) for each in new],
    )


def red_hours(
    settings: Settings, stretches: Iterable[tuple[datetime, datetime]]
) -> Sequence[dg.RunRequest]:
    """A run for each stretch, which looks and fails."""
    key, config = queue_key(settings.contour.name), BackfillConfig(only_look=True)
    return [
        _look(settings, key, config, "stalled", hours.key_of(first), hours.key_of(last))
        for first, last in stretches
    ]


def _look(  # noqa: PLR0917
    settings: Settings, key: dg.AssetKey, config: dg.Config, verdict: str, first: str, last: str
) -> dg.RunRequest:
    """Partitions as tags: Dagster checks a ``partition_key`` before this tick's new ones are there."""
    partitions = (
        {PARTITION: first} if first == last else dict(zip(RANGE, (first, last), strict=True))
    )
    return dg.RunRequest(
        asset_selection=[key],
        asset_check_keys=[],  # the checks' last results stand; a step before them that fails hides them
        run_config=dg.RunConfig(ops={key.to_python_identifier(): config}),
        tags={**tags_of(settings), VERDICT_TAG: verdict, **partitions},
    )


def _numbers(hour: Hour) -> Mapping[str, float]:
    return {
        "published": hour.published,
        "longest_lag_seconds": round(hour.longest_lag_seconds, 3),
        "most_unpublished": hour.most_unpublished,
    }


def _told(groups: Sequence[Group]) -> Mapping[str, Any]:
    return {
        "events_when_listed": sum(group.events for group in groups),
        "tables": ", ".join(group.table_name for group in groups),
        "since": dg.MetadataValue.timestamp(min(group.since for group in groups)),
        "what_to_do": HINTS.get(groups[0].reason, "see the run that failed"),
    }


def _sentence(late: Sequence[Waiting], groups: Sequence[Group]) -> str:
    stalled = sum(each.events for each in late)
    parked_events = sum(group.events for group in groups)
    if not stalled and not parked_events:
        return "nothing is stalled or parked"
    return f"{stalled} events stalled, {parked_events} parked on both sides"

"""The queue's partitions: hours in UTC, as far back as published events are kept.

The first hour stands for everything before it as well, so no event is out of reach. Where the hours
begin is decided when the code location is loaded, and handed to the processes of runs: a server that
was started weeks ago and its runs must know the same hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from replication_pipeline.settings import Settings

HOUR: Final = timedelta(hours=1)
FORM: Final = "%Y-%m-%d-%H:%M"  # Dagster's own, of hourly partitions


def first_hour(settings: Settings, now: datetime) -> datetime:
    """The beginning of a day; events published before it are about to be removed."""
    day = (now - settings.cleanup.published).astimezone(UTC)
    return day.replace(hour=0, minute=0, second=0, microsecond=0)


def hours_since(first: datetime) -> dg.HourlyPartitionsDefinition:
    """From ``first`` to the hour that runs now, which an operator may want to mend as well."""
    return dg.HourlyPartitionsDefinition(
        start_date=first.astimezone(UTC), timezone="UTC", end_offset=1
    )


def key_of(hour: datetime) -> str:
    """The partition's name."""
    return hour.astimezone(UTC).strftime(FORM)


def hour_of(key: str) -> datetime:
    """When the partition begins."""
    return datetime.strptime(key, FORM).replace(tzinfo=UTC)


def stretches(hours: Iterable[datetime]) -> Sequence[tuple[datetime, datetime]]:
    """Hours in a row as the first and the last of them."""
    found: list[tuple[datetime, datetime]] = []
    for hour in sorted(hours):
        if found and hour - found[-1][1] == HOUR:
            found[-1] = (found[-1][0], hour)
        else:
            found.append((hour, hour))
    return found

"""The latest numbers of each asset, as observations that Dagster draws over time.

An observation is a row in Dagster's event log that no run takes with it, so there are few: one of each
asset in ``monitoring.observe_interval``, less often where that would be more than ``MOST_A_DAY`` of a
contour. Numbers come from the contour's database alone; Kafka is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from replication_pipeline.defs.assets import (
    applied_key,
    queue_key,
    table_key,
    topic_key,
    topic_of,
)
from replication_pipeline.domain.health import ContourStatus
from replication_pipeline.settings import Settings

MOST_A_DAY: Final = 5_000


if TYPE_CHECKING:
    from replication_pipeline.postgres.stalled import TableFigures, TopicFigures


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the contour, for all its assets."""

    status: ContourStatus
    tables: Sequence[TableFigures]
    topics: Sequence[TopicFigures]
    queue_bytes: int


def interval(settings: Settings) -> timedelta:
    """How often the assets get new numbers."""
    assets = 1 + 3 * len(settings.tables)
    return max(settings.monitoring.observe_interval, assets * timedelta(days=1) / MOST_A_DAY)


def observations(settings: Settings, look: Look) -> Sequence[dg.AssetObservation]:
    """One of each asset that something is known of."""
    contour = settings.contour.name
    found: dict[dg.AssetKey, Mapping[str, float]] = {queue_key(contour): _queue(look)}
    topics = {topic.topic: topic for topic in look.topics}
    for each in look.tables:
        if each.table_name not in settings.tables:
            continue
        found[table_key(contour, each.table_name)] = {
            "rows_estimated": each.rows,
            "bytes": each.bytes,
            "unpublished": each.unpublished,
        }
        topic = topics.get(topic_of(settings, each.table_name))
        found[applied_key(contour, each.table_name)] = {
            "parked": each.parked_apply,
            "open_conflicts": each.conflicts,
            **({"lag_events": topic.lag} if topic else {}),
        }
        if topic:
            found[topic_key(topic.topic)] = {
                "events_ever": topic.events,
                f"lag_of_{contour}": topic.lag,
                "partitions": topic.partitions,
            }
    return [dg.AssetObservation(key, metadata=dict(numbers)) for key, numbers in found.items()]


def _queue(look: Look) -> Mapping[str, float]:
    status = look.status
    return {
        "unpublished": status.unpublished,
        "oldest_unpublished_seconds": round(status.oldest_unpublished_seconds, 3),
        "held": status.held_publish,
        "parked": status.parked_publish,
        "publishers": status.publishers,
        "published_ever": status.processed_total,
        "bytes": look.queue_bytes,
    }

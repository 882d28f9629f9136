"""Deletes what ``console_sensor`` has stored without a run, a bounded amount at a time.

Observations and hours that turned green belong to no run (their ``run_id`` is empty), so that no
``delete_run`` reaches them, and Dagster has no call to delete them. They are deleted by SQL over
Dagster's own table definitions: only of this contour's assets and the topics, only what is older than
the limit, and never the newest of an asset, which the UI shows as its state. On a storage that isn't
one of Dagster's SQL storages this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.purge import delete_events

MOST: Final = 20_000
STORED: Final = (dg.DagsterEventType.ASSET_OBSERVATION, dg.DagsterEventType.ASSET_MATERIALIZATION)


def runless_events(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    *,
    older_than: timedelta,
    limit: int = MOST,
) -> int:
    """Delete old observations and materializations of ``assets`` that no run made; returns how many."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events

    of_assets = Events.c.asset_key.in_([key.to_string() for key in assets])
    return delete_events(instance, of_assets, STORED, older_than=older_than, limit=limit)

"""Deletes what ``console_sensor`` has stored without a run, a bounded amount at a time.

Observations and hours that turned green belong to no run (their ``run_id`` is empty), so that no
``delete_run`` reaches them, and Dagster has no call to delete them. They are deleted by SQL over
Dagster's own table definitions: only of this contour's assets and the topics, only what is older than
the limit, and never the newest of an asset, which the UI shows as its state. On a storage that isn't
one of Dagster's SQL storages this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

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
    import sqlalchemy as sa
    from dagster._core.storage.event_log import SqlEventLogStorage
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    before = datetime.now(UTC).replace(tzinfo=None) - older_than
    ours = sa.and_(
        Events.c.run_id == "",
        Events.c.asset_key.in_([key.to_string() for key in assets]),
        Events.c.dagster_event_type.in_([kind.value for kind in STORED]),
    )
    newest = (
        sa.select(sa.func.max(Events.c.id))
        .where(ours)
        .group_by(Events.c.asset_key, Events.c.dagster_event_type)
    )
    old = (
        sa.select(Events.c.id)
        .where(ours, Events.c.timestamp < before, Events.c.id.not_in(newest))
        .order_by(Events.c.id)
        .limit(limit)
    )
    with storage.index_connection() as connection:
        ids = [row[0] for row in connection.execute(old)]
        if ids:
            connection.execute(sa.delete(Events).where(Events.c.id.in_(ids)))
        return len(ids)

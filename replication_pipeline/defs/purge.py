"""Deletes old history of one contour from Dagster's storage, a bounded amount at a time.

Runs go through Dagster's own ``delete_run``, with their events. Check results that a sensor stored
belong to no run (their ``run_id`` is empty) and Dagster has no call to delete them, so they are
deleted by SQL over Dagster's own table definitions: only this contour's queue, only evaluations,
only older than the limit, and never the newest of a check, which the UI shows as its state. On a
storage that isn't one of Dagster's SQL storages this does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from replication_pipeline.defs.assets import queue_key
from replication_pipeline.defs.scaling import FINISHED

MOST_RUNS: Final = 500
MOST_CHECKS: Final = 5_000


def finished_runs(
    instance: dg.DagsterInstance,
    tags: Mapping[str, str],
    *,
    older_than: timedelta,
    limit: int = MOST_RUNS,
) -> int:
    """Delete the oldest finished runs that carry all ``tags``; returns how many."""
    if not tags:
        return 0  # no filter would mean everybody's runs
    records = instance.get_run_records(
        dg.RunsFilter(
            tags=tags,
            statuses=FINISHED,
            created_before=datetime.now(UTC) - older_than,
        ),
        limit=limit,
        ascending=True,
    )
    for record in records:
        instance.delete_run(record.dagster_run.run_id)
    return len(records)


def runless_checks(
    instance: dg.DagsterInstance, contour: str, *, older_than: timedelta, limit: int = MOST_CHECKS
) -> int:
    """Delete old check results of ``contour``'s queue that no run made; returns how many."""
    import sqlalchemy as sa
    from dagster._core.storage.event_log import SqlEventLogStorage
    from dagster._core.storage.event_log.schema import (
        AssetCheckExecutionsTable as Executions,
    )
    from dagster._core.storage.event_log.schema import (
        SqlEventLogStorageTable as Events,
    )

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    key = queue_key(contour).to_string()
    before = datetime.now(UTC).replace(tzinfo=None) - older_than
    ours = sa.and_(Executions.c.asset_key == key, Executions.c.run_id == "")
    newest = (
        sa.select(sa.func.max(Executions.c.id))
        .where(Executions.c.asset_key == key)
        .group_by(Executions.c.check_name)
    )
    old = (
        sa.select(Executions.c.id, Executions.c.evaluation_event_storage_id)
        .where(ours, Executions.c.evaluation_event_timestamp < before)
        .where(Executions.c.id.not_in(newest))
        .order_by(Executions.c.id)
        .limit(limit)
    )
    with storage.index_connection() as connection:
        rows = connection.execute(old).fetchall()
        if not rows:
            return 0
        connection.execute(sa.delete(Executions).where(Executions.c.id.in_([r[0] for r in rows])))
        connection.execute(
            sa.delete(Events).where(
                Events.c.id.in_([r[1] for r in rows if r[1] is not None]),
                Events.c.run_id == "",
                Events.c.asset_key == key,
                Events.c.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
            )
        )
        return len(rows)

"""Deletes old history of one contour from Dagster's storage, a bounded amount at a time.

Runs go through Dagster's own ``delete_run``, with their events. What sensors and the freshness daemon
store belongs to no run (its ``run_id`` is empty) and Dagster has no call to delete it, so it is deleted
by SQL over Dagster's own table definitions: only of this contour's assets, only check results,
observations and changes of freshness, only what is older than the limit, and never the newest of its
kind, which the UI shows as the state. On a storage that isn't one of Dagster's SQL storages this does
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from replication_pipeline.defs.window_runs import FINISHED

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

MOST_RUNS: Final = 500
MOST_EVENTS: Final = 5_000


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
    instance: dg.DagsterInstance, contour: str, *, older_than: timedelta, limit: int = MOST_EVENTS
) -> int:
    """Delete old check results of ``contour``'s assets that no run made; returns how many."""
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
    ours = Executions.c.asset_key.startswith(_prefix(contour), autoescape=True)
    newest = (
        sa.select(sa.func.max(Executions.c.id))
        .where(ours)
        .group_by(Executions.c.asset_key, Executions.c.check_name)
    )
    old = (
        sa.select(Executions.c.id, Executions.c.evaluation_event_storage_id)
        .where(ours, Executions.c.run_id == "")
        .where(Executions.c.evaluation_event_timestamp < _before(older_than))
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
                Events.c.run_id == "",  # their asset_key is empty there
                Events.c.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
            )
        )
        return len(rows)


def runless_events(
    instance: dg.DagsterInstance, contour: str, *, older_than: timedelta, limit: int = MOST_EVENTS
) -> int:
    """Delete old observations and changes of freshness that belong to no run; returns how many."""
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as Events

    return delete_events(
        instance,
        Events.c.asset_key.startswith(_prefix(contour), autoescape=True),
        (dg.DagsterEventType.ASSET_OBSERVATION, dg.DagsterEventType.FRESHNESS_STATE_CHANGE),
        older_than=older_than,
        limit=limit,
    )


def delete_events(
    instance: dg.DagsterInstance,
    of_assets: ColumnElement[bool],
    kinds: Sequence[dg.DagsterEventType],
    *,
    older_than: timedelta,
    limit: int,
) -> int:
    """Delete old events of ``kinds`` that belong to no run, ``of_assets`` in the table of events; never
    the newest of an asset and kind. Returns how many.
    """
    import sqlalchemy as sa
    from dagster._core.storage.event_log import SqlEventLogStorage
    from dagster._core.storage.event_log.schema import (
        AssetEventTagsTable as Tags,
    )
    from dagster._core.storage.event_log.schema import (
        SqlEventLogStorageTable as Events,
    )

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    ours = sa.and_(of_assets, Events.c.dagster_event_type.in_([kind.value for kind in kinds]))
    newest = (
        sa.select(sa.func.max(Events.c.id))
        .where(ours)
        .group_by(Events.c.asset_key, Events.c.dagster_event_type)
    )
    old = (
        sa.select(Events.c.id)
        .where(ours, Events.c.run_id == "", Events.c.timestamp < _before(older_than))
        .where(Events.c.id.not_in(newest))
        .order_by(Events.c.id)
        .limit(limit)
    )
    with storage.index_connection() as connection:
        ids = [row[0] for row in connection.execute(old)]
        if ids:
            connection.execute(sa.delete(Tags).where(Tags.c.event_id.in_(ids)))
            connection.execute(sa.delete(Events).where(Events.c.id.in_(ids)))
        return len(ids)


def _prefix(contour: str) -> str:
    """How the keys of a contour's assets begin, as Dagster stores them."""
    return dg.AssetKey([contour, ""]).to_string().removesuffix('""]')


def _before(older_than: timedelta) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - older_than

"""The code location of one contour: its configuration turned into Dagster definitions.

Start it with ``REPLICATION_CONFIG`` naming the contour's file; a mistake in there is the location's
load error, in words. It opens no connection.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)

from replication_pipeline.defs.alerts import alert_sensor, run_failure_sensor
from replication_pipeline.defs.assets import assets
from replication_pipeline.defs.backfill import queue_asset
from replication_pipeline.defs.checks import queue_checks
from replication_pipeline.defs.compared import compare_jobs
from replication_pipeline.defs.console import console_sensor
from replication_pipeline.defs.deep import deep_checks, deep_schedules
from replication_pipeline.defs.forms import form_jobs
from replication_pipeline.defs.freshness import with_freshness
from replication_pipeline.defs.hours import first_hour
from replication_pipeline.defs.maintenance import cleanup_job, cleanup_schedule
from replication_pipeline.defs.parked import parked_asset, parked_job
from replication_pipeline.defs.resources import AlertsResource, KafkaResource, PostgresResource
from replication_pipeline.defs.sensors import apply_sensor, publish_sensor
from replication_pipeline.defs.snapshot import snapshot_job
from replication_pipeline.defs.traced import trace_job
from replication_pipeline.defs.watched import contour_checks
from replication_pipeline.defs.windows import window_jobs
from replication_pipeline.settings import Settings, load_settings

HOURS_SINCE: Final = "replication_pipeline/hours_since"


def build(settings: Settings, since: datetime | None = None) -> dg.Definitions:
    """Everything that Dagster shows and runs for one contour; hours of its queue from ``since`` on."""
    since = since or first_hour(settings, datetime.now(UTC))
    cleanup = cleanup_job(settings)
    with warnings.catch_warnings():
        # Which may change between minor versions of Dagster: pyproject.toml allows one.
        warnings.filterwarnings("ignore", "Parameter `backfill_policy`", dg.BetaWarning)
        made = [queue_asset(settings, since), parked_asset(settings)]
    return dg.Definitions(
        assets=with_freshness([*assets(settings), *made], settings),
        asset_checks=[
            queue_checks(settings),
            contour_checks(settings),
            *deep_checks(settings),
        ],
        jobs=[
            *window_jobs(settings),
            cleanup,
            *form_jobs(settings),
            snapshot_job(settings),
            trace_job(settings),
            *compare_jobs(settings),
            parked_job(settings),
        ],
        sensors=[
            publish_sensor,
            apply_sensor,
            alert_sensor,
            run_failure_sensor,
            console_sensor(settings, since),
        ],
        schedules=[cleanup_schedule(settings, cleanup), *deep_schedules(settings)],
        resources={
            "postgres": PostgresResource(),
            "kafka": KafkaResource(),
            "alerts": AlertsResource(),
        },
        # Assets that are materialized in the UI: their ops are on the main thread, where signals go.
        executor=dg.in_process_executor,
    )


@dg.definitions
def contour() -> dg.Definitions:
    """What Dagster loads. A run's process is given the hours that its code server knows."""
    settings, context = load_settings(), DefinitionsLoadContext.get()
    since = None
    if context.load_type is DefinitionsLoadType.RECONSTRUCTION:
        given = context.reconstruction_metadata.get(HOURS_SINCE)
        since = datetime.fromisoformat(given) if given else None
    since = since or first_hour(settings, datetime.now(UTC))
    made = build(settings, since)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return made.with_reconstruction_metadata({HOURS_SINCE: since.isoformat()})

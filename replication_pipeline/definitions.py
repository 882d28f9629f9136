"""The code location of one contour: its configuration turned into Dagster definitions.

Start it with ``REPLICATION_CONFIG`` naming the contour's file; a mistake in there is the location's
load error, in words. It opens no connection.
"""

from __future__ import annotations

import dagster as dg

from replication_pipeline.defs.alerts import alert_sensor, run_failure_sensor
from replication_pipeline.defs.assets import assets
from replication_pipeline.defs.checks import queue_checks
from replication_pipeline.defs.deep import deep_checks, deep_schedules
from replication_pipeline.defs.freshness import with_freshness
from replication_pipeline.defs.maintenance import cleanup_job, cleanup_schedule
from replication_pipeline.defs.resources import AlertsResource, KafkaResource, PostgresResource
from replication_pipeline.defs.sensors import apply_sensor, publish_sensor
from replication_pipeline.defs.watched import contour_checks
from replication_pipeline.defs.windows import window_jobs
from replication_pipeline.settings import Settings, load_settings


def build(settings: Settings) -> dg.Definitions:
    """Everything that Dagster shows and runs for one contour."""
    cleanup = cleanup_job(settings)
    return dg.Definitions(
        assets=with_freshness(assets(settings), settings),
        asset_checks=[
            queue_checks(settings),
            contour_checks(settings),
            *deep_checks(settings),
        ],
        jobs=[*window_jobs(settings), cleanup],
        sensors=[publish_sensor, apply_sensor, alert_sensor, run_failure_sensor],
        schedules=[cleanup_schedule(settings, cleanup), *deep_schedules(settings)],
        resources={
            "postgres": PostgresResource(),
            "kafka": KafkaResource(),
            "alerts": AlertsResource(),
        },
    )


@dg.definitions
def contour() -> dg.Definitions:
    """What Dagster loads."""
    return build(load_settings())

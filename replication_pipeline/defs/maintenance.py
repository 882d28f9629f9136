"""Keeping things small: the contour's finished rows, and Dagster's own history of this contour.

Dagster deletes old ticks by itself (``retention`` in dagster.yaml), but neither runs nor what is stored
without a run: check results of sensors, changes of freshness; ``purge`` does. Unpublished and parked
events are never touched.

No postponed annotations here: Dagster compares the type of a step's ``context`` as an object.
"""

from datetime import timedelta
from typing import Any, Final

import dagster as dg
from pydantic import Field

from replication_pipeline import logs
from replication_pipeline.defs import purge, purge_events
from replication_pipeline.defs.assets import all_keys
from replication_pipeline.defs.lanes import CONTOUR_TAG, MAX_RUNTIME_TAG
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.defs.running import orderly, table
from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.inputs import duration
from replication_pipeline.settings import Settings

LOCATION_TAG: Final = "dagster/code_location"  # put by Dagster on runs from the UI and sensors
LONGEST_RUN: Final = timedelta(hours=1)


AGE: Final = "Such as 12h or 3d. Empty: as the configuration says."


class CleanupConfig(dg.Config):
    """What is old, for this run alone: what has been there for longer is deleted."""

    published: str | None = Field(default=None, description=f"Published queue rows. {AGE}")
    processed_events: str | None = Field(
        default=None,
        description=f"Ids of applied events; longer than Kafka keeps the events. {AGE}",
    )
    conflicts: str | None = Field(default=None, description=f"Recorded conflicts. {AGE}")
    tombstones: str | None = Field(
        default=None,
        description="Deletes, of those that every contour knows; longer than Kafka keeps the events. "
        + AGE,
    )


class PurgeConfig(dg.Config):
    """What is old in Dagster's history of this contour, for this run alone."""

    dagster_runs: str | None = Field(
        default=None, description=f"Finished runs, and events without a run. {AGE}"
    )


@dg.op(
    description="Deletes published queue rows, ids of applied events, conflicts and tombstones "
    "that are older than the configuration keeps them. Nothing that still waits is deleted."
)
def clean_up_contour(
    context: dg.OpExecutionContext, config: CleanupConfig, postgres: PostgresResource
) -> None:
    """The contour's own retention."""
    from dataclasses import asdict

    from replication_pipeline.postgres.cleanup import clean_up

    settings = postgres.settings()
    with orderly(context, settings):
        settings = keeping(settings, config)
        with postgres.connection() as connection:
            deleted = clean_up(connection, settings)
        kept = settings.cleanup
        rows = [
            ("published queue rows", _text(kept.published), deleted.published),
            ("ids of applied events", _text(kept.processed_events), deleted.processed_events),
            ("conflicts", _text(kept.conflicts), deleted.conflicts),
            ("deletes that every contour knows", _text(kept.tombstones), deleted.tombstones),
            ("workers that have ended, added up", "", deleted.workers),
        ]
        context.add_output_metadata(
            {"removed": table(("", "older than", "rows"), rows)} | asdict(deleted)
        )
    logs.get_logger("cleanup").info("contour cleaned up", **asdict(deleted))


def keeping(settings: Settings, config: CleanupConfig | PurgeConfig) -> Settings:
    """``settings`` with the ages that the form gives. ``ConfigurationError`` for what is none."""
    ages = {
        name: duration(text, name) for name, text in config.model_dump().items() if text is not None
    }
    return settings.model_copy(update={"cleanup": settings.cleanup.model_copy(update=ages)})


def _text(age: timedelta) -> str:
    return str(age).removesuffix(", 0:00:00")


@dg.op(
    description="Deletes finished Dagster runs of this contour, results of its checks and other events "
    "without a run, that are older than cleanup.dagster_runs. At most a few hundred runs at a time."
)
def purge_dagster_history(
    context: dg.OpExecutionContext, config: PurgeConfig, postgres: PostgresResource
) -> None:
    """Dagster's retention for this contour."""
    settings = postgres.settings()
    try:
        settings = keeping(settings, config)
    except ConfigurationError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    contour, keep = settings.contour.name, settings.cleanup.dagster_runs
    logs.configure(settings.logging, contour=contour)
    # Checks that were executed from the UI carry no tag of ours, but that of the code location.
    location = {name: value for name, value in context.run_tags.items() if name == LOCATION_TAG}
    deleted = {
        "runs": sum(
            purge.finished_runs(context.instance, tags, older_than=keep)
            for tags in ({CONTOUR_TAG: contour}, location)
        ),
        "check_results": purge.runless_checks(context.instance, contour, older_than=keep),
        "other_events": purge.runless_events(context.instance, contour, older_than=keep),
        "asset_events": purge_events.runless_events(
            context.instance,
            all_keys(settings),
            # As long as the hours of the queue are shown, so that they stay green.
            older_than=max(keep, settings.cleanup.published + timedelta(days=2)),
        ),
    }
    rows = [(name.replace("_", " "), count) for name, count in deleted.items()]
    context.add_output_metadata({"removed": table(("", "removed"), rows)} | deleted)
    logs.get_logger("cleanup").info("Dagster history purged", **deleted)


def cleanup_job(settings: Settings) -> dg.JobDefinition:
    """Both ops; they don't depend on each other, so one does its work when the other can't."""

    @dg.job(
        name="cleanup",
        description="Deletes what is finished and old: rows in the contour, runs in Dagster.",
        executor_def=dg.in_process_executor,
        tags={
            CONTOUR_TAG: settings.contour.name,
            MAX_RUNTIME_TAG: f"{LONGEST_RUN.total_seconds():.0f}",
            "dagster/max_retries": "0",
        },
    )
    def cleanup() -> None:
        clean_up_contour()
        purge_dagster_history()

    return cleanup


def cleanup_schedule(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """When ``cleanup`` runs."""
    return schedule("cleanup_schedule", job, settings.cleanup.cron, key="cleanup.cron")


def schedule(name: str, job: Any, cron: str, *, key: str) -> dg.ScheduleDefinition:
    """When ``job`` runs, in UTC. ``ConfigurationError`` when what the setting ``key`` says is no cron
    expression.
    """
    try:
        return dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=cron,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Runs {job.name} as {key} of the configuration says (UTC).",
        )
    except dg.DagsterInvalidDefinitionError as error:
        raise ConfigurationError(
            f"{key}: {cron!r} is not a cron expression",
            remedy="five fields: minute, hour, day of month, month, day of week; "
            "such as 17 * * * * for every hour",
        ) from error
